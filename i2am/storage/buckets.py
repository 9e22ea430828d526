"""A bucket as a Zarr store whose every failure is one line, and no failure passes for absence.

zarr takes an object that is not there for a chunk of zeros. So it matters what "not there" means:
obstore says it also of a bucket that is gone. Here that is an error, and so is every other answer that
is none, whichever way it is met: at opening, in the middle of a computation, on a writer's thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final, Self, TypeVar

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest
from zarr.storage import ObjectStore

from i2am.schemas import SchemaError, StorageError, StoreError, require
from i2am.schemas.text import safe_text
from i2am.storage.failures import (
    is_not_implemented,
    reported_as_store_error,
    storage_errors,
    was_cut_short,
)

__all__ = ["RETRY_VARIABLE", "BucketStore", "open_bucket", "read_at_most", "retry_s"]

RETRY_VARIABLE: Final = "I2AM_RETRY_S"
# One request may take 30 s unless the cloud's own variable says otherwise (AWS_TIMEOUT, …): so one
# that gets no answer is tried twice, and a bucket that is gone is known within two minutes.
_RETRY_S: Final = 45.0
_MOST_ATTEMPTS: Final = 4
_Answer = TypeVar("_Answer")
_MOST_RETRIES: Final = 1000  # The time is what bounds them: waits between them are random.


def open_bucket(url: str, *, read_only: bool = False) -> BucketStore:
    """Return the store at a URL; nothing is asked of it yet.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
    read_only : bool

    Raises
    ------
    StorageError
        If nobody knows such a URL.
    SchemaError
        If ``I2AM_RETRY_S`` is no number of seconds.
    MissingExtra
        If obstore is not installed.
    """
    stores = require("obstore.store", "to open a store by URL", "analysis")
    retries = {"max_retries": _MOST_RETRIES, "retry_timeout": timedelta(seconds=retry_s())}
    with reported_as_store_error(url):
        return BucketStore(stores.from_url(url, retry_config=retries), url, read_only=read_only)


def retry_s() -> float:
    """Return how many seconds a request that fails is tried again.

    Raises
    ------
    SchemaError
        If the environment holds something else.
    """
    text = os.environ.get(RETRY_VARIABLE, "")
    try:
        found = float(text or _RETRY_S)
    except ValueError:
        found = math.nan
    if not 0 <= found < 86_400:
        msg = (
            f"Expected seconds from 0 on, got {text!r}, at {RETRY_VARIABLE}. Leave it out for "
            f"{_RETRY_S:g}."
        )
        raise SchemaError(msg)
    return found


class BucketStore(ObjectStore[Any]):
    """zarr's store of obstore, which says what failed and where.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    url : str
        How the user named it.
    read_only : bool

    Raises
    ------
    StorageError
        From every method, if the bucket does not do what was asked.
    """

    def __init__(self, store: Any, url: str, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self.url = url.rstrip("/")
        self._has_conditions = True

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store, to read or to write."""
        return type(self)(self.store, self.url, read_only=read_only)

    def __str__(self) -> str:
        """Return the URL."""
        return self.url

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object's bytes, or a part of them; None where there is none."""
        return await self._answer(key, partial(super().get, key, prototype, byte_range))

    async def get_at_most(
        self, key: str, prototype: BufferPrototype, max_bytes: int
    ) -> Buffer | None:
        """Return an object's bytes, as `get`, if they are no more than they can be."""
        ask = partial(read_at_most, self.store, key, prototype, max_bytes, self.url)
        return await self._answer(key, ask)

    async def _answer(self, key: str, ask: Callable[[], Awaitable[Buffer | None]]) -> Buffer | None:
        with self._reported(key):
            for _ in range(_MOST_ATTEMPTS):  # Another process may write or remove it just now.
                found = await _whole(ask)
                if found is not None or await self._is_absent(key):
                    return found
        msg = (
            f"Expected the object that the bucket lists, got 'not found', at {self.url}/{key}. "
            "Try again later."
        )
        raise StorageError(msg)

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        with self._reported(key):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write or replace an object."""
        with self._reported(key):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object where there is none.

        Of several processes that try at once one succeeds, if the bucket knows conditional writes.
        """
        with self._reported(key):
            refusals: tuple[type[Exception], ...] = (*storage_errors(), NotImplementedError)
            try:
                if self._has_conditions:
                    await super().set_if_not_exists(key, value)
            except refusals as error:
                if not is_not_implemented(error):
                    raise
                self._has_conditions = False
            if not self._has_conditions and not await super().exists(key):
                await super().set(key, value)

    async def delete(self, key: str) -> None:
        """Delete an object."""
        ask = partial(super().delete, key)
        with self._reported(key):
            await _whole(ask)

    async def delete_dir(self, prefix: str) -> None:
        """Delete every object below a prefix."""
        with self._reported(prefix):
            await super().delete_dir(prefix)

    def list(self) -> AsyncGenerator[str, None]:
        """List all keys."""
        return self._each(super().list, "")

    def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """List the keys below a prefix."""
        return self._each(partial(super().list_prefix, prefix), prefix)

    def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """List what lies directly below a prefix."""
        return self._each(partial(super().list_dir, prefix), prefix)

    async def getsize(self, key: str) -> int:
        """Return an object's size in bytes."""
        with self._reported(key):
            return await super().getsize(key)

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the size in bytes of all objects below a prefix."""
        with self._reported(prefix):
            return await super().getsize_prefix(prefix)

    async def _is_absent(self, key: str) -> bool:
        """Return whether the bucket's list, which a bucket that is gone has not, lacks an object."""
        folder, _, own_name = key.rpartition("/")
        if own_name.startswith("."):  # zarr asks for metadata of older formats, too.
            return True
        return own_name not in await _whole(lambda: _all(ObjectStore.list_dir(self, folder)))

    async def _each(
        self, names: Callable[[], AsyncIterator[str]], prefix: str
    ) -> AsyncGenerator[str, None]:
        with self._reported(prefix):
            for name in await _whole(lambda: _all(names())):
                yield name

    def _reported(self, key: str) -> Any:
        return reported_as_store_error(f"{self.url}/{key}" if key else self.url)


async def read_at_most(
    store: Any, key: str, prototype: BufferPrototype, max_bytes: int, place: object
) -> Buffer | None:
    """Return an object of obstore's; None where there is none.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    key : str
    prototype : BufferPrototype
    max_bytes : int
        The answer's head tells the size, and the body is taken only if it is no larger.
    place : object
        Of the store, for messages.

    Raises
    ------
    StoreError
        If it is larger.
    """
    import obstore

    try:
        answer = await obstore.get_async(store, key)
        if (size := answer.meta["size"]) <= max_bytes:
            content: Any = await answer.bytes_async()
            return prototype.buffer.from_bytes(content)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    msg = (
        f"Expected an object of at most {max_bytes:,} bytes, got {size:,}, "
        f"at {safe_text(f'{place}/{key}')}. The store is damaged; get it again, or do without the sample."
    )
    raise StoreError(msg)


async def _whole(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Return an answer; ask again for one that was cut short, which obstore does of values alone."""
    for _ in range(_MOST_ATTEMPTS - 1):
        try:
            return await ask()
        except storage_errors() as error:
            if not was_cut_short(error):
                raise
    return await ask()


async def _all(names: AsyncIterator[str]) -> list[str]:
    return [name async for name in names]
