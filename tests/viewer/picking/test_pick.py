"""What the model saw of a pick, and the patch that holds it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from i2am.schemas import Box
from i2am.viewer.picking.pick import Pick, patch_of, seen_part, why_unseen


def _view(box: tuple[float, ...], grid: tuple[int, int] | None = (4, 4)) -> Any:
    layer = SimpleNamespace(generated_grid=(4, 4), reference_grid=grid)
    return SimpleNamespace(
        images={"reference": np.zeros((32, 96, 3), np.uint8)},
        boxes={"reference": Box(*box)},
        layers={"attn2": layer},
        sram_layers={"attn2"},
        axes=SimpleNamespace(layers=("attn2",), steps=(0,), heads=(0,)),
    )


def _pick(*area: int) -> Pick:
    top, left, bottom, right = area
    return Pick("run.zarr", "first", "reference", (top, left, bottom, right))


@pytest.mark.parametrize(
    ("area", "seen"),
    [
        ((4, 40, 5, 41), (4, 40, 5, 41)),
        ((4, 31, 5, 32), None),
        ((4, 64, 5, 65), None),
        ((4, 20, 12, 40), (4, 32, 12, 40)),
        ((0, 0, 32, 96), (0, 32, 32, 64)),
        ((0, 0, 32, 30), None),
    ],
)
def test_pixels_outside_the_box_are_left_out(area: Any, seen: Any) -> None:
    found = seen_part(_pick(*area), _view((0, 32, 32, 64)))
    assert (found and found.area) == seen


def test_a_pixel_counts_that_lies_partly_in_the_box() -> None:
    view = _view((0.5, 32.5, 31.5, 63.5))
    assert seen_part(_pick(0, 32, 1, 33), view) is not None
    assert seen_part(_pick(31, 63, 32, 64), view) is not None
    assert seen_part(_pick(31, 64, 32, 65), view) is None
    # It is of the patch at the box's edge.
    assert patch_of(_pick(0, 32, 1, 33), view) == (0.5, 32.5, 8.25, 40.25)
    assert patch_of(_pick(31, 63, 32, 64), view) == (23.75, 55.75, 31.5, 63.5)


@pytest.mark.parametrize(
    ("pixel", "patch"),
    [
        ((0, 32), (0, 32, 8, 40)),
        ((7, 47), (0, 40, 8, 48)),
        ((8, 48), (8, 48, 16, 56)),
        ((31, 63), (24, 56, 32, 64)),
    ],
)
def test_patches_lie_over_the_box(pixel: tuple[int, int], patch: Any) -> None:
    y, x = pixel
    assert patch_of(_pick(y, x, y + 1, x + 1), _view((0, 32, 32, 64))) == patch


def test_without_a_grid_or_outside_the_box_it_is_the_pixel() -> None:
    assert patch_of(_pick(4, 40, 5, 41), _view((0, 32, 32, 64), None)) == (4, 40, 5, 41)
    assert patch_of(_pick(4, 4, 5, 5), _view((0, 32, 32, 64))) == (4, 4, 5, 5)


def test_the_line_names_the_image() -> None:
    assert why_unseen("reference") == "The model never saw this part of the reference."
    assert why_unseen("generated") == "The model never saw this part of the generated image."
