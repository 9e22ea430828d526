"""Masks and boxes are compared with maps over the part of the image that the model saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import ScoredMap, analyze, imacs, open_run, spread
from i2am.analysis.scores.detection import SCORE as DETECTION
from i2am.analysis.scores.masks import cut_to_box, masks_of
from i2am.analysis.scores.registry import compute_score, score_map
from i2am.schemas import AnalysisError, Box
from tests.support.synthetic_run import SyntheticLayer, write_run

PLANE = ("y", "x")


def sample_of(size: tuple[int, int], seen: Any, mask: Any = None, **attributes: Any) -> xr.DataTree:
    images: dict[str, Any] = {
        "generated": ((*PLANE, "rgb"), np.zeros((*size, 3), np.uint8), {"i2am": {"box": seen}})
    }
    if mask is not None:
        images["inpainting_mask"] = (PLANE, mask)
    tree = {
        "/": xr.Dataset(attrs={"i2am": attributes}),
        "/images": xr.Dataset(images),
        "/layers": xr.Dataset(),
    }
    return xr.DataTree.from_dict(tree, name="a")


NO_MAPS = xr.DataTree.from_dict({"/r2g": xr.Dataset()})


def left(size: tuple[int, int], columns: int) -> Any:
    mask = np.zeros(size, np.uint8)
    mask[:, :columns] = 255
    return mask


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        (Box(0, 1, 2, 3), [[1, 0], [1, 0]]),
        (Box(1, -1, 3, 1), [[0, 1], [0, 0]]),
        (Box(0, 0.5, 2, 2.5), [[1, 0.5], [1, 0.5]]),
        (Box(0, 0, 2, 3.2), [[1, 2 / 3.2 * 3 - 1, 0], [1, 2 / 3.2 * 3 - 1, 0]]),
        (Box(-1.5, 0, 0.5, 1), [[0], [0.5]]),
    ],
)
def test_a_mask_is_cut_to_the_box(box: Box, wanted: Any) -> None:
    mask = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(cut_to_box(mask, box), wanted, atol=1e-9)


def test_a_whole_mask_stays_whole_in_any_box() -> None:
    # Otherwise rounding would make it a mask with an outside.
    found = cut_to_box(np.ones((97, 61)), Box(11.3, 7.7, 71.9, 44.1))
    assert found.min() == found.max() == 1


def test_imacs_is_of_the_mask_in_the_box() -> None:
    # Of 16 columns the model saw 4 to 12; the mask holds 6 of all, and the first two of those.
    sample = sample_of((8, 16), [0, 4, 8, 12], left((8, 16), 6))
    mask = masks_of(sample, NO_MAPS)["r2g"]
    inside = np.zeros((8, 8))
    inside[:, :2] = 1
    np.testing.assert_array_equal(mask, inside)
    assert score_map(ScoredMap("r2g", inside, mask))["imacs_g"] == pytest.approx(1.0)
    assert score_map(ScoredMap("r2g", 1 - inside, mask))["imacs_g"] == pytest.approx(-3.0)
    even = score_map(ScoredMap("r2g", np.ones((8, 8)), mask))
    assert even["r2g_inside"] == even["r2g_inside_chance"] == pytest.approx(0.25)


@pytest.mark.parametrize("columns", [3, 12])
def test_a_mask_without_inside_or_outside_in_the_box_is_left_out(columns: int) -> None:
    sample = sample_of((8, 16), [0, 4, 8, 12], left((8, 16), columns))
    assert masks_of(sample, NO_MAPS) == {}


# The model saw columns 20 to 60 of 80; the map is hot in rows 8 to 32 and columns 8 to 24 of them,
# and a detector finds two pixels more on each side.
@pytest.mark.parametrize(
    ("box", "wanted", "whole"),
    [
        pytest.param([26, 6, 20, 28], 1.0, 560 / 1600, id="the box that is found"),
        pytest.param([10, 6, 36, 28], 20 / 26, 728 / 1600, id="a part of the box was not seen"),
    ],
)
def test_iou_is_of_boxes_in_what_the_model_saw(box: Any, wanted: float, whole: float) -> None:
    heat = np.zeros((40, 40), np.float32)
    heat[8:32, 8:24] = 1
    sample = sample_of((40, 80), [0, 20, 40, 60], box=box)
    found = compute_score(DETECTION, ScoredMap("r2g", heat, None, sample))
    assert found["detection_iou"] == pytest.approx(wanted)
    assert found["whole_image_iou"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("seen", "box"),
    [([0, 20, 40, 60], [0, 0, 20, 40]), ([0, 0, 40, 80], [80, 0, 20, 40])],
    ids=["seen by nobody", "outside the image"],
)
def test_a_box_that_the_model_never_saw_has_no_score(seen: Any, box: Any) -> None:
    sample = sample_of((40, 80), seen, box=box)
    heat = np.eye(40, dtype=np.float32)
    assert compute_score(DETECTION, ScoredMap("r2g", heat, None, sample)) == {}


def test_of_a_box_that_reaches_beyond_the_image_its_part_is_counted() -> None:
    heat = np.eye(40, 80, dtype=np.float32)
    found = [
        compute_score(
            DETECTION, ScoredMap("r2g", heat, None, sample_of((40, 80), [0, 0, 40, 80], box=box))
        )
        for box in ([-10, 10, 30, 50], [0, 10, 20, 30])
    ]
    assert found[0] == found[1] != {}


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    folder: Path = tmp_path_factory.mktemp("spread")
    layer = SyntheticLayer("down", (4, 4), (4, 4))
    boxes = {"generated": (0, 16, 16, 32)}
    path = write_run(folder / "run.zarr", ["a"], [layer], size_px=(16, 48), boxes=boxes)
    return analyze(open_run(path)["a"]).load()


def test_a_mask_of_the_image_is_cut_for_maps_that_know_their_pixels(maps: xr.DataTree) -> None:
    ulam: Any = maps["r2g/ulam"]
    whole = left((16, 48), 24) / 255
    cut = left((16, 16), 8) / 255
    wanted = spread(ulam, cut)
    assert float(wanted["chance"]) == 0.5
    for mask in (whole, xr.DataArray(whole, dims=PLANE), xr.DataArray(whole, dims=PLANE).chunk()):
        xr.testing.assert_equal(spread(ulam, mask), wanted)
    assert imacs(ulam, whole) == imacs(ulam.to_numpy(), cut)
    xr.testing.assert_equal(
        spread(ulam.drop_vars(PLANE), cut), wanted.drop_vars(PLANE, errors="ignore")
    )


@pytest.mark.parametrize("shape", [(4, 4), (8, 48), (16, 24)])
def test_a_mask_that_may_lie_elsewhere_is_refused(shape: Any, maps: xr.DataTree) -> None:
    match = r"Expected a mask of \(16, 16\) pixels over rows 0 to 16, columns 16 to 32 of the image"
    for measure in (spread, imacs):
        with pytest.raises(AnalysisError, match=match):
            measure(maps["r2g/ulam"], np.ones(shape))  # type: ignore[arg-type]


def test_over_a_whole_image_a_mask_may_be_coarser(maps: xr.DataTree) -> None:
    ulam: Any = maps["g2r/ulam"]  # Over all 16 x 48 pixels of the reference.
    coarse, fine = left((4, 12), 6) / 255, left((16, 48), 24) / 255
    xr.testing.assert_allclose(spread(ulam, coarse), spread(ulam, fine))
    with pytest.raises(AnalysisError, match=r"got one of \(32, 96\), at mask. Cut or scale it"):
        spread(ulam, np.ones((32, 96)))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            lambda maps: maps,
            r"got a DataTree of many, at maps. Give one of them: maps\['r2g/ulam'\]",
        ),
        (lambda maps: maps["r2g"].to_dataset(), "got a Dataset of many"),
        (lambda maps: maps["r2g/ulam"].to_numpy(), "got ndarray, at maps. Name its dims"),
        (lambda maps: maps["r2g/ulam"][0], r"got one of dims \('x',\)"),
    ],
)
def test_spread_of_something_else_says_how(given: Any, match: str, maps: xr.DataTree) -> None:
    with pytest.raises(AnalysisError, match=match):
        spread(given(maps))
