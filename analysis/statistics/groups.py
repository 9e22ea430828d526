"""Groups of samples by label, and whether their maps can be averaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr

from i2am.analysis.stores.layers import format_labels
from i2am.analysis.stores.reader import Run
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.dims import FIRST_STEP, HEAD, LAST_STEP, LAYER, STEP, TIMESTEP
from i2am.schemas.directions import DIRECTIONS

__all__ = ["SampleGroup", "check_same_layout", "group_samples", "shared_pixels"]

_LABELS: Final = "labels."
_OTHER_CHARACTERS: Final = re.compile(r"[^\w.+@=-]")
_PLANES: Final = tuple(dim for direction in DIRECTIONS.values() for dim in direction.plane)
_Label = str | float | bool | None
_SPLIT_HINT: Final = "or average them apart, by a column or by samples"
_REMEDIES: Final = {
    "grid": f"Analyze both with 'i2am analyze --grid HxW', {_SPLIT_HINT}.",
    "layers": f"Analyze both with 'i2am analyze --layers GLOB', {_SPLIT_HINT}.",
    "heads": f"Leave out hlam and volume, {_SPLIT_HINT}.",
    "steps": f"Leave out volume, {_SPLIT_HINT}.",
    "timesteps": f"Leave out volume, {_SPLIT_HINT}.",
    "time groups": f"Leave out tlam, {_SPLIT_HINT}.",
}
_MEANINGS: Final = {
    LAYER: "layers",
    HEAD: "heads",
    STEP: "steps",
    TIMESTEP: "timesteps",
    FIRST_STEP: "time groups",
    LAST_STEP: "time groups",
}


@dataclass(frozen=True)
class SampleGroup:
    """Samples with the same labels; `node` names the group in a store."""

    node: str
    labels: dict[str, _Label]
    samples: tuple[str, ...]


def group_samples(run: Run, samples: Sequence[str], by: Iterable[str]) -> list[SampleGroup]:
    """Return the samples in groups, sorted by label; samples without a label are a group, too.

    Parameters
    ----------
    run : Run
        The run of the samples.
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
            run[sample]  # Raises, and names the samples that exist.
        row = table.loc[sample]
        found.setdefault(tuple(_plain(row[c]) for c in columns.values()), []).append(sample)
    groups: list[SampleGroup] = []
    for key in sorted(found, key=lambda labels: [_order(label) for label in labels]):
        node = _unused_name("+".join(map(_format_label, key)), [group.node for group in groups])
        groups.append(SampleGroup(node, dict(zip(columns, key, strict=True)), tuple(found[key])))
    return groups


def _column(name: str, columns: list[str], known: list[str], run: Run) -> str:
    # A label has precedence over a field of the capture's provenance with the same name.
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


def _format_label(label: _Label) -> str:
    if label is None:
        return "none"
    return f"{label:g}" if isinstance(label, float) else str(label)


def _unused_name(text: str, taken: Sequence[str]) -> str:
    """Return a name for a group in a store that is like none of the others.

    Examples
    --------
    >>> _unused_name("tops/red", []), _unused_name("a B", ["A_b"])
    ('tops_red', 'a_B-2')
    """
    name = _OTHER_CHARACTERS.sub("_", text).lstrip("._") or "group"
    # Some file systems do not distinguish "a" and "A"; zarr.json is a file of Zarr.
    used = {"zarr.json", *(other.casefold() for other in taken)}
    number = 1
    while (free := name if number == 1 else f"{name}-{number}").casefold() in used:
        number += 1
    return free


def check_same_layout(
    name: str,
    sample: Mapping[str, xr.Dataset],
    other_name: str,
    other: Mapping[str, xr.Dataset],
) -> None:
    """Check that the maps of two samples have the same layout, so that they can be averaged.

    Parameters
    ----------
    name, other_name : str
        The samples.
    sample, other : mapping of str to Dataset
        Their maps by direction.

    Raises
    ------
    AnalysisError
        If they differ in direction, level, grid, layers, heads or time: which sample, and in what.
    """
    wanted, found = _contents(other), _contents(sample)
    if found != wanted:
        msg = (
            f"Expected {wanted} as {other_name} has, got {found}, at {name}. "
            f"Leave out the levels that not all have, {_SPLIT_HINT}."
        )
        raise AnalysisError(msg)
    for direction, maps in other.items():
        _check_direction(f"{direction} of {name}", sample[direction], other_name, maps)


def _check_direction(where: str, maps: xr.Dataset, other_name: str, other: xr.Dataset) -> None:
    differences = []
    wanted, found = _grid(other), _grid(maps)
    if found != wanted:
        differences.append(("grid", wanted, found))
    # Labels first: what else lies along a dimension differs with them.
    for coordinate in sorted(other.coords, key=lambda name: name not in other.dims):
        name = str(coordinate)
        if name in _PLANES:
            continue  # Images of other sizes have maps on one grid; see `shared_pixels`.
        mine, theirs = maps[name].to_numpy(), other[name].to_numpy()
        if not np.array_equal(mine, theirs):
            what = _MEANINGS.get(name, name)
            differences.append(
                (what, _describe_labels(theirs, mine), _describe_labels(mine, theirs))
            )
    if differences:
        what, expected, got = differences[0]
        remedy = _REMEDIES.get(what, f"Analyze both with the same options, {_SPLIT_HINT}.")
        msg = f"Expected the {what} of {other_name} ({expected}), got {got}, at {where}. {remedy}"
        raise AnalysisError(msg)


def shared_pixels(maps: xr.Dataset, other: xr.Dataset) -> list[str]:
    """Return the dimensions of the plane that have the same coordinates in two samples' maps."""
    return [
        dim
        for dim in _PLANES
        if dim in maps.coords and dim in other.coords and maps[dim].equals(other[dim])
    ]


def _contents(maps: Mapping[str, xr.Dataset]) -> str:
    return ", ".join(f"{direction}/{level}" for direction in maps for level in maps[direction])


def _grid(maps: xr.Dataset) -> str:
    for direction in DIRECTIONS.values():
        if direction.plane[0] in maps.dims:
            return "x".join(str(maps.sizes[dim]) for dim in direction.plane)
    return "none"


def _describe_labels(values: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> str:
    """Return labels in words; of texts those that the other lacks."""
    if values.dtype.kind in "iu":
        return format_labels(values.tolist())
    own = [repr(value) for value in values.tolist() if value not in other.tolist()]
    if not own:
        return f"{len(values)} of them" if len(values) != len(other) else "in another order"
    return ", ".join(own[:3]) + (", …" if own[3:] else "")
