"""The maps store as it is written: opened with its options, then sample by sample.

A sample's metadata is written first, its chunks in any order, its status last: a sample that is marked
complete is complete, whatever stops the work.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from pathlib import Path
from typing import Any, Final

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from i2am.analysis.stores.reader import open_root
from i2am.schemas import SCHEMA_VERSION, MapsAttributes, StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import LAYER, STEP
from i2am.storage.addresses import StoreLike, is_url, own_attributes

__all__ = [
    "finish_sample",
    "is_finished",
    "open_output",
    "source_of",
    "start_sample",
    "write_coordinate",
    "write_coordinates",
]

# A chunk of a volume: one layer's heads and whole maps of a few steps, quick to fetch and show.
_CHUNK_BYTES: Final = 4 * 2**20
# As fast as no compression, a quarter smaller, and read in half the time of zstd.
_COMPRESSOR: Final = BloscCodec(cname="lz4", shuffle="shuffle")


def source_of(run: StoreLike, out: Path) -> str:
    """Return where the run is: relative when it lies beside the maps, so that both may move."""
    if not isinstance(run, str | Path) or is_url(run):
        return str(run)
    path = Path(run).resolve()
    return (
        os.path.relpath(path, out.resolve()) if path.parent == out.resolve().parent else str(path)
    )


def open_output(out: Path, source: str, options: dict[str, Any], *, overwrite: bool) -> zarr.Group:
    """Return the root of the maps store: a new one, or one that was written with the same options.

    Parameters
    ----------
    out : Path
    source : str
        As `source_of` gives it.
    options : dict
        What `analyze` takes.
    overwrite : bool
        Replace a maps store that was written with other options.

    Raises
    ------
    StoreError
        If `out` is something else, or was written with other options.
    """
    attributes = MapsAttributes(
        convention=options["convention"],
        normalisation=options["normalisation"],
        source=source,
        options={k: v for k, v in options.items() if k not in {"convention", "normalisation"}},
    ).to_store()
    if out.exists() and (out.is_file() or any(out.iterdir())):
        own = own_attributes(open_root(out))
        if own["kind"] != "maps":
            msg = f"Expected a maps store to write to, got a {own['kind']} store, at {out}. "
            msg += "Give another output."
            raise StoreError(msg)
        changed = sorted(_flat(own).items() ^ _flat(attributes[ATTRIBUTE_KEY]).items())
        if not changed:
            return zarr.open_group(out, mode="r+")
        if not overwrite:
            names = ", ".join(dict.fromkeys(name for name, _ in changed))
            msg = (
                f"Expected the options that this store was written with, got other {names}, "
                f"at {out}. Give another output, or overwrite."
            )
            raise StoreError(msg)
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return zarr.create_group(out, attributes=attributes)


def is_finished(root: zarr.Group, name: str, created: str) -> bool:
    """Return whether a sample's maps are complete and of the capture made at that time."""
    group = root.get(name)
    own = own_attributes(group) if isinstance(group, zarr.Group) else {}
    return own.get("status") == "complete" and own.get("source_created") == created


def start_sample(root: zarr.Group, name: str, maps: xr.DataTree, created: str) -> list[da.Array]:
    """Write a sample's metadata, and return lazy arrays that write its maps when computed.

    Parameters
    ----------
    root : zarr.Group
        The maps store.
    name : str
    maps : DataTree
        As `analyze` gives it.
    created : str
        When the sample was captured.
    """
    attributes = {ATTRIBUTE_KEY: {**_own(created), "status": "running"}}
    sample = root.create_group(name, overwrite=True, attributes=attributes)
    sources: list[da.Array] = []
    targets: list[zarr.Array[Any]] = []
    for direction, node in maps.children.items():
        levels = node.to_dataset()
        group = sample.create_group(direction)
        write_coordinates(group, levels)
        for level, values in levels.data_vars.items():
            source, chunks = _chunked(values)
            targets.append(
                group.create_array(
                    str(level),
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=chunks,
                    compressors=_COMPRESSOR,
                    dimension_names=[str(dim) for dim in values.dims],
                )
            )
            sources.append(source)
    work = da.store(sources, targets, lock=False, compute=False)
    return list(work) if isinstance(work, tuple) else [work]  # One, in older versions of Dask.


def write_coordinates(group: zarr.Group, levels: xr.Dataset) -> None:
    """Write a dataset's coordinates into a group, and which of them are not dimensions."""
    extra = [str(c) for c in levels.coords if c not in levels.dims]
    # xarray's own mark: without it other readers take timestep and the like for data.
    group.update_attributes({"coordinates": " ".join(extra)})
    for coordinate in levels.coords.values():
        write_coordinate(group, coordinate)


def write_coordinate(group: zarr.Group, coordinate: xr.DataArray) -> None:
    """Write one coordinate under its name, with its attributes: those in pixels have units."""
    values = coordinate.to_numpy()
    if values.dtype.kind == "U":
        values = values.astype(np.dtypes.StringDType())
    names = [str(dim) for dim in coordinate.dims]
    attributes = {str(key): value for key, value in coordinate.attrs.items()}
    group.create_array(
        str(coordinate.name), data=values, dimension_names=names, attributes=attributes
    )


def finish_sample(root: zarr.Group, name: str, created: str) -> None:
    """Mark a sample as complete."""
    sample = root[name]
    sample.update_attributes({ATTRIBUTE_KEY: {**_own(created), "status": "complete"}})


def _own(created: str) -> dict[str, Any]:
    return {"kind": "maps", "schema": SCHEMA_VERSION, "source_created": created}


def _flat(attributes: dict[str, Any]) -> dict[str, str]:
    """Return attributes and options in one mapping, without those that are None."""
    nested = attributes.get("options") or {}
    every = {k: v for k, v in (attributes | nested).items() if k != "options"}
    return {key: repr(value) for key, value in every.items() if value is not None}


def _chunked(values: xr.DataArray) -> tuple[da.Array, tuple[int, ...]]:
    """Return what to store and the chunks to store it in, which no two blocks share.

    One chunk for a level; for a volume one for each layer and few steps: such that each computed
    block is whole chunks, where that makes chunks of a sensible size.
    """
    sizes = dict(values.sizes)
    if STEP not in sizes or LAYER not in sizes:
        return values.data.rechunk(-1), values.shape
    step_bytes = values.dtype.itemsize * math.prod(values.shape) // (sizes[LAYER] * sizes[STEP])
    most_steps = min(sizes[STEP], max(1, _CHUNK_BYTES // step_bytes))
    blocks = dict(zip(values.dims, values.data.chunks, strict=True))[STEP]
    shared = functools.reduce(math.gcd, blocks[:-1] or blocks)
    if shared > most_steps:
        shared = max(n for n in range(1, most_steps + 1) if shared % n == 0)
    whole = {dim: -1 for dim in sizes if dim not in {LAYER, STEP}}
    if 4 * shared < most_steps and shared < 4:  # Many small files are worse than moving maps.
        chunks = sizes | {LAYER: 1, STEP: most_steps}
        return values.chunk(chunks).data, tuple(chunks.values())
    return values.chunk(whole).data, tuple((sizes | {LAYER: 1, STEP: shared}).values())
