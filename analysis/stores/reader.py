"""Open runs and maps: what was stored, as labelled lazy arrays.

Opening reads one metadata file, whatever the number of samples; a sample is opened when it is
asked for, its arrays when they are computed. Samples that are not complete are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from i2am.analysis.stores.chunks import in_chunks
from i2am.analysis.stores.stored_array import StoredArray
from i2am.schemas import SCHEMA_VERSION, StoreError, did_you_mean
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.storage.addresses import StoreLike, member_names, open_group, own_attributes
from i2am.storage.guarded_store import check_read_whole
from i2am.storage.inventory import facts_of
from i2am.storage.sample_state import SampleState

__all__ = [
    "Maps",
    "Run",
    "StoreLike",
    "open_maps",
    "open_root",
    "open_run",
    "open_tree",
]

# Attributes of arrays: the box of an image, the units of a coordinate.
_KEPT: Final = (ATTRIBUTE_KEY, "units")


def open_run(path: StoreLike) -> Run:
    """Open a capture store.

    Parameters
    ----------
    path : str, Path or zarr Store
        A folder, or a URL: ``s3://``, ``gs://``, ``az://``, or another that fsspec knows.

    Returns
    -------
    Run
        Mapping of sample name to DataTree.

    Raises
    ------
    StoreError
        If it is missing, no store of i2am, or a maps store.
    """
    return Run(path)


def open_maps(path: StoreLike) -> Maps:
    """Open a maps store.

    Parameters
    ----------
    path : str, Path or zarr Store
        As for `open_run`.

    Returns
    -------
    Maps
        Mapping of sample name to DataTree, with the groups ``r2g`` and, where it exists, ``g2r``.

    Raises
    ------
    StoreError
        If it is missing, no store of i2am, or a run.
    """
    return Maps(path)


class _Samples(Mapping[str, xr.DataTree]):
    """The complete samples of a store; a sample is opened on access."""

    kind: ClassVar[str]
    other_kind_hint: ClassVar[str]
    unstated_status: ClassVar[str] = "running"

    def __init__(self, path: StoreLike) -> None:
        self.path: Final = path
        self._root: Final = open_root(path)
        kind = own_attributes(self._root)["kind"]
        if kind != self.kind:
            msg = (
                f"Expected a {self.kind} store, got a {kind} store at {path}. "
                f"{self.other_kind_hint}"
            )
            raise StoreError(msg)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the root's ``i2am`` attribute holds."""
        return own_attributes(self._root)

    def sample_attributes(self) -> dict[str, dict[str, Any]]:
        """Return each complete sample's own attributes, by name; no array is touched."""
        found = ((name, facts_of(own_attributes(group))) for name, group in self._root.groups())
        return {name: own for name, own in sorted(found) if self._is_complete(own)}

    def first(self) -> str | None:
        """Return the name of the first complete sample, or None; reads no other's metadata."""
        names = member_names(self._root)
        return next((name for name in sorted(names) if name in self), None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sample_attributes())

    def __len__(self) -> int:
        return len(self.sample_attributes())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._group(name) is not None

    def __getitem__(self, name: str) -> xr.DataTree:
        """Open one sample.

        Raises
        ------
        KeyError
            If there is no complete sample of that name; it is a StoreError, too.
        """
        group = self._group(name)
        if group is None:
            msg = (
                f"Expected a complete sample, got none named {name!r}, at {self.path}. "
                f"{did_you_mean(name, self)}"
            )
            raise _NoSample(msg)
        state = SampleState(group.store_path)
        state.check_whole(self.path)
        return open_tree(group, name, state)

    def __repr__(self) -> str:
        return f"<i2am {self.kind} store at {self.path}>"

    def _group(self, name: str) -> zarr.Group | None:
        group = self._root.get(name) if name and "/" not in name else None
        if not isinstance(group, zarr.Group):
            return None
        return group if self._is_complete(own_attributes(group)) else None

    def _is_complete(self, own: dict[str, Any]) -> bool:
        # A maps sample that another program wrote need not have a status.
        return bool(own.get("status", self.unstated_status) == "complete")


class Run(_Samples):
    """A capture store: sample name -> DataTree with the groups ``images`` and ``layers/LAYER``."""

    kind = "run"
    other_kind_hint = "Give the run that it was made from (its 'source' attribute has the path)."

    def table(self) -> pd.DataFrame:
        """Return one row for each sample, by name, and one column for each field of its provenance.

        Nested fields have dotted names: ``versions.torch``.

        Returns
        -------
        DataFrame
            Column sample, then the provenance.
        """
        attributes = self.sample_attributes()
        rows = pd.json_normalize(list(attributes.values()))
        rows.insert(0, "sample", list(attributes))
        return rows.drop(columns=["kind", "schema", "status"], errors="ignore")


class Maps(_Samples):
    """A maps store: sample name -> DataTree with the groups ``r2g`` and, where it exists, ``g2r``."""

    kind = "maps"
    unstated_status = "complete"
    other_kind_hint = "Run 'i2am analyze' on it first, and give the maps."


class _NoSample(StoreError, KeyError):
    """So that ``Mapping.get`` works."""


def open_root(path: StoreLike) -> zarr.Group:
    """Return the root group of a store of ours, of either kind.

    Raises
    ------
    StoreError
        If it is missing, not ours, or of a newer schema than this version reads.
    """
    root = open_group(path)
    own = own_attributes(root)
    # A sample's own group has a status; a maps sample is of kind "maps", too.
    if own.get("kind") not in {"run", "maps"} or "status" in own:
        what = "a sample's group" if "status" in own else _what(root)
        is_other_kind = "kind" in own and "status" not in own
        hint = "Give one of these." if is_other_kind else "Give its root."
        msg = f"Expected a run or a maps store of i2am, got {what}, at {path}. {hint}"
        raise StoreError(msg)
    version = own.get("schema")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        msg = (
            f"Expected schema 1 to {SCHEMA_VERSION}, got {version!r}, at {path}. "
            "Upgrade i2am: a newer version wrote this store."
        )
        raise StoreError(msg)
    return root


def _what(group: zarr.Group) -> str:
    if "kind" in (own := own_attributes(group)):
        return f"one of kind {own['kind']!r}"
    names = sorted(group.attrs)
    return f"a Zarr group with {'the attributes ' + ', '.join(names) if names else 'no attributes'}"


def open_tree(
    group: zarr.Group, name: str | None = None, state: SampleState | None = None
) -> xr.DataTree:
    """Return a group and all below it, every array lazy but the coordinates.

    Parameters
    ----------
    group : zarr.Group
    name : str, optional
        Of the tree.
    state : SampleState, optional
        If the group is a sample: what is read later is checked against it.
    """
    groups = {"/": group}
    arrays: dict[str, dict[str, zarr.Array[Any]]] = {"/": {}}
    for path, node in group.members(max_depth=None):
        if isinstance(node, zarr.Group):
            groups[f"/{path}"] = node
            arrays.setdefault(f"/{path}", {})
        else:
            parent, _, own_name = f"/{path}".rpartition("/")
            arrays.setdefault(parent or "/", {})[own_name] = node
    check_read_whole(
        (array for own in arrays.values() for array in own.values() if array.ndim == 1),
        str(group.store_path),
    )
    trees = {
        path: _open_dataset(node, arrays[path], state) for path, node in sorted(groups.items())
    }
    return xr.DataTree.from_dict(trees, name=name)


def _open_dataset(
    group: zarr.Group, arrays: dict[str, zarr.Array[Any]], state: SampleState | None
) -> xr.Dataset:
    variables: dict[str, xr.Variable] = {}
    coordinates = set()
    for name, array in sorted(arrays.items()):
        names = getattr(array.metadata, "dimension_names", None) if array.ndim else ()
        if names is None or None in names:
            msg = (
                f"Expected named dimensions, got {names}, at {array.store_path}. "
                "Run 'i2am validate' on the store."
            )
            raise StoreError(msg)
        if len(names) == 1:  # No map and no score has one dimension.
            coordinates.add(name)
            values = StoredArray(array, state)[:]
            variables[name] = xr.Variable(names, _plain(values))
        else:
            variables[name] = in_chunks(array, names, state)
        variables[name].attrs = {key: array.attrs[key] for key in _KEPT if key in array.attrs}
    attributes = {}
    if ATTRIBUTE_KEY in group.attrs:
        own = group.attrs[ATTRIBUTE_KEY]
        attributes[ATTRIBUTE_KEY] = facts_of(own) if isinstance(own, dict) else own
    return xr.Dataset(variables, attrs=attributes).set_coords(sorted(coordinates))


def _plain(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return text as fixed-width unicode, which every tool's index takes."""
    return np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values
