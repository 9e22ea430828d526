"""Layers with a region: maps and SRAM are those of what the mask leaves of the contribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, open_run, sram
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("factors", (8, 8), (4, 4), 1, masked=True),
    SyntheticLayer("logits", (8, 8), (4, 4), 1, representation="logits", masked=True),
    SyntheticLayer("shared", (8, 8), (4, 4), 0, keys_per_step=True, other_keys=5, masked=True),
)
CLOSE: Any = {"rtol": 2e-5, "atol": 1e-9}


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("masked") / "run.zarr", ["a"], LAYERS, steps=3)


@pytest.fixture(scope="module")
def sample(run_path: Path) -> Any:
    return open_run(run_path)["a"]


def attention(group: Any) -> tuple[Any, Any, Any]:
    """Return softmax_R(S) or the true attention, softmax_P(S), each (step, head, P, R); the region."""
    logits = reference_maps.stored_logits(group)
    forward = reference_maps.softmax(logits, 3)
    if "logsumexp" in group:
        forward = np.exp(logits - group["logsumexp"][:].astype(float)[..., None])
    region = group["region"][:].astype(float)
    assert (region.min(), region.max()) == (0, 1)
    return forward, reference_maps.softmax(logits, 2), region


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_every_map_is_that_of_the_masked_contribution(
    number: int, run_path: Path, sample: Any
) -> None:
    group = reference_maps.layer_groups(run_path / "a")[number]
    forward, backward, region = attention(group)
    special = LAYERS[number].special_tokens
    maps: Any = analyze(sample, layers=LAYERS[number].name)
    r2g = backward.mean(3) * region
    np.testing.assert_allclose(maps["r2g/volume"][0], r2g.reshape(3, 2, 8, 8), **CLOSE)
    g2r = (forward * region[:, None]).mean(2)[..., special:]
    np.testing.assert_allclose(maps["g2r/volume"][0], g2r.reshape(3, 2, 4, 4), **CLOSE)
    assert ("mass" in maps["r2g"]) is (LAYERS[number].other_keys > 0)
    if LAYERS[number].other_keys:
        mass = (forward.sum(3) * region).mean((0, 1)).reshape(8, 8)
        np.testing.assert_allclose(maps["r2g/mass"], mass, **CLOSE)
    density: Any = analyze(sample, layers=LAYERS[number].name, normalisation="density")
    np.testing.assert_allclose(density["r2g/ulam"], 64 * maps["r2g/ulam"], **CLOSE)


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_sram_is_that_of_the_masked_contribution(number: int, run_path: Path, sample: Any) -> None:
    group = reference_maps.layer_groups(run_path / "a")[number]
    forward, backward, region = attention(group)
    special = LAYERS[number].special_tokens
    asked: Any = {"layers": LAYERS[number].name, "keep": ["step", "head"]}
    mask = np.zeros((32, 32), bool)
    mask[:8, 4:12] = True  # patches 1 and 2 of the first two rows of 8 × 8
    rows = [1, 2, 9, 10]
    assert len(set(region[rows])) > 1
    wanted = (forward * region[:, None])[:, :, rows].mean(2)[..., special:]
    found = sram(sample, generated=mask, **asked)
    np.testing.assert_allclose(found.values.reshape(wanted.shape), wanted, **CLOSE)
    # Tokens 0 and 1 of the first row of 4 × 4.
    tokens = np.zeros((32, 32), bool)
    tokens[2, 2:10] = True
    wanted = backward[..., [special, special + 1]].mean(3) * region
    found = sram(sample, reference=tokens, **asked)
    np.testing.assert_allclose(found.values.reshape(wanted.shape), wanted, **CLOSE)


def test_the_official_convention_multiplies_each_tokens_map(run_path: Path, sample: Any) -> None:
    group = reference_maps.layer_groups(run_path / "a")[0]
    _, backward, region = attention(group)
    maps: Any = analyze(sample, convention="official", layers="factors", grid=(4, 4))
    each = (backward * region[:, None]).mean(0).swapaxes(1, 2)  # (head, token, P)
    resized = reference_maps.resize(each.reshape(2, 17, 8, 8), (4, 4)).clip(0)
    np.testing.assert_allclose(maps["r2g/ulam"], resized.mean((0, 1)), **CLOSE)


def test_a_region_of_ones_changes_nothing(run_path: Path, sample: Any) -> None:
    ones = sample.copy()
    without = sample.copy()
    for name in sample["layers"].children:
        arrays = sample[f"layers/{name}"].to_dataset(inherit=False)
        one = arrays.assign(region=("generated", np.ones(64, np.float32)))
        ones[f"layers/{name}"] = xr.DataTree(one)
        without[f"layers/{name}"] = xr.DataTree(arrays.drop_vars("region"))
    first, second = (analyze(each) for each in (ones, without))
    for level in ("r2g/volume", "r2g/ulam", "r2g/mass", "g2r/volume"):
        np.testing.assert_array_equal(first[level], second[level])
    for region in ({"generated": (3, 3)}, {"reference": (3, 3)}):
        np.testing.assert_array_equal(sram(ones, **region), sram(without, **region))  # type: ignore[arg-type]
