"""A manifest: one row for each image to generate, from CSV, JSON Lines or Parquet.

Columns beyond the known ones are labels, so a known name that is misspelt would do nothing, and
nobody would notice: what is nearly a known name is therefore told.
"""

from __future__ import annotations

import csv
import difflib
import functools
import gc
import json
import math
import re
import warnings
from contextlib import contextmanager
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from i2am.schemas.coordinates import is_printable
from i2am.schemas.dims import IMAGE_ARRAYS, image_dims
from i2am.schemas.errors import InputWarning, SchemaError, describe_validation_error
from i2am.schemas.manifest_files import ManifestFiles
from i2am.schemas.optional import require
from i2am.schemas.provenance import find_json_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["ManifestRow", "check_sample_name", "read_manifest"]

_PATH_COLUMNS = ("source", "mask", "reference", "reference_mask")
_REQUIRED_COLUMNS = ("sample", "reference")
_DELIMITERS = ",;\t"
# "bbox" is near "box"; "task" is not near "mask", nor "source_id" near "source".
_NEARNESS = 0.82
_SAMPLE_NAME = re.compile(r"[^\W_][\w.+@=-]*")


class ManifestRow(BaseModel):
    """One sample: its name, its pictures (absolute paths once read) and what else is known.

    Columns beyond the contract's are labels of the sample and are kept as they came.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    sample: str
    reference: Path
    source: Path | None = None
    mask: Path | None = None
    reference_mask: Path | None = None
    box: tuple[float, float, float, float] | None = None  # x, y, width, height in pixels
    prompt: str | None = None
    seed: int | None = None

    @field_validator("sample")
    @classmethod
    def _is_a_group_name(cls, name: str) -> str:
        return check_sample_name(name)

    @field_validator("box", mode="before")
    @classmethod
    def _is_a_box(cls, box: Any) -> Any:
        parts = re.split(r"[,;\s]+", box.strip(" ()[]")) if isinstance(box, str) else box
        if parts is None:
            return None
        try:
            x, y, width, height = (float(part) for part in parts)
        except (TypeError, ValueError):
            x, y, width, height = (math.nan,) * 4
        if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
            msg = f"Expected x, y, width and height in pixels, got {box!r}"
            raise ValueError(msg)
        return x, y, width, height

    def labels(self) -> dict[str, Any]:
        """Return the columns that the contract does not name."""
        extra = self.model_extra or {}
        return {name: value for name, value in extra.items() if not _is_other_reference(name)}

    def other_references(self) -> dict[str, Path]:
        """Return the files of ``reference_1``, ``reference_2`` and so on, in this order."""
        extra = self.model_extra or {}
        names = filter(_is_other_reference, extra)
        return {name: extra[name] for name in sorted(names, key=lambda n: int(n.split("_")[1]))}


@functools.lru_cache
def _is_other_reference(name: str) -> bool:
    return name not in IMAGE_ARRAYS and image_dims(name) is not None


def check_sample_name(name: str) -> str:
    """Return `name` if it can name a group in a store.

    Raises
    ------
    SchemaError
        If it is empty, starts with a dot or an underscore, holds more than letters, digits and
        ``. _ + @ = -``, or is the name of Zarr's own metadata file.

    Examples
    --------
    >>> check_sample_name("shirt-001")
    'shirt-001'
    """
    if not _SAMPLE_NAME.fullmatch(name) or name == "zarr.json":
        msg = (
            "Expected a sample name of letters, digits and . _ + @ = - that starts with a letter "
            f"or digit, got {name!r}. Rename the sample."
        )
        raise SchemaError(msg)
    return name


def read_manifest(path: Path | str) -> list[ManifestRow]:
    """Read a manifest; relative paths are taken from its own folder.

    Parameters
    ----------
    path : Path or str
        A ``.csv`` (with commas, semicolons or tabs), ``.jsonl``, ``.ndjson`` or ``.parquet`` file.

    Returns
    -------
    list of ManifestRow
        In the file's order.

    Raises
    ------
    SchemaError
        If the file is missing, of another kind, or any row is wrong: all faults at once, each
        with its row. Also if a picture does not exist or a sample's name comes twice.
    MissingExtra
        If the manifest is a Parquet file and pyarrow is not installed.

    Warns
    -----
    InputWarning
        If a column's name is nearly a known one: it is a label then.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"Expected a manifest file, found none at {path}. Give a CSV, JSON Lines or Parquet."
        raise SchemaError(msg)
    with _without_garbage_collection():
        return _read_rows(path)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Spare the collector the rows, none of which is garbage: it takes a third of the time of many."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_rows(path: Path) -> list[ManifestRow]:
    faults: list[str] = []
    rows: list[ManifestRow] = []
    files = ManifestFiles(path.parent)
    places: dict[str, int] = {}
    records = list(_iter_records(path, faults))
    columns = list(dict.fromkeys(k for _, record in records for k in record if k is not None))
    absent = _missing_columns(columns) if records and not _has_own_columns(path) else []
    faults.extend(_describe_missing(column, columns) for column in absent)
    faults.extend(
        f"column {column!r}: expected a name without control characters"
        for column in columns
        if not is_printable(column)
    )
    for number, record in records:
        row = _parse(record, files, number, faults, absent)
        if row is None:
            continue
        if row.sample in places:
            first = places[row.sample]
            faults.append(f"row {number}: sample {row.sample!r} stands in row {first} already")
        places.setdefault(row.sample, number)
        rows.append(row)
    if not rows and not faults:
        faults.append("no rows")
    _warn_of_near_names(columns, path)
    if faults:
        shown = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if faults[10:] else "")
        msg = f"Expected a valid manifest, got faults in {path}: {shown}. Mend these rows."
        raise SchemaError(msg)
    return rows


def _parse(
    record: dict[Any, Any],
    files: ManifestFiles,
    number: int,
    faults: list[str],
    absent: Sequence[str],
) -> ManifestRow | None:
    if None in record:  # Where csv puts fields that have no column.
        faults.append(f"row {number}: more fields than columns")
    known = {k: v for k, v in record.items() if k is not None and v is not None and v != ""}
    paths = [name for name in known if name in _PATH_COLUMNS or _is_other_reference(name)]
    for column in paths:
        if isinstance(known[column], str):
            known[column] = files.absolute(known[column])
    try:
        row = ManifestRow.model_validate(known)
    except ValidationError as e:
        for error in e.errors():
            column = str(error["loc"][0])
            if column in absent:
                continue  # Said once, of the header.
            near = _near(column, known) if error["type"] == "missing" else None
            hint = f", got {near!r}: is that meant?" if near else ""
            reason = describe_validation_error(error)
            faults.append(f"row {number}, column {column!r}: {reason}{hint}")
        return None
    for column, value in {"prompt": row.prompt, **row.labels()}.items():
        if (fault := find_json_fault(value)) is not None:
            faults.append(f"row {number}, column {column!r}: got {fault}, which JSON has not")
    others = list(row.other_references())
    if others != [f"reference_{index}" for index in range(1, len(others) + 1)]:
        faults.append(f"row {number}: expected reference_1, reference_2 … without a gap")
    for column in paths:
        value = known[column]
        if not isinstance(value, str):
            faults.append(f"row {number}, column {column!r}: expected a path, got {value!r}")
            return None
        if not files.has(value):
            faults.append(f"row {number}, column {column!r}: no file at {Path(value)}")
    if not others:
        return row
    return row.model_copy(update={column: Path(known[column]) for column in others})


def _has_own_columns(path: Path) -> bool:
    """Return whether each row names its columns, so that there is no header."""
    return path.suffix.lower() in {".jsonl", ".ndjson"}


def _missing_columns(columns: Sequence[str]) -> list[str]:
    return [column for column in _REQUIRED_COLUMNS if column not in columns]


def _describe_missing(column: str, columns: Sequence[str]) -> str:
    near = _near(column, columns)
    hint = f" (is {near!r} meant?)" if near else ""
    return f"no column {column!r} in the header {', '.join(map(repr, columns))}{hint}"


def _warn_of_near_names(columns: Sequence[str], path: Path) -> None:
    """Warn of labels whose names are nearly those of columns that the manifest does not have."""
    # Without the required ones there are faults, which tell the same.
    free = [name for name in ManifestRow.model_fields if name not in {*columns, *_REQUIRED_COLUMNS}]
    for label in columns:
        is_known = label in ManifestRow.model_fields or _is_other_reference(label)
        if not is_known and (near := _near(label, free)) is not None:
            msg = (
                f"Column {label!r} is taken for a label, at {path}. Did you mean {near!r}? "
                f"The columns are {', '.join(map(repr, columns))}."
            )
            warnings.warn(msg, InputWarning, stacklevel=4)


def _near(name: str, names: Iterable[str]) -> str | None:
    """Return the name that differs by case, spaces, hyphens or a slip of the finger."""
    plain = {re.sub(r"[\s-]+", "_", n.strip()).casefold(): n for n in names if isinstance(n, str)}
    wanted = re.sub(r"[\s-]+", "_", name.strip()).casefold()
    found = difflib.get_close_matches(wanted, plain, n=1, cutoff=_NEARNESS)
    return plain[found[0]] if found else None


def _find_delimiter(header: str) -> str:
    """Return what parts a header's names: the delimiter that gives most of the known ones."""

    def count(delimiter: str) -> int:
        names = next(csv.reader([header], delimiter=delimiter), [])
        return sum(_near(name, ManifestRow.model_fields) is not None for name in names)

    return max(_DELIMITERS, key=count)  # The first of equals: a comma.


def _iter_records(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield (row number as an editor shows it, record); a Parquet file's rows count from 1."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as lines:
                delimiter = _find_delimiter(lines.readline())
                lines.seek(0)
                reader = csv.DictReader(lines, delimiter=delimiter)
                names = [name for name in reader.fieldnames or () if name]
                faults.extend(
                    f"column {name!r} stands more than once in the header"
                    for name in dict.fromkeys(names)
                    if names.count(name) > 1
                )
                for record in reader:
                    yield reader.line_num, record
        elif suffix in {".jsonl", ".ndjson"}:
            with path.open(encoding="utf-8-sig") as lines:
                yield from _iter_json_objects(lines, faults)
        elif suffix == ".parquet":
            yield from enumerate(_read_parquet(path), start=1)
        else:
            msg = f"Expected a .csv, .jsonl or .parquet manifest, got {path}. Convert it."
            raise SchemaError(msg)
    except (UnicodeDecodeError, csv.Error) as e:
        msg = f"Expected UTF-8 text, got something else at {path} ({e}). Save it as UTF-8."
        raise SchemaError(msg) from e


def _iter_json_objects(
    lines: Iterable[str], faults: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as e:
            faults.append(f"row {number}: expected a JSON object, got {text[:40]!r} ({e.msg})")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            faults.append(f"row {number}: expected a JSON object, got {text[:40]!r}")


def _with_dates_as_text(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v.isoformat() if isinstance(v, date | time) else v for k, v in row.items()}


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    parquet = require("pyarrow.parquet", "to read a Parquet manifest", "capture")
    try:
        # Not read_table: it would take a folder named "a=b" on the way here for a column.
        with parquet.ParquetFile(path) as file:
            rows = [_with_dates_as_text(row) for row in file.read().to_pylist()]
    except ValueError as e:  # What pyarrow raises on other bytes is one.
        msg = f"Expected a Parquet file, got something else at {path} ({e}). Write it anew."
        raise SchemaError(msg) from e
    return rows
