"""Where a store begins: the address of a sample inside it tells which sample is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

import zarr

from i2am.analysis.stores.reader import open_root
from i2am.schemas import StoreError, check_schema, did_you_mean
from i2am.storage.addresses import StoreLike, is_url, open_group, own_attributes
from i2am.storage.inventory import METADATA_KEY
from i2am.storage.objects import folder_names

__all__ = ["RESULT_KINDS", "Address", "member_names", "open_address", "open_any"]

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


class Address(NamedTuple):
    """What an address means.

    Attributes
    ----------
    store : str, Path or zarr Store
    root : zarr.Group
        Of the store.
    sample : str or None
        The one that the address is of; of averages, the group.
    """

    store: StoreLike
    root: zarr.Group
    sample: str | None


def open_address(address: StoreLike) -> Address:
    """Open a store, or the store that a sample's address lies in.

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
        return Address(address, open_any(address), None)
    except StoreError as e:
        wrong = e
    parent, name = _parent(address)
    root = None if parent is None else _open_if_store(parent)
    if parent is None or root is None:
        raise wrong
    names = member_names(root)
    if name not in names:
        msg = (
            f"Expected a sample, got none named {name!r}, at {parent}. {did_you_mean(name, names)}"
        )
        raise StoreError(msg)
    return Address(parent, root, name)


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


def _open_if_store(address: str) -> zarr.Group | None:
    try:
        return open_any(address)
    except StoreError:
        return None
