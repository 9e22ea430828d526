"""Maps of the patches inside the inpainting mask alone: what was painted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import (
    analyze,
    analyze_run,
    average_maps,
    open_maps,
    open_run,
    score_maps,
    sram,
    summarise_store,
)
from i2am.analysis.statistics.run_pair import pair_runs
from i2am.cli import main
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

# Other grids, frames apart, keys that share the softmax, a region, and tokens without a grid.
LAYERS = (
    SyntheticLayer("down", (8, 8), (4, 4), 1, other_keys=2),
    SyntheticLayer("mid", (4, 4), (2, 2), 0, heads=1, block="mid"),
    SyntheticLayer("up", (8, 8), (4, 4), 0, representation="logits", masked=True),
    SyntheticLayer("ip", (8, 8), None, 0, tokens=4),
)
CLOSE: Any = {"rtol": 2e-5, "atol": 1e-9}


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("within") / "run.zarr", ["a"], LAYERS, steps=3)


@pytest.fixture(scope="module")
def sample(run_path: Path) -> Any:
    return open_run(run_path)["a"]


def inside(sample: Any, grid: tuple[int, int]) -> Any:
    """Return which patches of a grid hold a pixel of the mask."""
    mask = sample["images/inpainting_mask"].to_numpy() > 0
    height, width = (size // own for size, own in zip(mask.shape, grid, strict=True))
    return mask.reshape(grid[0], height, grid[1], width).any((1, 3)).ravel()


@pytest.mark.parametrize("number", range(len(LAYERS)))
@pytest.mark.parametrize("normalisation", ["mass", "density"])
def test_maps_are_those_of_the_masks_patches_by_the_methods_words(
    number: int, normalisation: Any, run_path: Path, sample: Any
) -> None:
    layer = LAYERS[number]
    group = reference_maps.layer_groups(run_path / "a")[number]
    logits = reference_maps.stored_logits(group)
    kept = inside(sample, layer.generated_grid)
    forward = reference_maps.softmax(logits, 3)
    if "logsumexp" in group:
        forward = np.exp(logits - group["logsumexp"][:].astype(float)[..., None])
    region = group["region"][:].astype(float) if "region" in group else np.ones(len(kept))
    assert 0 < kept.sum() < len(kept)
    r2g = np.zeros(logits.shape[:3])
    r2g[..., kept] = reference_maps.softmax(logits[:, :, kept], 2).mean(3) * region[kept]
    g2r = (forward * region[:, None])[:, :, kept].mean(2)[..., layer.special_tokens :]
    factors = (kept.sum(), layer.reference_tokens) if normalisation == "density" else (1, 1)
    maps: Any = analyze(sample, layers=layer.name, within="mask", normalisation=normalisation)
    shape = (*logits.shape[:2], *layer.generated_grid)
    np.testing.assert_allclose(maps["r2g/volume"][0], factors[0] * r2g.reshape(shape), **CLOSE)
    assert ("g2r" in maps) == (layer.reference_grid is not None)
    if layer.reference_grid is not None:
        shape = (*logits.shape[:2], *layer.reference_grid)
        np.testing.assert_allclose(maps["g2r/volume"][0], factors[1] * g2r.reshape(shape), **CLOSE)
    if layer.other_keys:
        mass = np.where(kept, forward.sum(3) * region, 0).mean((0, 1))
        np.testing.assert_allclose(maps["r2g/mass"], mass.reshape(8, 8), **CLOSE)


@pytest.mark.parametrize("normalisation", ["mass", "density"])
def test_g2r_is_the_sram_of_the_mask(normalisation: Any, sample: Any) -> None:
    maps = analyze(sample, within="mask", normalisation=normalisation)
    wanted = sram(
        sample, generated=sample["images/inpainting_mask"].data, normalisation=normalisation
    )
    np.testing.assert_allclose(maps["g2r/ulam"], wanted, rtol=1e-6, atol=0)
    assert not np.allclose(
        maps["g2r/ulam"], analyze(sample, normalisation=normalisation)["g2r/ulam"]
    )


def test_a_mask_of_the_whole_image_changes_nothing(sample: Any) -> None:
    whole = sample.copy()
    images = whole["images"].to_dataset()
    images["inpainting_mask"] = xr.full_like(images["inpainting_mask"], 255)
    whole["images"] = xr.DataTree(images)
    for direction in ("r2g", "g2r"):
        for level, values in analyze(sample)[direction].data_vars.items():
            found = analyze(whole, within="mask")[f"{direction}/{level}"]
            np.testing.assert_array_equal(found, values)


def test_maps_say_of_what_they_are(run_path: Path, tmp_path: Path, sample: Any) -> None:
    analyze_run(run_path, tmp_path / "all.zarr", progress=False)
    assert (
        main(["analyze", str(run_path), "--out", str(tmp_path / "in.zarr"), "--within", "mask"])
        == 0
    )
    stored = open_maps(tmp_path / "in.zarr")["a"]
    for maps in (stored, analyze(sample, within="mask")):
        assert maps.attrs["i2am"]["within"] == "mask"
        told = maps["g2r/ulam"].attrs
        assert told["long_name"] == "G2R of the painted part, mean over layers, steps and heads"
        assert told["units"] == "attention per position"
    np.testing.assert_array_equal(stored["r2g/llam"], maps["r2g/llam"])
    whole = open_maps(tmp_path / "all.zarr")["a"]
    assert "within" not in whole.attrs["i2am"]
    assert whole.attrs["i2am"]["normalisation"] == "mass"
    assert whole["g2r/ulam"].attrs["long_name"] == "G2R, mean over layers, steps and heads"
    assert summarise_store(tmp_path / "in.zarr")["within"] == "the inpainting mask"
    assert average_maps(tmp_path / "in.zarr").attrs["i2am"]["within"] == "mask"
    with pytest.raises(
        AnalysisError, match=r"mass beside i2am and mass and within='mask', at sample"
    ):
        pair_runs(run_path, run_path, maps_a=tmp_path / "all.zarr", maps_b=tmp_path / "in.zarr")
    # A map that is 0 outside by its making has no score against that outside.
    scores = {name: set(score_maps(tmp_path / name)["score"]) for name in ("all.zarr", "in.zarr")}
    assert {"imacs_g", "r2g_inside", "detection_iou"} <= scores["all.zarr"]
    assert not {name for name in scores["in.zarr"] if name.startswith("r2g") or "iou" in name}
    assert "imacs_g" not in scores["in.zarr"]
    assert {"imacs_r", "g2r_inside", "g2r_inside_chance"} <= scores["in.zarr"]


def test_what_has_no_such_maps_is_refused(run_path: Path, tmp_path: Path, sample: Any) -> None:
    bare = sample.copy()
    bare["images"] = xr.DataTree(bare["images"].to_dataset().drop_vars("inpainting_mask"))
    with pytest.raises(AnalysisError, match="Expected an inpainting mask, got none, at a"):
        analyze(bare, within="mask")
    empty = sample.copy()
    empty["images/inpainting_mask"] = xr.zeros_like(empty["images/inpainting_mask"])
    with pytest.raises(AnalysisError, match="got an empty one"):
        analyze(empty, within="mask")
    reduced = write_run(
        tmp_path / "maps.zarr", layers=[SyntheticLayer("down", representation="maps")]
    )
    with pytest.raises(
        AnalysisError, match="reduced to maps of the whole image at capture, at down"
    ):
        analyze(open_run(reduced)["first"], within="mask")
    with pytest.raises(AnalysisError, match="whole image with convention 'official'"):
        analyze(sample, within="mask", convention="official")
    with pytest.raises(AnalysisError, match=r"got 'msk', at within\. Did you mean 'mask'"):
        analyze_run(run_path, tmp_path / "x.zarr", within="msk")  # type: ignore[arg-type]
    assert not (tmp_path / "x.zarr").exists()


def test_what_the_model_did_not_see_is_not_painted(tmp_path: Path) -> None:
    # The mask covers rows and columns 8 to 15: of the box's 2 x 2 cells of 8 pixels, the first.
    path = write_run(
        tmp_path / "run.zarr",
        layers=[SyntheticLayer("down", (2, 2), (4, 4))],
        boxes={"generated": [8, 8, 24, 24]},
    )
    found = analyze(open_run(path)["first"], within="mask")["r2g/ulam"].to_numpy()
    np.testing.assert_array_equal(found, [[1, 0], [0, 0]])
