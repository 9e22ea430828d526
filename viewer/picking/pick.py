"""A place that was picked in one of the two pictures, and what was asked about it.

Pixels are those of the picture as it is stored, so that a pick means the same in any window, and in
`i2am.analysis.sram`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from i2am.analysis.kernel.resize import largest_grid
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.errors import AnalysisError

if TYPE_CHECKING:
    from i2am.viewer.data.axes import Place
    from i2am.viewer.data.sample import Row
    from i2am.viewer.scene.layers import Box

__all__ = [
    "Area",
    "Pick",
    "Side",
    "check_inside",
    "other_side",
    "patch_grid",
    "pick_in",
    "picture_size",
    "selection_of",
]

Side = Literal["generated", "reference"]
# Top, left, bottom and right in pixels of a stored picture; bottom and right do not belong to it.
Area = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pick:
    """A place in a picture, and the layers, steps and heads that are asked about it.

    Parameters
    ----------
    run, sample : str
        As in `i2am.viewer.data.sample.Origin`.
    side : "generated" or "reference"
        The picture that the place is in.
    area : (top, left, bottom, right)
        One pixel asks for the patch that holds it, more for all patches that hold one.
    layers, steps, heads : tuple of labels
        All of the maps, where there are none.
    note : str
        The user's words.
    """

    run: str
    sample: str
    side: Side
    area: Area
    layers: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    note: str = ""

    @property
    def is_point(self) -> bool:
        """Whether it is one pixel."""
        top, left, bottom, right = self.area
        return (bottom - top, right - left) == (1, 1)

    @property
    def answer_side(self) -> Side:
        """The picture that the answer is seen on."""
        return other_side(self.side)

    def place(self, size: tuple[int, int]) -> Any:
        """Return what `sram` is asked: a pixel, or a mask of the picture's size."""
        top, left, bottom, right = self.area
        if self.is_point:
            return top, left
        mask = np.zeros(size, bool)
        mask[top:bottom, left:right] = True
        return mask

    def on(self, row: Row, size: tuple[int, int]) -> Pick:
        """Return the same place in another sample; `size` is that of the picture it is in now."""
        height, width = picture_size(row, self.side)
        ys = [self.area[0] * height / size[0], self.area[2] * height / size[0]]
        xs = [self.area[1] * width / size[1], self.area[3] * width / size[1]]
        top, left = int(ys[0]), int(xs[0])
        bottom, right = max(round(ys[1]), top + 1), max(round(xs[1]), left + 1)
        area = (top, left, top + 1, left + 1) if self.is_point else (top, left, bottom, right)
        return replace(self, run=row.origin.run, sample=row.origin.sample, area=area)

    def asked(self, row: Row) -> dict[str, Any]:
        """Return the layers, steps and heads as `sram` takes them; those that can answer."""
        names = row.names
        layers = list(self.layers or (name for name in names.layers if name in row.askable))
        return {
            "layers": layers or None,  # None of them can answer: sram says why.
            "steps": list(self.steps or names.steps),
            "heads": list(self.heads or names.heads),
        }

    def title(self) -> str:
        """Return the note, or else what is asked, in words.

        Examples
        --------
        >>> Pick("run.zarr", "a", "generated", (9, 30, 10, 31), ("mid.attn2",), (3,)).title()
        'generated (9, 30) · mid.attn2 · step 3'
        >>> Pick("run.zarr", "a", "reference", (0, 0, 8, 9), heads=(0, 2)).title()
        'reference (0, 0)-(7, 8) · heads 0, 2'
        """
        if self.note:
            return self.note
        top, left, bottom, right = self.area
        place = f"({top}, {left})" + ("" if self.is_point else f"-({bottom - 1}, {right - 1})")
        parts = [f"{self.side} {place}", *self.layers]
        for dim, labels in ((STEP, self.steps), (HEAD, self.heads)):
            if labels:
                parts.append(f"{dim}{'s' * (len(labels) > 1)} {', '.join(map(str, labels))}")
        return " · ".join(parts)


def other_side(side: Side) -> Side:
    """Return the other of the two pictures."""
    return "reference" if side == "generated" else "generated"


def pick_in(
    row: Row, side: Side, box: Box, points: tuple[tuple[float, float], tuple[float, float]]
) -> Pick:
    """Return the pick between two points (y, x) of the scene; of one pixel where they are one.

    Parameters
    ----------
    row : Row
    side : "generated" or "reference"
    box : Box
        Where that picture lies.
    points : two (y, x)
        World coordinates; a point beyond the picture's edge counts as on it.
    """
    height, width = picture_size(row, side)
    ys, xs = zip(*points, strict=True)
    rows = [int(np.clip((y - box.top) / box.height * height, 0, height - 1)) for y in ys]
    columns = [int(np.clip((x - box.left) / box.width * width, 0, width - 1)) for x in xs]
    area = (min(rows), min(columns), max(rows) + 1, max(columns) + 1)
    return Pick(row.origin.run, row.origin.sample, side, area)


def selection_of(pick: Pick, row: Row, place: Place, means: frozenset[str]) -> Pick:
    """Return the pick asked of what is in view: one label, or all that is averaged over."""
    names = row.names
    return replace(
        pick,
        layers=() if LAYER in means else (names.layers[place.layer],),
        steps=() if STEP in means else (names.steps[place.step],),
        heads=() if HEAD in means else (names.heads[place.head],),
    )


def patch_grid(pick: Pick, row: Row) -> tuple[int, int]:
    """Return the finest grid of the layers that are asked, on the pick's side."""
    known = row.layers
    layers = [name for name in pick.asked(row)["layers"] or () if name in known]
    grids = [
        own.generated_grid if pick.side == "generated" else own.reference_grid
        for own in (known[name] for name in layers)
    ]
    sizes = [grid for grid in grids if grid is not None]
    return largest_grid(sizes) if sizes else picture_size(row, pick.side)


def picture_size(row: Row, side: Side) -> tuple[int, int]:
    """Return height and width of a stored picture."""
    height, width = row.images[side].shape[:2]
    return int(height), int(width)


def check_inside(pick: Pick, row: Row) -> None:
    """Raise an AnalysisError unless a pick lies in its picture."""
    height, width = picture_size(row, pick.side)
    if pick.area[2] > height or pick.area[3] > width:
        msg = (
            f"Expected a place within {(height, width)} pixels, got {pick.area}, "
            f"at {pick.side} of {pick.sample}. Remove the pick."
        )
        raise AnalysisError(msg)
