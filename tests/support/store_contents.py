"""What a store holds, read by plain zarr, to be compared as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

__all__ = ["contents_of", "differences"]

# What may differ between two runs of one command: times, versions, who wrote it, and what follows.
IGNORED = {"created", "source_created", "versions", "objects", "digest", "owner"}


def contents_of(path: Path) -> dict[str, Any]:
    """Return the attributes and values of every group and array below a group, as one mapping."""
    found: dict[str, Any] = {}
    for metadata in path.rglob("zarr.json"):
        name = str(metadata.parent.relative_to(path)).removeprefix(".")
        if any(part.startswith(".") for part in metadata.relative_to(path).parts):
            continue  # No samples: who writes, and what is not finished.
        node: Any = zarr.open(metadata.parent, mode="r", zarr_format=3)
        found[f"{name} attributes"] = _without_ignored(dict(node.attrs))
        if isinstance(node, zarr.Array):
            values = np.asarray(node[...])
            is_text = values.dtype.kind in "TOU"
            found[f"{name} values"] = (
                str(values.dtype),
                values.shape,
                getattr(node.metadata, "dimension_names", None),
                values.tolist() if is_text else values.tobytes(),
            )
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same in two stores' contents."""
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )


def _without_ignored(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_ignored(v) for k, v in value.items() if k not in IGNORED}
    return value
