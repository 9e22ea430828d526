"""What a store holds, to compare two of them value by value."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from i2am.storage.addresses import member_names, own_attributes

__all__ = ["complete_samples", "sample_values"]

Values = dict[str, tuple[tuple[int, ...], str, str]]


def complete_samples(store: Any) -> dict[str, Values]:
    """Return the values of each complete sample of a run or a maps store, read by plain zarr.

    Parameters
    ----------
    store : Path or zarr Store
    """
    if isinstance(store, Path) and not (store / "zarr.json").exists():
        return {}
    found: dict[str, Values] = {}
    root: Any = zarr.open_group(store, mode="r")
    for name in sorted(member_names(root)):
        try:
            group = root[name]
        except (KeyError, ValueError):  # Its own metadata did not come, or a half of them.
            continue
        if own_attributes(group).get("status") == "complete":
            found[name] = sample_values(group)
    return found


def sample_values(group: zarr.Group) -> Values:
    """Return shape, dtype and a digest of every array below a group, by path."""
    return {
        path: (array.shape, str(array.dtype), _digest(np.asarray(array[...])))
        for path, array in group.members(max_depth=None)
        if isinstance(array, zarr.Array)
    }


def _digest(values: np.ndarray[Any, Any]) -> str:
    if values.dtype.kind in "TO":
        return repr(values.tolist())
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
