from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from i2am.analysis import cell_order, object_patches, open_run, region_masses, sram
from i2am.analysis.effects.region_masses import mean_over_layers
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.effects_store import even_boxes
from tests.support.synthetic_run import SyntheticLayer, write_run

FACTORS = SyntheticLayer("factors", (8, 8), (4, 4), 1)
COARSE = SyntheticLayer("coarse", (4, 4), (2, 2), 0, keys_per_step=True)
SHARED = SyntheticLayer("shared", (8, 8), (4, 4), 0, representation="logits", other_keys=3)
MASKED = SyntheticLayer("masked", (8, 8), (4, 4), 1, masked=True)
CLIP = SyntheticLayer("clip", (8, 8), None, 0, tokens=1)
LAYERS = (FACTORS, COARSE, SHARED, MASKED, CLIP)
# Of a picture of 32x32: an adaptive run's, whose edges cut through the coarse layer's tokens.
BOXES = np.array(
    [(0, 0, 16, 16), (0, 16, 16, 32), (16, 0, 32, 16), (16, 16, 24, 32), (24, 16, 32, 32)]
)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masses") / "run.zarr"
    return write_run(path, ["a"], LAYERS, steps=3)


@pytest.fixture(scope="module")
def sample(run_path: Path) -> Any:
    return open_run(run_path)["a"]


def expected(layer: Any, boxes: Any, grid: tuple[int, int]) -> Any:
    """(cut, y, x): a token's attention painted over its pixels, and counted pixel by pixel."""
    own = layer.attrs["i2am"]
    logits = reference_maps.stored_logits(layer)
    attention = reference_maps.softmax(logits, 3)
    if "logsumexp" in layer:
        attention = np.exp(logits - layer["logsumexp"][:][..., None])
    attention = attention * reference_maps.stored_region(layer)[:, None]
    mean = attention.mean((0, 1))[:, own["special_tokens"] :]
    rows, columns = own["reference_grid"]
    pixels = mean.reshape(-1, rows, columns).repeat(32 // rows, 1).repeat(32 // columns, 2)
    pixels /= (32 // rows) * (32 // columns)
    sums = np.stack([pixels[:, y0:y1, x0:x1].sum((1, 2)) for y0, x0, y1, x1 in boxes])
    height, width = own["generated_grid"]
    planes = sums.reshape(-1, height, width)
    return planes.repeat(grid[0] // height, 1).repeat(grid[1] // width, 2)


def test_masses_are_the_attention_that_lies_in_each_region(run_path: Path, sample: Any) -> None:
    found = region_masses(sample, BOXES)
    assert found.dims == ("layer", "cut", "y", "x")
    assert found.dtype == np.float32
    assert found["layer"].values.tolist() == ["factors", "coarse", "shared", "masked"]
    assert found["y"].values[:2].tolist() == [2, 6]
    for number, layer in enumerate(reference_maps.layer_groups(run_path / "a")[:4]):
        wanted = expected(layer, BOXES, (8, 8))
        np.testing.assert_allclose(found[number], wanted, rtol=2e-5, atol=1e-7)


def test_they_are_lazy_and_hold_to_the_selection(sample: Any) -> None:
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        few = region_masses(sample, BOXES, layers="f*", steps=1, heads=0, grid=(4, 4))
    assert few.sizes == {"layer": 1, "cut": 5, "y": 4, "x": 4}
    # Patch (0, 0) of 4x4 has its centre in patch (1, 1) of 8x8, as SRAM takes places.
    one = sram(sample, generated=(5, 5), layers="factors", steps=1, heads=0)
    assert float(few[0, 0, 0, 0]) == pytest.approx(float(one[:2, :2].sum()), rel=1e-5)


def test_the_masses_of_even_regions_sum_to_the_attention_to_the_picture(sample: Any) -> None:
    found = region_masses(sample, even_boxes((3, 5), (32, 32)), layers="coarse").sum("cut")
    np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_regions_lie_over_the_part_of_the_picture_that_the_model_saw(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run.zarr", ["a"], [FACTORS], boxes={"reference": (8, 8, 24, 24)}, steps=1
    )
    outside, inside = region_masses(open_run(run)["a"], [(0, 0, 8, 32), (8, 8, 24, 24)])[0]
    assert float(outside.sum()) == 0
    layer = reference_maps.layer_groups(run / "a")[0]
    attention = reference_maps.softmax(reference_maps.stored_logits(layer), 3)
    wanted = attention.mean((0, 1))[:, 1:].sum(1).reshape(8, 8)
    np.testing.assert_allclose(inside, wanted, rtol=1e-5)


def test_the_object_is_what_the_mask_marks(tmp_path: Path, sample: Any) -> None:
    found = object_patches(sample, (4, 4))
    assert found is not None
    assert np.argwhere(found).tolist() == [[1, 1]]  # Pixels 8 to 16 of 32, in both directions.
    assert object_patches(sample, (1, 1)) is None
    run = write_run(tmp_path / "run.zarr", ["a"])
    mask = reference_maps.stored(run / "a" / "images")["inpainting_mask"]
    mask[...] = 0
    assert object_patches(open_run(run)["a"], (4, 4)) is None


def test_an_order_begins_with_what_the_object_reads_most(run_path: Path, sample: Any) -> None:
    layers = reference_maps.layer_groups(run_path / "a")[:4]
    inside = object_patches(sample, (8, 8))
    each = [expected(layer, BOXES, (8, 8))[:, inside].mean(1) for layer in layers]
    by_map = cell_order(sample, BOXES)
    assert by_map == np.argsort(-np.mean(each, axis=0)).tolist()
    assert cell_order(sample, BOXES, "least") == by_map[::-1]
    assert cell_order(sample, BOXES, "shared") == np.argsort(-each[2]).tolist()
    weights = {"factors": 0.0, "coarse": 3.0, "shared": 1.0, "masked": 0.0}
    weighted = np.argsort(-(3 * each[1] + each[2]))
    assert cell_order(sample, BOXES, weights=weights) == weighted.tolist()
    corner = [
        own[:, :2, :2].mean((1, 2)) for own in (expected(one, BOXES, (8, 8)) for one in layers)
    ]
    mask = np.zeros((32, 32), bool)
    mask[:8, :8] = True
    of_corner = cell_order(sample, BOXES, region=mask)
    assert of_corner == np.argsort(-np.mean(corner, axis=0)).tolist() != by_map
    nearest = [[0, 0, 16, 16], [16, 16, 32, 32], [0, 16, 16, 32]]
    assert cell_order(sample, nearest, "position", region=mask)[0] == 0
    assert cell_order(sample, nearest, "position", region=mask[::-1, ::-1])[0] == 1
    drawn = cell_order(sample, BOXES, "random", seed=3)
    assert sorted(drawn) == list(range(5))
    assert drawn == cell_order(sample, BOXES, "random", seed=3)
    assert drawn != cell_order(sample, BOXES, "random", seed=4)


def test_unknown_orders_wrong_boxes_and_missing_weights_are_refused(sample: Any) -> None:
    with pytest.raises(AnalysisError, match=r"Expected a known order, got 'mpa'.*'map'"):
        cell_order(sample, BOXES, "mpa")
    with pytest.raises(AnalysisError, match=r"got an array of \(4,\), at boxes"):
        region_masses(sample, BOXES[0, :4])
    with pytest.raises(AnalysisError, match=r"got an array of \(0, 4\)"):
        region_masses(sample, np.zeros((0, 4)))
    masses = region_masses(sample, BOXES)
    with pytest.raises(AnalysisError, match="at layer 'coarse'"):
        mean_over_layers(masses, {"factors": 1.0})
    with pytest.raises(AnalysisError, match="take the plain mean"):
        mean_over_layers(masses[:1], {"factors": 0.0})
    with pytest.raises(AnalysisError, match="SRAM does not exist here"):
        region_masses(sample, BOXES, layers="clip")
