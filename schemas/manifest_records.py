"""The records of a manifest's file, as they stand there: CSV, JSON Lines or Parquet.

A file that is no such table is told as one error, a line that is no record as a fault of its row.
What a file may make us hold is bounded: one line, and the table that a Parquet file unfolds to.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NoReturn

from i2am.schemas.errors import SchemaError, shorten
from i2am.schemas.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

__all__ = ["iter_records"]

_DELIMITERS: Final = ",;\t"
# No prompt, box or label is longer; a file without line breaks is no table.
_LONGEST_LINE: Final = 2**24
_MOST_PARQUET_CELLS: Final = 10**8
_SHOWN_CHARACTERS: Final = 40


def iter_records(
    path: Path, faults: list[str], count_known: Callable[[Sequence[str]], int]
) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield (row number as an editor shows it, record); a Parquet file's rows count from 1.

    Parameters
    ----------
    path : Path
    faults : list of str
        Gets what is wrong with a line or with the header, where reading goes on.
    count_known : callable
        Of a header's names, how many are known: what parts them is found by it.

    Raises
    ------
    SchemaError
        If the file is of another kind, or cannot be read to its end.
    MissingExtra
        If it is a Parquet file and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                yield from _iter_csv(file, path, faults, count_known)
        elif suffix in {".jsonl", ".ndjson"}:
            with path.open(encoding="utf-8-sig") as file:
                yield from _iter_json_objects(_iter_lines(file, path), faults)
        elif suffix == ".parquet":
            yield from enumerate(_read_parquet(path), start=1)
        else:
            msg = f"Expected a .csv, .jsonl or .parquet manifest, got {path}. Convert it."
            raise SchemaError(msg)
    except UnicodeDecodeError as e:
        msg = f"Expected UTF-8 text, got something else at {path} ({e}). Save it as UTF-8."
        raise SchemaError(msg) from e
    except csv.Error as e:
        msg = f"Expected a CSV table, got something else at {path} ({e}). Save it anew."
        raise SchemaError(msg) from e


def _iter_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield a text's lines, none without a bound, none with characters that text does not have."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE and not line.endswith("\n"):
            msg = (
                f"Expected lines of at most {_LONGEST_LINE:,} characters, got a longer one, at "
                f"{path}. Give one line to each row."
            )
            raise SchemaError(msg)
        if "\0" in line:
            msg = (
                f"Expected UTF-8 text, got something else at {path} (NUL characters, as UTF-16 "
                "has them). Save it as UTF-8."
            )
            raise SchemaError(msg)
        yield line


def _iter_csv(
    file: TextIO, path: Path, faults: list[str], count_known: Callable[[Sequence[str]], int]
) -> Iterator[tuple[int, dict[Any, Any]]]:
    delimiter = _find_delimiter(next(_iter_lines(file, path), ""), count_known)
    file.seek(0)
    reader = csv.DictReader(_iter_lines(file, path), delimiter=delimiter)
    faults.extend(_repeated([name for name in reader.fieldnames or () if name]))
    for record in reader:
        yield reader.line_num, record


def _find_delimiter(header: str, count_known: Callable[[Sequence[str]], int]) -> str:
    """Return what parts a header's names: the delimiter that gives most of the known ones."""

    def count(delimiter: str) -> int:
        return count_known(next(csv.reader([header], delimiter=delimiter), []))

    return max(_DELIMITERS, key=count)  # The first of equals: a comma.


def _repeated(names: Sequence[str]) -> list[str]:
    again = [name for name, count in Counter(names).items() if count > 1]
    return [f"column {name!r} stands more than once in the header" for name in again]


def _iter_json_objects(
    lines: Iterable[str], faults: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        came = f"{text[:_SHOWN_CHARACTERS]!r}"
        try:
            record = json.loads(
                text, object_pairs_hook=_object_of_pairs, parse_constant=_refuse_constant
            )
        except json.JSONDecodeError as e:
            faults.append(f"row {number}: expected a JSON object, got {came} ({e.msg})")
        except RecursionError:
            faults.append(f"row {number}: expected a JSON object, got {came} (nested too deep)")
        except ValueError as e:
            reason = shorten(str(e).partition(";")[0], 100)
            faults.append(f"row {number}: expected a JSON object, got {came} ({reason})")
        else:
            if isinstance(record, dict):
                yield number, record
            else:
                faults.append(f"row {number}: expected a JSON object, got {came}")


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping; a name that stands twice has two values, and none of them is the one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"{twice!r} stands in it more than once"
        raise ValueError(msg)
    return found


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is no JSON: write null where there is no value"
    raise ValueError(msg)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    parquet = require("pyarrow.parquet", "to read a Parquet manifest", "capture")
    arrow = require("pyarrow", "to read a Parquet manifest", "capture")
    try:
        # Not read_table: it would take a folder named "a=b" on the way here for a column.
        with parquet.ParquetFile(path) as file:
            _check_table(file, path)
            rows: list[dict[str, Any]] = file.read().to_pylist()
    except SchemaError:
        raise
    except (
        arrow.ArrowException,
        OSError,
        ValueError,
    ) as e:  # Arrow's own of a file are of all kinds.
        if isinstance(e, OSError) and e.filename is not None:
            raise  # The file system's, which says what is the matter.
        msg = f"Expected a Parquet file, got something else at {path} ({e}). Write it anew."
        raise SchemaError(msg) from e
    return rows


def _check_table(file: Any, path: Path) -> None:
    """Check what a Parquet file would unfold to: a few bytes can stand for any number of rows."""
    rows, names = file.metadata.num_rows, file.schema_arrow.names
    if rows * max(len(names), 1) > _MOST_PARQUET_CELLS:
        msg = (
            f"Expected a manifest of at most {_MOST_PARQUET_CELLS:,} fields, got {rows:,} rows of "
            f"{len(names):,} columns, at {path}. Split it."
        )
        raise SchemaError(msg)
    if again := _repeated(names):
        msg = (
            f"Expected a valid manifest, got faults in {path}: {'; '.join(again[:10])}. Mend them."
        )
        raise SchemaError(msg)
