"""From an address to a Zarr group: a folder, a bucket's URL, or a store that is open already.

Buckets (s3, gs, az) are read through obstore, which takes credentials and endpoints from the
environment as the cloud's own tools do (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import zarr
from zarr.abc.store import Store
from zarr.errors import BaseZarrError

from i2am.schemas import StoreError, require

__all__ = ["StoreLike", "is_url", "open_group"]

StoreLike = str | Path | Store

_BUCKETS: Final = ("s3://", "gs://", "az://")
# Long enough for a busy service, short enough for an address that nothing answers at.
_RETRIES: Final[dict[str, Any]] = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}


def is_url(path: StoreLike) -> bool:
    """Whether an address is a URL rather than a path.

    Examples
    --------
    >>> is_url("s3://bucket/run.zarr"), is_url("out/run.zarr")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def open_group(path: StoreLike) -> zarr.Group:
    """Return the group at an address, to read.

    Parameters
    ----------
    path : str, Path or zarr Store
        A folder; a URL ``s3://``, ``gs://`` or ``az://``, or another that fsspec knows.

    Raises
    ------
    StoreError
        If nothing is there, it is no Zarr group, or it cannot be read.
    MissingExtra
        If obstore is needed and not installed.
    """
    if isinstance(path, str) and path.startswith(_BUCKETS):
        return _open_bucket(path)
    if not isinstance(path, Store) and not is_url(path):
        path = Path(path)
        if not path.exists():
            msg = f"Expected a store, got nothing, at {path}. Check the path."
            raise StoreError(msg)
        if not path.is_dir():
            msg = f"Expected a store, got a file, at {path}. Give the folder of a Zarr store."
            raise StoreError(msg)
    return _open(path, path)


def _open_bucket(url: str) -> zarr.Group:
    stores = require("obstore.store", "to read a store in a bucket", "analysis")
    errors = require("obstore.exceptions", "to read a store in a bucket", "analysis")
    from zarr.storage import ObjectStore

    try:
        return _open(ObjectStore(stores.from_url(url, retry_config=_RETRIES), read_only=True), url)
    except (errors.BaseError, ValueError) as e:
        raise _unreadable(e, url) from e


def _open(store: StoreLike, path: StoreLike) -> zarr.Group:
    try:
        node = zarr.open(store, mode="r")
    except (BaseZarrError, FileNotFoundError) as e:
        msg = f"Expected a Zarr store, got {_contents(path)}, at {path}. Give the store's root."
        raise StoreError(msg) from e
    except (OSError, ImportError, ValueError) as e:
        raise _unreadable(e, path) from e
    if not isinstance(node, zarr.Group):
        msg = f"Expected a store of i2am, got a Zarr array, at {path}. Give the store's root."
        raise StoreError(msg)
    return node


def _unreadable(error: Exception, path: StoreLike) -> StoreError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    msg = f"Expected a readable store, got '{reason}', at {path}. Check the address."
    return StoreError(msg)


def _contents(path: StoreLike) -> str:
    if isinstance(path, Path):
        return "a folder without Zarr metadata" if any(path.iterdir()) else "an empty folder"
    return "nothing of the kind"
