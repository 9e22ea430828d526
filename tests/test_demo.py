"""The main job, end to end, and its stores read by somebody who knows only the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from PIL import Image

from i2am.analysis import describe_store, open_maps, open_run, sram
from i2am.cli import main
from i2am.schemas import find_faults

SAMPLES = {"doughnut", "frog", "truck"}
Array = np.ndarray[Any, Any]


pytestmark = pytest.mark.slow  # what they share is


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--out", str(out)]) == 0
    return out


def test_it_writes_what_it_promises(demo: Path) -> None:
    assert {p.name for p in demo.iterdir()} == {
        "run.zarr", "maps.zarr", "scores.csv", "figures", "report.html",
    }  # fmt: skip
    kinds = ("overview", "tlam", "hlam", "sram")
    assert {p.name for p in (demo / "figures").iterdir()} == {
        f"{sample}-{kind}.png" for sample in SAMPLES for kind in kinds
    }
    for picture in (demo / "figures").iterdir():
        assert np.asarray(Image.open(picture)).std() > 20
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert all(sample in page for sample in SAMPLES)


@pytest.mark.parametrize("store", ["run.zarr", "maps.zarr"])
def test_its_stores_keep_the_contract(demo: Path, store: str) -> None:
    assert list(find_faults(describe_store(demo / store))) == []


def test_an_earlier_demo_is_not_overwritten_unasked(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (demo / "scores.csv").read_bytes()
    assert main(["demo", "--out", str(demo)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (demo / "scores.csv").read_bytes() == before


def bicubic(size: int, new: int) -> Array:
    """Return the (new, size) matrix of a cubic convolution, a = -0.75, edges clamped."""
    weights = np.zeros((new, size))
    for target in range(new):
        centre = (target + 0.5) * size / new - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            x = abs(centre - tap)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[target, np.clip(tap, 0, size - 1)] += near if x <= 1 else far
    return weights


def directional(layer: Any) -> tuple[Array, Array]:
    """Return R2G and G2R, dims (step, head, y, x), from query and key in float32."""
    own = layer.attrs["i2am"]
    query, key = (np.asarray(layer[name][...], np.float32) for name in ("query", "key"))
    scores = np.float32(own["scale"]) * query @ key.swapaxes(-1, -2)
    over_generated = np.exp(scores - scores.max(-2, keepdims=True))
    over_generated /= over_generated.sum(-2, keepdims=True)
    over_reference = np.exp(scores - scores.max(-1, keepdims=True))
    over_reference /= over_reference.sum(-1, keepdims=True)
    r2g = over_generated.mean(-1).reshape(*scores.shape[:2], *own["generated_grid"])
    g2r = over_reference.mean(-2)[..., own["special_tokens"] :]
    return r2g, g2r.reshape(*scores.shape[:2], *own["reference_grid"])


@pytest.mark.parametrize("sample", sorted(SAMPLES))
def test_an_independent_reading_of_the_factors_gives_the_same_maps(demo: Path, sample: str) -> None:
    run: Any = zarr.open_group(demo / "run.zarr", mode="r")[sample]
    assert run.attrs["i2am"]["status"] == "complete"
    maps: list[tuple[Array, Array]] = [directional(g) for _, g in run["layers"].groups()]
    for index, direction in enumerate(("r2g", "g2r")):
        side = max(pair[index].shape[-1] for pair in maps)
        resized = []
        for pair in maps:
            matrix = bicubic(pair[index].shape[-1], side)
            resized.append(np.maximum(matrix @ pair[index] @ matrix.T, 0).mean((0, 1)))
        stored: Any = zarr.open_group(demo / "maps.zarr", mode="r")[f"{sample}/{direction}/ulam"]
        expected = np.mean(resized, axis=0)
        assert np.abs(np.asarray(stored[...]) / expected - 1).max() < 1e-4


def test_dimension_names_and_labels_are_the_contracts(demo: Path) -> None:
    metadata = json.loads((demo / "maps.zarr/frog/r2g/volume/zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    assert metadata["dimension_names"] == ["layer", "step", "head", "y", "x"]
    volume = open_maps(demo / "maps.zarr")["frog"]["g2r/volume"]
    assert volume.dims == ("layer", "step", "head", "reference_y", "reference_x")
    assert volume.dtype == np.float32
    assert list(volume["timestep"].to_numpy()[[0, -1]]) == [961, 1]


def test_scores_are_those_of_three_samples(demo: Path) -> None:
    table = pd.read_csv(demo / "scores.csv")
    assert set(table["sample"]) == SAMPLES
    assert {"imacs_g", "imacs_r", "detection_iou"} <= set(table["score"])
    assert np.isfinite(table["value"]).all()


def test_a_patch_inside_the_mask_reads_from_where_it_came(demo: Path) -> None:
    """The median over painted patches of the distance to the true source is far below chance."""
    run = open_run(demo / "run.zarr")
    distances, chance = [], []
    best = "up_blocks.1.*"
    for name in SAMPLES:
        sample = run[name]
        left, top, side, _ = sample.attrs["i2am"]["box"]
        for v in (0.3, 0.5, 0.7):
            for u in (0.3, 0.5, 0.7):
                point = (int(top + v * side), int(left + u * side))
                found = sram(sample, generated=point, layers=best).to_numpy()
                peak = np.unravel_index(found.argmax(), found.shape)
                source = np.array([v, u]) * found.shape - 0.5
                distances.append(np.abs(np.array(peak) - source).max())
                grid = np.moveaxis(np.indices(found.shape), 0, -1)
                chance.append(np.abs(grid - source).max(-1).mean())
    assert np.median(distances) < 0.5 * np.mean(chance)


def test_what_a_part_of_the_object_reads_lies_on_that_part_of_the_reference(demo: Path) -> None:
    shares: list[float] = []
    hits: list[bool] = []
    for sample in open_run(demo / "run.zarr").values():
        # The reference fills this box of the picture: each ninth of it has one true source.
        left, top, width, height = map(int, sample.attrs["i2am"]["box"])
        mask = sample["images/reference_mask"].to_numpy() > 0
        sources = [
            (i, j)
            for i, j in np.ndindex(3, 3)
            if mask[third(i, mask.shape[0]), third(j, mask.shape[1])].mean() > 0.5
        ]
        places = np.zeros((len(sources), *sample["images/generated"].shape[:2]), bool)
        for place, (i, j) in zip(places, sources, strict=True):
            place[top : top + height, left : left + width][third(i, height), third(j, width)] = True
        found = sram(sample, generated=xr.DataArray(places, dims=("region", "y", "x"))).to_numpy()
        rows, columns = found.shape[1:]
        for (i, j), heat in zip(sources, found, strict=True):
            source = third(i, rows), third(j, columns)
            shares.append(heat[source].sum() / heat.sum() / (heat[source].size / heat.size))
            hits.append(bool(heat[source].max() == heat.max()))
    # Of all layers together; by chance 1 and a ninth.
    assert len(hits) == 21
    assert np.mean(shares) > 3
    assert np.mean(hits) > 0.9


def third(index: int, size: int) -> slice:
    return slice(size * index // 3, size * (index + 1) // 3)
