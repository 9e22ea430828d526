from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import (
    analyze,
    analyze_run,
    causal_weights,
    open_effects,
    open_maps,
    open_run,
    sram,
    summarise_store,
)
from i2am.analysis.figures.captions import unit
from i2am.cli import main
from i2am.schemas import AnalysisError, StoreError
from tests.support import reference_maps
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.figure_reading import values_of
from tests.support.synthetic_run import SyntheticLayer, write_run

# Layers of other grids and head counts, and one without a reference grid.
LAYERS = (
    SyntheticLayer("down", (8, 8), (4, 4), 1, heads=3, other_keys=2),
    SyntheticLayer("mid", (4, 4), (2, 2), 0, heads=1),
    SyntheticLayer("up", (8, 8), (4, 4), 0, heads=2, representation="logits", other_keys=2),
    SyntheticLayer("clip", (8, 8), None, 0, tokens=4),
)
NAMES = [layer.name for layer in LAYERS]
SHARES = np.array([0.2, 0.0, 0.9, 0.1])


def _effects(path: Path, layers: list[str] | None = None) -> Path:
    arrays = effect_arrays(layers=layers or NAMES)
    shares = SHARES[: len(arrays["layer_name"])]
    arrays["layer"] = shares[:, None, None] * np.ones((8, 8))
    return write_effects(path, {"a": arrays}, source="../run.zarr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    write_run(path / "run.zarr", ["a"], LAYERS, steps=5)
    _effects(path / "effects.zarr")
    return path


@pytest.fixture(scope="module")
def sample(folder: Path) -> Any:
    return open_run(folder / "run.zarr")["a"]


@pytest.fixture(scope="module")
def effects(folder: Path) -> Any:
    return open_effects(folder / "effects.zarr")["a"]


def test_weights_are_the_root_mean_squares_of_what_layers_do(folder: Path, effects: Any) -> None:
    found = causal_weights(effects)
    assert list(found) == NAMES
    np.testing.assert_allclose(list(found.values()), SHARES, rtol=1e-6)


@pytest.mark.parametrize("direction", ["r2g", "g2r"])
def test_levels_are_the_layers_own_means_by_their_weights(
    sample: Any, effects: Any, direction: str
) -> None:
    plain = analyze(sample, time_groups=2)[direction].to_dataset().compute()
    found = analyze(sample, time_groups=2, weights="causal", effects=effects)[
        direction
    ].to_dataset()
    volume = plain["volume"].values.astype(np.float64)
    own = SHARES[: len(volume)]  # The last layer has no G2R.
    share = own / own.sum()
    of_layers = np.nanmean(volume, axis=(1, 2))
    np.testing.assert_allclose(found["ulam"], np.tensordot(share, of_layers, 1), rtol=1e-5)
    groups = np.stack([np.nanmean(volume[:, part], axis=(1, 2)) for part in (np.s_[:3], np.s_[3:])])
    wanted = np.einsum("l,tlyx->tyx", share, groups)
    np.testing.assert_allclose(found["tlam"], wanted, rtol=1e-5)
    by_head = volume.mean(axis=1)
    there = np.isfinite(by_head[:, :, :1, :1]) * own[:, None, None, None]
    wanted = np.nansum(by_head * there, axis=0) / there.sum(0)
    np.testing.assert_allclose(found["hlam"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found["llam"], plain["llam"])
    np.testing.assert_array_equal(found["volume"], plain["volume"])
    np.testing.assert_allclose(found["layer_weight"], own, rtol=1e-6)
    assert "layer_weight" not in plain.coords


def test_the_mass_is_weighed_as_well(sample: Any, effects: Any) -> None:
    of_layer: list[Any] = [
        analyze(sample, layers=name)["r2g/mass"].values for name in ("down", "up")
    ]
    found = analyze(sample, weights="causal", effects=effects)["r2g/mass"]
    wanted = (0.2 * of_layer[0] + 0.9 * of_layer[1]) / 1.1
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_sram_weighs_its_mean_over_layers(sample: Any, effects: Any) -> None:
    places: dict[str, Any] = {"generated": [(5, 5), (20, 9)]}
    each = sram(sample, **places, keep=("layer",)).values
    found = sram(sample, **places, weights="causal", effects=effects)
    assert found.attrs["weights"] == "causal"
    wanted = np.einsum("l,rlyx->ryx", SHARES[:3] / 1.1, each)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert "weights" not in sram(sample, **places).attrs
    with pytest.raises(AnalysisError, match="got keep='layer'"):
        sram(sample, **places, keep="layer", weights="causal", effects=effects)


def test_equal_weights_and_heads_make_the_plain_mean(tmp_path: Path) -> None:
    layers = [SyntheticLayer("one", (4, 4)), SyntheticLayer("two", (4, 4))]
    sample = open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"]
    arrays = effect_arrays(layers=("one", "two"))
    arrays["layer"] = np.full((2, 8, 8), 0.3)
    effects = open_effects(write_effects(tmp_path / "effects.zarr", {"a": arrays}))["a"]
    plain, found = analyze(sample), analyze(sample, weights="causal", effects=effects)
    for level in ("ulam", "tlam", "hlam", "llam"):
        np.testing.assert_allclose(found["r2g"][level], plain["r2g"][level], rtol=1e-6)


def test_maps_of_a_run_say_how_they_were_weighed(
    folder: Path, tmp_path: Path, sample: Any, effects: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "maps.zarr"
    assert main(["analyze", str(folder / "run.zarr"), "--weights", "causal"]) == 0
    stored = open_maps(out)["a"]
    wanted = analyze(sample, weights="causal", effects=effects)
    np.testing.assert_array_equal(stored["r2g/ulam"], wanted["r2g/ulam"])
    np.testing.assert_allclose(stored["r2g/layer_weight"], SHARES, rtol=1e-6)
    assert open_maps(out).attributes["options"]["effects"] == "../effects.zarr"
    assert summarise_store(out)["weights"] == "causal, of ../effects.zarr"
    assert unit(stored) == "attention per position, layers by effect"
    capsys.readouterr()
    assert main(["validate", str(out)]) == 0
    # The store is not one of plain maps.
    with pytest.raises(StoreError, match=r"got other .*weights"):
        analyze_run(folder / "run.zarr", out, progress=False)
    plain = analyze_run(folder / "run.zarr", tmp_path / "plain.zarr", progress=False)
    assert "weights" not in open_maps(plain).attributes["options"]
    assert "weights" not in summarise_store(plain)
    assert unit(open_maps(plain)["a"]) == "attention per position"


def test_maps_are_made_again_when_a_layer_was_measured_again(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights": "causal", "progress": False}
    path, out = tmp_path / "effects.zarr", tmp_path / "maps.zarr"
    analyze_run(folder / "run.zarr", out, effects=_effects(path), **options)
    before = values_of(open_maps(out)["a"], "r2g/ulam")
    written = (out / "a" / "zarr.json").stat().st_mtime_ns
    analyze_run(folder / "run.zarr", out, effects=path, **options)
    assert (out / "a" / "zarr.json").stat().st_mtime_ns == written
    layer = reference_maps.stored(path / "a")["layer"]
    layer[...] = layer[...][::-1]
    analyze_run(folder / "run.zarr", out, effects=path, **options)
    assert not np.array_equal(values_of(open_maps(out)["a"], "r2g/ulam"), before)


def test_what_cannot_be_weighed_is_refused(folder: Path, tmp_path: Path, sample: Any) -> None:
    few = open_effects(_effects(tmp_path / "few.zarr", ["down", "mid"]))["a"]
    with pytest.raises(
        AnalysisError, match="measured effect of each layer, got none, at layer 'up'"
    ):
        analyze(sample, weights="causal", effects=few)
    assert analyze(sample, layers="down", weights="causal", effects=few)["r2g/ulam"].max() > 0
    with pytest.raises(AnalysisError, match="take the plain mean"):
        analyze(sample, layers="mid", weights="causal", effects=few)
    with pytest.raises(AnalysisError, match="one sample of open_effects\\(\\), got NoneType"):
        analyze(sample, weights="causal")
    with pytest.raises(AnalysisError, match="Expected a known weights, got None"):
        analyze(sample, effects=few)
    with pytest.raises(AnalysisError, match="no weights with convention 'official'"):
        analyze(sample, convention="official", weights="causal", effects=few)
    without = few.drop_vars("layer_effect")
    with pytest.raises(AnalysisError, match="Expected effects of single layers, got none"):
        analyze(sample, weights="causal", effects=without)


def test_a_run_without_effects_or_with_those_of_another_capture_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS)
    out = tmp_path / "maps.zarr"
    with pytest.raises(StoreError, match="Expected measured effects beside the run, got none"):
        analyze_run(run, out, weights="causal", progress=False)
    with pytest.raises(AnalysisError, match="Expected weights='causal' beside effects"):
        analyze_run(run, out, effects=folder / "effects.zarr", progress=False)
    reference_maps.change_attributes(run / "a", created="2027-01-01T00:00:00Z")
    with pytest.raises(StoreError, match="it was captured since"):
        analyze_run(run, out, weights="causal", effects=folder / "effects.zarr", progress=False)
    assert not out.exists()
