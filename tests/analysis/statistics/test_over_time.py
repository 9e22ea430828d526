"""Attention over denoising: the curve, and its interval over samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, analyze_run, evolution, open_maps, open_run
from i2am.analysis.intervals.bootstrap import bootstrap_mean_interval
from i2am.schemas import AnalysisError, StoreError
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("down.one", (8, 8), (4, 4)),
    SyntheticLayer("up.two", (4, 4), (4, 4)),
)
SAMPLES = list("abcd")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose samples "a" and "b" are of the same pictures, with maps beside it."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_run(folder / "run.zarr", SAMPLES, LAYERS, steps=3, size_px=(16, 16))
    for name in SAMPLES:
        digest = "1" if name in "ab" else name
        own = {"reference": {"path": "r.png", "sha256": digest}}
        reference_maps.change_attributes(path / name, inputs=own)
    analyze_run(path, folder / "maps.zarr", progress=False)
    return path


def share(volume: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of attention (step,) that lies in a mask on the maps' own grid."""
    by_step = volume.mean(axis=(0, 2))
    inside: np.ndarray = (by_step * weights).sum(axis=(1, 2)) / by_step.sum(axis=(1, 2))
    return inside


def test_the_curve_is_the_share_in_the_stored_mask_and_its_interval_draws_pictures(
    run: Path,
) -> None:
    found = evolution(run)
    assert list(found["direction"].values) == ["r2g", "g2r"]
    assert list(found["sample"].values) == SAMPLES
    assert list(found["step"].values) == [0, 1, 2]
    assert list(found["timestep"].values) == [981, 491, 1]
    stored = reference_maps.stored(run.parent / "maps.zarr")
    mask = reference_maps.stored(run)["a/images/inpainting_mask"][:] / 255
    for direction, side in (("r2g", 8), ("g2r", 4)):
        own = found.sel(direction=direction)
        weights = mask.reshape(side, 16 // side, side, 16 // side).mean(axis=(1, 3))
        wanted = np.array([share(stored[f"{n}/{direction}/volume"][:], weights) for n in SAMPLES])
        np.testing.assert_allclose(own["share"], wanted, rtol=1e-5)
        np.testing.assert_allclose(own["mean"], wanted.mean(axis=0), rtol=1e-5)
        assert float(own["chance"]) == pytest.approx(weights.mean())
        assert int(own["count"]) == 4
        for step in range(3):
            low, high = bootstrap_mean_interval(wanted[:, step], clusters=["1", "1", "c", "d"])
            assert float(own["low"][step]) == pytest.approx(low, rel=1e-5)
            assert float(own["high"][step]) == pytest.approx(high, rel=1e-5)
    labels = found["cluster"].values.tolist()
    assert labels[0] == labels[1]
    assert len(set(labels)) == 3


def test_each_way_to_name_run_and_maps_gives_the_same_curve(run: Path) -> None:
    maps = run.parent / "maps.zarr"
    opened = open_run(run)
    wanted = evolution(run, maps)
    in_memory = {name: opened[name] for name in SAMPLES}
    for given in ((run,), (maps,), (opened,), (open_maps(maps),), (opened, open_maps(maps))):
        xr.testing.assert_identical(evolution(*given), wanted)
    on_demand = {name: analyze(sample) for name, sample in in_memory.items()}
    clusters = dict(zip(SAMPLES, wanted["cluster"].values, strict=True))
    found = evolution(in_memory, on_demand, cluster=clusters)
    xr.testing.assert_allclose(found, wanted)


def test_a_mask_of_ones_own_layers_and_heads_are_selected(run: Path) -> None:
    mask = np.zeros((16, 16))
    mask[:, :8] = 1
    weights = np.zeros((8, 8))
    weights[:, :4] = 1
    found = evolution(run, inside=mask, layers="up.*", heads=1, samples=["c", "a"])
    assert dict(found.sizes) == {"sample": 2, "step": 3}
    volume = reference_maps.stored(run.parent / "maps.zarr")["c/r2g/volume"][1:2, :, 1:2]
    np.testing.assert_allclose(found["share"][0], share(volume, weights), rtol=1e-5)
    assert float(found["chance"]) == 0.5
    by_sample = evolution(run, inside={"b": mask}, direction="g2r")
    assert list(by_sample["sample"].values) == ["b"]
    assert np.isnan(by_sample["low"]).all()
    assert dict(evolution(run, direction="g2r").sizes) == {"sample": 4, "step": 3}


def test_samples_of_other_timesteps_or_without_a_mask_are_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a", "b"], LAYERS, steps=2)
    write_run(tmp_path / "other.zarr", ["c"], LAYERS, steps=3)
    (tmp_path / "other.zarr" / "c").rename(path / "c")
    opened = open_run(path)
    samples = {name: opened[name] for name in opened}
    for name in ("inpainting_mask", "reference_mask"):
        images = samples["b"]["images"].to_dataset().drop_vars(name)
        samples["b"] = samples["b"].copy()
        samples["b"]["images"] = xr.DataTree(images)
    found = evolution(samples, {name: analyze(own) for name, own in samples.items()})
    assert list(found["sample"].values) == ["a"]
    with pytest.raises(AnalysisError, match=r"an inpainting mask or a reference's mask, got 1"):
        evolution(samples, {"b": analyze(samples["b"])}, samples=["b"])


def test_what_is_asked_in_vain_is_told(run: Path) -> None:
    with pytest.raises(AnalysisError, match=r"Expected a layer of the maps, got 'midd\*'"):
        evolution(run, layers="midd*")
    with pytest.raises(AnalysisError, match=r"Expected a head of the maps, got \[5\], at a"):
        evolution(run, heads=[5])
    with pytest.raises(AnalysisError, match="Expected 'r2g' or 'g2r', got 'g2g'"):
        evolution(run, direction="g2g")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="the cluster of each sample, got none of 'b'"):
        evolution(run, cluster={"a": "one"})
    with pytest.raises(StoreError, match="none named 'z'"):
        evolution(run, samples=["z"])
