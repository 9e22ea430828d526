"""A sample is checked against the contract when it is opened, by the check that `i2am validate` makes.

What breaks it is refused before xarray reads it: a wrong dtype or order of dimensions would give a map
that looks right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from i2am.schemas import ArrayDescription, GroupDescription, StoreError, find_sample_faults

__all__ = ["Node", "check_sample", "describe_array", "describe_nodes"]

# Values of a coordinate: more than any grid has tokens.
_SHORT: Final = 2**20

Node = zarr.Group | zarr.Array[Any]


def check_sample(kind: str, name: str, description: GroupDescription, at: object) -> None:
    """Refuse a sample that breaks the contract.

    Parameters
    ----------
    kind : "run", "maps" or "effects"
        Of its store.
    name : str
    description : GroupDescription
        As `describe_nodes` gives it.
    at : object
        The store's address, for the message.

    Raises
    ------
    StoreError
        With the first fault.

    Examples
    --------
    >>> check_sample("maps", "a", GroupDescription({}), "maps.zarr")
    Traceback (most recent call last):
    ...
    i2am.schemas.errors.StoreError: Expected a sample that keeps the contract, got 'a: expected a group 'r2g' or 'g2r', got none', at maps.zarr. Run 'i2am validate maps.zarr' for all that is wrong with it.
    """
    fault = next(find_sample_faults(kind, name, description), None)
    if fault is not None:
        msg = (
            f"Expected a sample that keeps the contract, got '{fault}', at {at}. "
            f"Run 'i2am validate {at}' for all that is wrong with it."
        )
        raise StoreError(msg)


def describe_nodes(
    group: zarr.Group, nodes: Mapping[str, Node], values: Mapping[str, NDArray[Any]]
) -> GroupDescription:
    """Describe a group and all below it, of which nothing is read again.

    Parameters
    ----------
    group : zarr.Group
    nodes : mapping of str to Group or Array
        All below the group, by path.
    values : mapping of str to array
        Of the arrays with one dimension, by path.
    """
    arrays: dict[str, dict[str, ArrayDescription]] = {"": {}}
    children: dict[str, list[str]] = {"": []}
    for path, node in nodes.items():
        parent, _, own = path.rpartition("/")
        if isinstance(node, zarr.Group):
            children.setdefault(parent, []).append(own)
        else:
            arrays.setdefault(parent, {})[own] = describe_array(node, values.get(path))

    def describe(path: str, own: zarr.Group) -> GroupDescription:
        below = {name: f"{path}/{name}".lstrip("/") for name in sorted(children.get(path, ()))}
        groups = {name: describe(one, _group(nodes[one])) for name, one in below.items()}
        members = dict(sorted(arrays.get(path, {}).items()))
        return GroupDescription(dict(own.attrs), members, groups)

    return describe("", group)


def describe_array(array: zarr.Array[Any], values: NDArray[Any] | None = None) -> ArrayDescription:
    """Return what an array's metadata tells, and its values if it is a short coordinate.

    Parameters
    ----------
    array : zarr.Array
    values : array, optional
        Its values, where they are read already.
    """
    dims = getattr(array.metadata, "dimension_names", None)
    if array.ndim != 1 or array.size > _SHORT:
        values = None
    elif values is None:
        values = np.asarray(array[:])
    return ArrayDescription(
        dims and tuple(dims),
        array.shape,
        str(array.dtype),
        None if values is None else tuple(values.tolist()),
        dict(array.attrs),
    )


def _group(node: Node) -> zarr.Group:
    assert isinstance(node, zarr.Group)
    return node
