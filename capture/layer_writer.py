"""One layer of one sample on its way to the store: factors, logits or maps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import zarr

from i2am.capture.codec import Array
from i2am.capture.stream import Stream
from i2am.capture.writer import GrowingArray
from i2am.schemas import LayerAttributes
from i2am.schemas.dims import LAYER_ARRAYS, STEP

__all__ = ["LayerWriter"]

# The others are always float32.
_NARROW_ARRAYS = {"query", "key", "logits"}


class LayerWriter:
    """Writes the arrays of one layer, step by step.

    Parameters
    ----------
    parent : zarr.Group
        The sample's group ``layers``.
    name : str
        The layer's group.
    attributes : LayerAttributes
    dtype : dtype
        Wanted dtype of queries, keys and logits, float16 or float32. A finite value that does not
        fit turns them all to float32.
    stream : Stream
    halves : tuple of str, optional
        Labels of the guidance halves, in their order; one half alone has no guidance dimension.
        None while it is not known which will come.
    """

    def __init__(
        self,
        parent: zarr.Group,
        name: str,
        attributes: LayerAttributes,
        dtype: np.dtype[Any],
        stream: Stream,
        halves: tuple[str, ...] | None,
    ) -> None:
        self._parent, self._name, self._attributes = parent, name, attributes
        self._dtype, self._stream, self._halves = dtype, stream, halves
        self._arrays: dict[str, GrowingArray] = {}

    def put(self, position: int, half: str, arrays: Mapping[str, torch.Tensor]) -> None:
        """Take one guidance half of one step; may block while the memory is full.

        Parameters
        ----------
        position : int
            0, 1, 2 … among the steps that are kept. The latest may be put again: it replaces.
        half : str
        arrays : mapping of str to Tensor, dims (head, token[, channel])
            By the contract's names; any device, float32, float16 or bfloat16, may be views.

        Raises
        ------
        CaptureError
            If something that was put before could not be written.
        """
        self._stream.send(arrays, partial(self._take, position, half))

    def close(self, halves: tuple[str, ...]) -> None:
        """Hand what is left to the stream, which must be closed after this.

        Parameters
        ----------
        halves : tuple of str
            Labels of the guidance halves that were put, in the order of the store.
        """
        self._stream.call(partial(self._finish, halves))

    def _take(self, position: int, half: str, arrays: Mapping[str, torch.Tensor]) -> None:
        values = {name: _to_array(tensor) for name, tensor in arrays.items()}
        slabs = {name: self._fit(name, array) for name, array in values.items()}
        if self._dtype == np.float16 and any(_overflows(values[n], slabs[n]) for n in slabs):
            self._dtype = np.dtype(np.float32)
            for name in _NARROW_ARRAYS & self._arrays.keys():
                self._arrays[name].widen()
            slabs = {name: self._fit(name, array) for name, array in values.items()}
        for name, slab in slabs.items():
            if name not in self._arrays:
                self._arrays[name] = self._open(name, slab.dtype)
            self._arrays[name].put(position, half, slab)

    def _open(self, name: str, dtype: np.dtype[Any]) -> GrowingArray:
        left_out, required = LAYER_ARRAYS[name]
        return GrowingArray(
            self._parent.store_path / self._name / name,
            [dim for dim in required if dim != STEP],
            dtype,
            self._stream,
            self._halves,
            may_be_constant=STEP in left_out,
        )

    def _fit(self, name: str, values: Array) -> Array:
        dtype = self._dtype if name in _NARROW_ARRAYS else np.dtype(np.float32)
        with np.errstate(over="ignore"):
            return values.astype(dtype, copy=False)

    def _finish(self, halves: tuple[str, ...]) -> None:
        for array in self._arrays.values():
            array.close(halves)
        self._stream.write(0, self._write_metadata)

    def _write_metadata(self) -> None:
        group = self._parent.create_group(self._name, attributes=self._attributes.to_store())
        for name, array in self._arrays.items():
            array.write_metadata(group, name)


def _to_array(tensor: torch.Tensor) -> Array:
    values: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return values


def _overflows(values: Array, narrow: Array) -> bool:
    if narrow.dtype == values.dtype:
        return False
    return bool((np.isinf(narrow) & np.isfinite(values)).any())
