"""One layer of one sample on its way to the store: factors or logits, float16 while they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from i2am.capture.writer import Array, BackgroundWriter, GrowingArray, write_array
from i2am.schemas import LayerAttributes, dims

__all__ = ["LayerWriter"]


class LayerWriter:
    """Writes the arrays of one layer, step by step.

    Parameters
    ----------
    parent : zarr.Group
        The sample's group ``layers``.
    name : str
        The layer's group.
    attributes : LayerAttributes
    halves : sequence of str
        Labels of the guidance halves; one half alone has no guidance dimension.
    dtype : dtype
        Wanted dtype. A value that does not fit turns the whole layer to float32.
    writer : BackgroundWriter
    """

    def __init__(
        self,
        parent: zarr.Group,
        name: str,
        attributes: LayerAttributes,
        halves: Sequence[str],
        dtype: np.dtype[Any],
        writer: BackgroundWriter,
    ) -> None:
        self._group = parent.create_group(name, attributes=attributes.to_store())
        self._guidance = (dims.GUIDANCE,) if len(halves) > 1 else ()
        self._dtype, self._writer = dtype, writer
        self._arrays: dict[str, GrowingArray] = {}
        self._constant_key: Array | None = None

    def put_logits(self, step: int, logits: Array) -> None:
        """Take one step's logits, dims (guidance, head, generated, reference), float32."""
        self._put("logits", step, logits)

    def put_factors(self, step: int, query: Array, key: Array) -> None:
        """Take one step's factors, dims (guidance, head, token, channel), float32.

        Keys that never change are kept once, without a step dimension.
        """
        self._put("query", step, query)
        if "key" in self._arrays:
            self._put("key", step, key)
        elif self._constant_key is None or step == 0:
            self._constant_key = key
        elif not np.array_equal(key, self._constant_key):
            for earlier in range(step):
                self._put("key", earlier, self._constant_key)
            self._put("key", step, key)
            self._constant_key = None

    def close(self) -> None:
        """Write what is left; the background writer must be closed after this."""
        for array in self._arrays.values():
            array.close()
        if self._constant_key is not None:
            key = self._fit(self._without_guidance(self._constant_key))
            names = (*self._guidance, dims.HEAD, dims.REFERENCE, dims.CHANNEL)
            self._constant_key = None

            def write() -> None:
                write_array(self._group, "key", key, names, key.shape)

            self._writer.submit(key.nbytes, write)

    def _put(self, name: str, step: int, values: Array) -> None:
        slab = self._fit(self._without_guidance(values))
        if name not in self._arrays:
            required = dims.LAYER_ARRAYS[name][1]
            names = (dims.STEP, *(d for d in required if d != dims.STEP))
            self._arrays[name] = GrowingArray(
                self._group, name, (*self._guidance, *names), slab.shape, self._dtype, self._writer
            )
        self._arrays[name].put(step, slab)

    def _fit(self, values: Array) -> Array:
        """Cast to the layer's dtype, or widen the layer when that would lose a finite value."""
        if self._dtype == np.float16:
            with np.errstate(over="ignore"):
                narrow = values.astype(np.float16)
            if not (np.isinf(narrow) & np.isfinite(values)).any():
                return narrow
            self._dtype = np.dtype(np.float32)
            for array in self._arrays.values():
                array.widen()
        return values.astype(self._dtype)

    def _without_guidance(self, values: Array) -> Array:
        return values if self._guidance else values[0]
