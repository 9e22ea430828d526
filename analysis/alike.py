"""Whether maps of two samples can be averaged: on one grid, of the same layers, heads and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xarray as xr

from i2am.analysis.selection import spell
from i2am.schemas import AnalysisError
from i2am.schemas.dims import FIRST_STEP, HEAD, LAST_STEP, LAYER, PLANES, STEP, TIMESTEP

__all__ = ["check_alike"]

_APART: Final = "or average them apart, by a column or by samples"
_REMEDIES: Final = {
    "grid": f"Analyse both with 'i2am analyze --grid HxW', {_APART}.",
    "layers": f"Analyse both with 'i2am analyze --layers GLOB', {_APART}.",
    "heads": f"Leave out hlam and volume, {_APART}.",
    "steps": f"Leave out volume, {_APART}.",
    "timesteps": f"Leave out volume, {_APART}.",
    "time groups": f"Leave out tlam, {_APART}.",
}
_WHAT: Final = {
    LAYER: "layers",
    HEAD: "heads",
    STEP: "steps",
    TIMESTEP: "timesteps",
    FIRST_STEP: "time groups",
    LAST_STEP: "time groups",
}


def check_alike(
    name: str,
    sample: Mapping[str, xr.Dataset],
    other_name: str,
    other: Mapping[str, xr.Dataset],
) -> None:
    """Check that maps of a sample can be averaged with those of another.

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
            f"Leave out the levels that not all have, {_APART}."
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
        mine, theirs = maps[name].to_numpy(), other[name].to_numpy()
        if not np.array_equal(mine, theirs):
            what = _WHAT.get(name, name)
            differences.append((what, _tell(theirs, mine), _tell(mine, theirs)))
    if differences:
        what, expected, got = differences[0]
        remedy = _REMEDIES.get(what, f"Analyse both alike, {_APART}.")
        msg = f"Expected the {what} of {other_name} ({expected}), got {got}, at {where}. {remedy}"
        raise AnalysisError(msg)


def _contents(maps: Mapping[str, xr.Dataset]) -> str:
    return ", ".join(f"{direction}/{level}" for direction in maps for level in maps[direction])


def _grid(maps: xr.Dataset) -> str:
    for plane in PLANES.values():
        if plane[0] in maps.dims:
            return "x".join(str(maps.sizes[dim]) for dim in plane)
    return "none"


def _tell(values: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> str:
    """Return labels in words; of texts those that the other lacks."""
    if values.dtype.kind in "iu":
        return spell(values.tolist())
    own = [repr(value) for value in values.tolist() if value not in other.tolist()]
    if not own:
        return f"{len(values)} of them" if len(values) != len(other) else "in another order"
    return ", ".join(own[:3]) + (", …" if own[3:] else "")
