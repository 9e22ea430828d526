"""How maps are drawn: colours, what is left clear, and between which limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal
from weakref import WeakSet

from i2am.schemas.choices import Polarity
from i2am.schemas.dims import LAYER
from i2am.viewer.data.axes import SliderPosition
from i2am.viewer.data.sample import SampleView
from i2am.viewer.data.volume import MapVolume
from i2am.viewer.scene.contrast import (
    COLORMAPS,
    Limits,
    contrast_limits,
    heat_colormap,
    shared_contrast_limits,
)
from i2am.viewer.scene.layers import own_layers

__all__ = ["Appearance", "AppearanceController"]


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
        Of each map's own range, 0..1: what is below is drawn clear.
    colormap : str
        Of napari's.
    opacity : float
        0..1.
    contrast : "shared" or "slice"
        One scale for all steps and heads of a layer, so that they compare; or each map its own.
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
        self._styled: WeakSet[Any] = WeakSet()
        self._drawn: dict[tuple[int, str], tuple[Any, Limits, bool]] = {}

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
        for _, role, layer, volume in _map_layers(viewer, views):
            volume.threshold = self.appearance.threshold
            if changed is not None:
                self._restyle(role, layer, changed)
            elif layer not in self._styled:
                self._restyle(role, layer, {f.name for f in fields(Appearance)} - {"threshold"})
            self._styled.add(layer)
        if changed is not None and "contrast" in changed:
            self._drawn.clear()
        self.draw_limits(viewer, views, position, averaged_dims)

    def _restyle(self, role: str, layer: Any, changed: set[str]) -> None:
        appearance = self.appearance
        if "direction" in changed:
            layer.visible = appearance.direction in ("both", role)
        if changed & {"polarity", "colormap"}:
            is_inverted = appearance.polarity == "inverted"
            layer.colormap = heat_colormap(appearance.colormap, is_inverted=is_inverted)
        if "opacity" in changed:
            layer.opacity = appearance.opacity
        if "threshold" in changed:
            layer.refresh(extent=False, thumbnail=False)

    def draw_limits(
        self,
        viewer: Any,
        views: Sequence[SampleView],
        position: SliderPosition,
        averaged_dims: frozenset[str],
    ) -> None:
        """Set each map's limits where they are others than before; within them, a user's stay."""
        for view_index, role, layer, volume in _map_layers(viewer, views):
            own = volume.to_own_position(position, averaged_dims)
            if own is None:
                continue
            is_own_scale = self.appearance.contrast == "slice"
            key: Any = own if is_own_scale else None if LAYER in averaged_dims else own.layer
            known = self._drawn.get((view_index, role))
            is_known = known is not None and known[0] == (id(volume), key, averaged_dims)
            if known is not None and is_known and known[2]:
                continue
            plane = volume.loaded.plane(own, averaged_dims)
            shared = (
                None if is_own_scale else shared_contrast_limits(volume.loaded, own, averaged_dims)
            )
            limits = shared or (None if plane is None else contrast_limits(plane))
            if limits is None:
                continue
            is_final = (
                volume.loaded.is_whole(own, averaged_dims) if is_own_scale else shared is not None
            )
            is_users = known is not None and is_known and tuple(layer.contrast_limits) != known[1]
            if not is_users:
                layer.contrast_limits = limits
            limits = (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))
            self._drawn[view_index, role] = ((id(volume), key, averaged_dims), limits, is_final)


def _map_layers(viewer: Any, views: Sequence[SampleView]) -> list[tuple[int, str, Any, MapVolume]]:
    found = []
    for view_index, view in enumerate(views):
        layers = own_layers(viewer, view_index=view_index)
        found += [(view_index, d, layers[d], v) for d, v in view.volumes.items() if d in layers]
    return found
