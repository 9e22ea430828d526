"""Compare two Zarr stores array by array, bit by bit: ``python tools/compare_stores.py A.zarr B.zarr``.

Plain zarr reads both, nothing of i2am does: whether a change of the code changed what it writes
must not be answered by the code. Prints one line a difference, then a summary; exit code 1 when
there is a difference. What shall be identical is groups, names, attributes, and each array's
dtype, shape, dimension names and values, NaNs by their bits; how an array is cut into chunks and
compressed may differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

# Attributes that differ from run to run, wherever they stand below a group's own.
IGNORED = {
    "created": "when the sample was captured",
    "source_created": "the same of the sample that a map was computed from",
    "source": "where the run lies that maps were computed from",
    "versions": "of Python, torch and the other packages: the environment's, not the store's",
}
_SHOWN = 100  # characters of a value
_SLICE_BYTES = 64 * 2**20  # of two arrays at a time, as stores may be larger than memory


def main() -> int:
    """Compare the stores that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("stores", nargs=2, type=Path, metavar="STORE")
    first, second = (_nodes(path) for path in parser.parse_args().stores)
    differences = list(compare(first, second))
    for line in differences:
        print(line)
    arrays = sum(isinstance(node, zarr.Array) for node in first.values())
    counts = f"{len(first) - arrays} groups and {arrays} arrays"
    if differences:
        print(f"{len(differences)} differences; the first store holds {counts}")
        return 1
    print(f"{counts} are bit-identical")
    return 0


def compare(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Yield one line for each difference of two stores' nodes."""
    for name in sorted(first.keys() | second.keys()):
        if name not in second:
            yield f"{name}: only in the first store"
        elif name not in first:
            yield f"{name}: only in the second store"
        elif isinstance(first[name], zarr.Array) != isinstance(second[name], zarr.Array):
            yield f"{name}: a group in one store, an array in the other"
        else:
            a, b = (dict(node.attrs) for node in (first[name], second[name]))
            yield from _compare_attributes(f"{name}: attribute", a, b)
            if isinstance(first[name], zarr.Array):
                yield from _compare_arrays(name, first[name], second[name])


def _nodes(path: Path) -> dict[str, Any]:
    """Return every group and array of a store by its path; the root is ``/``."""
    root = zarr.open_group(path, mode="r")
    return {"/": root, **dict(root.members(max_depth=None))}


def _compare_attributes(where: str, first: Any, second: Any) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted((first.keys() | second.keys()) - IGNORED.keys()):
            missing = "absent"  # No JSON value is this very object.
            yield from _compare_attributes(
                f"{where} {key}", first.get(key, missing), second.get(key, missing)
            )
    elif repr(first) != repr(second):  # NaN is itself, and 1 is neither 1.0 nor true.
        yield f"{where}: {_short(first)} or {_short(second)}"


def _compare_arrays(name: str, first: Any, second: Any) -> Iterator[str]:
    for what in ("dtype", "shape"):
        a, b = getattr(first, what), getattr(second, what)
        if a != b:
            yield f"{name}: {what} {a} or {b}"
            return
    a, b = (getattr(array.metadata, "dimension_names", None) for array in (first, second))
    if a != b:
        yield f"{name}: dimension names {a} or {b}"
    rows = 1 if not first.ndim else first.shape[0]
    step = max(1, _SLICE_BYTES * rows // max(1, int(first.nbytes)))
    differing = 0
    for start in range(0, rows, step):
        part = ... if not first.ndim else slice(start, start + step)
        differing += int(np.count_nonzero(_bits(first[part]) != _bits(second[part])))
    if differing:
        yield f"{name}: {differing} of {int(first.size)} values differ"


def _bits(values: Any) -> Any:
    """Return numbers as unsigned integers of their size; text as it is."""
    found = np.ascontiguousarray(values)
    return found.view(f"u{found.dtype.itemsize}") if found.dtype.kind in "iuf" else found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
