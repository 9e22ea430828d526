"""A manifest: one row for each image to generate, from CSV, JSON Lines or Parquet.

Columns beyond the known ones are labels, so a known name that is misspelt would do nothing, and
nobody would notice: what is nearly a known name is therefore told.
"""

from __future__ import annotations

import difflib
import functools
import gc
import math
import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import to_jsonable_python

from i2am.schemas.coordinates import is_printable
from i2am.schemas.dims import IMAGE_ARRAYS, image_dims
from i2am.schemas.errors import InputWarning, SchemaError, describe_validation_error, shorten
from i2am.schemas.manifest_files import ManifestFiles
from i2am.schemas.manifest_records import iter_records
from i2am.schemas.manifest_values import check_seed, check_value
from i2am.schemas.provenance import find_json_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["ManifestRow", "check_sample_name", "read_manifest"]

_PATH_COLUMNS = ("source", "mask", "reference", "reference_mask")
_REQUIRED_COLUMNS = ("sample", "reference")
# "bbox" is near "box"; "task" is not near "mask", nor "source_id" near "source".
_NEARNESS = 0.82
_SHORT = 256
# File systems allow 255 bytes; some files are named by a sample and what they show of it.
_LONGEST_NAME_BYTES = 200
_SAMPLE_NAME = re.compile(r"[^\W_][\w.+@=-]*")


class ManifestRow(BaseModel):
    """One sample: its name, its pictures (absolute paths once read) and what else is known.

    Columns beyond the contract's are labels of the sample and are kept as they came.

    Examples
    --------
    >>> row = ManifestRow(sample="shirt-001", reference="shirt.png", seed=7, category="shirts")
    >>> row.seed, row.model_extra
    (7, {'category': 'shirts'})
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
            x, y, width, height = (
                math.nan if isinstance(part, bool) else float(part) for part in parts
            )
        except (TypeError, ValueError, OverflowError):
            x, y, width, height = (math.nan,) * 4
        if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
            msg = f"Expected x, y, width and height in pixels, got {shorten(repr(box))}"
            raise ValueError(msg)
        return x, y, width, height

    @field_validator("seed", mode="before")
    @classmethod
    def _is_a_seed(cls, seed: Any) -> Any:
        return check_seed(seed)

    @field_validator("seed")
    @classmethod
    def _has_64_bits(cls, seed: int | None) -> Any:
        return check_seed(seed)  # What came as text is a number now.

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
        ``. _ + @ = -``, is the name of Zarr's own metadata file, or takes more than 200 bytes.

    Examples
    --------
    >>> check_sample_name("shirt-001")
    'shirt-001'
    """
    if not _SAMPLE_NAME.fullmatch(name) or name == "zarr.json":
        msg = (
            "Expected a sample name of letters, digits and . _ + @ = - that starts with a letter "
            f"or digit, got {shorten(repr(name))}. Rename the sample."
        )
        raise SchemaError(msg)
    if (size := len(name.encode())) > _LONGEST_NAME_BYTES:
        msg = (
            f"Expected a sample name of at most {_LONGEST_NAME_BYTES} bytes, got {size}, at "
            f"{shorten(repr(name), 60)}. Rename the sample."
        )
        raise SchemaError(msg)
    return name


def read_manifest(path: Path | str) -> list[ManifestRow]:
    r"""Read a manifest; relative paths are taken from its own folder.

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

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "rows.csv")
    ...     Path(folder, "shirt.png").touch()
    ...     text = file.write_text("sample,reference,seed\nshirt-001,shirt.png,7\n")
    ...     (row,) = read_manifest(file)
    >>> row.sample, row.reference.name, row.seed
    ('shirt-001', 'shirt.png', 7)
    """
    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises of a name that is too long
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
    records = list(iter_records(path, faults, _count_known))
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
        shown = "; ".join(shorten(fault, 400) for fault in faults[:10]) + (
            f"; and {len(faults) - 10} more" if faults[10:] else ""
        )
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
    # Nearly all of a long manifest is short and plain text, which need not be looked at closely.
    odd = [
        name
        for name, value in known.items()
        if not (isinstance(value, str) and value.isascii() and len(value) < _SHORT)
        or not (isinstance(name, str) and name.isascii() and len(name) < _SHORT)
    ]
    if unfit := [fault for name in odd if (fault := _unfit(name, known[name])) is not None]:
        faults.extend(f"row {number}, {fault}" for fault in unfit)
        return None
    # Dates and decimal numbers of a Parquet file become texts, as JSON holds them.
    known |= {name: to_jsonable_python(known[name]) for name in odd}
    paths = [name for name in known if name in _PATH_COLUMNS or _is_other_reference(name)]
    found = {name: files.absolute(known[name]) for name in paths if isinstance(known[name], str)}
    known |= {name: files.as_path(path) for name, path in found.items()}
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
        if column not in found:
            value = known[column]
            faults.append(f"row {number}, column {column!r}: expected a path, got {value!r}")
        elif not files.has(found[column]):
            faults.append(f"row {number}, column {column!r}: no file at {known[column]}")
    return row


def _unfit(name: str, value: Any) -> str | None:
    """Return what is wrong with a field whose name or value no store can hold."""
    try:
        check_value(name)
        check_value(value)
    except ValueError as e:
        return f"column {shorten(repr(name), 60)}: {e}"
    return None


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
    further = ("reference_1",) if "reference" in columns else ()
    known = (*ManifestRow.model_fields, *further)
    free = [name for name in known if name not in {*columns, *_REQUIRED_COLUMNS}]
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


def _count_known(names: Sequence[str]) -> int:
    return sum(_near(name, ManifestRow.model_fields) is not None for name in names)
