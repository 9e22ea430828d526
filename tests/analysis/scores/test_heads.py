from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from i2am.analysis import analyze_run, head_scores, write_head_scores
from i2am.schemas import StoreError
from i2am.schemas.directions import DIRECTIONS
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("one", (4, 4), (4, 4), heads=3),
    SyntheticLayer("two", (4, 4), None, tokens=3, heads=2),
)
KEYS = ["sample", "direction", "layer", "step", "head"]
MEASURES = ["entropy", "concentration", "inside", "chance"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("heads")
    run = write_run(folder / "run.zarr", ["a", "b"], LAYERS, steps=[3, 8])
    # The two masks are not alike, so that one is not taken for the other.
    reference_maps.stored(run / "b" / "images")["reference_mask"][24:] = 255
    return run, analyze_run(run, folder / "maps.zarr", progress=False)


def test_every_head_of_every_layer_and_step_has_one_row(stores: tuple[Path, Path]) -> None:
    table = head_scores(stores[1])
    assert table.columns.tolist() == KEYS + MEASURES
    wanted = [
        (sample, direction, layer.name, step, head)
        for sample in "ab"
        for direction in DIRECTIONS
        for layer in LAYERS
        if direction == "r2g" or layer.reference_grid  # tokens without a grid have no G2R
        for step in (3, 8)
        for head in range(layer.heads)  # the second lacks the third head
    ]
    assert list(table[KEYS].itertuples(index=False, name=None)) == wanted
    assert all(table[measure].dtype == np.float32 for measure in MEASURES)


def test_a_row_holds_what_its_map_says(stores: tuple[Path, Path]) -> None:
    run, maps = stores
    table = head_scores(maps, samples=["b"]).set_index(KEYS)
    images = reference_maps.stored(run / "b" / "images")
    for direction, mask in (("r2g", "inpainting_mask"), ("g2r", "reference_mask")):
        volume = reference_maps.stored(maps / "b" / direction)["volume"][:].astype(np.float64)
        shares = volume[0, 1, 2] / volume[0, 1, 2].sum()  # layer one, step 8, head 2
        weights = (images[mask][:] / 255).reshape(4, 8, 4, 8).mean(axis=(1, 3))
        brightest = np.sort(shares.ravel())[::-1]
        found = table.xs(("b", direction, "one", 8, 2))
        assert found["entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(16))
        assert found["concentration"] == pytest.approx(brightest[0] + 0.6 * brightest[1])
        assert found["inside"] == pytest.approx((shares * weights).sum())
        assert found["chance"] == pytest.approx(weights.mean())


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_is_written_and_the_heads_ranked(
    suffix: str, stores: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / f"heads{suffix}"
    ranking = write_head_scores(stores[1], path, progress=False)
    read: Any = pd.read_parquet if suffix == ".parquet" else pd.read_csv
    table = head_scores(stores[1])
    pd.testing.assert_frame_equal(read(path), table, check_dtype=False)
    heads = ["direction", "layer", "head"]
    wanted = table.astype(dict.fromkeys(MEASURES, float)).groupby(heads)[MEASURES].mean()
    pd.testing.assert_frame_equal(
        ranking.set_index(heads).sort_index(), wanted, check_dtype=False, rtol=1e-6
    )
    assert ranking["direction"].tolist() == ["r2g"] * 5 + ["g2r"] * 3
    for _, of_direction in ranking.groupby("direction"):
        assert of_direction["concentration"].is_monotonic_decreasing


def test_a_sample_is_a_row_group_and_may_be_chosen(
    stores: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "heads.parquet"
    write_head_scores(stores[1], path, progress=False)
    assert pq.ParquetFile(path).num_row_groups == 2
    write_head_scores(stores[1], path, samples=["b"], progress=False, overwrite=True)
    assert pd.read_parquet(path)["sample"].unique().tolist() == ["b"]


def test_without_masks_there_is_no_inside(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS[1:])
    del reference_maps.stored(run / "a" / "images")["inpainting_mask"]
    table = head_scores(analyze_run(run, tmp_path / "maps.zarr", progress=False))
    assert table[["inside", "chance"]].isna().all(axis=None)
    assert table[["entropy", "concentration"]].notna().all(axis=None)


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    layer = SyntheticLayer("one", (48, 48), None, tokens=2, heads=4)
    names = [f"s{number:02}" for number in range(6)]
    run = write_run(tmp_path / "run.zarr", names, [layer], steps=20)
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)

    def peak(samples: list[str]) -> int:
        tracemalloc.start()
        out = tmp_path / "heads.parquet"
        write_head_scores(maps, out, samples=samples, progress=False, overwrite=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(names[:1])  # What is loaded once does not count.
    few, many = peak(names[:2]), peak(names)
    held = 4 * reference_maps.stored(maps / "s00" / "r2g")["volume"].nbytes
    assert many < few + held / 2


def test_maps_without_samples_are_told(tmp_path: Path, stores: tuple[Path, Path]) -> None:
    with pytest.raises(StoreError, match=r"Expected complete samples, got none, at .*maps\.zarr"):
        head_scores(stores[1], samples=[])
    with pytest.raises(StoreError, match=r"named 'c', at .*Known: 'a', 'b'"):
        write_head_scores(stores[1], tmp_path / "heads.csv", samples=["c"], progress=False)
    assert list(tmp_path.iterdir()) == []
