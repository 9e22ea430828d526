"""Where a store begins: the address of a sample inside it tells which sample is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import zarr

from i2am.analysis.stores.reader import open_root
from i2am.schemas import StoreError, check_schema, did_you_mean
from i2am.storage.addresses import StoreLike, is_url, open_group, own_attributes
from i2am.storage.inventory import METADATA_KEY
from i2am.storage.objects import folder_names

__all__ = ["RESULT_KINDS", "member_names", "open_any", "split_address"]

# Stores that are made of maps: groups of averages, or samples with differences.
RESULT_KINDS: Final = ("average", "differences")


def open_any(address: StoreLike) -> zarr.Group:
    """Return the root group of a store of ours of any kind.

    Raises
    ------
    StoreError
        If it is missing, not ours, altered, or of a newer schema than this version reads.
    """
    root = open_group(address)
    own = own_attributes(root)
    if own.get("kind") not in RESULT_KINDS:
        return open_root(address)
    check_schema(own, address)
    return root


def split_address(address: StoreLike) -> tuple[StoreLike, str | None]:
    """Return a store's address, and the name of one of its samples if the address is that of one.

    Parameters
    ----------
    address : str, Path or zarr Store
        Of a store, or of a sample in it, as in ``run.zarr/shirt-001``; of averages, of one group.

    Raises
    ------
    StoreError
        If it is neither.
    """
    try:
        open_any(address)
    except StoreError:
        parent, name = _parent(address)
        if parent is None or not _is_store(parent):
            raise
        names = member_names(open_any(parent))
        if name not in names:
            msg = f"Expected a sample, got none named {name!r}, at {parent}. {did_you_mean(name, names)}"
            raise StoreError(msg) from None
        return parent, name
    return address, None


def member_names(root: zarr.Group) -> list[str]:
    """Return the names of all groups below a root, sorted: of samples in any state, damaged ones, too."""
    names = folder_names(root.store_path)
    return sorted(name for name in names if name[:1] != "." and name != METADATA_KEY)


def _parent(address: StoreLike) -> tuple[str | None, str]:
    """Return what an address lies in, and its last part; None where it lies in nothing."""
    if not isinstance(address, str | Path):
        return None, ""
    text = os.fspath(address).rstrip("/")
    parent, _, name = text.rpartition("/")
    if not is_url(address) and (not parent or name in {"", ".", ".."}):
        path = Path(text).resolve()
        parent, name = str(path.parent), path.name
    return (parent or None) if name else None, name


def _is_store(address: str) -> bool:
    try:
        open_any(address)
    except StoreError:
        return False
    return True
