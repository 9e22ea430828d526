"""A stored array of which every read is what was written, or an error."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from i2am.analysis.stores.sealed_chunks import SealedArray, is_sealed
from i2am.schemas import I2AMError, StoreError
from i2am.storage.failures import storage_error
from i2am.storage.guard.guarded_store import native_array
from i2am.storage.integrity import damaged_values
from i2am.storage.inventory import ObjectFacts
from i2am.storage.objects import local_path
from i2am.storage.sample_state import SampleState

__all__ = ["StoredArray"]

_ZARRS_PIPELINE: Final = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}


class StoredArray:
    """An array of a sample as Dask reads it; can be pickled.

    Parameters
    ----------
    array : zarr.Array
    state : SampleState, optional
        Of its sample; without it nothing is known of one that was replaced.
    """

    def __init__(self, array: zarr.Array[Any], state: SampleState | None = None) -> None:
        self.array, self._state = array, state
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        is_block = isinstance(selection, tuple) and all(isinstance(at, slice) for at in selection)
        if is_block and self._sealed is not None:
            return self.read(lambda array: array.oindex[selection], natively=True)
        return self.read(lambda array: array[selection])

    def __deepcopy__(self, memo: object) -> StoredArray:
        return self  # A deep copy of a store in memory would copy all that it holds.

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in vars(self).items() if key not in {"_native", "_sealed"}
        }

    def read(
        self, read: Callable[[zarr.Array[Any]], Any], *, natively: bool = False
    ) -> NDArray[Any]:
        """Return what `read` takes from the array.

        Parameters
        ----------
        read : callable (zarr.Array) -> array
        natively : bool
            Read without zarr if the store lies on a disk; `read` may use ``oindex`` alone.

        Raises
        ------
        StoreError
            If a value is not the one that was written, or the sample was replaced since it was
            opened.
        """
        try:
            native = self._native if natively else None
            values = np.asarray(read(self.array if native is None else native))
            if native is not None:
                self._check_files()
        except (ValueError, RuntimeError, OSError, I2AMError) as e:
            if self._state is not None:
                self._state.check_same()  # Of a sample that was replaced files may be missing.
            if isinstance(e, I2AMError):
                raise
            if isinstance(e, OSError) and e.errno not in {None, errno.ENOENT}:
                raise storage_error(e, self.array.store_path) from e
            raise self._explained(e) from e
        if self._state is not None:
            self._state.check_same()
        return values

    @functools.cached_property
    def _sealed(self) -> SealedArray | None:
        """What reads the array without zarr or zarrs, if capture's own layout is what it has."""
        native = native_array(self.array)
        return SealedArray(native) if native is not None and is_sealed(native) else None

    @functools.cached_property
    def _native(self) -> Any:
        """What reads parts of the array fast: not zarrs where it would pass over checksums."""
        native = native_array(self.array)
        if self._sealed is not None or native is None or _has_checksums(native):
            return self._sealed
        with zarr.config.set(_ZARRS_PIPELINE):
            return native.with_config(native.config)

    def _check_files(self) -> None:
        """Raise if a file of the array is not there: a native reader has taken it for zeros."""
        folder = None if self._state is None else local_path(self._state.path)
        if folder is None:
            return
        for name in self._objects():
            if not (folder / name).is_file():
                raise FileNotFoundError(name)

    def _objects(self) -> dict[str, ObjectFacts]:
        """Return the array's objects by their path below the sample; none if they are not listed."""
        inventory = None if self._state is None else self._state.inventory
        start = f"{self._inner_path}/c"
        objects = {} if inventory is None else inventory.objects
        return {name: facts for name, facts in objects.items() if name.startswith(start)}

    @property
    def _sample_path(self) -> str:
        return "" if self._state is None else self._state.path.path

    @property
    def _inner_path(self) -> str:
        return self.array.path.removeprefix(f"{self._sample_path}/")

    def _explained(self, error: Exception) -> StoreError:
        """Return what to tell of a read that failed: which object is damaged, if that can be known."""
        place, reason = self.array.store_path, str(error).partition("\n")[0] or type(error).__name__
        if self._state is not None and (objects := self._objects()):
            damaged = damaged_values(self._state.path, objects, self._inner_path)
            if (found := next(damaged, None)) is not None:
                place, reason = self._state.path / found[0], found[1]
        msg = (
            f"Expected values as they were written, got this: {reason}, at {place}. "
            "'i2am repair' lists the samples that must be made again."
        )
        return StoreError(msg)


def _has_checksums(array: zarr.Array[Any]) -> bool:
    return "crc32c" in str(array.metadata.to_dict().get("codecs"))
