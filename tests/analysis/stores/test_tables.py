from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from i2am.analysis.stores.tables import check_table_path, write_table, writing_table
from i2am.schemas import AnalysisError, StoreError

PARTS = [
    pd.DataFrame({"sample": ["001", "é,b"], "value": np.array([0.1, np.nan], np.float32)}),
    pd.DataFrame({"sample": ["c"], "value": np.array([3], np.float32)}),
]


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"sample": str, "value": np.float32})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_are_one_table(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"table{suffix}"
    with writing_table(path) as write:
        for part in PARTS:
            write(part)
    wanted = pd.concat(PARTS, ignore_index=True)
    pd.testing.assert_frame_equal(read(path), wanted, check_dtype=False)
    whole = tmp_path / f"whole{suffix}"
    write_table(wanted, whole)
    pd.testing.assert_frame_equal(read(whole), read(path))
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_each_part_is_a_row_group_of_parquet(tmp_path: Path) -> None:
    with writing_table(tmp_path / "table.parquet") as write:
        for part in PARTS:
            write(part)
    assert pq.ParquetFile(tmp_path / "table.parquet").num_row_groups == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_stops_the_work_leaves_the_earlier_table_and_nothing_else(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(PARTS[1], path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="stopped"), writing_table(path) as write:
        write(PARTS[0])
        raise RuntimeError("stopped")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_is_checked_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    assert check_table_path(str(path), overwrite=False) == path
    path.write_text("mine")
    assert check_table_path(path, overwrite=True) == path
    with pytest.raises(StoreError, match=r"Expected no file, got one, at .*table\.csv"):
        check_table_path(path, overwrite=False)
    with pytest.raises(AnalysisError, match=r"Expected a \.csv or \.parquet file, got table\.xls"):
        check_table_path(tmp_path / "table.xls", overwrite=True)
