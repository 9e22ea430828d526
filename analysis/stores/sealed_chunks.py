"""Read parts of arrays as capture writes them: plain values, each chunk with its checksum.

A request for one patch reads the chunks that hold it, and no more. zarr does so, too, but takes many
times as long; zarrs is as fast, but looks at no checksum of a chunk within a shard unless it reads
the whole shard. So the layout that capture writes is read here, with NumPy alone.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from i2am.storage.integrity import ABSENT, INDEX_ENTRY_BYTES
from i2am.storage.inventory import CHECKSUM_BYTES

__all__ = ["SealedArray", "is_sealed"]

_CHECKSUM: Final = {"name": "crc32c"}
_BYTES: Final = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})
# A pipe would be waited for; where the flag does not exist, neither do pipes with names.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_Index = slice | NDArray[np.intp]


def is_sealed(array: zarr.Array[Any]) -> bool:
    """Whether an array lies on a disk, uncompressed and with checksums, so that it can be read here."""
    if not isinstance(array.store, LocalStore) or array.metadata.zarr_format != 3:
        return False
    codecs = _codecs(array)
    if codecs and codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        return (
            len(codecs) == 1 and _are_plain(inner["codecs"]) and _are_plain(inner["index_codecs"])
        )
    return _are_plain(codecs)


def _codecs(array: zarr.Array[Any]) -> list[Any]:
    found: Any = array.metadata.to_dict()["codecs"]
    return list(found)


def _are_plain(codecs: Sequence[Mapping[str, Any]]) -> bool:
    return len(codecs) == 2 and codecs[0] in _BYTES and dict(codecs[1]) == _CHECKSUM


class SealedArray:
    """An array that is sealed (see `is_sealed`), as something that can be indexed along each dimension.

    Parameters
    ----------
    array : zarr.Array

    Examples
    --------
    ::

        SealedArray(array).oindex[[0, 3], slice(None), slice(5, 6)]
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array, self._root = array, Path(array.store.root)  # type: ignore[attr-defined]
        self._dtype = array.dtype.newbyteorder("<")
        self._chunk = array.chunks
        self._shard = array.shards or array.chunks
        self._chunk_bytes = math.prod(self._chunk) * self._dtype.itemsize
        codec = _codecs(array)[0]
        self._is_sharded = codec["name"] == "sharding_indexed"
        self._has_index_first = codec.get("configuration", {}).get("index_location") == "start"

    @property
    def oindex(self) -> SealedArray:
        """Itself: every index is along one dimension."""
        return self

    def __getitem__(self, selection: tuple[_Index | Sequence[int], ...]) -> NDArray[Any]:
        """Return what is selected: of each dimension a slice, or positions, ascending.

        Raises
        ------
        ValueError
            If a chunk or an index is not what was written.
        OSError
            If a file cannot be read.
        """
        parts = [
            list(_parts(np.arange(size)[index], length))
            for index, size, length in zip(selection, self._array.shape, self._chunk, strict=True)
        ]
        shape = [sum(part.size for part in own) for own in parts]
        values = np.empty(shape, self._dtype)
        by_shard: dict[tuple[int, ...], list[tuple[_Part, ...]]] = {}
        for chunk in itertools.product(*parts):
            steps = zip(chunk, self._chunk, self._shard, strict=True)
            shard = tuple(part.chunk * length // outer for part, length, outer in steps)
            by_shard.setdefault(shard, []).append(chunk)
        for shard, chunks in by_shard.items():
            self._read(shard, chunks, values)
        return values.astype(self._array.dtype, copy=False)

    def _read(
        self, shard: tuple[int, ...], chunks: list[tuple[_Part, ...]], values: NDArray[Any]
    ) -> None:
        """Read some chunks of a shard; what has no file gets its fill value."""
        key = self._array.metadata.encode_chunk_key(shard)
        path = self._root / self._array.path / key
        try:
            file = os.fdopen(os.open(path, _FLAGS), "rb", buffering=0)
        except FileNotFoundError:
            for chunk in chunks:
                values[_target(chunk)] = self._array.fill_value
            return
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                msg = "no file of its own"
                raise ValueError(msg)
            index = self._index(file, status.st_size)
            for chunk in chunks:
                offset, length = index[self._number(chunk)]
                if offset == ABSENT:
                    values[_target(chunk)] = self._array.fill_value
                    continue
                if length != self._chunk_bytes + CHECKSUM_BYTES:
                    msg = f"expected a chunk of {self._chunk_bytes} bytes and a checksum, got {length}"
                    raise ValueError(msg)
                self._read_chunk(file, int(offset), chunk, values)

    def _read_chunk(
        self, file: BinaryIO, offset: int, chunk: tuple[_Part, ...], values: NDArray[Any]
    ) -> None:
        target = values[_target(chunk)]
        if target.shape == self._chunk and target.flags.c_contiguous:
            _read_sealed(file, offset, target.reshape(-1).view(np.uint8).data)
            return
        content = bytearray(self._chunk_bytes)
        _read_sealed(file, offset, memoryview(content))
        block = np.frombuffer(content, self._dtype).reshape(self._chunk)
        if all(isinstance(part.inside, slice) for part in chunk):
            target[:] = block[tuple(part.inside for part in chunk)]
        else:
            inside = (np.arange(n)[p.inside] for n, p in zip(self._chunk, chunk, strict=True))
            target[:] = block[np.ix_(*inside)]

    def _index(self, file: BinaryIO, size_bytes: int) -> NDArray[np.uint64]:
        """Return offset and length of each chunk of a file."""
        if not self._is_sharded:
            return np.array([[0, size_bytes]], np.uint64)
        counts = (outer // inner for outer, inner in zip(self._shard, self._chunk, strict=True))
        length = math.prod(counts) * INDEX_ENTRY_BYTES + CHECKSUM_BYTES
        begin = 0 if self._has_index_first else max(0, size_bytes - length)
        content = bytearray(max(0, min(length, size_bytes) - CHECKSUM_BYTES))
        _read_sealed(file, begin, memoryview(content))
        return np.frombuffer(content, "<u8").reshape(-1, 2)

    def _number(self, chunk: tuple[_Part, ...]) -> int:
        """Return the position of a chunk in its shard."""
        counts = [outer // inner for outer, inner in zip(self._shard, self._chunk, strict=True)]
        inside = [part.chunk % count for part, count in zip(chunk, counts, strict=True)]
        return int(np.ravel_multi_index(inside, counts))


@dataclass(frozen=True)
class _Part:
    """What is selected of one chunk along one dimension.

    Parameters
    ----------
    chunk : int
        Its number along the dimension.
    inside : slice or array
        What is taken of it.
    begin, size : int
        Where that goes, and how much it is.
    """

    chunk: int
    inside: _Index
    begin: int
    size: int


def _parts(positions: NDArray[np.intp], length: int) -> Iterator[_Part]:
    """Yield what ascending positions take of each chunk of a length.

    Examples
    --------
    >>> [(part.chunk, part.begin, part.size) for part in _parts(np.array([1, 2, 9]), 5)]
    [(0, 0, 2), (1, 2, 1)]
    """
    chunks, begins, counts = np.unique(positions // length, return_index=True, return_counts=True)
    for chunk, begin, count in zip(chunks.tolist(), begins.tolist(), counts.tolist(), strict=True):
        own = positions[begin : begin + count] - chunk * length
        is_run = int(own[-1]) - int(own[0]) + 1 == count
        yield _Part(chunk, slice(int(own[0]), int(own[-1]) + 1) if is_run else own, begin, count)


def _target(chunk: tuple[_Part, ...]) -> tuple[slice, ...]:
    """Return where what is taken of a chunk goes."""
    return tuple(slice(part.begin, part.begin + part.size) for part in chunk)


def _read_sealed(file: BinaryIO, offset: int, target: memoryview) -> None:
    """Fill memory with bytes that their checksum follows.

    Raises
    ------
    ValueError
        If it is another one, or the file is too short.
    """
    file.seek(offset)
    done = 0
    while count := file.readinto(target[done:]):  # type: ignore[attr-defined]
        done += count
    if done < len(target) or crc32c.crc32c(target).to_bytes(4, "little") != file.read(
        CHECKSUM_BYTES
    ):
        msg = "the checksum is invalid"
        raise ValueError(msg)
