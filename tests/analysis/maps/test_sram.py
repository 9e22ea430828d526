from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, open_run, sram
from i2am.analysis.kernel.logits import StoredLogits
from i2am.analysis.kernel.softmax import region_means
from i2am.schemas import AnalysisError
from i2am.schemas.choices import NORMALISATIONS
from tests.analysis.maps.test_analyze import joint_sample
from tests.support import reference_maps
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import SyntheticLayer, write_run

FACTORS = SyntheticLayer("factors", (8, 8), (4, 4), 1)
COARSE = SyntheticLayer("coarse", (4, 4), (2, 2), 0, keys_per_step=True)
LOGITS = SyntheticLayer("logits", (8, 8), (4, 4), 1, representation="logits")
CLIP = SyntheticLayer("clip", (8, 8), None, 0, tokens=1)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sram") / "run.zarr"
    return write_run(path, ["a"], [FACTORS, COARSE, LOGITS, CLIP], steps=3)


@pytest.fixture(scope="module")
def sample(run_path: Path) -> Any:
    return open_run(run_path)["a"]


def expected(
    run_path: Path,
    wanted: list[tuple[int, list[int]]],
    *,
    from_reference: bool,
    grid: tuple[int, int],
) -> Any:
    """(layer, step, head, plane) of the numbered layers, each with its rows."""
    layers = reference_maps.layer_groups(run_path / "a")
    maps = []
    for number, rows in wanted:
        layer = layers[number]
        own = layer.attrs["i2am"]
        special = own["special_tokens"]
        logits = reference_maps.stored_logits(layer)
        if from_reference:
            tokens = [special + row for row in rows]
            flat = reference_maps.softmax(logits, 2)[..., tokens].mean(3)
            plane = flat.reshape(*flat.shape[:2], *own["generated_grid"])
        else:
            flat = reference_maps.softmax(logits, 3)[:, :, rows].mean(2)[..., special:]
            plane = flat.reshape(*flat.shape[:2], *own["reference_grid"])
        maps.append(np.clip(reference_maps.resize(plane, grid), 0, None))
    return np.stack(maps)


def test_a_pixel_takes_the_patch_that_holds_it_in_each_layer(run_path: Path, sample: Any) -> None:
    # Images are 32x32: pixel (9, 30) is patch (2, 7) of 8x8 and (1, 3) of 4x4.
    rows = [(0, [2 * 8 + 7]), (1, [1 * 4 + 3]), (2, [2 * 8 + 7])]
    volume = expected(run_path, rows, from_reference=False, grid=(4, 4))
    found = sram(sample, generated=(9, 30))
    assert found.dims == ("reference_y", "reference_x")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, volume.mean((0, 1, 2)), rtol=1e-5)


def test_a_region_of_the_reference_shows_where_it_went(run_path: Path, sample: Any) -> None:
    rows = [(0, [1 * 4 + 3]), (1, [0 * 2 + 1]), (2, [1 * 4 + 3])]
    volume = expected(run_path, rows, from_reference=True, grid=(8, 8))
    found = sram(sample, reference=(9, 30), keep=("layer", "step", "head"))
    assert found.dims == ("layer", "step", "head", "y", "x")
    assert found["layer"].values.tolist() == ["factors", "coarse", "logits"]
    np.testing.assert_allclose(found, volume, rtol=1e-5, atol=1e-8)


def test_a_region_is_the_mean_over_the_patches_that_hold_its_pixels(
    run_path: Path, sample: Any
) -> None:
    mask = np.zeros((32, 32), bool)
    mask[3:5, 10] = True  # patches (0, 2) and (1, 2) of 8x8, (0, 1) of 4x4
    rows = [(0, [2, 10]), (1, [1]), (2, [2, 10])]
    volume = expected(run_path, rows, from_reference=False, grid=(4, 4))
    for region in (mask, xr.DataArray(mask, dims=("y", "x"))):
        np.testing.assert_allclose(
            sram(sample, generated=region), volume.mean((0, 1, 2)), rtol=1e-5
        )


def test_a_region_of_one_pixel_is_that_pixel(sample: Any) -> None:
    mask = np.zeros((32, 32), bool)
    mask[9, 30] = True
    xr.testing.assert_equal(
        sram(sample, reference=mask).compute(), sram(sample, reference=(9, 30)).compute()
    )


def half(*, lower: bool) -> Any:
    mask = np.zeros((32, 32), bool)
    mask[16 if lower else 0 : 32 if lower else 20, 5:30] = True
    return mask


MANY = [(9, 30), half(lower=True), (0, 0), xr.DataArray(half(lower=False), dims=("a", "b"))]


@pytest.mark.parametrize("side", ["generated", "reference"])
@pytest.mark.parametrize("options", [{}, {"keep": ["layer", "head"], "normalisation": "density"}])
def test_many_regions_at_once_are_each_of_them_alone(side: str, options: Any, sample: Any) -> None:
    ask: Any = functools.partial(sram, sample, **options)
    found = ask(**{side: MANY})
    alone = [ask(**{side: region}) for region in MANY]
    assert found.dims == ("region", *alone[0].dims)
    assert found["region"].values.tolist() == [0, 1, 2, 3]
    assert found.attrs == alone[0].attrs
    np.testing.assert_allclose(found, np.stack(alone), rtol=1e-6, atol=1e-9)


def test_many_regions_read_true_probabilities_in_joint_attention() -> None:
    sample, _, _ = joint_sample(np.random.default_rng(2))
    regions: list[Any] = [(0, 0), (20, 20), np.ones((32, 32), bool)]
    for side in ("generated", "reference"):
        ask: Any = functools.partial(sram, sample)
        alone = [ask(**{side: region}) for region in regions]
        np.testing.assert_allclose(ask(**{side: regions}), np.stack(alone), rtol=1e-6, atol=1e-9)


def test_a_stack_of_masks_is_many_regions_and_keeps_their_names(sample: Any) -> None:
    masks = np.stack([half(lower=True), half(lower=False)])
    numbered = sram(sample, generated=masks)
    assert numbered["region"].values.tolist() == [0, 1]
    last = xr.DataArray(masks, {"region": ["lower", "upper"]}, ("region", "y", "x"))
    named = sram(sample, generated=last.transpose("y", "x", "region"))
    assert named["region"].values.tolist() == ["lower", "upper"]
    np.testing.assert_array_equal(named, numbered)
    one = sram(sample, generated=masks[:1])
    assert one.sizes["region"] == 1
    np.testing.assert_allclose(one[0], sram(sample, generated=masks[0]), rtol=1e-6)


def test_more_places_than_a_batch_holds_are_answered_alike(sample: Any) -> None:
    # The last batch is a smaller one.
    regions = [(y, x) for y in range(0, 32, 2) for x in range(0, 32, 2)][:192]
    found = sram(sample, generated=regions, layers="factors")
    each = sram(sample, generated=regions[150], layers="factors")
    np.testing.assert_allclose(found[150], each, rtol=1e-6)
    whole = np.zeros((32, 32), bool)
    whole[:24] = True
    wanted = sram(sample, generated=whole, layers="factors")
    np.testing.assert_allclose(found.mean("region"), wanted, rtol=1e-5)


def test_rows_that_see_no_column_are_left_out_of_their_region() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    logits[1, 2] = -np.inf
    logits[:, 4, 3:] = -np.inf
    shares = np.array([[0.5, 0, 0.5, 0, 0], [0, 0.25, 0.25, 0.25, 0.25]], np.float32)
    with np.errstate(invalid="ignore"):
        soft = reference_maps.softmax(logits, 2)
    for working_set_bytes in (2**26, 100, 1):
        found = region_means(StoredLogits(logits), shares, working_set_bytes=working_set_bytes)
        np.testing.assert_allclose(found[0], shares @ soft[0], rtol=1e-5)
        np.testing.assert_allclose(found[2], shares @ soft[2], rtol=1e-5)
        np.testing.assert_allclose(found[1, 0], soft[1, 0], rtol=1e-5)
        np.testing.assert_allclose(found[1, 1], soft[1, [1, 3, 4]].mean(0), rtol=1e-5)


def test_many_places_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS])
    reference_maps.rechunk(path / "a" / "layers" / "factors", "query", generated=8)
    reads = watch_reads(monkeypatch)
    # Rows 2 and 3 of the 8x8 patches, each asked for more than once.
    sram(open_run(path)["a"], generated=[(9, 30), (9, 2), (13, 30), (9, 30)]).compute()
    tiles = [key for key, _ in reads if "query/c/" in key]
    assert sorted(tiles) == [f"a/layers/factors/query/c/0/0/{tile}/0" for tile in (2, 3)]


def test_selected_labels_stay_as_kept_dimensions(run_path: Path, sample: Any) -> None:
    found = sram(
        sample, generated=(0, 0), layers=["logits"], steps=[2, 1], heads=[1], keep=["step"]
    )
    volume = expected(run_path, [(2, [0])], from_reference=False, grid=(4, 4))
    assert found.dims == ("step", "reference_y", "reference_x")
    assert found["step"].values.tolist() == [1, 2]
    np.testing.assert_allclose(found, volume[0, 1:, 1], rtol=1e-5)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("layer", ["factors", "coarse", "logits"])
def test_the_whole_image_gives_the_g2r_map(layer: str, normalisation: Any, sample: Any) -> None:
    whole = np.ones((32, 32), bool)
    found = sram(sample, generated=whole, layers=layer, normalisation=normalisation)
    maps: Any = analyze(sample, layers=layer, normalisation=normalisation)
    np.testing.assert_allclose(found, maps["g2r/ulam"], rtol=1e-5)


def test_the_mean_over_all_patches_is_the_g2r_map(sample: Any) -> None:
    regions = [(y, x) for y in range(0, 32, 4) for x in range(0, 32, 4)]
    each = [sram(sample, generated=region, layers="factors") for region in regions]
    mean = np.mean(dask.compute(*each), axis=0)
    np.testing.assert_allclose(mean, analyze(sample, layers="factors")["g2r/ulam"], rtol=1e-5)


def test_the_mirror_over_all_tokens_is_the_r2g_map(sample: Any) -> None:
    # The coarse layer has no special token, so its grid is all that R2G averages over.
    regions = [(y, x) for y in (0, 16) for x in (0, 16)]
    each = [sram(sample, reference=region, layers="coarse") for region in regions]
    mean = np.mean(dask.compute(*each), axis=0)
    np.testing.assert_allclose(mean, analyze(sample, layers="coarse")["r2g/ulam"], rtol=1e-5)


def test_joint_attention_reads_true_probabilities() -> None:
    sample, logits, total = joint_sample(np.random.default_rng(1))
    probability = np.exp(logits.astype(np.float64) - total[..., None])
    wanted = probability[:, :, 3].mean((0, 1)).reshape(2, 3)  # pixel (20, 20) is patch (1, 1)
    np.testing.assert_allclose(sram(sample, generated=(20, 20)), wanted, rtol=1e-5)
    everywhere = np.ones((32, 32), bool)
    mean = probability.mean((0, 1, 2)).reshape(2, 3)
    np.testing.assert_allclose(sram(sample, generated=everywhere), mean, rtol=1e-5)
    of_reference = reference_maps.softmax(logits, 2)[..., 5].mean((0, 1)).reshape(2, 2)
    np.testing.assert_allclose(sram(sample, reference=(31, 31)), of_reference, rtol=1e-5)


def test_asking_computes_nothing(run_path: Path) -> None:
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        found = sram(open_run(run_path)["a"], generated=(3, 3))
        with pytest.raises(AssertionError, match="something was computed"):
            found.compute()


def test_only_the_rows_that_are_asked_for_are_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS])
    layer = path / "a" / "layers" / "factors"
    reference_maps.rechunk(layer, "query", generated=8)
    for chunk in (layer / "query").rglob("c/*/*/*/*"):
        if chunk.parent.name != "2":  # patches 16 to 23 hold row 2 of the image's 8
            chunk.write_bytes(b"not to be read")
    assert np.isfinite(sram(open_run(path)["a"], generated=(9, 30)).to_numpy()).all()


@pytest.mark.parametrize("selection", [{}, {"steps": [1, 2]}, {"heads": [1], "steps": [0, 2]}])
def test_of_a_shard_only_the_tiles_that_are_asked_for_are_read(
    selection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS], steps=4, guidance=True)
    wanted = sram(open_run(path)["a"], generated=(9, 30), **selection).to_numpy()
    values = reference_maps.rechunk(
        path / "a" / "layers" / "factors", "query", shards=True, guidance=1, step=2, generated=8
    )
    reads = watch_reads(monkeypatch)
    found = sram(open_run(path)["a"], generated=(9, 30), **selection)
    assert not [key for key, _ in reads if "query/c/" in key]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    sizes = [size for key, size in reads if "query/c/" in key]
    # One half of two, one tile of eight; and the shard's index of 16 bytes for each of 32 chunks, once
    # for steps in a row.
    indices = 2 if selection.get("steps") == [0, 2] else 1
    assert values.nbytes / 16 <= sum(sizes) < values.nbytes / 16 + 600 * indices


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "Expected generated= or reference=, got neither"),
        ({"generated": (0, 0), "reference": (0, 0)}, "got both"),
        ({"generated": (32, 0)}, r"Expected a pixel \(y, x\) within \(32, 32\), got \(32, 0\)"),
        ({"reference": (0, -1)}, r"got \(0, -1\), at reference="),
        ({"generated": np.ones((8, 8), bool)}, r"got bool \(8, 8\), at generated="),
        ({"generated": np.ones((32, 32))}, r"got float64 \(32, 32\), at generated="),
        ({"generated": np.zeros((32, 32), bool)}, "got an empty mask"),
        ({"generated": []}, "Expected at least one region, got none, at generated="),
        ({"reference": [(0, 0), (0, 32)]}, r"got \(0, 32\), at reference\[1\]"),
        ({"generated": np.zeros((2, 32, 32), bool)}, r"got an empty mask, at generated\[0\]"),
        ({"generated": (1, 2, 3)}, r"got int64 \(\), at generated\[0\]"),
        (
            {"generated": (0, 0), "keep": ["layers"]},
            r"got 'layers', at keep\. Did you mean 'layer'",
        ),
        (
            {"generated": (0, 0), "layers": "clip"},
            r"got one token each, at a\. SRAM does not exist",
        ),
        ({"generated": (0, 0), "layers": "klip"}, "Did you mean 'clip'"),
        ({"generated": (0, 0), "steps": [3]}, "Expected steps from 0 to 2, got 3"),
    ],
)
def test_a_request_without_a_map_is_refused(
    options: dict[str, Any], match: str, sample: Any
) -> None:
    with pytest.raises(AnalysisError, match=match):
        sram(sample, **options)


def test_tokens_without_a_layout_have_no_sram(tmp_path: Path) -> None:
    layer = SyntheticLayer("ip", (8, 8), None, 0, tokens=4)
    sample: Any = open_run(write_run(tmp_path / "run.zarr", ["a"], [layer]))["a"]
    with pytest.raises(AnalysisError, match="got no reference grid, at a"):
        sram(sample, generated=(0, 0))


def test_a_sample_without_images_says_so(tmp_path: Path) -> None:
    sample: Any = open_run(write_run(tmp_path / "run.zarr", ["a"], [FACTORS]))["a"].copy()
    sample["images"] = xr.DataTree(sample["images"].to_dataset().drop_vars("reference"))
    with pytest.raises(AnalysisError, match=r"Expected the reference image .*add_images"):
        sram(sample, reference=(0, 0))
