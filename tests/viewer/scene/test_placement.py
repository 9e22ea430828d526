"""Where images and maps lie, computed by hand; and what is dimmed of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.schemas import Box
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.scene.box_layers import box_surface
from i2am.viewer.scene.layers import sample_layers
from i2am.viewer.scene.placement import PlacedImage, place_images
from tests.support.image_boxes import write_boxes
from tests.support.synthetic_run import LAYERS, write_run

WIDE = (32, 96)
CENTRE = (0, 32, 32, 64)
CROP = (8, 16, 24, 80)
PADDED = (-32, 0, 64, 96)  # a square around the wide picture


def _view(tmp_path: Path, **boxes: Sequence[float]) -> Any:
    return open_view(write_boxes(write_run(tmp_path / "run.zarr", size_px=WIDE), boxes))


def _edges(values: Any, options: dict[str, Any]) -> tuple[float, ...]:
    """Return top, left, bottom and right of an array's outer edges in world coordinates."""
    scale, start = (np.array(options[key][-2:]) for key in ("scale", "translate"))
    ends = start + scale * (np.array(values.shape[len(options["axis_labels"]) - 2 :][:2]) - 0.5)
    return (*(start - scale / 2).tolist(), *ends.tolist())


def test_maps_fill_the_boxes_and_pictures_stay_whole(tmp_path: Path) -> None:
    view = _view(tmp_path, generated=CROP, reference=CENTRE)
    layers = {o["name"]: (v, o) for v, o, _ in sample_layers(view, place_images(view))}
    for name in ("generated", "source", "inpainting mask"):
        assert _edges(*layers[name]) == (-0.5, -0.5, 31.5, 95.5), name
    assert _edges(*layers["R2G"]) == (7.5, 15.5, 23.5, 79.5)
    left = 95.5 + 6  # the gap is a sixteenth of the width
    for name in ("reference", "reference mask"):
        assert _edges(*layers[name]) == (-0.5, left, 31.5, left + 96), name
    assert _edges(*layers["G2R"]) == (-0.5, left + 32, 31.5, left + 64)


def test_each_group_has_its_box_between_its_pictures_and_its_map(tmp_path: Path) -> None:
    view = _view(tmp_path, generated=CROP, reference=CENTRE)
    names = [options["name"] for _, options, _ in sample_layers(view, place_images(view))]
    assert names == [
        *("captions", "generated", "source", "inpainting mask", "generated box", "R2G"),
        *("reference", "reference mask", "reference box", "G2R"),
    ]


def test_an_image_that_was_seen_whole_has_no_box(tmp_path: Path) -> None:
    view = _view(tmp_path, generated=(0, 0, *WIDE))
    names = [options["name"] for _, options, _ in sample_layers(view, place_images(view))]
    assert not [name for name in names if "box" in name]
    assert view.seen() == ""


def test_the_box_is_that_of_the_reference_that_the_layers_look_at(tmp_path: Path) -> None:
    layers = [replace(LAYERS[0], name=f"{LAYERS[0].name}.reference_1", reference_index=1)]
    run = write_run(tmp_path / "run.zarr", layers=layers, size_px=WIDE)
    write_boxes(run, {"reference": CENTRE, "reference_1": (4, 0, 20, 16)})
    assert open_view(run).boxes["reference"] == (4, 0, 20, 16)


def test_what_reaches_beyond_a_picture_has_room_of_its_own(tmp_path: Path) -> None:
    view = _view(tmp_path, generated=(0, -16, 32, 112), reference=PADDED)
    first = place_images(view)
    assert first["generated"].bounds == (-0.5, -16.5, 31.5, 111.5)
    assert first["reference"].bounds == (-32.5, 111.5 + 6, 63.5, 111.5 + 6 + 96)
    second = place_images(view, first)
    assert second["reference"].bounds[0] == 63.5 + 4  # an eighth of the generated image's height
    captions, options, _ = sample_layers(view, first)[0]
    assert options["name"] == "captions"
    assert captions[:2, 0].max() < -32.5
    assert captions[3:].tolist() == [[63.5, -16.5], [63.5, 111.5 + 6 + 96]]


@pytest.mark.parametrize(
    ("box", "unseen_px"),
    [
        (CENTRE, 32 * 64),
        (CROP, 32 * 96 - 16 * 64),
        ((0.5, 1, 30, 95.25), 32 * 96 - 29.5 * 94.25),
        (PADDED, 0),
        ((-8, 40, 16, 200), 32 * 96 - 16 * 56),
        ((0, 100, 32, 120), 32 * 96),
    ],
    ids=["centre", "crop", "fractions", "padded", "both", "outside"],
)
def test_the_veil_covers_what_was_not_seen_and_nothing_else(
    box: tuple[float, ...], unseen_px: float
) -> None:
    placed = PlacedImage(WIDE, Box(*box), top=3, left=7, zoom=2)
    vertices, faces, values = box_surface(placed)
    veil = faces[values[faces].max(axis=1) == 0]
    assert len(veil) == 8
    a, b, c = np.moveaxis((vertices[veil] - [3, 7]) / 2, 1, 0)  # in pixels
    areas = np.abs(np.linalg.det(np.stack([b - a, c - a], axis=1))) / 2
    assert areas.sum() == pytest.approx(unseen_px)
    y0, x0, y1, x1 = box
    y, x = ((a + b + c) / 3)[areas > 0].T
    assert ((y >= 0) & (y <= 32) & (x >= 0) & (x <= 96)).all()
    assert not ((y > y0) & (y < y1) & (x > x0) & (x < x1)).any()
    outline = vertices[np.unique(faces[values[faces].min(axis=1) == 1])]
    np.testing.assert_allclose(outline.min(axis=0), [3 + 2 * y0, 7 + 2 * x0])
    np.testing.assert_allclose(outline.max(axis=0), [3 + 2 * y1, 7 + 2 * x1])


def test_a_mask_is_compared_with_the_map_over_the_box_alone(tmp_path: Path) -> None:
    # The masks cover rows 8 to 15 and columns 24 to 47.
    view = _view(tmp_path, generated=CROP, reference=CENTRE)
    inside = view.spreads["r2g"].mask
    assert inside.shape == (16, 64)
    assert inside.mean() == pytest.approx(8 * 24 / (16 * 64))
    assert view.spreads["g2r"].mask.mean() == pytest.approx(8 * 16 / (32 * 32))


@pytest.mark.parametrize(
    ("box", "line"),
    [
        (CROP, "The model saw rows 8 to 24, columns 16 to 80 of the generated image."),
        (
            (0, 31.5, 32, 64.75),
            "The model saw rows 0 to 32, columns 31.5 to 64.8 of the generated image.",
        ),
        (PADDED, "The model saw all of the generated image, and padding around it."),
        (
            (-8, 40, 16, 200),
            "The model saw rows 0 to 16, columns 40 to 96 of the generated image, "
            "and padding around it.",
        ),
        ((0, 0, *WIDE), ""),
    ],
)
def test_one_line_says_what_the_model_saw(box: Any, line: str, tmp_path: Path) -> None:
    assert _view(tmp_path, generated=box).seen() == line


def test_a_mask_beyond_the_picture_is_empty_and_outside_the_box_there_is_none(
    tmp_path: Path,
) -> None:
    view = _view(tmp_path, generated=(0, 48, 32, 96), reference=PADDED)
    assert view.spreads["r2g"].mask is None
    mask = view.spreads["g2r"].mask
    assert mask.shape == (96, 96)
    assert np.argwhere(mask).min(axis=0).tolist() == [40, 24]
    assert mask.sum() == 8 * 24
