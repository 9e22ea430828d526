"""Write tables as CSV or Parquet, by the file's name: whole or part by part, but never incomplete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from i2am.files import check_new_file, written_whole
from i2am.schemas import AnalysisError, require

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TableWriter", "check_table_path", "write_table", "writing_table"]


class TableWriter(Protocol):
    """Takes a table part by part."""

    def __call__(self, part: pd.DataFrame) -> None:
        """Append rows; every part has the same columns."""


def check_table_path(path: str | Path, *, overwrite: bool) -> Path:
    """Return where a table can be written.

    Raises
    ------
    AnalysisError
        If the name ends in neither ``.csv`` nor ``.parquet``.
    StoreError
        If something is there and `overwrite` is false.
    """
    path = Path(path)
    if path.suffix not in {".csv", ".parquet"}:
        msg = f"Expected a .csv or .parquet file, got {path.name}, at out. Rename it."
        raise AnalysisError(msg)
    return check_new_file(path, overwrite=overwrite)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a whole table, without its index."""
    with writing_table(path) as write:
        write(table)


@contextmanager
def writing_table(path: Path) -> Iterator[TableWriter]:
    """Yield a function that writes a table part by part; a part is a row group of a Parquet file.

    The file appears when all parts are there; nothing is left when an error stops the work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    open_part = _parquet if path.suffix == ".parquet" else _csv
    with written_whole(path) as unfinished, open_part(unfinished) as write:
        yield write


@contextmanager
def _csv(path: Path) -> Iterator[TableWriter]:
    with path.open("w", newline="", encoding="utf-8") as file:
        yield lambda part: part.to_csv(file, index=False, header=file.tell() == 0)


@contextmanager
def _parquet(path: Path) -> Iterator[TableWriter]:
    arrow = require("pyarrow", "to write a Parquet table", "export")
    parquet = require("pyarrow.parquet", "to write a Parquet table", "export")
    writer: Any = None

    def write(part: pd.DataFrame) -> None:
        nonlocal writer
        table = arrow.Table.from_pandas(part, preserve_index=False)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
