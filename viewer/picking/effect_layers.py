"""Measured effects in the window: over each image a layer, in place of the attention maps.

Over the generated image lies what changed there, over the reference each region in the colour of what
cutting it changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.boxes import Box
from i2am.viewer.picking.overlay import Drawing, Outlines, Overlay, outline_of
from i2am.viewer.scene.contrast import effect_limits
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.scene.placement import PlacedImage, cell_box

if TYPE_CHECKING:
    from i2am.viewer.data.effects import Effects
    from i2am.viewer.picking.pick import Pick, Side
    from i2am.viewer.session.session import Session

__all__ = ["EffectLayers"]

_DIRECTIONS: Final[dict[Side, str]] = {"generated": "r2g", "reference": "g2r"}
_NAMES: Final[dict[Side, str]] = {
    "generated": "effect on generated",
    "reference": "effect of reference",
}


class EffectLayers:
    """The layers of the measured effects of one sample in view.

    Parameters
    ----------
    session : Session
    view_index : int
        Of the sample in view that they belong to.
    outlines : Outlines
        Of what is picked.
    """

    def __init__(self, session: Session, view_index: int, outlines: Outlines) -> None:
        self._session, self._view_index, self._outlines = session, view_index, outlines
        self._overlays: dict[Side, Overlay] = {
            side: Overlay(session, view_index, name, f"effect_{side}")
            for side, name in _NAMES.items()
        }
        # The layers of maps that would be seen without the effects.
        self._covered: list[Any] = []
        self._direction = ""
        # What is drawn on each side: sliders move often, and these effects are of all positions.
        self._drawn: dict[Side, tuple[Any, ...]] = {}
        self._is_on = False
        self._beside: Sequence[Effects] = ()

    def show(self, effects: Effects, pick: Pick | None, beside: Sequence[Effects]) -> None:
        """Show the effects of a sample: of a pick on the other image, and of everything elsewhere.

        Parameters
        ----------
        effects : Effects
        pick : Pick or None
        beside : sequence of Effects
            Of all samples in view: a shared scale is theirs.
        """
        self._cover()
        self._beside = beside
        found: dict[Side, NDArray[np.float32] | None] = {
            "generated": effects.ceiling,
            "reference": effects.by_region,
        }
        if pick is not None and pick.side == "generated":
            found["reference"] = effects.on_patches(pick.area)
        elif pick is not None:
            found["generated"] = effects.of_regions(pick.area)
        asked = None if pick is None else (pick.side, pick.area)
        for side, values in found.items():
            is_asked = pick is not None and pick.target_side == side
            is_single = is_asked and pick is not None and pick.is_point
            own = asked if is_asked else None
            self._show_side(side, effects, values, own, is_single=is_single)
        self._outline(effects, pick, found)
        self._activate()
        self._session.write_captions(self._view_index, dict.fromkeys(_NAMES, "measured effect"))

    def show_nothing(self) -> None:
        """Show neither effects nor maps: there are none of this sample, or not yet."""
        self._cover()
        self._hide_overlays()
        self._outlines.hide()
        self._session.write_captions(self._view_index, dict.fromkeys(_NAMES, "no measured effect"))

    def hide(self) -> None:
        """Show the maps again."""
        if not self._is_on:
            return
        self._is_on = False
        self._activate_maps()
        self._hide_overlays()
        self._outlines.hide()
        for layer in self._covered:
            if layer in self._session.viewer.layers:
                layer.visible = True
        self._covered.clear()
        self._direction = ""
        self._session.write_captions(self._view_index)

    def leave(self) -> None:
        """Take the layers away if their images lie elsewhere now."""
        for overlay in self._overlays.values():
            overlay.leave()

    def remove(self) -> None:
        """Take the layers away: their sample is gone."""
        self._is_on, self._direction = False, ""
        self._covered.clear()
        self._drawn.clear()
        for overlay in self._overlays.values():
            overlay.remove()

    def _show_side(
        self,
        side: Side,
        effects: Effects,
        values: NDArray[np.float32] | None,
        asked: tuple[Any, ...] | None,
        *,
        is_single: bool,
    ) -> None:
        overlay, maps = self._overlays[side], self._maps(side)
        is_seen = maps is None or any(maps is layer for layer in self._covered)
        if values is None or not is_seen:
            overlay.hide()
            self._drawn.pop(side, None)
            return
        appearance = self._session.appearance
        drawn = (*map(id, self._beside), id(effects), asked, appearance)
        if self._drawn.get(side) == drawn and overlay.is_there and overlay.layer.visible:
            return
        picture = values if side == "generated" else effects.paint(values)
        # Shared, patches and regions compare; what is of more than one has a scale of its own.
        is_shared = appearance.contrast == "shared" and is_single
        sharing = self._beside if is_shared else [effects]
        every = [one.region.ravel() for one in sharing] if is_shared else [values.ravel()]
        limits = effect_limits(np.concatenate(every), max(one.noise for one in sharing))
        box = effects.box if side == "generated" else effects.reference_box
        drawing = Drawing.of_appearance(
            appearance,
            self._placed(side).over(box, picture.shape),
            limits,
            "effect",
        )
        # Regions are drawn as what was cut: with their edges.
        overlay.show(picture, drawing, interpolation="nearest", index=lambda: self._above(side))
        self._drawn[side] = drawn

    def _outline(
        self,
        effects: Effects,
        pick: Pick | None,
        found: dict[Side, NDArray[np.float32] | None],
    ) -> None:
        """Outline what was picked, and where on the other image its effect is largest."""
        if pick is None:
            self._outlines.hide()
            return
        values = found[pick.target_side]
        if pick.side == "generated":
            own = effects.patch_box(pick.area)
            highest: Box | None = effects.cuts_box([int(np.argmax(effects.on_patches(pick.area)))])
        else:
            cuts = effects.cuts_at(pick.area)
            own = effects.cuts_box(cuts) if cuts else Box(*pick.area)
            highest = None if values is None else _largest(effects, values)
        placed = self._placed(pick.side)
        other = None if highest is None else outline_of(self._placed(pick.target_side), highest)
        self._outlines.draw(placed, outline_of(placed, own), other)

    def _cover(self) -> None:
        """Hide the maps, and remember which were seen."""
        self._is_on = True
        if self._session.appearance.direction != self._direction:
            self._covered.clear()  # The switch has just shown and hidden them.
            self._direction = self._session.appearance.direction
        for side in _NAMES:
            maps = self._maps(side)
            if maps is not None and maps.visible:
                maps.visible = False
                if not any(maps is layer for layer in self._covered):
                    self._covered.append(maps)

    def _activate(self) -> None:
        """Have napari's controls steer the effects where they steered the maps that are hidden now."""
        selection = self._session.viewer.layers.selection
        for side, overlay in self._overlays.items():
            maps = self._maps(side)
            if maps is not None and selection.active is maps and overlay.is_there:
                selection.active = overlay.layer

    def _activate_maps(self) -> None:
        selection = self._session.viewer.layers.selection
        for side, overlay in self._overlays.items():
            maps = self._maps(side)
            if maps is not None and overlay.is_there and selection.active is overlay.layer:
                selection.active = maps

    def _hide_overlays(self) -> None:
        self._drawn.clear()
        for overlay in self._overlays.values():
            overlay.hide()

    def _placed(self, side: Side) -> PlacedImage:
        return self._session.placed[self._view_index][side]

    def _maps(self, side: Side) -> Any:
        return own_layers(self._session.viewer, self._view_index).get(_DIRECTIONS[side])

    def _above(self, side: Side) -> int:
        """Return the index above the maps on an image, or above that image."""
        layers = self._session.viewer.layers
        own = own_layers(self._session.viewer, self._view_index)
        below = own.get(_DIRECTIONS[side]) or own.get(side)
        return len(layers) if below is None else int(layers.index(below)) + 1


def _largest(effects: Effects, values: NDArray[np.float32]) -> Box:
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    height, width = values.shape
    return cell_box(effects.box, (height, width), int(row), int(column))
