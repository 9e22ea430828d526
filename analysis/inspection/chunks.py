"""The chunks of stores without an inventory, averages and differences: whether each is there and right."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import zarr

from i2am.analysis.inspection.facts import UNREADABLE, reason_of
from i2am.schemas import Fault, StorageError
from i2am.storage.integrity import Progress

__all__ = ["iter_chunk_faults"]


def iter_chunk_faults(
    root: zarr.Group, name: str | None = None, progress: Progress | None = None
) -> Iterator[Fault]:
    """Yield what is wrong with the chunks of maps below a root.

    Every chunk of them is written, those without a value, too, so one that is not there is lost.

    Parameters
    ----------
    root : zarr.Group
        Of averages or differences.
    name : str, optional
        Of the one member that is looked at.
    progress : callable (int) -> None, optional
        Read every chunk, by its checksum; called with the bytes of values.
    """
    for place, array in _arrays(root, name):
        try:
            count, wanted = array.nchunks_initialized, array.nchunks
            if array.ndim > 1 and count < wanted:
                yield Fault(place, f"expected {wanted} chunks, got {count}")
            elif progress is not None:
                for region in _regions(array):
                    progress(np.asarray(array[region]).nbytes)
        except StorageError:
            raise
        except UNREADABLE as e:
            yield Fault(place, f"expected values as they were written, got this: {reason_of(e)}")


def _arrays(root: zarr.Group, name: str | None) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """Yield the arrays of members whose metadata can be read; what cannot is told elsewhere."""
    for own in sorted(root.group_keys()) if name is None else [name]:
        try:
            node = zarr.open(root.store_path / own, mode="r")
            members = sorted(node.members(max_depth=None)) if isinstance(node, zarr.Group) else []
        except StorageError:
            raise
        except UNREADABLE:
            continue
        for path, member in members:
            if isinstance(member, zarr.Array):
                yield f"{own}/{path}", member


def _regions(array: zarr.Array[Any]) -> Iterator[tuple[slice, ...]]:
    """Yield the region of each chunk."""
    begins = [range(0, size, chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    for begin in product(*begins):
        yield tuple(slice(at, at + size) for at, size in zip(begin, array.chunks, strict=True))
