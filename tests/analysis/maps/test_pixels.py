"""Maps lie over the part of the stored image that the model saw, and places are in its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import (
    LiveSram,
    analyze,
    analyze_run,
    describe_store,
    open_maps,
    open_run,
    sram,
)
from i2am.analysis.maps.regions import resolve_regions
from i2am.schemas import AnalysisError, find_faults
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYER = SyntheticLayer("down.0", (8, 8), (4, 4), 1)
SECOND = SyntheticLayer("down.0.reference_1", (8, 8), (2, 4), 0, reference_index=1)
SIZE = (32, 96)
# Of the generated image 16 rows and 32 columns, of the reference the square in the middle.
BOXES = {"generated": (8, 16, 24, 48), "reference": (0, 32, 32, 64)}
ROWS, COLUMNS = [9 + 2 * n for n in range(8)], [18 + 4 * n for n in range(8)]
REFERENCE_ROWS, REFERENCE_COLUMNS = [4, 12, 20, 28], [36, 44, 52, 60]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    return write_run(
        folder / "run.zarr", ["a"], [LAYER, SECOND], steps=2, size_px=SIZE, boxes=BOXES
    )


@pytest.fixture(scope="module")
def sample(path: Path) -> xr.DataTree:
    return open_run(path)["a"]


def coordinates(maps: Any) -> dict[str, list[float]]:
    """Return the coordinates in pixels, checked for their type and units."""
    found = {name: maps.coords[name] for name in maps.dims if str(name)[-1] in "yx"}
    for one in found.values():
        assert one.dtype == np.float64
        assert one.attrs["units"] == "px"
    return {str(name): one.values.tolist() for name, one in found.items()}


def test_maps_have_the_centres_of_their_cells_in_pixels(sample: xr.DataTree) -> None:
    maps = analyze(sample, layers="down.0")
    for level in ("volume", "ulam", "tlam", "hlam", "llam"):
        assert coordinates(maps[f"r2g/{level}"]) == {"y": ROWS, "x": COLUMNS}
        wanted = {"reference_y": REFERENCE_ROWS, "reference_x": REFERENCE_COLUMNS}
        assert coordinates(maps[f"g2r/{level}"]) == wanted


def test_the_official_maps_have_them_on_their_own_grids(sample: xr.DataTree) -> None:
    maps = analyze(sample, layers="down.0", convention="official")
    # The image's 32 x 96 pixels make 4 x 12 latents.
    assert maps["r2g/ulam"].shape == (4, 12)
    found = coordinates(maps["r2g/tlam"])
    assert found["y"] == [10, 14, 18, 22]
    np.testing.assert_allclose(found["x"], 16 + (np.arange(12) + 0.5) * 32 / 12)
    wanted = {"reference_y": REFERENCE_ROWS, "reference_x": REFERENCE_COLUMNS}
    assert coordinates(maps["g2r/tlam"]) == wanted


def test_a_box_moves_maps_and_changes_none(sample: xr.DataTree, tmp_path: Path) -> None:
    plain = write_run(tmp_path / "run.zarr", ["a"], [LAYER, SECOND], steps=2, size_px=SIZE)
    whole = analyze(open_run(plain)["a"], layers="down.0")
    maps = analyze(sample, layers="down.0")
    for direction in ("r2g", "g2r"):
        np.testing.assert_array_equal(maps[f"{direction}/volume"], whole[f"{direction}/volume"])
    assert coordinates(whole["r2g/ulam"])["y"] == [2, 6, 10, 14, 18, 22, 26, 30]
    assert coordinates(whole["g2r/ulam"])["reference_x"] == [12, 36, 60, 84]


def test_a_further_reference_has_its_own_pixels(sample: xr.DataTree) -> None:
    maps = analyze(sample, layers="*.reference_1")
    wanted = {"reference_y": [6.0, 18.0], "reference_x": [2.0, 6.0, 10.0, 14.0]}  # 24 x 16 pixels
    assert coordinates(maps["g2r/ulam"]) == wanted
    assert coordinates(sram(sample, generated=(9, 17), layers="*.reference_1")) == wanted


def test_frames_above_one_another_share_the_stacked_pictures_pixels(tmp_path: Path) -> None:
    video = SyntheticLayer("video", (6, 2), (2, 2), frames=3)
    sample = open_run(write_run(tmp_path / "run.zarr", ["a"], [video], size_px=(96, 32)))["a"]
    assert coordinates(analyze(sample)["r2g/ulam"])["y"] == [8, 24, 40, 56, 72, 88]
    assert coordinates(sram(sample, reference=(0, 0)))["y"] == [8, 24, 40, 56, 72, 88]
    # Row 40 is in the second frame: patch row 2, the first of that frame.
    (patches,) = resolve_regions(sample, (40, 31), "generated").patches((6, 2))
    assert patches.tolist() == [5]


def test_without_images_there_are_no_pixels(sample: xr.DataTree) -> None:
    images = sample["images"].to_dataset()
    alone = sample.copy()
    alone["images"] = xr.DataTree(images.drop_vars(["generated", "reference"]))
    maps = analyze(alone, layers="down.0")
    assert not {"y", "x", "reference_y", "reference_x"} & {*maps["r2g"].coords, *maps["g2r"].coords}
    only_generated = sample.copy()
    only_generated["images"] = xr.DataTree(images.drop_vars("reference"))
    found = sram(only_generated, generated=(9, 17), layers="down.0")
    assert set(found.coords) == set()


def test_stored_maps_give_them_back_and_are_sound(path: Path, tmp_path: Path) -> None:
    out = analyze_run(path, tmp_path / "maps.zarr", layers="down.0", progress=False)
    stored = open_maps(out)["a"]
    assert coordinates(stored["r2g/volume"]) == {"y": ROWS, "x": COLUMNS}
    assert coordinates(stored["g2r/tlam"])["reference_x"] == REFERENCE_COLUMNS
    assert [str(fault) for fault in find_faults(describe_store(out))] == []
    group = reference_maps.stored(out / "a" / "g2r")
    assert group["reference_y"][:].tolist() == REFERENCE_ROWS
    assert group["reference_y"].attrs["units"] == "px"


def test_live_and_lazy_sram_have_the_same_pixels(sample: xr.DataTree) -> None:
    for place in ({"generated": (9, 17)}, {"reference": (3.5, 40.25)}):
        wanted = sram(sample, layers="down.0", **place).compute()
        (*_, last) = LiveSram(sample).ask(layers="down.0", **place)
        xr.testing.assert_allclose(last.values, wanted)
        assert coordinates(last.values) == coordinates(wanted)
    assert coordinates(wanted) == {"y": ROWS, "x": COLUMNS}


# Rows of a grid of 8 over 16 pixels from 8 on are 2 pixels high, its columns 4 wide from 16 on.
@pytest.mark.parametrize(
    ("place", "row", "column"),
    [
        ((8, 16), 0, 0),
        ((9, 19), 0, 0),
        ((10, 20), 1, 1),
        ((23, 47), 7, 7),
        ((8.0, 16.0), 0, 0),
        ((9.999, 19.999), 0, 0),
        ((10.0, 20.0), 1, 1),
        ((np.nextafter(24, 0), np.nextafter(48, 0)), 7, 7),
        ((np.int64(12), 27.5), 2, 2),
    ],
)
def test_a_place_in_pixels_takes_the_cell_of_the_box_that_holds_it(
    place: Any, row: int, column: int, sample: xr.DataTree
) -> None:
    (found,) = resolve_regions(sample, place, "generated").patches((8, 8))
    assert found.tolist() == [8 * row + column]


def test_a_pixel_that_overlaps_the_box_counts_where_it_does(tmp_path: Path) -> None:
    boxes = {"generated": (3.5, -4, 10.5, 28.5)}
    path = write_run(tmp_path / "run.zarr", ["a"], [LAYER], steps=1, boxes=boxes)
    sample = open_run(path)["a"]

    def row(place: Any) -> int:
        (found,) = resolve_regions(sample, place, "generated").patches((7, 1))
        return int(found[0])

    assert [row((y, 0)) for y in (3, 4, 5, 9, 10)] == [0, 0, 1, 5, 6]
    assert [row((y, 0)) for y in (3.5, 4.499, 4.5, 10.499)] == [0, 0, 1, 6]
    for y in (3, 4, 10):
        mask = np.zeros((32, 32), bool)
        mask[[2, y, 11], 0] = True
        assert row(mask) == row((y, 0))
    for unseen in (2, 11, 3.499, 10.5):
        with pytest.raises(AnalysisError, match="Expected a place that the model saw"):
            row((unseen, 0))


def test_the_map_is_that_of_the_cell(path: Path, sample: xr.DataTree) -> None:
    logits = reference_maps.stored_logits(reference_maps.layer_groups(path / "a")[0])
    # Pixel (12, 30) of the generated image: row 2, column 3 of the box's 8 x 8.
    wanted = reference_maps.softmax(logits, 3)[:, :, 2 * 8 + 3, 1:].mean((0, 1)).reshape(4, 4)
    found = sram(sample, generated=(12, 30), layers="down.0")
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # Place (20.5, 47.9) of the reference: row 2, column 1; the first token is special.
    back = reference_maps.softmax(logits, 2)[..., 1 + 2 * 4 + 1].mean((0, 1)).reshape(8, 8)
    found = sram(sample, reference=(20.5, 47.9), layers="down.0")
    np.testing.assert_allclose(found, back, rtol=1e-5)


def mask_of(*pixels: tuple[int, int], dtype: Any = bool, value: float = 1) -> Any:
    mask = np.zeros(SIZE, dtype)
    for y, x in pixels:
        mask[y, x] = value
    return mask


def test_pixels_of_a_mask_outside_the_box_are_left_out(sample: xr.DataTree) -> None:
    mask = mask_of((0, 0), (10, 20), (12, 47), (12, 48), (31, 95))
    (found,) = resolve_regions(sample, mask, "generated").patches((8, 8))
    assert found.tolist() == [8 + 1, 16 + 7]


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.uint8, 1), (np.uint8, 255), (np.int64, 1), (np.float32, 255)]
)
def test_a_mask_of_two_values_is_a_mask(dtype: Any, value: int, sample: xr.DataTree) -> None:
    mask = mask_of((10, 20), dtype=dtype, value=value)
    (found,) = resolve_regions(sample, mask, "generated").patches((8, 8))
    assert found.tolist() == [8 + 1]
    turned = xr.DataArray(mask.T, dims=("x", "y"))
    (found,) = resolve_regions(sample, turned, "generated").patches((8, 8))
    assert found.tolist() == [8 + 1]


SEEN = "image it saw rows 8 to 24, columns 16 to 48: ask"


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ((0, 20), rf"saw, got \(0, 20\), at generated=. Of the stored generated {SEEN}"),
        ((24, 20), SEEN),
        ((24.0, 20), SEEN),
        ((7.999, 20), SEEN),
        ((10, 15.9), SEEN),
        ([(10, 20), (10, 48)], r"got \(10, 48\), at generated\[1\]"),
        (mask_of((0, 0), (24, 20)), rf"got a mask whose pixels all lie elsewhere, .*{SEEN}"),
        ((32, 20), r"Expected a pixel \(y, x\) within \(32, 96\), got \(32, 20\)"),
        ((-0.5, 20), r"within \(32, 96\), got \(-0.5, 20\)"),
        ((np.nan, 20), r"got \(nan, 20\)"),
        (("9", 20), r"got \(9, 20\)"),
        ((True, False), r"got \(True, False\)"),
        (mask_of((9, 20), dtype=np.uint8, value=128), r"got uint8 \(32, 96\).*values are 0, 128"),
        (np.linspace(0, 1, 32 * 96).reshape(SIZE), r"float64 \(32, 96\).*values are 0.0, .*… 1.0"),
        (np.ones(SIZE, np.uint8), r"got uint8 \(32, 96\).*the values are 1\."),
    ],
)
def test_a_place_that_the_model_never_saw_is_refused(
    place: Any, match: str, sample: xr.DataTree
) -> None:
    with pytest.raises(AnalysisError, match=match) as caught:
        sram(sample, generated=place, layers="down.0")
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(AnalysisError, match=match):
        LiveSram(sample).ask(generated=place, layers="down.0")


def test_xarrays_own_plot_lays_a_map_over_its_image(sample: xr.DataTree) -> None:
    # xarray draws y upwards unless it is told that rows go down.
    import matplotlib.pyplot as plt

    maps = analyze(sample, layers="down.0", normalisation="density")
    for found, title in (
        (maps["r2g/ulam"], "R2G, mean over layers, steps and heads [attention (uniform = 1)]"),
        (sram(sample, reference=(16, 48), layers="down.0", keep="head"), None),
    ):
        plane = found if found.ndim == 2 else found.isel(head=0)
        figure, axes = plt.subplots()
        drawn: Any = plane.plot.pcolormesh(ax=axes, yincrease=False)
        assert axes.get_xlabel() == "x in the generated image [px]"
        assert axes.get_ylabel() == "y in the generated image [px]"
        assert axes.yaxis_inverted()
        # Rows 8 to 24 and columns 16 to 48: what the model saw.
        assert axes.get_xlim() == (16, 48)
        assert axes.get_ylim() == (24, 8)
        np.testing.assert_array_equal(drawn.get_array().ravel(), plane.to_numpy().ravel())
        wanted = title or "SRAM, mean over layers and steps [attention per position]"
        assert drawn.colorbar.ax.get_ylabel().replace("\n", " ") == wanted
        plt.close(figure)
