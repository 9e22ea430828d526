"""A tidy table: the maps can be made from it again, whatever its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

from i2am.analysis import analyze, export_table, open_effects, open_maps, open_run, to_table
from i2am.analysis.export import table as table_module
from i2am.schemas import AnalysisError
from i2am.schemas.choices import LEVEL_NAMES
from tests.analysis.export.conftest import SAMPLES, contents

TEXT = ("sample", "direction", "level", "layer")
DIMS = {
    "volume": ["layer", "step", "head"],
    "tlam": ["first_step"],
    "hlam": ["head"],
    "llam": ["layer"],
}


def read(path: Path) -> pd.DataFrame:
    """Return a table as the guide reads it."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    kinds: dict[str, Any] = {**dict.fromkeys(TEXT, str), "value": np.float32}
    return pd.read_csv(
        path,
        dtype=kinds,
        keep_default_na=False,
        na_values={
            "value": [""],
            **{
                name: [""]
                for name in ("step", "timestep", "head", "first_step", "last_step", "y", "x")
            },
        },
    )


def values_of(rows: pd.DataFrame, level: str) -> xr.DataArray:
    """Return the array (…, row, column) of a level's rows."""
    lead = DIMS.get(level, [])
    return rows.set_index([*lead, "row", "column"])["value"].to_xarray()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_map_is_made_from_the_table_again(
    suffix: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    path = export_table(stores["maps"], tmp_path / f"out.{suffix}", levels=LEVEL_NAMES)
    found = read(path)
    assert list(found) == [
        *("sample", "direction", "level", "layer", "step", "timestep"),
        *("first_step", "last_step", "head", "row", "column", "y", "x", "value"),
    ]
    assert list(dict.fromkeys(found["sample"])) == list(SAMPLES)
    for sample, groups in contents(stores["maps"], "maps").items():
        for direction, dataset in groups.items():
            of_group = found[(found["sample"] == sample) & (found["direction"] == direction)]
            assert set(of_group["level"]) == set(dataset.data_vars)
            for level, wanted in dataset.data_vars.items():
                own = values_of(of_group[of_group["level"] == level], str(level))
                if "layer" in own.dims:  # By name in the table, in their order in the store.
                    own = own.sel(layer=wanted["layer"].values)
                np.testing.assert_array_equal(own, wanted)


def test_places_and_times_are_those_of_the_coordinates(stores: dict[str, Path]) -> None:
    maps: Any = open_maps(stores["maps"])["007"]
    rows = to_table(maps, ["volume", "tlam"])
    one = rows[(rows["direction"] == "r2g") & (rows["level"] == "volume")].iloc[8 * 8 + 3]
    assert (one["row"], one["column"]) == (0, 3)
    assert (one["y"], one["x"]) == (maps["r2g/y"][0], maps["r2g/x"][3])
    assert one["timestep"] == maps["r2g/timestep"].sel(step=one["step"])
    assert pd.isna(one["first_step"])
    groups = rows[rows["level"] == "tlam"][["first_step", "last_step"]].drop_duplicates()
    assert groups.to_numpy().tolist() == [[0, 1], [2, 3]]


def test_a_head_that_a_layer_lacks_has_no_rows(stores: dict[str, Path]) -> None:
    rows = to_table(open_maps(stores["maps"])["007"], "volume")
    heads = rows.groupby("layer")["head"].unique()
    assert {layer: list(own) for layer, own in heads.items()} == {
        "down<b> é&;": [0, 1],
        "up.attn": [0, 1, 2],
    }
    assert rows["value"].notna().all()


def test_columns_are_those_of_the_levels(stores: dict[str, Path]) -> None:
    maps = open_maps(stores["maps"])["007"]
    shared = ["direction", "level", "row", "column", "y", "x", "value"]
    assert list(to_table(maps, "ulam")) == shared
    assert list(to_table(maps, ["hlam"])) == [*shared[:2], "head", *shared[2:]]


def test_maps_without_pixels_have_positions_alone(stores: dict[str, Path]) -> None:
    sample = open_run(stores["run"])["007"].drop_nodes("images")
    rows = to_table(analyze(sample), "ulam")
    assert rows[["y", "x"]].isna().all(axis=None)
    assert rows["row"].max() == 7


def test_effects_tell_which_region_was_cut(stores: dict[str, Path], tmp_path: Path) -> None:
    path = export_table(stores["effects"], tmp_path / "out.parquet", samples=["007"])
    found, effects = read(path), open_effects(stores["effects"])["007"]
    assert set(found["level"]) == set(effects.data_vars) - {"order_cut"}
    regions = found[found["level"] == "region"]
    boxes = regions[["cut", "cut_y0", "cut_x0", "cut_y1", "cut_x1"]].drop_duplicates()
    np.testing.assert_array_equal(boxes.iloc[:, 1:], effects["cut_box"])
    np.testing.assert_array_equal(
        regions["value"], effects["region"].to_numpy().astype(np.float32).ravel()
    )
    curves = found[found["level"] == "deletion"]
    assert set(curves["order"]) == {"map", "random"}
    np.testing.assert_array_equal(
        np.sort(curves["value"]), np.sort(effects["deletion"].to_numpy().ravel())
    )
    pd.testing.assert_frame_equal(to_table(effects), found.drop(columns="sample"))


def test_averages_have_their_variance(stores: dict[str, Path], tmp_path: Path) -> None:
    path = export_table(stores["average"], tmp_path / "out.parquet", levels=["hlam"])
    found = read(path)
    assert set(found["level"]) == {"hlam", "hlam_variance"}
    wanted = contents(stores["average"], "average")["all"]["g2r"]["hlam_variance"]
    own = found[(found["level"] == "hlam_variance") & (found["direction"] == "g2r")]
    np.testing.assert_array_equal(values_of(own, "hlam"), wanted)


def test_a_long_table_is_written_in_parts_of_bounded_size(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_table(stores["maps"], tmp_path / "whole.parquet", levels=["volume"])
    assert pq.ParquetFile(whole).num_row_groups == 1  # Small parts are written together.
    monkeypatch.setattr(table_module, "_ROWS", 100)
    parts = export_table(stores["maps"], tmp_path / "parts.parquet", levels=["volume"])
    pd.testing.assert_frame_equal(read(parts), read(whole))
    file = pq.ParquetFile(parts)
    rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    # No map is cut: at most one more than fills a part.
    assert max(rows) < 100 + 64
    assert len(rows) > 20


def test_a_level_that_is_none_and_maps_that_have_none_are_refused(stores: dict[str, Path]) -> None:
    maps = open_maps(stores["maps"])["007"]
    with pytest.raises(AnalysisError, match=r"known level, got 'ulams'.*mean 'ulam'"):
        to_table(maps, "ulams")
    with pytest.raises(AnalysisError, match="Expected maps to make a table of, got none"):
        to_table(maps.drop_nodes("r2g"), "mass")
