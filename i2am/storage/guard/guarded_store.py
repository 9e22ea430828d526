"""A Zarr store as a stranger may have made it: everything is checked before zarr believes it.

Every reading goes through here, whoever wrote the store. Metadata name only what stores of ours are
made of; an object is no larger than it can be, and one that should be there is there, where zarr
would put zeros in its place; nothing outside the store is read. What the values mean is checked
elsewhere, and so are checksums.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any, Final, NoReturn

import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.core.array import AsyncArray
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ObjectStore, StorePath, WrapperStore

from i2am.schemas import StoreError
from i2am.schemas.text import safe_text
from i2am.storage.buckets import BucketStore, read_at_most
from i2am.storage.guard.encoded_chunks import check_chunk, check_shard, needs_look
from i2am.storage.guard.local_objects import LocalObjects
from i2am.storage.guard.node_metadata import MAX_METADATA_BYTES, ArrayLayout, checked_node

__all__ = ["GuardedStore", "check_read_whole", "guarded", "native_array"]

_METADATA: Final = "zarr.json"
# Zarr format 2 names its codecs freely, one that runs a stranger's code among them.
_OLD_METADATA: Final = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata"})
_OBJECT: Final = re.compile(r"(?:(?P<array>.*)/)?c(?:[/.]\d+)*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_MAX_NATIVE_OBJECTS: Final = 2**16
# Of arrays that are looked at again and again; a run of many samples has millions of them.
_MOST_LAYOUTS: Final = 2**12
# All coordinates of a sample together are in memory when it is opened.
_MAX_READ_WHOLE_BYTES: Final = 256 * 2**20


def guarded(store: Store) -> GuardedStore:
    """Return a store to read from, with everything checked.

    Parameters
    ----------
    store : zarr Store
        Any; one that is guarded already is returned as it is.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> store = guarded(MemoryStore())
    >>> store.read_only, guarded(store) is store
    (True, True)
    """
    if isinstance(store, GuardedStore):
        return store
    # One that may be written makes its folder when it is opened.
    return GuardedStore(store.with_read_only(True) if isinstance(store, LocalStore) else store)


def native_array(array: zarr.Array[Any]) -> zarr.Array[Any] | None:
    """Return an array for code that reads its files itself; None where that is not to be trusted.

    Such code takes a missing file for zeros and follows every link, so all that is checked now.

    Parameters
    ----------
    array : zarr.Array
        Of a guarded store.

    Returns
    -------
    zarr.Array or None
        The same array, over the local store itself. Only plain numbers: a decompressor would
        believe what a chunk announces.

    Raises
    ------
    StoreError
        If an object is missing, larger or smaller than it can be, or no file of the store.
    """
    store = array.store
    if not isinstance(store, GuardedStore) or not isinstance(store.local, LocalStore):
        return None
    if not store.check_objects(array.path):
        return None
    own = array._async_array  # There is no public way to exchange the store.
    path = StorePath(store.local, array.path)
    return zarr.Array(AsyncArray(metadata=own.metadata, store_path=path, config=own.config))


def check_read_whole(arrays: Iterable[zarr.Array[Any]], place: str) -> None:
    """Check that arrays that are to be read whole fit into memory, all of them together.

    Raises
    ------
    StoreError
        If they take more than any sample's coordinates do.
    """
    size = sum(array.nbytes for array in arrays)
    if size > _MAX_READ_WHOLE_BYTES:
        msg = (
            f"Expected coordinates of at most {_MAX_READ_WHOLE_BYTES:,} bytes, got {size:,}, "
            f"at {safe_text(place)}. The store is damaged or not one of i2am; do without it."
        )
        raise StoreError(msg)


class GuardedStore(WrapperStore[Store]):
    """Reads another store, and refuses what must not reach zarr. Never writes.

    Parameters
    ----------
    store : zarr Store
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._local = LocalObjects(store.root) if isinstance(store, LocalStore) else None
        self._layouts: dict[str, ArrayLayout | None] = {}

    @property
    def files(self) -> LocalObjects | None:
        """The files of a store in a folder; None of another."""
        return self._local

    async def get_as_stored(self, key: str, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object's bytes as they are, for those who compare them: nothing interprets them.

        Raises
        ------
        StoreError
            If it lies outside the store, is no file, or is metadata beyond all bounds.
        """
        self._check_key(key)
        return await self._read(key, default_buffer_prototype(), byte_range, _most_bytes(key))

    def read_as_stored(
        self, keys: Sequence[str], byte_range: ByteRequest | None = None
    ) -> list[bytes | None]:
        """Return what `get_as_stored` does of several objects; files are read by this thread."""
        if self._local is not None:
            for key in keys:
                self._check_key(key)
            return [self._local.read(key, byte_range, _most_bytes(key)) for key in keys]

        async def read() -> list[Buffer | None]:
            return await asyncio.gather(*(self.get_as_stored(key, byte_range) for key in keys))

        return [None if found is None else found.to_bytes() for found in sync(read())]

    @property
    def unguarded(self) -> Store:
        """The store that this one reads."""
        return self._store

    @property
    def local(self) -> LocalStore | None:
        """The store in a folder that this one reads; None of another."""
        return self._store if isinstance(self._store, LocalStore) else None

    def __str__(self) -> str:
        # What a message names is the user's place, not how it is read.
        return str(self._store.root if isinstance(self._store, LocalStore) else self._store)

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_local": self._local, "_layouts": {}}

    @property
    def read_only(self) -> bool:
        """Always."""
        return True

    def with_read_only(self, read_only: bool = False) -> GuardedStore:
        """Return this store; there is none like it to write to."""
        if not read_only:
            self._check_writable()
        return self

    def _check_writable(self) -> NoReturn:
        msg = f"Expected a store to write to, got one that is read-only, at {self._store}."
        raise ValueError(msg)  # As zarr's own stores do.

    @property
    def supports_writes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Never."""
        return False

    async def set(self, key: str, value: Buffer) -> None:
        """Raise ValueError."""
        self._check_writable()

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Raise ValueError."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Raise ValueError."""
        self._check_writable()

    async def delete_dir(self, prefix: str) -> None:
        """Raise ValueError."""
        self._check_writable()

    async def clear(self) -> None:
        """Raise ValueError."""
        self._check_writable()

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return an object, or a part of it, after all checks; None where there is none.

        Raises
        ------
        StoreError
            If it must not be read, or is missing where an array needs it.
        """
        prototype = prototype or default_buffer_prototype()
        folder, _, name = key.rpartition("/")
        if name in _OLD_METADATA:
            return None
        self._check_key(key)
        if name == _METADATA:
            return await self._metadata(folder, prototype, byte_range)
        match = _OBJECT.fullmatch(key)
        array = None if match is None else match["array"] or ""
        layout = None if array is None else await self._layout(array)
        if array is None or layout is None:
            return await self._read(key, prototype, byte_range, MAX_METADATA_BYTES)
        return await self._object(key, array, layout, prototype, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of objects, as `get`."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether there is an object that may be read."""
        if key.rpartition("/")[2] in _OLD_METADATA:
            return False
        self._check_key(key)
        if self._local is not None:
            return self._local.size(key) is not None
        return await self._store.exists(key)

    async def getsize(self, key: str) -> int:
        """Return an object's size in bytes."""
        self._check_key(key)
        if self._local is None:
            return await self._store.getsize(key)
        if (size := self._local.size(key)) is None:
            raise FileNotFoundError(key)
        return size

    async def _listed(self, names: AsyncIterator[str], prefix: str) -> AsyncIterator[str]:
        if self._local is not None:
            self._local.check_folder(prefix.strip("/"))
        async for name in names:
            yield name

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Return the names below a folder of the store."""
        return self._listed(self._store.list_dir(prefix), prefix)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Return the keys below a folder of the store."""
        return self._listed(self._store.list_prefix(prefix), prefix)

    def check_objects(self, array: str) -> bool:
        """Check every object of an array in a folder; False where they have to be read by zarr.

        Raises
        ------
        StoreError
            If one is missing, larger or smaller than it can be, or no file of the store.
        """
        layout, local = self._layouts.get(array), self._local
        if layout is None or local is None or needs_look(layout):
            return False
        counts = layout.objects_along_dims
        total = 1
        for count in counts:
            total *= count
        if total > _MAX_NATIVE_OBJECTS:
            return False
        for index in itertools.product(*map(range, counts)):
            key = _object_key(array, index, layout.separator)
            size = local.size(key)
            if size is None:
                return False  # Zarr's own reading says what that means.
            if not layout.min_object_bytes <= size <= layout.max_object_bytes:
                self._refuse_size(layout, size, key)
        return True

    def _check_key(self, key: str) -> None:
        parts = key.split("/")
        if key and ("" in parts or "." in parts or ".." in parts):
            self._refuse("names inside the store", repr(key), key)
        if _CONTROL.search(key):
            self._refuse("names without control characters", repr(key), key)

    async def _metadata(
        self, node: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        key = f"{node}/{_METADATA}" if node else _METADATA
        found = await self._read(key, prototype, None, MAX_METADATA_BYTES)
        if found is None:
            self._layouts.pop(node, None)
            return None
        raw, layout = checked_node(found.to_bytes(), self._place(key))
        self._layouts[node] = layout
        if len(self._layouts) > _MOST_LAYOUTS:  # The oldest is read again where it is needed.
            self._layouts.pop(next(iter(self._layouts)), None)
        whole = prototype.buffer.from_bytes(raw)
        if byte_range is None:
            return whole
        if isinstance(byte_range, RangeByteRequest):
            return whole[byte_range.start : byte_range.end]
        if isinstance(byte_range, OffsetByteRequest):
            return whole[byte_range.offset :]
        return whole[max(0, len(whole) - byte_range.suffix) :]

    async def _layout(self, array: str) -> ArrayLayout | None:
        """Return an array's layout; None where there is no array. Another process knows none yet."""
        if array not in self._layouts:
            await self._metadata(array, default_buffer_prototype(), None)
        return self._layouts.get(array)

    async def _object(
        self,
        key: str,
        array: str,
        layout: ArrayLayout,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None,
    ) -> Buffer | None:
        """Return a chunk or a shard, or a part of a shard."""
        if isinstance(byte_range, RangeByteRequest):
            most = max(layout.max_chunk_bytes, layout.index_bytes)
            # Nothing at all would be taken for a chunk of zeros.
            if not 0 < byte_range.end - byte_range.start <= most:
                came = f"{byte_range.start} to {byte_range.end}"
                self._refuse(f"a chunk of 1 to {most:,} bytes in its shard", came, key)
        sizes = layout.max_object_bytes, layout.min_object_bytes
        found = await self._read(key, prototype, byte_range, *sizes)
        if found is None:
            if _may_be_left_out(array, layout):
                return None
            hint = "It was lost, or never written: get the store again, or do without the sample."
            self._refuse("all chunks of the array", "one that is missing", key, hint)
        if needs_look(layout):
            self._check_announced(found, layout, key, byte_range)
        return found

    def _check_announced(
        self, found: Buffer, layout: ArrayLayout, key: str, byte_range: ByteRequest | None
    ) -> None:
        content = memoryview(found.as_buffer_like())
        if not layout.is_sharded:
            if byte_range is None:
                check_chunk(content, layout, self._place(key))
        elif byte_range is None:
            check_shard(content, layout, self._place(key))
        elif isinstance(byte_range, RangeByteRequest) and not (
            layout.index_first and byte_range.start == 0
        ):
            check_chunk(content, layout, self._place(key))

    async def _read(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None,
        max_bytes: int,
        min_bytes: int = 0,
    ) -> Buffer | None:
        if self._local is not None:
            content = await asyncio.to_thread(
                self._local.read, key, byte_range, max_bytes, min_bytes
            )
            return None if content is None else prototype.buffer.from_bytes(content)
        found = await self._remote(key, prototype, byte_range, max_bytes)
        if found is None:
            return None
        if byte_range is None and not min_bytes <= len(found) <= max_bytes:
            sizes = f"{min_bytes:,} to {max_bytes:,}" if min_bytes < max_bytes else f"{max_bytes:,}"
            came = f"{len(found):,}" if len(found) <= max_bytes else "more"
            self._refuse(f"an object of {sizes} bytes", came, key)
        if isinstance(byte_range, RangeByteRequest):
            wanted = byte_range.end - byte_range.start
            if len(found) != wanted:
                self._refuse(f"{wanted:,} bytes", f"{len(found):,}", key)
        return found

    async def _remote(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None, max_bytes: int
    ) -> Buffer | None:
        """Return what another store gives, without more of it in memory than there can be."""
        if byte_range is None and isinstance(self._store, BucketStore):
            return await self._store.get_at_most(key, prototype, max_bytes)
        if byte_range is None and isinstance(self._store, ObjectStore):
            return await read_at_most(self._store.store, key, prototype, max_bytes, self._store)
        if byte_range is None and isinstance(self._store, FsspecStore):
            byte_range = RangeByteRequest(0, max_bytes + 1)
        return await self._store.get(key, prototype, byte_range)

    def _refuse_size(self, layout: ArrayLayout, size: int, key: str) -> NoReturn:
        least, most = layout.min_object_bytes, layout.max_object_bytes
        sizes = f"{least:,} to {most:,}" if least < most else f"{most:,}"
        self._refuse(f"an object of {sizes} bytes", f"{size:,}", key)

    def _place(self, key: str) -> str:
        return safe_text(f"{self}/{key}")

    def _refuse(self, wanted: str, came: str, key: str, hint: str = "") -> NoReturn:
        hint = hint or "The store is damaged; get it again, or do without the sample."
        msg = f"Expected {wanted}, got {came}, at {self._place(key)}. {hint}"
        raise StoreError(msg)


def _object_key(array: str, index: Iterable[int], separator: str) -> str:
    name = separator.join(["c", *map(str, index)])
    return f"{array}/{name}" if array else name


def _most_bytes(key: str) -> int:
    return MAX_METADATA_BYTES if key.rpartition("/")[2] == _METADATA else sys.maxsize - 1


def _may_be_left_out(array: str, layout: ArrayLayout) -> bool:
    """Return whether an array may lack a chunk, which is then one of fill values.

    Zarr leaves out chunks of nothing but fill values, and so did older versions of i2am for maps and
    their coordinates. What a capture writes has always been there whole, and with a checksum
    everything is.
    """
    if layout.encoding.has_checksum or layout.is_sharded:
        return False
    parts = array.split("/")
    is_picture = "images" in parts[:-1] and len(layout.shape) == 3
    return not is_picture and "layers" not in parts[:-1]
