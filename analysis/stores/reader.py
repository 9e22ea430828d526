"""Open runs and maps: what was stored, as labelled lazy arrays.

Opening reads one metadata file, whatever the number of samples; a sample is opened when it is
asked for, its arrays when they are computed. Samples that are not complete are left out. xarray
comes with the first sample: to list a store, or to describe a sample, zarr is enough.
"""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from i2am.analysis.stores.checked import Node, check_sample, describe_nodes
from i2am.analysis.stores.chunks import in_chunks
from i2am.analysis.stores.stored_array import StoredArray
from i2am.schemas import (
    GroupDescription,
    I2AMError,
    LayerAttributes,
    StoreError,
    StoreWarning,
    check_schema,
    did_you_mean,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import STEP
from i2am.schemas.directions import DIRECTIONS
from i2am.schemas.errors import shorten
from i2am.schemas.text import safe_text
from i2am.storage.addresses import StoreLike, open_group, own_attributes
from i2am.storage.guard.guarded_store import check_read_whole
from i2am.storage.integrity import metadata_fault
from i2am.storage.inventory import (
    DIGEST,
    METADATA_KEY,
    OBJECTS,
    Inventory,
    contents_of,
    without_inventory,
)
from i2am.storage.listing import (
    Unreadable,
    iter_members,
    member_metadata,
    own_of,
    sorted_names,
)
from i2am.storage.objects import read_object
from i2am.storage.sample_state import SampleState

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "Maps",
    "Run",
    "StoreLike",
    "StoredSamples",
    "open_maps",
    "open_root",
    "open_run",
    "open_tree",
]

# Attributes of arrays: the box of an image, the units of a coordinate.
_KEPT: Final = (ATTRIBUTE_KEY, "units", "long_name")
# Of a whole number that is held as a float.
_LARGEST_EXACT: Final = 2**53
_SAID_OF_ALL: Final = ("kind", "schema", "status", "contents")
_SHOWN: Final = 3
# What is shown of a store: names of samples, the length of a line, and of how many samples the status
# is read, so that a store of thousands is shown at once.
_SHOWN_NAMES: Final = 5
_LONGEST_FACT: Final = 1500
_LONGEST_LINE: Final = 200
_MOST_STATUSES: Final = 100
_KINDS: Final = ("run", "maps", "effects")

# What a sample is opened as.
_Opened = TypeVar("_Opened")


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

    Examples
    --------
    >>> import i2am
    >>> run = open_run(i2am.DEMO_RUN)  # three pictures that the shipped model painted
    >>> list(run)
    ['doughnut', 'frog', 'truck']
    >>> truck = run["truck"]  # lazy: what was stored, as labelled arrays
    >>> dict(truck["images/generated"].sizes)
    {'y': 64, 'x': 64, 'rgb': 3}
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

    Examples
    --------
    >>> import tempfile
    >>> import i2am
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     maps = open_maps(store)
    ...     dict(maps["truck"]["r2g/ulam"].sizes)
    {'y': 16, 'x': 16}
    """
    return Maps(path)


class StoredSamples(Mapping[str, _Opened], Generic[_Opened]):
    """The complete samples of a store; a sample is opened on access.

    Parameters
    ----------
    path : str, Path or zarr Store

    Raises
    ------
    StoreError
        If it is missing, no store of i2am, or one of another kind.
    """

    kind: ClassVar[str]
    other_kind_hint: ClassVar[str]
    unstated_status: ClassVar[str] = "running"
    # What to call next, by the name of a sample; told where the store is shown.
    next_calls: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: StoreLike) -> None:
        self.path: Final = path
        self._root: Final = open_root(path)
        self._left_out: set[str] = set()
        kind = own_attributes(self._root)["kind"]
        if kind != self.kind:
            msg = (
                f"Expected {_store_of(self.kind)}, got {_store_of(kind)} at {path}. "
                f"{self.other_kind_hint}"
            )
            raise StoreError(msg)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the root's ``i2am`` attribute holds."""
        return own_attributes(self._root)

    def sample_attributes(self) -> dict[str, dict[str, Any]]:
        """Return each complete sample's own attributes, by name; no array is touched.

        In place of its inventory stands ``contents``, a checksum of it.
        """
        return dict(self.iter_attributes())

    def iter_attributes(self, *, checked: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what `sample_attributes` returns, sample by sample: a long run's is gigabytes.

        Warns once of each sample whose metadata cannot be read, and leaves it out.

        Parameters
        ----------
        checked : bool
            Leave out metadata that are not as they were written, too: for whoever tells what stands
            in them and does not open the samples.
        """
        damaged: dict[str, Unreadable] = {}
        for name, found in iter_members(self._root):
            own = self._own_of(found, name, checked=checked)
            if isinstance(own, Unreadable):
                damaged[name] = own
            elif self._is_complete(own):
                yield name, _facts_of(own)
        self._warn_of(damaged)

    def _own_of(
        self, found: dict[str, Any] | Unreadable, name: str, *, checked: bool
    ) -> dict[str, Any] | Unreadable:
        """Return the attributes in a member's metadata."""
        if isinstance(found, Unreadable):
            return found
        if found["node_type"] != "group":
            return Unreadable("an array")
        own = own_of(found)
        if not own and self.unstated_status != "complete":
            return Unreadable(f"no attribute {ATTRIBUTE_KEY!r}")
        if checked and (fault := metadata_fault(found, name)):
            return Unreadable(fault)
        return own

    def attributes_of(self, name: str) -> dict[str, Any]:
        """Return one complete sample's own attributes.

        Raises
        ------
        KeyError
            If there is no complete sample of that name; it is a StoreError, too.
        """
        return _facts_of(own_attributes(self._complete_group(name)))

    def inventory_of(self, name: str) -> Inventory | None:
        """Return the objects that one complete sample consists of; None of one that does not say.

        Raises
        ------
        KeyError
            If there is no complete sample of that name; it is a StoreError, too.
        """
        return SampleState(self._complete_group(name).store_path).inventory

    def names(self) -> list[str]:
        """Return the names of all samples, those that are not complete among them; reads no metadata."""
        return sorted_names(self._root)

    def first(self) -> str | None:
        """Return the name of the first complete sample, or None; reads no other's metadata."""
        return next((name for name in sorted_names(self._root) if name in self), None)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self.iter_attributes()])

    def __len__(self) -> int:
        return sum(1 for _ in self.iter_attributes())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and isinstance(self._group(name), zarr.Group)

    def __getitem__(self, name: str) -> _Opened:
        """Open one sample.

        Raises
        ------
        KeyError
            If there is no complete sample of that name; it is a StoreError, too.
        StoreError
            If the sample breaks the contract: `i2am.schemas.find_sample_faults`.
        """
        group, state = self._whole_group(name)
        return self._open(group, name, state)

    def _whole_group(self, name: str) -> tuple[zarr.Group, SampleState]:
        """Return a complete sample's group that has all that was written."""
        group = self._complete_group(name)
        state = SampleState(group.store_path)
        state.check_whole(self.path)
        if state.inventory is None and DIGEST in own_attributes(self._root):
            msg = (
                f"Expected an inventory of sample {name!r}, as the store's metadata have a digest, got "
                f"none, at {self.path}. 'i2am repair' lists the samples that must be made again."
            )
            raise StoreError(msg)
        return group, state

    @abstractmethod
    def _open(self, group: zarr.Group, name: str, state: SampleState) -> _Opened:
        """Return a complete sample, checked against the contract."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return one sample, or the default; lists no others, as an error's message would."""
        return self[name] if name in self else default  # noqa: SIM401 - this is it

    def holds(self, name: str) -> bool:
        """Whether there is a complete sample of that name.

        Raises
        ------
        StoreError
            If there is one whose metadata cannot be read: nothing else may take its place.
        """
        return self._checked_group(name) is not None

    def _checked_group(self, name: str) -> zarr.Group | None:
        group = self._group(name)
        if isinstance(group, Unreadable):
            msg = (
                f"Expected a sample's metadata, got {group}, at {self.path}/{name}/zarr.json. "
                "Run 'i2am validate' on the store."
            )
            raise _NoSample(msg)
        return group

    def _complete_group(self, name: str) -> zarr.Group:
        group = self._checked_group(name)
        if group is None:
            msg = (
                f"Expected a complete sample, got none named {name!r}, at {self.path}. "
                f"{did_you_mean(name, self)}"
            )
            if name in sorted_names(self._root):
                msg = (
                    f"Expected a complete sample, got {name!r} unfinished, at {self.path}. It is being "
                    "written, was stopped, or was given no images. Wait, or make it anew."
                )
            raise _NoSample(msg)
        return group

    def _group(self, name: str) -> zarr.Group | Unreadable | None:
        """Return a complete sample's group; None where there is no sample, or an unfinished one."""
        if not name or "/" in name or name.startswith("."):
            return None
        metadata = member_metadata(self._root, name)
        if metadata is None or isinstance(metadata, Unreadable):
            return metadata
        own = self._own_of(metadata, name, checked=False)
        if isinstance(own, Unreadable):
            return own
        if not self._is_complete(own):
            return None
        group = self._root.get(name)
        return group if isinstance(group, zarr.Group) else None

    def __repr__(self) -> str:
        """Return what is in the store and what to call next, in a few lines whatever its size."""
        rows = self._shown()
        width = max(len(label) for label, _ in rows)
        lines = [
            f"{label:{width}}  {shorten(safe_text(value), _LONGEST_LINE)}" for label, value in rows
        ]
        return "\n    ".join([f"<i2am {self.kind} at {safe_text(self.path)}>", *lines])

    def _repr_html_(self) -> str:
        """Return the same as a notebook shows it."""
        rows = "".join(
            f"<tr><th style='text-align: left'>{escape(safe_text(label))}</th>"
            f"<td style='text-align: left'>{escape(shorten(safe_text(value), _LONGEST_FACT))}</td></tr>"
            for label, value in self._shown()
        )
        title = f"i2am {self.kind}: {shorten(safe_text(self.path), _LONGEST_FACT)}"
        return f"<table><caption style='text-align: left'>{escape(title)}</caption>{rows}</table>"

    def _shown(self) -> list[tuple[str, str]]:
        """Return labels and values of what is shown: the samples, one of them, and what to call next."""
        try:
            names = self.names()
            complete = [name for name in names[:_MOST_STATUSES] if name in self]
        except (I2AMError, OSError) as e:  # What a cell shows must not fail.
            return [("unreadable", str(e))]
        are_checked = len(names) <= _MOST_STATUSES
        known = complete if are_checked else names
        listed = ", ".join(known[:_SHOWN_NAMES]) + ", …" * (len(known) > _SHOWN_NAMES)
        more = "" if are_checked else ", complete or not"
        rows = [("samples", f"{len(known)}{more}: {listed}" if known else "none")]
        if unread := (len(names) - len(complete) if are_checked else 0):
            rows.append(("left out", f"{unread}, unfinished or damaged"))
        if complete:
            try:
                rows += self._facts_of(complete[0]).items()
            except (I2AMError, OSError) as e:
                rows.append(("unreadable", str(e)))
            calls = [call.format(complete[0]) for call in self.next_calls]
            rows += zip(["next", *[""] * len(calls)], calls, strict=False)
        return rows

    def _facts_of(self, name: str) -> dict[str, str]:
        """Return what is told of one complete sample."""
        inventory = self.inventory_of(name)
        if inventory is None:
            return {}
        size = sum(one.size_bytes for one in inventory.objects.values())
        return {"stored": f"{size / 1e6:.3g} MB of {name!r}"}

    @property
    def left_out(self) -> frozenset[str]:
        """The damaged samples that listings so far have left out."""
        return frozenset(self._left_out)

    def _warn_of(self, damaged: Mapping[str, Unreadable]) -> None:
        """Warn of each damaged sample once."""
        if new := {name: why for name, why in damaged.items() if name not in self._left_out}:
            self._left_out |= new.keys()
            shown = [f"{name!r} ({why})" for name, why in list(new.items())[:_SHOWN]]
            more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
            msg = (
                f"Left out what cannot be read: {', '.join(shown)}{more}, at {self.path}. "
                "Run 'i2am validate' on the store."
            )
            warnings.warn(msg, StoreWarning, stacklevel=2)

    def _is_complete(self, own: dict[str, Any]) -> bool:
        # A maps sample that another program wrote need not have a status.
        # One that lists its objects is complete, whatever was made of its status: opening it says what.
        return OBJECTS in own or bool(own.get("status", self.unstated_status) == "complete")


class _Trees(StoredSamples["xr.DataTree"]):
    """Samples that are opened as trees of groups."""

    def describe(self, name: str) -> GroupDescription:
        """Return what one sample's metadata and coordinates tell; neither xarray nor Dask is loaded.

        Raises
        ------
        KeyError
            If there is no complete sample of that name; it is a StoreError, too.
        StoreError
            If the sample breaks the contract: `i2am.schemas.find_sample_faults`.
        """
        group, state = self._whole_group(name)
        nodes = dict(group.members(max_depth=None))
        description = describe_nodes(group, nodes, _read_lines(group, nodes, state))
        check_sample(self.kind, name, description, at=self.path)
        return description

    def _open(self, group: zarr.Group, name: str, state: SampleState) -> xr.DataTree:
        return open_tree(group, name, state, partial(check_sample, self.kind, name, at=self.path))

    def _facts_of(self, name: str) -> dict[str, str]:
        return self._facts(self.describe(name)) | super()._facts_of(name)

    @staticmethod
    @abstractmethod
    def _facts(sample: GroupDescription) -> dict[str, str]:
        """Return what is told of one sample."""


class Run(_Trees):
    """A capture store: sample name -> DataTree with the groups ``images`` and ``layers/LAYER``.

    Examples
    --------
    >>> import i2am
    >>> run = open_run(i2am.DEMO_RUN)
    >>> list(run), run["truck"]["images/generated"].dims
    (['doughnut', 'frog', 'truck'], ('y', 'x', 'rgb'))
    """

    kind = "run"
    other_kind_hint = "Give the run that it was made from (its 'source' attribute has the path)."
    next_calls = (
        "run[{!r}] opens a sample",
        "analyze(run[{!r}]) makes its maps",
        "sram(run[{!r}], generated=(y, x)) asks a patch",
        "run.table() lists all samples",
        "i2am.show(run) shows them",
    )

    @staticmethod
    def _facts(sample: GroupDescription) -> dict[str, str]:
        own = {
            name: LayerAttributes.model_validate(layer.attributes[ATTRIBUTE_KEY])
            for name, layer in sample.groups["layers"].groups.items()
        }
        grids: dict[str, list[tuple[int, int] | None]] = {
            "generated grids": [layer.generated_grid for layer in own.values()],
            "reference grids": [layer.reference_grid for layer in own.values()],
        }
        return {
            "layers": f"{len(own)}: {', '.join(sorted(own, key=lambda name: own[name].order))}",
            "steps": str(sample.arrays[STEP].shape[0]),
            **{
                what: ", ".join(dict.fromkeys("×".join(map(str, one)) for one in found if one))
                or "none"
                for what, found in grids.items()
            },
            "images": ", ".join(sample.groups["images"].arrays),
        }

    def table(self) -> pd.DataFrame:
        """Return one row for each sample, by name, and one column for each field of its provenance.

        To find samples, to group them, and to see what differs between them: seeds, guidance, prompts,
        the manifest's own columns (``labels.NAME``), the pictures that went in (``inputs.reference.path``
        and ``.sha256``). Nested fields have dotted names: ``versions.torch``. No array is read.

        Returns
        -------
        DataFrame
            Column sample, then the provenance; NaN where a sample does not have a field. Samples whose
            metadata are not as they were written are left out, with a warning.

        Examples
        --------
        >>> import i2am
        >>> table = open_run(i2am.DEMO_RUN).table()
        >>> table[["sample", "seed", "guidance_scale"]].to_dict("list")
        {'sample': ['doughnut', 'frog', 'truck'], 'seed': [0, 1, 2], 'guidance_scale': [3.0, 3.0, 3.0]}
        >>> table.query("seed > 1")["sample"].tolist()
        ['truck']
        """
        import pandas as pd

        names: list[str] = []
        columns: dict[str, list[Any]] = {}
        same: dict[Any, Any] = {}  # Each text once: most are those of all samples.
        for name, own in self.iter_attributes(checked=True):
            told = {key: value for key, value in own.items() if key not in _SAID_OF_ALL}
            for column, value in _flat(told):
                values = columns.setdefault(column, [])
                values += [np.nan] * (len(names) - len(values))
                values.append(same.setdefault(value, value) if isinstance(value, str) else value)
            names.append(name)
        for values in columns.values():
            values += [np.nan] * (len(names) - len(values))
        exact = {column: _exact(values) for column, values in columns.items()}
        return pd.DataFrame({"sample": names, **exact})


def _exact(values: list[Any]) -> list[Any] | pd.Series[Any]:
    """Return a column; where one is missing, pandas makes floats of whole numbers, and two seeds one."""
    import pandas as pd

    if any(isinstance(value, int) and abs(value) > _LARGEST_EXACT for value in values):
        return pd.Series(values, dtype=object)
    return values


def _flat(own: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested attributes with dotted names, after those that are not nested."""
    nested = {key: value for key, value in own.items() if isinstance(value, dict)}
    yield from ((prefix + key, value) for key, value in own.items() if key not in nested)
    for key, value in nested.items():
        yield from _flat(value, f"{prefix}{key}.")


class Maps(_Trees):
    """A maps store: sample name -> DataTree with the groups ``r2g`` and, where it exists, ``g2r``.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     maps = open_maps(store)
    ...     print(list(maps), maps["truck"]["g2r/hlam"].dims)
    ['truck'] ('head', 'reference_y', 'reference_x')
    """

    kind = "maps"
    unstated_status = "complete"
    other_kind_hint = "Run 'i2am analyze' on it first, and give the maps."
    next_calls = (
        "maps[{!r}]['r2g/ulam'] is a map",
        "score_maps(maps.path) scores all",
        "i2am.show(maps) shows them",
    )

    @staticmethod
    def _facts(sample: GroupDescription) -> dict[str, str]:
        found: dict[str, str] = {}
        for direction in (d for d in DIRECTIONS if d in sample.groups):
            volume = sample.groups[direction].arrays["volume"]
            layers, steps, heads, height, width = volume.shape
            found[direction] = f"{layers} layers, {steps} steps, {heads} heads on {height}×{width}"
        return found

    def _open(self, group: zarr.Group, name: str, state: SampleState) -> xr.DataTree:
        # What the store says of all its samples goes with each, as `analyze` has it.
        sample = super()._open(group, name, state)
        own = self.attributes
        options = own.get("options") or {}
        told = {key: own[key] for key in ("convention", "normalisation") if key in own}
        told |= {key: value for key, value in options.items() if value is not None}
        sample.attrs[ATTRIBUTE_KEY] = told | sample.attrs.get(ATTRIBUTE_KEY, {})
        return sample

    @property
    def not_default(self) -> dict[str, str]:
        """The options that make values of another kind, where they were given: weights, within."""
        options = self.attributes.get("options") or {}
        return {key: options[key] for key in ("weights", "within") if options.get(key)}


class _NoSample(StoreError, KeyError):
    """So that ``Mapping.get`` works."""


def open_root(path: StoreLike) -> zarr.Group:
    """Return the root group of a store of ours: a run, maps or effects.

    Raises
    ------
    StoreError
        If it is missing, not ours, or of a newer schema than this version reads.
    """
    root = open_group(path)
    own = own_attributes(root)
    # A sample's own group has a status; a maps sample is of kind "maps", too.
    is_sample = "status" in own and not (own.get("kind") == "effects" and "source" in own)
    if own.get("kind") not in _KINDS or is_sample:
        what = "a sample's group" if is_sample else _what(root)
        is_other_kind = "kind" in own and not is_sample
        hint = "Give one of these." if is_other_kind else "Give its root."
        msg = f"Expected a run, maps or effects store of i2am, got {what}, at {path}. {hint}"
        raise StoreError(msg)
    check_schema(own, path)
    content = read_object(root.store_path / METADATA_KEY)
    if content is not None and (fault := metadata_fault(json.loads(content.to_bytes()), "")):
        msg = (
            f"Expected the store as it was written, got its zarr.json altered: {fault}, at {path}. "
        )
        raise StoreError(msg + "Make it anew.")
    return root


def _store_of(kind: str) -> str:
    return f"{'an' if kind == 'effects' else 'a'} {kind} store"


def _facts_of(own: dict[str, Any]) -> dict[str, Any]:
    contents = contents_of(own)
    return without_inventory(own) | ({} if contents is None else {"contents": contents})


def _what(group: zarr.Group) -> str:
    if "kind" in (own := own_attributes(group)):
        return f"one of kind {own['kind']!r}"
    names = sorted(group.attrs)
    return f"a Zarr group with {'the attributes ' + ', '.join(names) if names else 'no attributes'}"


def open_tree(
    group: zarr.Group,
    name: str | None = None,
    state: SampleState | None = None,
    check: Callable[[GroupDescription], None] | None = None,
) -> xr.DataTree:
    """Return a group and all below it, every array lazy but the coordinates.

    Parameters
    ----------
    group : zarr.Group
    name : str, optional
        Of the tree.
    state : SampleState, optional
        If the group is a sample: what is read later is checked against it.
    check : callable (GroupDescription), optional
        Raises what is wrong with the group, before xarray reads it.
    """
    import xarray as xr

    nodes = dict(group.members(max_depth=None))
    values = _read_lines(group, nodes, state)
    if check is not None:
        check(describe_nodes(group, nodes, values))
    groups = {"": group} | {p: node for p, node in nodes.items() if isinstance(node, zarr.Group)}
    arrays: dict[str, dict[str, tuple[zarr.Array[Any], Any]]] = {path: {} for path in groups}
    for path, node in nodes.items():
        if isinstance(node, zarr.Array):
            parent, _, own_name = path.rpartition("/")
            arrays[parent][own_name] = node, values.get(path)
    trees = {
        f"/{path}": _open_dataset(node, arrays[path], state)
        for path, node in sorted(groups.items())
    }
    return xr.DataTree.from_dict(trees, name=name)


def _read_lines(
    group: zarr.Group, nodes: Mapping[str, Node], state: SampleState | None
) -> dict[str, NDArray[Any]]:
    """Return the arrays of one dimension below a group, by path: coordinates, no map and no score."""
    lines = {
        p: node for p, node in nodes.items() if isinstance(node, zarr.Array) and node.ndim == 1
    }
    check_read_whole(lines.values(), str(group.store_path))
    return {path: _plain(StoredArray(array, state)[:]) for path, array in lines.items()}


def _open_dataset(
    group: zarr.Group,
    arrays: dict[str, tuple[zarr.Array[Any], NDArray[Any] | None]],
    state: SampleState | None,
) -> xr.Dataset:
    import xarray as xr

    variables: dict[str, xr.Variable] = {}
    coordinates = set()
    for name, (array, values) in sorted(arrays.items()):
        names = getattr(array.metadata, "dimension_names", None) if array.ndim else ()
        if names is None or None in names:
            msg = (
                f"Expected named dimensions, got {names}, at {array.store_path}. "
                "Run 'i2am validate' on the store."
            )
            raise StoreError(msg)
        if values is not None:
            coordinates.add(name)
            variables[name] = xr.Variable(names, values)
        else:
            variables[name] = in_chunks(array, names, state)
        variables[name].attrs = {key: array.attrs[key] for key in _KEPT if key in array.attrs}
    attributes = {}
    if ATTRIBUTE_KEY in group.attrs:
        own = group.attrs[ATTRIBUTE_KEY]
        attributes[ATTRIBUTE_KEY] = without_inventory(own) if isinstance(own, dict) else own
    return xr.Dataset(variables, attrs=attributes).set_coords(sorted(coordinates))


def _plain(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return text as fixed-width unicode, which every tool's index takes."""
    return np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values
