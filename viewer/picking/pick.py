"""A region that was picked in one of the two images, with layers, steps and heads.

Pixels are those of the image as it is stored, so that a pick means the same in any window, and in
`i2am.analysis.sram`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from i2am.analysis.kernel.resize import largest_grid
from i2am.schemas.boxes import Box
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.errors import AnalysisError
from i2am.viewer.scene.placement import PlacedImage, cell_box

if TYPE_CHECKING:
    from i2am.viewer.data.axes import SliderPosition
    from i2am.viewer.data.sample import SampleView

__all__ = [
    "Area",
    "Pick",
    "Side",
    "check_inside",
    "image_size",
    "other_side",
    "patch_of",
    "pick_in",
    "pick_in_view",
    "seen_part",
    "why_unseen",
]

Side = Literal["generated", "reference"]
# Top, left, bottom and right in pixels of a stored image; bottom and right do not belong to it.
Area = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pick:
    """A region of an image, and the layers, steps and heads of its SRAM.

    Parameters
    ----------
    run, sample : str
        As in `i2am.viewer.data.sample.SampleSource`: where the run lay when it was picked.
    side : "generated" or "reference"
        The image that the region is in.
    area : (top, left, bottom, right)
        One pixel selects the patch that holds it; more select all patches that hold one of them.
    layers, steps, heads : tuple of labels
        All of the maps, where there are none.
    note : str
        The user's words.
    capture : str
        The sample's identity (`SampleView.identity`), by which it is known wherever its run lies;
        empty where that was not kept.
    reference : str
        The stored image of the reference whose maps were in view.
    """

    run: str
    sample: str
    side: Side
    area: Area
    layers: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    note: str = ""
    capture: str = ""
    reference: str = "reference"

    def is_of(self, view: SampleView) -> bool:
        """Return whether this is a pick of that sample, as it was captured."""
        if self.sample != view.source.sample:
            return False
        if self.capture:
            return self.capture == view.identity
        return _address(self.run) == _address(view.source.run)

    @property
    def is_point(self) -> bool:
        """Whether it is one pixel."""
        top, left, bottom, right = self.area
        return (bottom - top, right - left) == (1, 1)

    @property
    def target_side(self) -> Side:
        """The image that the SRAM lies over."""
        return other_side(self.side)

    def region(self, size: tuple[int, int]) -> Any:
        """Return the region as `sram` takes it: a pixel, or a mask of the image's size."""
        top, left, bottom, right = self.area
        if self.is_point:
            return top, left
        mask = np.zeros(size, bool)
        mask[top:bottom, left:right] = True
        return mask

    def on(self, view: SampleView, size: tuple[int, int]) -> Pick:
        """Return the same region in another sample; `size` is that of the image that it is in now."""
        height, width = image_size(view, self.side)
        ys = [self.area[0] * height / size[0], self.area[2] * height / size[0]]
        xs = [self.area[1] * width / size[1], self.area[3] * width / size[1]]
        top, left = int(ys[0]), int(xs[0])
        bottom, right = max(round(ys[1]), top + 1), max(round(xs[1]), left + 1)
        area = (top, left, top + 1, left + 1) if self.is_point else (top, left, bottom, right)
        own = view.source
        return replace(
            self,
            run=own.run,
            sample=own.sample,
            area=area,
            capture=view.identity,
            reference=own.reference,
        )

    def selection(self, view: SampleView) -> dict[str, Any]:
        """Return layers, steps and heads as `sram` takes them; of the layers those that have an SRAM."""
        axes = view.axes
        layers = list(self.layers or (name for name in axes.layers if name in view.sram_layers))
        return {
            "layers": layers or None,  # None of them has an SRAM: `sram` says why.
            "steps": list(self.steps or axes.steps),
            "heads": list(self.heads or axes.heads),
        }

    def title(self) -> str:
        """Return the note, or else sample, region, layers, steps and heads in words.

        Examples
        --------
        >>> Pick("run.zarr", "a", "generated", (9, 30, 10, 31), ("mid.attn2",), (3,)).title()
        'a · generated (9, 30) · mid.attn2 · step 3 · all heads'
        >>> Pick("run.zarr", "a", "reference", (0, 0, 8, 9), heads=(0, 2)).title()
        'a · reference (0, 0)-(7, 8) · all layers · all steps · heads 0, 2'
        """
        if self.note:
            return self.note
        parts = [self.sample, self.region_in_words(), *(self.layers or ("all layers",))]
        if self.reference != "reference":
            parts.insert(2, f"maps of {self.reference.replace('_', ' ')}")
        for dim, labels in ((STEP, self.steps), (HEAD, self.heads)):
            several = f"{dim}{'s' * (len(labels) > 1)} {', '.join(map(str, labels))}"
            parts.append(several if labels else f"all {dim}s")
        return " · ".join(parts)

    def region_in_words(self) -> str:
        """Return image and pixels.

        Examples
        --------
        >>> Pick("run.zarr", "a", "generated", (9, 30, 10, 31)).region_in_words()
        'generated (9, 30)'
        """
        top, left, bottom, right = self.area
        end = "" if self.is_point else f"-({bottom - 1}, {right - 1})"
        return f"{self.side} ({top}, {left}){end}"


def other_side(side: Side) -> Side:
    """Return the other of the two images."""
    return "reference" if side == "generated" else "generated"


def pick_in(
    view: SampleView,
    side: Side,
    placed: PlacedImage,
    points: tuple[tuple[float, float], tuple[float, float]],
) -> Pick:
    """Return the pick between two points (y, x) of the scene; of one pixel where they are one.

    Parameters
    ----------
    view : SampleView
    side : "generated" or "reference"
    placed : PlacedImage
        Where that image lies.
    points : two (y, x)
        World coordinates; a point beyond the image's edge counts as on it.
    """
    height, width = placed.size
    ys, xs = zip(*(placed.to_pixels(*point) for point in points), strict=True)
    rows = [int(np.clip(y, 0, height - 1)) for y in ys]
    columns = [int(np.clip(x, 0, width - 1)) for x in xs]
    area = (min(rows), min(columns), max(rows) + 1, max(columns) + 1)
    own = view.source
    return Pick(own.run, own.sample, side, area, capture=view.identity, reference=own.reference)


def pick_in_view(
    pick: Pick, view: SampleView, position: SliderPosition, averaged_dims: frozenset[str]
) -> Pick:
    """Return the pick with layers, steps and heads in view: one label, or all that are averaged over."""
    axes = view.axes
    return replace(
        pick,
        layers=() if LAYER in averaged_dims else (axes.layers[position.layer],),
        steps=() if STEP in averaged_dims else (axes.steps[position.step],),
        heads=() if HEAD in averaged_dims else (axes.heads[position.head],),
    )


def _address(run: str) -> str:
    """Return a path as it is from any folder; a URL is that already."""
    return run if "://" in run else os.path.realpath(run)


def seen_part(pick: Pick, view: SampleView) -> Pick | None:
    """Return a pick without the pixels that the model never saw; None where it saw none of them."""
    top, left, bottom, right = pick.area
    box = view.boxes[pick.side]
    first, last = max(top, math.floor(box.y0)), min(bottom, math.ceil(box.y1))
    begin, end = max(left, math.floor(box.x0)), min(right, math.ceil(box.x1))
    if first >= last or begin >= end:
        return None
    return replace(pick, area=(first, begin, last, end))


def why_unseen(side: Side) -> str:
    """Say why a pick has no SRAM that `seen_part` leaves nothing of."""
    image = "generated image" if side == "generated" else side
    return f"The model never saw this part of the {image}."


def patch_of(pick: Pick, view: SampleView) -> Box:
    """Return the patch that holds a picked pixel, in the finest grid of the pick's layers.

    In pixels of the stored image; the pixel itself where no layer has a grid, or the model never saw
    it.
    """
    top, left = pick.area[:2]
    grid, box = _patch_grid(pick, view), view.boxes[pick.side]
    if grid is None or seen_part(pick, view) is None:
        return Box(top, left, top + 1, left + 1)
    # A pixel that begins before the box, or ends after it, is of its first or last patch.
    row = min(max(int((top - box.y0) * grid[0] // box.height), 0), grid[0] - 1)
    column = min(max(int((left - box.x0) * grid[1] // box.width), 0), grid[1] - 1)
    return cell_box(box, grid, row, column)


def _patch_grid(pick: Pick, view: SampleView) -> tuple[int, int] | None:
    """Return the finest grid of the pick's layers, on its side."""
    known = view.layers
    layers = [name for name in pick.selection(view)["layers"] or () if name in known]
    grids = [
        own.generated_grid if pick.side == "generated" else own.reference_grid
        for own in (known[name] for name in layers)
    ]
    sizes = [grid for grid in grids if grid is not None]
    return largest_grid(sizes) if sizes else None


def image_size(view: SampleView, side: Side) -> tuple[int, int]:
    """Return height and width of a stored image."""
    height, width = view.images[side].shape[:2]
    return int(height), int(width)


def check_inside(pick: Pick, view: SampleView) -> None:
    """Raise an AnalysisError unless a pick lies in its image."""
    height, width = image_size(view, pick.side)
    if pick.area[2] > height or pick.area[3] > width:
        msg = (
            f"Expected a region within {(height, width)} pixels, got {pick.area}, "
            f"at {pick.side} of {pick.sample}. Remove the pick."
        )
        raise AnalysisError(msg)
