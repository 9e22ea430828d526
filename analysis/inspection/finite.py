"""Values of a captured sample that are not finite, with their places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.finite import describe_place, not_finite
from i2am.schemas import Fault
from i2am.schemas.dims import GUIDANCE, STEP

__all__ = ["iter_not_finite"]


def iter_not_finite(sample: xr.DataTree) -> Iterator[Fault]:
    """Yield a fault for each array of a sample's layers that holds a value that is not finite.

    All of the sample is read, a block at a time.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.

    Yields
    ------
    Fault
        Of the first such value: its array, and its step, head and token.

    Examples
    --------
    >>> query = xr.DataArray(np.array([[[0.0], [np.nan]]]), dims=("step", "generated", "channel"))
    >>> sample = xr.DataTree.from_dict({"/layers/down": xr.Dataset({"query": query})}, name="a")
    >>> [str(fault) for fault in iter_not_finite(sample)]
    ['a/layers/down/query: expected finite numbers, got nan at step 0, generated 1']
    """
    layers = sample.children["layers"].children if "layers" in sample.children else {}
    for layer, node in layers.items():
        for name, array in node.dataset.variables.items():
            if array.dtype.kind == "f":
                yield from _first(sample, f"{sample.name}/layers/{layer}/{name}", str(name), array)


def _first(sample: xr.DataTree, place: str, name: str, array: xr.Variable) -> Iterator[Fault]:
    for begins, values in _blocks(array):
        found = not_finite(name, values)
        if found.any():
            inside = np.unravel_index(found.argmax(), found.shape)
            index = [begin + int(at) for begin, at in zip(begins, inside, strict=True)]
            at = dict(zip(map(str, array.dims), index, strict=True))
            for dim in (GUIDANCE, STEP):
                if dim in at and dim in sample.coords:
                    at[dim] = sample.coords[dim].to_numpy()[at[dim]]
            message = f"expected finite numbers, got {values[inside]} at {describe_place(at)}"
            yield Fault(place, message)
            return


def _blocks(array: xr.Variable) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Yield where each block of an array begins, and its values."""
    if array.chunks is None:
        yield (0,) * array.ndim, array.to_numpy()
        return
    begins = [np.cumsum([0, *lengths[:-1]]).tolist() for lengths in array.chunks]
    for number in np.ndindex(*(len(lengths) for lengths in array.chunks)):
        block = array.data.blocks[number].compute()
        yield tuple(own[at] for own, at in zip(begins, number, strict=True)), block
