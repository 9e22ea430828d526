"""The objects of a store for whoever asks for them from outside, such as a browser: to read, and no others.

Everything goes through the store that checks what it reads: nothing outside of it, no link that leads
out, no pipe. Bytes are given as they are stored.
"""

from __future__ import annotations

from typing import Final

from zarr.abc.store import RangeByteRequest
from zarr.core.sync import sync

from i2am.storage.addresses import StoreLike, open_group
from i2am.storage.guard.guarded_store import guarded
from i2am.storage.inventory import METADATA_KEY
from i2am.storage.objects import local_path

__all__ = ["ServedStore"]

_MOST_SIZES: Final = 2**14


class ServedStore:
    """Read access to a store's objects by their keys.

    Parameters
    ----------
    address : str, Path or zarr Store
        As `open_group` takes it.

    Raises
    ------
    StoreError
        As `open_group`.

    Examples
    --------
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> store = MemoryStore()
    >>> _ = zarr.create_group(store)
    >>> served = ServedStore(store)
    >>> served.read("zarr.json", 0, 1), served.size("c/0")
    (b'{', None)
    """

    def __init__(self, address: StoreLike) -> None:
        self._root = open_group(address).store_path
        self._store = guarded(self._root.store)
        self._is_local = local_path(self._root) is not None
        # Of chunks in a bucket: a click asks for parts of the same few hundred again and again.
        self._sizes: dict[str, int] = {}

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None where there is none.

        Raises
        ------
        StoreError
            If it lies outside the store, or is no file.
        """
        if key in self._sizes:
            return self._sizes[key]

        async def asked() -> int | None:
            own = self._key(key)
            return await self._store.getsize(own) if await self._store.exists(own) else None

        found = sync(asked())
        # Metadata change while a capture goes on, and a disk is asked at no cost.
        if found is not None and not key.endswith(METADATA_KEY) and not self._is_local:
            if len(self._sizes) >= _MOST_SIZES:
                self._sizes.clear()
            self._sizes[key] = found
        return found

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return bytes of an object that has as many.

        Raises
        ------
        StoreError
            As `size`, or if the object is gone or shorter by now.
        """
        if start == end:
            return b""
        asked = RangeByteRequest(start, end)
        found = sync(self._store.get_as_stored(self._key(key), asked))
        return b"" if found is None else found.to_bytes()

    def names(self, folder: str) -> list[str]:
        """Return the names below a folder, sorted; those that begin with a dot are left out."""

        async def listed() -> list[str]:
            return [name.strip("/") async for name in self._store.list_dir(self._key(folder))]

        return sorted(name for name in sync(listed()) if name[:1] not in {"", "."})

    def _key(self, key: str) -> str:
        return f"{self._root.path}/{key}".strip("/")
