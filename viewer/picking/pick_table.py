"""Picks as a table on disk: what a user kept, to be opened again in another window."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from i2am.files import check_new_file, written_whole
from i2am.schemas.errors import SchemaError, StoreError
from i2am.viewer.picking.pick import Pick, Side

__all__ = ["read_picks", "write_picks"]

_COLUMNS: Final = (
    *("run", "sample", "side", "y0", "x0", "y1", "x1"),
    *("layers", "steps", "heads", "note"),
)
_LATER: Final = ("capture", "reference")  # Tables of older versions lack them.
_BETWEEN: Final = ";"


def write_picks(picks: Iterable[Pick], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write picks to a CSV file and return its path.

    Columns run, sample, side, y0, x0, y1, x1 (pixels of the stored image; y1 and x1 are the first
    that do not belong), layers, steps, heads (labels with ``;`` between them; empty for all), note, capture
    (when the sample was captured, and a checksum: it is known by them where its run was moved), reference
    (the stored image of the one whose maps were in view).

    Raises
    ------
    StoreError
        If the file exists and `overwrite` is false, or it cannot be written.
    """
    path = check_new_file(path, overwrite=overwrite)
    try:
        with (
            written_whole(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow((*_COLUMNS, *_LATER))
            writer.writerows(_cells(pick) for pick in picks)
    except OSError as e:
        msg = f"Expected a path that can be written, got '{e.strerror}', at {path}. Name another file."
        raise StoreError(msg) from e
    return path


def read_picks(path: str | Path) -> list[Pick]:
    """Return the picks of a table.

    Raises
    ------
    StoreError
        If the file cannot be read.
    SchemaError
        If it is not such a table; the error lists all faults, with their lines.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or (), list(reader)
    except OSError as e:
        msg = f"Expected a table of picks, got '{e.strerror}', at {path}. Check the path."
        raise StoreError(msg) from e
    except (UnicodeDecodeError, csv.Error) as e:
        msg = f"Expected a table of picks, got no CSV text, at {path}. Give a saved table."
        raise SchemaError(msg) from e
    if missing := [name for name in _COLUMNS if name not in columns]:
        wanted = ", ".join(missing)
        msg = f"Expected columns of picks, got none named {wanted}, at {path}. Give a saved table."
        raise SchemaError(msg)
    picks, faults = [], []
    for line, row in enumerate(rows, start=2):
        try:
            picks.append(_pick(row))
        except ValueError as e:
            faults.append(f"line {line}: {e}")
    if faults:
        msg = f"Expected picks, got {'; '.join(faults)}, at {path}. Mend these lines."
        raise SchemaError(msg)
    return picks


def _cells(pick: Pick) -> list[str | int]:
    labels = [_BETWEEN.join(map(str, own)) for own in (pick.layers, pick.steps, pick.heads)]
    later = (pick.capture, pick.reference)
    return [pick.run, pick.sample, pick.side, *pick.area, *labels, pick.note, *later]


def _pick(row: dict[str, str | None]) -> Pick:
    cells = {name: row[name] or "" for name in _COLUMNS}
    sides: dict[str, Side] = {"generated": "generated", "reference": "reference"}
    if cells["side"] not in sides:
        msg = f"{cells['side']!r} as the side"
        raise ValueError(msg)
    top, left, bottom, right = (_number(cells[name], name) for name in ("y0", "x0", "y1", "x1"))
    if not (0 <= top < bottom and 0 <= left < right):
        msg = f"the area {(top, left, bottom, right)}"
        raise ValueError(msg)
    return Pick(
        cells["run"],
        cells["sample"],
        sides[cells["side"]],
        (top, left, bottom, right),
        tuple(label for label in cells["layers"].split(_BETWEEN) if label),
        _numbers(cells["steps"], "steps"),
        _numbers(cells["heads"], "heads"),
        cells["note"],
        row.get("capture") or "",
        row.get("reference") or "reference",
    )


def _numbers(cell: str, name: str) -> tuple[int, ...]:
    return tuple(_number(label, name) for label in cell.split(_BETWEEN) if label)


def _number(cell: str, name: str) -> int:
    try:
        return int(cell)
    except ValueError as e:
        msg = f"{cell!r} as {name}"
        raise ValueError(msg) from e
