"""How maps are drawn: colours, what is left clear, and between which limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from i2am.schemas.choices import Polarity
from i2am.schemas.dims import LAYER
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, SliderPosition
from i2am.viewer.data.sample import SampleView
from i2am.viewer.data.volume import AXES, MapVolume
from i2am.viewer.scene.contrast import (
    COLORMAPS,
    Limits,
    contrast_limits,
    heat_colormap,
    shared_contrast_limits,
)
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.scene.threshold import Cut, ThresholdedColors, value_range

__all__ = ["Appearance", "AppearanceController"]

# Every sample has the mean over everything.
_ANYWHERE: Final = SliderPosition(0, 0, 0)
_EVERYTHING: Final = frozenset(AVERAGEABLE_DIMS)


@dataclass(frozen=True)
class Appearance:
    """How maps are drawn.

    Parameters
    ----------
    direction : "both", "r2g" or "g2r"
        Which maps are seen.
    polarity : "direct" or "inverted"
        Inverted, the heat is where attention is low.
    threshold : float
        Of each map's own range, 0..1: what is below is drawn clear. Inverted, it is of how low
        attention is.
    colormap : str
        Of napari's.
    opacity : float
        0..1.
    contrast : "shared" or "slice"
        One scale for all steps and heads of a layer and for both samples in view, so that they
        compare; or each map its own.
    """

    direction: Literal["both", "r2g", "g2r"] = "both"
    polarity: Polarity = "direct"
    threshold: float = 0.0
    colormap: str = COLORMAPS[0]
    opacity: float = 1.0
    contrast: Literal["shared", "slice"] = "shared"


class AppearanceController:
    """Applies the appearance to the map layers, and leaves alone what a user set in napari."""

    def __init__(self) -> None:
        self.appearance = Appearance()
        self._styled: WeakKeyDictionary[Any, _Style] = WeakKeyDictionary()
        self._drawn: dict[tuple[int, str], tuple[Any, Limits, bool]] = {}
        self._is_drawing = False

    def change(self, **changes: Any) -> set[str]:
        """Change settings, and return the names of those that differ; draws nothing."""
        old, self.appearance = self.appearance, replace(self.appearance, **changes)
        return {name for name in vars(old) if getattr(old, name) != getattr(self.appearance, name)}

    def apply(
        self,
        viewer: Any,
        views: Sequence[SampleView],
        position: SliderPosition,
        averaged_dims: frozenset[str],
        changed: set[str] | None = None,
    ) -> None:
        """Apply changed settings to the map layers, and all settings to new layers.

        Parameters
        ----------
        viewer : napari.Viewer
        views : sequence of SampleView
            The samples in view.
        position : SliderPosition
            Positions of the sliders.
        averaged_dims : frozenset of str
            What is averaged over.
        changed : set of str, optional
            Names of settings; without them new layers alone are drawn.
        """
        for own in _maps_in_view(viewer, views):
            if own.layer not in self._styled:
                self._restyle(own.role, own.layer, {f.name for f in fields(Appearance)})
                self._styled[own.layer] = _Style(ThresholdedColors(own.layer.colormap))
                for event in (own.layer.events.contrast_limits, own.layer.events.gamma):
                    event.connect(self._on_scale_changed)
            elif changed is not None:
                self._restyle(own.role, own.layer, changed)
            self._styled[own.layer].role = own.role
        if changed is not None and "contrast" in changed:
            self._drawn.clear()
        self.draw_limits(viewer, views, position, averaged_dims)

    def draw_limits(
        self,
        viewer: Any,
        views: Sequence[SampleView],
        position: SliderPosition,
        averaged_dims: frozenset[str],
    ) -> None:
        """Set the limits of the maps in view where they are others than before, and the threshold.

        Of a shared contrast also the samples in view share them. Within the same limits a user's
        own stay.
        """
        maps = _maps_in_view(viewer, views, position, averaged_dims)
        by_role = {role: [one for one in maps if one.role == role] for role in ("r2g", "g2r")}
        is_own_scale = self.appearance.contrast == "slice"
        groups = [[one] for one in maps] if is_own_scale else list(by_role.values())
        self._is_drawing = True
        try:
            for group in groups:
                if group:
                    self._draw_group(group, averaged_dims, is_own_scale=is_own_scale)
            self._draw_threshold(viewer, maps, averaged_dims)
        finally:
            self._is_drawing = False

    def _restyle(self, role: str, layer: Any, changed: set[str]) -> None:
        appearance = self.appearance
        if "direction" in changed:
            layer.visible = appearance.direction in ("both", role)
        if changed & {"polarity", "colormap"}:
            is_inverted = appearance.polarity == "inverted"
            layer.colormap = heat_colormap(appearance.colormap, is_inverted=is_inverted)
        if "opacity" in changed:
            layer.opacity = appearance.opacity

    def _draw_group(
        self, group: Sequence[_Map], averaged_dims: frozenset[str], *, is_own_scale: bool
    ) -> None:
        """Draw maps within the same limits."""
        places = tuple(
            (
                id(one.volume),
                one.at if is_own_scale else None if LAYER in averaged_dims else one.at.layer,
            )
            for one in group
        )
        key = (places, averaged_dims)
        known = [self._drawn.get((one.view_index, one.role)) for one in group]
        if all(one is not None and one[0] == key and one[2] for one in known):
            return
        loaded = [(one.volume.loaded, one.at) for one in group]
        planes = [own.plane(at, averaged_dims) for own, at in loaded]
        shared = None if is_own_scale else shared_contrast_limits(loaded, averaged_dims)
        there = [plane.ravel() for plane in planes if plane is not None]
        limits = shared or (contrast_limits(np.concatenate(there)) if there else None)
        if limits is None:
            return
        is_final = shared is not None
        if is_own_scale:
            is_final = all(own.is_whole(at, averaged_dims) for own, at in loaded)
        for one, before in zip(group, known, strict=True):
            is_known = before is not None and before[0] == key
            drawn = before[1] if before is not None and is_known else None
            if drawn is None or tuple(one.layer.contrast_limits) == drawn:  # else a user's
                one.layer.contrast_limits = limits
            low, high = one.layer.contrast_limits
            self._drawn[one.view_index, one.role] = key, (float(low), float(high)), is_final

    def _draw_threshold(
        self, viewer: Any, maps: Sequence[_Map], averaged_dims: frozenset[str]
    ) -> None:
        """Leave clear what lies below the threshold in each map's own range."""
        for one in maps:
            style = self._styled.get(one.layer)
            if style is None:
                continue
            style.values = None
            if self.appearance.threshold > 0:
                planes = [
                    one.volume.loaded.plane(at, averaged_dims)
                    for at in _positions_in_space(viewer, one)
                ]
                style.values = value_range(*planes)
            self._cut(one.layer, style)

    def _cut(self, layer: Any, style: _Style) -> None:
        appearance = self.appearance
        low, high = layer.contrast_limits
        cut = Cut.at(
            appearance.threshold,
            style.values,
            (float(low), float(high)),
            gamma=layer.gamma,
            is_inverted=appearance.polarity == "inverted",
        )
        style.colors.draw(layer, cut)

    def _on_scale_changed(self, event: Any) -> None:
        """Follow limits and gamma that a user sets: the other sample's share them."""
        layer = event.source
        style = self._styled.get(layer)
        if self._is_drawing or style is None:
            return
        self._cut(layer, style)
        if self.appearance.contrast != "shared":
            return
        self._is_drawing = True
        try:
            for other, own in list(self._styled.items()):
                if other is not layer and own.role == style.role:
                    other.contrast_limits, other.gamma = layer.contrast_limits, layer.gamma
                    self._cut(other, own)
        finally:
            self._is_drawing = False


@dataclass
class _Style:
    """What is kept of a layer: its colours, and the range of what it shows."""

    colors: ThresholdedColors
    role: str = ""
    values: Limits | None = None


class _Map(NamedTuple):
    """A map layer of a sample in view, and its own indices of the slider position."""

    view_index: int
    role: str
    layer: Any
    volume: MapVolume
    at: SliderPosition


def _maps_in_view(
    viewer: Any,
    views: Sequence[SampleView],
    position: SliderPosition = _ANYWHERE,
    averaged_dims: frozenset[str] = _EVERYTHING,
) -> list[_Map]:
    """Return the map layers of the samples in view that have the position."""
    found = []
    for view_index, view in enumerate(views):
        layers = own_layers(viewer, view_index=view_index)
        for role, volume in view.volumes.items():
            at = volume.to_own_position(position, averaged_dims)
            if role in layers and at is not None:
                found.append(_Map(view_index, role, layers[role], volume, at))
    return found


def _positions_in_space(viewer: Any, own: _Map) -> list[SliderPosition]:
    """Return the positions that are seen at once: several where the third axis is one of a slider."""
    shape = own.volume.loaded.axes.shape
    first = viewer.dims.ndim - len(AXES)
    positions = [own.at]
    for axis in viewer.dims.displayed[:-2]:
        at = axis - first - 1  # The first of the axes is that of the samples.
        if 0 <= at < len(shape):
            name = own.at._fields[at]
            positions = [own.at._replace(**{name: index}) for index in range(shape[at])]
    return positions
