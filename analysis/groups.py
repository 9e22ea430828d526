"""Samples in groups: those that agree in some columns of the run's table.

The labels of a manifest, all its columns that the contract does not name, are kept with each sample
as ``labels.NAME``; they can be asked for by NAME alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from i2am.analysis.store import Run
from i2am.schemas import AnalysisError, did_you_mean

__all__ = ["SampleGroup", "group_samples"]

_LABELS: Final = "labels."
_OTHER_CHARACTERS: Final = re.compile(r"[^\w.+@=-]")

_Label = str | float | bool | None


@dataclass(frozen=True)
class SampleGroup:
    """Samples with the same labels; `node` names the group in a store."""

    node: str
    labels: dict[str, _Label]
    samples: tuple[str, ...]


def group_samples(run: Run, samples: Sequence[str], by: Iterable[str]) -> list[SampleGroup]:
    """Return the samples in groups, sorted by label; those without a label are a group, too.

    Parameters
    ----------
    run : Run
        Where the samples come from.
    samples : sequence of str
    by : iterable of str
        Columns of ``run.table()``; of the manifest's labels the name alone is enough.

    Raises
    ------
    AnalysisError
        If the table has no such column.
    StoreError
        If the run has no such sample.
    """
    table = run.table().set_index("sample")
    known = [str(column).removeprefix(_LABELS) for column in table.columns]
    columns = {name: _column(name, list(table.columns), known, run) for name in by}
    found: dict[tuple[_Label, ...], list[str]] = {}
    for sample in samples:
        if sample not in table.index:
            run[sample]  # Says that it is not there, and which is.
        row = table.loc[sample]
        found.setdefault(tuple(_plain(row[c]) for c in columns.values()), []).append(sample)
    groups: list[SampleGroup] = []
    for key in sorted(found, key=lambda labels: [_order(label) for label in labels]):
        node = _free_name("+".join(map(_spell, key)), [group.node for group in groups])
        groups.append(SampleGroup(node, dict(zip(columns, key, strict=True)), tuple(found[key])))
    return groups


def _column(name: str, columns: list[str], known: list[str], run: Run) -> str:
    # A label comes before what the capture itself noted under that name.
    for column in (f"{_LABELS}{name}", name):
        if column in columns:
            return column
    msg = f"Expected a column of the run's table, got {name!r}, at {run.path}. "
    msg += did_you_mean(name, known)
    raise AnalysisError(msg)


def _plain(value: Any) -> _Label:
    """Return a value as JSON has it; what is missing is None, what is nested becomes text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _order(label: _Label) -> tuple[bool, bool, Any]:
    """Return a key that sorts numbers before texts, and what is missing last."""
    return label is None, isinstance(label, str), 0 if label is None else label


def _spell(label: _Label) -> str:
    if label is None:
        return "none"
    return f"{label:g}" if isinstance(label, float) else str(label)


def _free_name(text: str, taken: Sequence[str]) -> str:
    """Return a name for a group in a store that is like none of the others.

    Examples
    --------
    >>> _free_name("tops/red", []), _free_name("a B", ["A_b"])
    ('tops_red', 'a_B-2')
    """
    name = _OTHER_CHARACTERS.sub("_", text).lstrip("._") or "group"
    # Some file systems do not tell "a" from "A"; Zarr's own file is no group.
    used = {"zarr.json", *(other.casefold() for other in taken)}
    number = 1
    while (free := name if number == 1 else f"{name}-{number}").casefold() in used:
        number += 1
    return free
