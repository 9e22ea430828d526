"""From an address to a Zarr store: a folder, a bucket's URL, or a store that is open already.

Both stages read and write through here, so that an address means the same to both. Buckets (s3, gs,
az) go through obstore, which takes credentials and endpoints from the environment as the cloud's
own tools do (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``AWS_ALLOW_HTTP``, …).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.errors import BaseZarrError
from zarr.storage import LocalStore, StorePath
from zarr.storage._common import make_store

from i2am.schemas import StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.storage.buckets import open_bucket
from i2am.storage.failures import (
    reported_as_store_error,
    storage_error,
    storage_errors,
)
from i2am.storage.guarded_store import guarded

__all__ = [
    "StoreLike",
    "is_url",
    "member_names",
    "open_group",
    "own_attributes",
    "path_to_write",
    "reported_as_store_error",
    "to_store",
]

StoreLike = str | Path | Store

# "local" is what fsspec calls a folder, too.
_FILES: Final = ("file://", "local://")
_BUCKETS: Final = ("s3://", "gs://", "az://")


def is_url(address: StoreLike) -> bool:
    """Whether an address is a URL rather than a path.

    Examples
    --------
    >>> is_url("s3://bucket/run.zarr"), is_url("out/run.zarr")
    (True, False)
    """
    return isinstance(address, str) and "://" in address


def to_store(address: str | Path) -> Store | Path:
    """Return what zarr opens at an address.

    Parameters
    ----------
    address : str or Path
        A folder, ``file://``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.

    Raises
    ------
    StoreError
        If nobody knows such a URL.
    MissingExtra
        If it is a URL and obstore is not installed.

    Examples
    --------
    >>> to_store("run.zarr"), to_store("file:///tmp/a%20run.zarr")
    (PosixPath('run.zarr'), PosixPath('/tmp/a run.zarr'))
    """
    url = str(address)
    if url.startswith(_FILES):
        return Path(url2pathname(urlsplit(url).path))
    if not is_url(url):
        return Path(address)
    return open_bucket(url)


def path_to_write(address: StoreLike) -> StorePath:
    """Return the root of a store that can be written.

    Parameters
    ----------
    address : str, Path or zarr Store
        As `to_store` takes it.

    Raises
    ------
    StoreError
        If nobody knows such a URL.
    """
    if isinstance(address, Store):
        return StorePath(address)
    place = to_store(address)
    return StorePath(LocalStore(place) if isinstance(place, Path) else place)


def open_group(address: StoreLike) -> zarr.Group:
    """Return the group at an address, to read: through a store that checks everything.

    Parameters
    ----------
    address : str, Path or zarr Store
        As `to_store` takes it, or another URL that fsspec knows.

    Raises
    ------
    StoreError
        If nothing is there, it is no Zarr group, it cannot be read, or it must not be, as
        `GuardedStore` says.
    MissingExtra
        If obstore is needed and not installed.
    """
    if isinstance(address, str) and address.startswith(_BUCKETS):
        return _open(open_bucket(address, read_only=True), address)
    if not isinstance(address, Store) and (not is_url(address) or str(address).startswith(_FILES)):
        path = Path(str(to_store(address)))
        if not path.exists():
            msg = f"Expected a store, got nothing, at {path}. Check the path."
            raise StoreError(msg)
        if not path.is_dir():
            msg = f"Expected a store, got a file, at {path}. Give the folder of a Zarr store."
            raise StoreError(msg)
        return _open(path, path)
    return _open(address, address)


def own_attributes(node: zarr.Group | zarr.Array[Any]) -> dict[str, Any]:
    """Return what a node's ``i2am`` attribute holds; nothing where there is none."""
    own = node.attrs.asdict().get(ATTRIBUTE_KEY)
    return dict(own) if isinstance(own, dict) else {}


def member_names(group: zarr.Group) -> list[str]:
    """Return the names below a group, without opening any.

    ``zarr.json`` is left out, and so is what begins with a dot: no group of ours does.
    """

    async def names() -> list[str]:
        found = [name async for name in group.store.list_dir(group.path)]
        return [name for name in found if name != "zarr.json" and not name.startswith(".")]

    return sync(names())


def _open(store: StoreLike, address: StoreLike) -> zarr.Group:
    try:
        node = zarr.open(guarded(_store_at(store)), mode="r")
    except (BaseZarrError, FileNotFoundError) as e:
        msg = (
            f"Expected a Zarr store, got {_contents(address)}, at {address}. Give the store's root."
        )
        raise StoreError(msg) from e
    except storage_errors() as e:
        raise storage_error(e, address) from e
    except (ImportError, ValueError) as e:
        raise _unreadable(e, address) from e
    if not isinstance(node, zarr.Group):
        msg = f"Expected a store of i2am, got a Zarr array, at {address}. Give the store's root."
        raise StoreError(msg)
    return node


def _store_at(store: StoreLike) -> Store:
    if isinstance(store, Store):
        return store
    if isinstance(store, Path):
        return LocalStore(store, read_only=True)
    return sync(make_store(store, mode="r"))


def _unreadable(error: Exception, address: StoreLike) -> StoreError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    msg = f"Expected a readable store, got '{reason}', at {address}. Check the address."
    return StoreError(msg)


def _contents(address: StoreLike) -> str:
    if isinstance(address, Path):
        if any((address / name).exists() for name in (".zgroup", ".zarray")):
            return "one of Zarr format 2"
        return "a folder without Zarr metadata" if any(address.iterdir()) else "an empty folder"
    return "nothing of the kind"
