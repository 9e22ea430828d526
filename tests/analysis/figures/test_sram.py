"""The SRAM figure points at the places that a patch's content comes from."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.patches import Rectangle

from i2am.analysis.figures.patch_maps import default_points, sram_grid
from i2am.analysis.figures.style import FigureStyle
from i2am.schemas import AnalysisError
from tests.support.figure_reading import brightest, panels_of
from tests.support.pictured import BOX, GRID, SIZE_PX, pictured


def test_sram_is_hottest_where_each_patchs_content_comes_from() -> None:
    case = pictured(dark=True)
    top, left, height, width = BOX
    points = [(20, 28), (30, 40), (44, 34)]
    lead, *panels = panels_of(sram_grid(case.sample, points, FigureStyle(contrast="panel")))
    assert len(panels) == 3
    boxes = [p for p in lead.patches if isinstance(p, Rectangle)][::2]
    for number, ((y, x), axes, box) in enumerate(zip(points, panels, boxes, strict=True), start=1):
        assert axes.get_title().startswith(f"{number}:")
        # A number, and below it its rim.
        assert [t.get_text() for t in lead.texts][2 * number - 1] == str(number)
        assert box.get_x() < x < box.get_x() + box.get_width()
        assert box.get_y() < y < box.get_y() + box.get_height()
        # The patch's centre, as a share of the mask's box, is the place on the reference.
        patch = SIZE_PX // GRID
        centre = [p // patch * patch + patch / 2 for p in (y, x)]
        wanted = [(centre[0] - top) / height, (centre[1] - left) / width]
        np.testing.assert_allclose(brightest(axes), wanted, atol=1.5 / GRID)


def test_points_are_picked_in_the_masks_box_and_else_in_the_whole_picture() -> None:
    top, left, height, width = BOX
    points = default_points(pictured().sample)
    assert len(points) == 9
    assert all(top <= y < top + height and left <= x < left + width for y, x in points)
    everywhere = default_points(pictured(mask=False).sample)
    assert everywhere == list(itertools.product((10, 32, 53), repeat=2))


def test_points_that_share_a_patch_are_named_once() -> None:
    case = pictured()
    images = case.sample["images"].to_dataset()
    images["inpainting_mask"] = images["inpainting_mask"] * 0
    images["inpainting_mask"][20:24, 20:28] = 255
    sample = case.sample.assign({})
    sample["images"] = xr.DataTree(images)
    assert default_points(sample) == [(20, 21), (20, 24)]


def test_one_place_is_asked_as_a_list_of_it_is() -> None:
    sample = pictured().sample
    lead, panel = panels_of(sram_grid(sample, (20, 28)))
    lead_of_list, panel_of_list = panels_of(sram_grid(sample, [(20, 28)]))
    assert panel.get_title() == panel_of_list.get_title()
    assert len(lead.texts) == len(lead_of_list.texts)
    assert brightest(panel) == brightest(panel_of_list)
    # Two places are no place, whatever holds them.
    both: Any = np.array([[20, 28], [30, 40]])
    assert len(panels_of(sram_grid(sample, both))) == 3


def test_sram_of_one_token_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"grid of reference tokens, got none.*one token"):
        sram_grid(pictured(tokens="one").sample)


def boxed(image: str, box: tuple[float, float, float, float]) -> xr.DataTree:
    sample = pictured().sample
    images = sample["images"].to_dataset()
    images[image] = images[image].assign_attrs(i2am={"box": list(box)})
    boxed = sample.copy()
    boxed["images"] = xr.DataTree(images)
    return boxed


def test_places_are_marked_in_pixels_of_the_image_and_lie_in_its_box() -> None:
    # 16 patches over 32 columns from 16 on: 2 pixels each; 3 pixels high over 48 rows from 8 on.
    sample = boxed("generated", (8, 16, 56, 48))
    lead, first = panels_of(sram_grid(sample, [(30.5, 17)]))
    assert first.get_title() == "1: (30.5, 17)"
    marks = [p.get_bbox().bounds for p in lead.patches if isinstance(p, Rectangle)]
    assert marks == [(15.5, 7.5, 32, 48)] * 2 + [(15.5, 28.5, 2, 3)] * 2
    shown = np.asarray(lead.images[0].get_array())
    stored = np.asarray(sample["images/generated"])
    shown_part = shown[8 * 6 : 56 * 6 : 6, 16 * 6 : 48 * 6 : 6]
    np.testing.assert_array_equal(shown_part, stored[8:56, 16:48])
    np.testing.assert_allclose(shown[::6, ::6][:, :16], stored[:, :16] * 0.35, atol=0.51)
    assert all(16 <= x < 48 for _, x in default_points(boxed("generated", (0, 16, 64, 48))))
    assert all(40 <= x < 48 for _, x in default_points(boxed("generated", (0, 40, 64, 64))))
    with pytest.raises(AnalysisError, match="a place that the model saw"):
        sram_grid(sample, [(30, 8)])
