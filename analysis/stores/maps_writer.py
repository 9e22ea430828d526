"""The maps store as it is written: opened with its options, then sample by sample.

A sample's metadata is written first, its chunks in any order, its status last, when all of it is on the
disk: a sample that is marked complete is complete, whatever stops the work. Several analyses may fill
one store, with the same options: each claims a sample before it writes it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from i2am.analysis.stores.reader import open_root
from i2am.schemas import MapsAttributes, StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import LAYER, STEP
from i2am.storage.addresses import own_attributes, path_to_write
from i2am.storage.inventory import (
    DIGEST,
    METADATA_KEY,
    OBJECTS,
    inventory_below,
    with_digest,
)
from i2am.storage.objects import (
    create_object,
    make_durable,
    put_objects,
    to_buffer,
)
from i2am.storage.owners import Writer
from i2am.storage.replacement import delete_sample, empty_store, write_metadata
from i2am.storage.sources import CaptureSource, is_complete

__all__ = [
    "COORDINATE_CODECS",
    "MAP_CODECS",
    "Source",
    "Targets",
    "finish_sample",
    "is_finished",
    "open_output",
    "start_sample",
    "write_coordinate",
    "write_coordinates",
]

# Where a volume or level is written, by its group and its name.
Targets = Mapping[tuple[str, str], "zarr.Array[Any]"]

# A chunk of a volume: one layer's heads and whole maps of a few steps, quick to fetch and show.
_CHUNK_BYTES: Final = 4 * 2**20
# As fast as no compression, a quarter smaller, and read in half the time of zstd. The checksum is what
# the inventory lists; a chunk of zeros is written, too, so that a file that is missing is seen.
MAP_CODECS: Final[dict[str, Any]] = {
    "compressors": (BloscCodec(cname="lz4", shuffle="shuffle"), Crc32cCodec()),
    "config": {"write_empty_chunks": True},
}
COORDINATE_CODECS: Final[dict[str, Any]] = MAP_CODECS | {"compressors": (Crc32cCodec(),)}


def open_output(out: Path, source: str, options: dict[str, Any], *, overwrite: bool) -> Writer:
    """Enter this process into the maps store: a new one, or one that was written with the same options.

    Parameters
    ----------
    out : Path
    source : str
        As `source_of` gives it.
    options : dict
        What `analyze` takes.
    overwrite : bool
        Replace a maps store that was written with other options.

    Returns
    -------
    Writer
        To be closed at the end.

    Raises
    ------
    StoreError
        If `out` is something else, was written with other options, or is being written and shall
        be replaced.
    """
    attributes = MapsAttributes(
        convention=options["convention"],
        normalisation=options["normalisation"],
        source=source,
        options={k: v for k, v in options.items() if k not in {"convention", "normalisation"}},
    ).to_store()
    node = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    root = path_to_write(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        changed = _changed_options(out, attributes[ATTRIBUTE_KEY])
        if changed and not overwrite:
            msg = (
                f"Expected the options that this store was written with, got other {', '.join(changed)}, "
                f"at {out}. Give another output, or overwrite."
            )
            raise StoreError(msg)
        writer = Writer(root)
        if changed:
            try:
                empty_store(root, writer.others())
                put_objects([(root / METADATA_KEY, to_buffer(with_digest(node, "")))], durable=True)
            except BaseException:
                writer.close()
                raise
        return writer
    out.mkdir(parents=True, exist_ok=True)
    create_object(root / METADATA_KEY, with_digest(node, ""))
    make_durable(root, [METADATA_KEY])
    if changed := _changed_options(out, attributes[ATTRIBUTE_KEY]):  # Another process was faster.
        msg = (
            f"Expected a new store, got one that another analysis began with other "
            f"{', '.join(changed)}, at {out}. Give another output."
        )
        raise StoreError(msg)
    return Writer(root)


def _changed_options(out: Path, wanted: dict[str, Any]) -> list[str]:
    """Return the names of the options that a maps store was written with and that differ."""
    own = own_attributes(open_root(out))
    if own["kind"] != "maps":
        msg = f"Expected a maps store to write to, got a {own['kind']} store, at {out}. "
        raise StoreError(msg + "Give another output.")
    own.pop(DIGEST, None)
    changed = sorted(_flat(own).items() ^ _flat(json.loads(json.dumps(wanted))).items())
    return list(dict.fromkeys(name for name, _ in changed))


@dataclass(frozen=True)
class Source(CaptureSource):
    """The captured sample that maps are made from.

    Parameters
    ----------
    created, contents
        See `CaptureSource`.
    layer_weights : mapping of layer to float, optional
        By which the maps weigh the layers, if they do.
    """

    layer_weights: Mapping[str, float] | None = None

    def attributes(self, status: str) -> dict[str, Any]:
        """Return what the maps' own attributes hold."""
        weights = {} if self.layer_weights is None else {"layer_weights": dict(self.layer_weights)}
        return self.described("maps", status, **weights)


def is_finished(root: zarr.Group, name: str, source: Source) -> bool:
    """Return whether a sample's maps are complete and were made from this capture."""
    return is_complete(root.store_path / name, source.attributes("complete"))


def start_sample(
    root: zarr.Group,
    name: str,
    maps: xr.DataTree,
    source: Source,
    writer: Writer,
    *,
    by_block: Callable[[Targets], list[da.Array] | None] | None = None,
    durable: bool = True,
) -> list[da.Array]:
    """Write a sample's metadata, and return lazy arrays that write its maps when computed.

    Parameters
    ----------
    root : zarr.Group
        The maps store.
    name : str
    maps : DataTree
        As `analyze` gives it.
    source : Source
        What they are made from.
    writer : Writer
        This process in the store.
    by_block : callable (targets) -> lazy arrays, optional
        What writes all maps with fewer tasks than each array by itself; None where it cannot.
    durable : bool
        See `finish_sample`.

    Raises
    ------
    SampleTaken
        If another process writes the sample.
    """
    writer.claim(name)
    path = root.store_path / name
    delete_sample(path)
    write_metadata(path, source.attributes("running"), durable=durable)
    sample = zarr.open_group(path, mode="r+")
    sources: list[da.Array] = []
    targets: dict[tuple[str, str], zarr.Array[Any]] = {}
    for direction, node in maps.children.items():
        levels = node.to_dataset()
        group = sample.create_group(direction)
        write_coordinates(group, levels)
        for level, values in levels.data_vars.items():
            source, chunks = _chunked(values)
            targets[direction, str(level)] = group.create_array(
                str(level),
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks,
                dimension_names=[str(dim) for dim in values.dims],
                attributes={str(key): value for key, value in values.attrs.items()},
                **MAP_CODECS,
            )
            sources.append(source)
    if by_block is not None and (writes := by_block(targets)) is not None:
        return writes
    work = da.store(sources, list(targets.values()), lock=False, compute=False)
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
        str(coordinate.name),
        data=values,
        dimension_names=names,
        attributes=attributes,
        **COORDINATE_CODECS,
    )


def finish_sample(
    root: zarr.Group, name: str, source: Source, writer: Writer, *, durable: bool = True
) -> None:
    """Mark a sample as complete, once all of it is there.

    Parameters
    ----------
    root, name, source, writer
        As for `start_sample`.
    durable : bool
        Whether it has to be on the disk before, so that it would outlive a power cut.

    Raises
    ------
    StoreError
        If a chunk is missing.
    """
    path = root.store_path / name
    inventory = inventory_below(path)
    for array_path, node in zarr.open_group(path, mode="r").members(max_depth=None):
        if isinstance(node, zarr.Array):
            written = sum(one.startswith(f"{array_path}/c") for one in inventory.objects)
            if written != node.nchunks:
                msg = (
                    f"Expected {node.nchunks} chunks that were just written, got {written}, at "
                    f"{path}/{array_path}. Check the storage, then analyze the sample again."
                )
                raise StoreError(msg)
    if durable:
        make_durable(path, inventory.objects)
    own = source.attributes("complete") | {OBJECTS: inventory.to_text()}
    write_metadata(path, own, durable=durable)
    writer.release(name)


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
