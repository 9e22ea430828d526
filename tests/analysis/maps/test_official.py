from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, imacs, open_run, sram
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

# What the authors' code returned on known queries and keys; too large to lie in the repository.
GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the golden outputs are not beside the checkout"
)

LAYERS = tuple(
    SyntheticLayer(f"l{number}", grid, reference, 1, tokens=3, block=block)
    for number, (grid, reference, block) in enumerate(
        [
            ((4, 4), (4, 4), "down"),
            ((4, 4), None, "mid"),
            ((2, 2), (4, 2), "up"),
            ((8, 8), (2, 2), "up"),
        ]
    )
)


def golden_sample(arrays: Any, *, has_reference_grid: bool) -> xr.DataTree:
    layers = {}
    for number in range(sum(name.startswith("query_") for name in arrays)):
        query, key = arrays[f"query_{number}"], arrays[f"key_{number}"]
        grid = arrays[f"generated_grid_{number}"].tolist()
        layers[f"l{number}"] = {
            "arrays": {
                "query": (("step", "head", "generated", "channel"), query),
                "key": (("head", "reference", "channel"), key),
            },
            "scale": query.shape[-1] ** -0.5,
            "generated_grid": grid,
            "reference_grid": grid if has_reference_grid else None,
        }
    return reference_maps.sample_of(layers, steps=50, image=(512, 384))


def assert_same_after_min_max(found: Any, wanted: Any) -> None:
    first, second = ((v - v.min()) / (v.max() - v.min()) for v in (np.asarray(found), wanted))
    np.testing.assert_allclose(first, second, atol=1e-5)


@golden
@pytest.mark.parametrize(
    ("file", "has_reference_grid"),
    [("official_r2g_r1", False), ("official_r2g_r6", False), ("official_g2r", True)],
)
def test_official_levels_are_the_authors_but_for_the_number_of_steps(
    file: str, has_reference_grid: bool
) -> None:
    arrays = np.load(GOLDEN / f"{file}.npz")
    maps: Any = analyze(
        golden_sample(arrays, has_reference_grid=has_reference_grid), convention="official"
    )
    wanted = {name: arrays[name] for name in arrays if name.startswith(("r2g_", "g2r_"))}
    assert wanted
    for name, level in wanted.items():
        direction, _, short = name.partition("_")
        found = maps[direction][short]
        assert_same_after_min_max(found, level)
        steps = 10 if short == "tlam" else 50
        np.testing.assert_allclose(found * steps, level, rtol=1e-4)


@golden
def test_sram_is_the_authors_but_for_the_number_of_steps() -> None:
    arrays = np.load(GOLDEN / "official_g2r.npz")
    sample = golden_sample(arrays, has_reference_grid=True)
    for (row, column), wanted in zip(arrays["sram_patch"], arrays["sram_map"], strict=True):
        pixel = (int(row) * 16 + 7, int(column) * 16 + 3)  # 512x384 pixels, 32x24 patches
        found = sram(sample, generated=pixel, layers="l4")
        np.testing.assert_allclose(found * 50, wanted, rtol=1e-4)


@golden
@pytest.mark.parametrize(
    ("file", "ulam", "mask", "score", "options"),
    [
        ("official_r2g_r1", "r2g_ulam", "inpainting_mask", "imacs_g", {"polarity": "inverted"}),
        ("official_r2g_r6", "r2g_ulam", "inpainting_mask", "imacs_g", {"polarity": "inverted"}),
        ("official_g2r", "g2r_ulam", "reference_mask", "imacs_r", {"premask": True}),
    ],
)
def test_imacs_is_the_authors(
    file: str, ulam: str, mask: str, score: str, options: dict[str, Any]
) -> None:
    arrays = np.load(GOLDEN / f"{file}.npz")
    found = imacs(arrays[ulam], arrays[mask], **options)
    assert found == pytest.approx(float(arrays[score]), abs=1e-6)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "run.zarr"
    return write_run(path, ["a"], LAYERS, steps=5, size_px=(48, 40))


def official_r2g(layer: Any, steps: slice) -> Any:
    """(head, 6, 5): time mean, bicubic, clamp, then the mean over tokens."""
    logits = reference_maps.stored_logits(layer)
    maps = reference_maps.softmax(logits, 2)[steps].mean(0).swapaxes(1, 2)
    planes = maps.reshape(*maps.shape[:2], *layer.attrs["i2am"]["generated_grid"])
    return np.clip(reference_maps.resize(planes, (6, 5)), 0, None).mean(1)


def test_official_r2g_clamps_each_token_after_the_time_mean(run_path: Path) -> None:
    maps: Any = analyze(open_run(run_path)["a"], convention="official", time_groups=2)["r2g"]
    layers = [reference_maps.layer_groups(run_path / "a")[number] for number in (0, 2, 3)]
    whole = np.stack([official_r2g(layer, slice(0, 5)) for layer in layers])
    groups = np.stack(
        [np.stack([official_r2g(layer, s) for layer in layers]) for s in (slice(0, 3), slice(3, 5))]
    )
    assert maps["layer"].values.tolist() == ["l0", "l2", "l3"]
    assert maps["volume"].sizes["y"] == 6  # 48 pixels / 8
    np.testing.assert_allclose(maps["ulam"], whole.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(maps["hlam"], whole.mean(0), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(maps["llam"], whole.mean(1), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(maps["tlam"], groups.mean((1, 2)), rtol=1e-5, atol=1e-8)
    default: Any = analyze(open_run(run_path)["a"], layers=["l0", "l2", "l3"], grid=(6, 5))
    assert not np.allclose(default["r2g/ulam"], maps["ulam"], rtol=1e-5)


def test_official_g2r_takes_the_last_spatial_layer_and_its_equals_in_rows(tmp_path: Path) -> None:
    grids = [(4, 4), (2, 2), (4, 2), (1, 1), (2, 2), (4, 4), (8, 8)]
    layers = [SyntheticLayer(f"l{n}", (4, 4), grid, 0) for n, grid in enumerate(grids)]
    path = write_run(tmp_path / "run.zarr", ["a"], layers, steps=5)
    maps: Any = analyze(open_run(path)["a"], convention="official", time_groups=1)["g2r"]
    # (1, 1) is one token, so the fifth layer with a reference is l5; l0 and l2 have 4 rows, too.
    shown = [
        reference_maps.g2r_volume(layer, (4, 4))
        for number, layer in enumerate(reference_maps.layer_groups(path / "a"))
        if number in {0, 2, 5}
    ]
    assert maps["layer"].values.tolist() == ["l5"]
    np.testing.assert_allclose(maps["ulam"], shown[-1].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(maps["hlam"], shown[-1].mean(0), rtol=1e-5)
    np.testing.assert_allclose(maps["volume"], shown[-1][None], rtol=1e-5)
    np.testing.assert_allclose(maps["tlam"][0], np.mean(shown, axis=(0, 1, 2)), rtol=2e-2)


def test_official_needs_a_layer_outside_the_middle_block(run_path: Path) -> None:
    with pytest.raises(AnalysisError, match="Expected a layer outside the middle block, got none"):
        analyze(open_run(run_path)["a"], convention="official", layers="l1")


def test_official_needs_the_generated_image_or_a_grid(run_path: Path) -> None:
    sample: Any = open_run(run_path)["a"].drop_nodes("images")
    with pytest.raises(AnalysisError, match=r"Expected a generated image .*at a\. Give the grid"):
        analyze(sample, convention="official")
    maps: Any = analyze(sample, convention="official", grid=(3, 4))
    assert maps["r2g/ulam"].shape == (3, 4)
    assert maps["g2r/ulam"].shape == (3, 4)
