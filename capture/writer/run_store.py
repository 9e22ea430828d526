"""The capture store as it is written: run, sample groups, images, coordinates, status.

A run lies in a local directory or in an object store, named by a URL. Several processes may fill
one run at once, each its own samples: a process claims a sample before it writes it.

A sample's values come first, then their metadata, its status last, when all of that is on the disk.
A complete sample that shall be replaced stays what it is until the new one, which lies below
``.replacing`` so long, is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from zarr.storage import StorePath

from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.zarr_objects import (
    Array,
    NodeMetadata,
    group_metadata,
    single_chunk_metadata,
    write_nodes,
    write_text_array,
)
from i2am.files import check_not_in_store
from i2am.schemas import (
    Box,
    ImageAttributes,
    RunAttributes,
    SchemaError,
    StorageError,
    StoreError,
    check_sample_name,
)
from i2am.schemas.attributes import SCHEMA_VERSION
from i2am.schemas.dims import GUIDANCE, STEP, TIMESTEP, image_dims
from i2am.storage.addresses import (
    own_attributes,
    path_to_write,
    reported_as_store_error,
    to_store,
)
from i2am.storage.guard.guarded_store import guarded
from i2am.storage.inventory import METADATA_KEY, OBJECTS, own_facts, without_inventory
from i2am.storage.listing import Unreadable, iter_groups
from i2am.storage.objects import (
    create_object,
    list_sizes,
    local_path,
    make_durable,
    put_objects,
    read_object,
    to_buffer,
)
from i2am.storage.owners import Writer
from i2am.storage.replacement import (
    delete_sample,
    finish_replacements,
    move_over,
    place_for_replacement,
    write_metadata,
)

__all__ = [
    "SampleComplete",
    "SampleStore",
    "enter_run",
    "finished_samples",
    "iter_finished_samples",
    "open_run_group",
    "open_sample",
    "stored_bytes",
]

_WRITE_ATTEMPTS: Final = 3


class SampleComplete(StoreError):
    """A sample is complete already, and must not be replaced."""


def open_run_group(store: str | Path) -> zarr.Group:
    """Return the root group of a run; creates it if there is none.

    Raises
    ------
    StoreError
        If something else is there, the store cannot be reached, or it would lie inside another.
    """
    root = _open_root(store)
    with reported_as_store_error(store):
        return zarr.open_group(root, mode="r+")


def enter_run(store: str | Path, settings: Mapping[str, Any] | None = None) -> Writer:
    """Enter this process into a run, which is created if there is none; see `Writer`.

    What an earlier process was replacing when it ended is brought to its end.

    Raises
    ------
    StoreError
        If something else is there, or the store cannot be reached.
    """
    root = _open_root(store)
    with reported_as_store_error(store):
        writer = Writer(root, settings)
        try:
            finish_replacements(root, writer)
        except BaseException:
            writer.close()
            raise
        return writer


def finished_samples(store: str | Path) -> set[str]:
    """Return the names of a run's complete samples; none if there is no run yet.

    Raises
    ------
    StoreError
        If it is another store, or cannot be reached.
    """
    return {name for name, _ in iter_finished_samples(store)}


def iter_finished_samples(store: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and provenance of each complete sample of a run; none if there is no run yet.

    Raises
    ------
    StoreError
        If it is another store, or cannot be reached.
    """
    with reported_as_store_error(store):
        try:
            root = zarr.open_group(guarded(path_to_write(store).store), mode="r")
        except FileNotFoundError:
            return
        _check_is_run(own_attributes(root), store)
        for name, own in iter_groups(root):  # Damaged ones are told by whoever wants to write them.
            if not isinstance(own, Unreadable) and own.get("status") == "complete":
                yield name, without_inventory(own)


def stored_bytes(store: str | Path, sample: str) -> int:
    """Return how much a sample takes in the store."""
    return sum(list_sizes(_open_root(store) / sample).values())


def open_sample(
    store: str | Path,
    sample: str,
    *,
    overwrite: bool,
    attributes: Mapping[str, Any],
    writer: Writer | None = None,
    durable: bool = True,
) -> SampleStore:
    """Return a new sample, whose status is that of `attributes`; what an unfinished one left is removed.

    Parameters
    ----------
    store : str or Path
    sample : str
    overwrite : bool
        Whether a complete sample of this name may be replaced, once the new one is complete.
    attributes : mapping
        See `SampleStore.set_status`.
    writer : Writer, optional
        This process in the run; without it nothing is claimed.
    durable : bool
        See `SampleStore`.

    Raises
    ------
    SampleTaken
        If another process writes the sample.
    SampleComplete
        If the sample is complete and `overwrite` is false.
    StoreError
        If the sample is damaged, or `store` is not a run or cannot be reached.
    SchemaError
        If `sample` cannot name a group.
    """
    check_sample_name(sample)
    root = _open_root(store)
    with reported_as_store_error(store):
        if writer is not None:
            writer.claim(sample)
        try:
            path = _free_place(root, sample, store, overwrite=overwrite)
            opened = SampleStore(path, root / sample, writer, durable)
            opened.set_status(attributes)
            write_nodes(opened.folder, {"images": group_metadata(), "layers": group_metadata()})
        except BaseException:
            if writer is not None:
                with suppress(OSError, StorageError):
                    writer.release(sample)
            raise
        return opened


def _free_place(root: StorePath, sample: str, store: str | Path, *, overwrite: bool) -> StorePath:
    """Return where a sample can be written, after what an unfinished one left there was removed."""
    path = root / sample
    if _status(path, sample) == "complete":
        if not overwrite:
            msg = (
                f"Expected a new sample, got {sample!r}, which is complete in {store}. "
                "Name another one, or pass overwrite=True."
            )
            raise SampleComplete(msg)
        path = place_for_replacement(root, sample)
    delete_sample(path)
    return path


class SampleStore:
    """One sample of a run as it is written.

    Parameters
    ----------
    path : StorePath
        Where it is written.
    final_path : StorePath
        Where it belongs; another place than `path` if it replaces a complete sample.
    writer : Writer, optional
        The process that has claimed it.
    durable : bool
        Whether it is complete only once it would outlive a power cut.
    """

    def __init__(
        self, path: StorePath, final_path: StorePath, writer: Writer | None, durable: bool
    ) -> None:
        self.folder = ObjectFolder(path)
        self._final_path, self._writer, self._durable = final_path, writer, durable
        self._written: bytes | None = None  # our latest metadata

    @property
    def name(self) -> str:
        """The sample's name."""
        return self._final_path.path.rpartition("/")[2]

    def set_status(self, attributes: Mapping[str, Any]) -> None:
        """Replace the sample's attributes; with the status "complete" it is one for readers.

        Parameters
        ----------
        attributes : mapping
            Status and provenance, as `CaptureAttributes` has them.

        Raises
        ------
        StoreError
            If the store cannot be reached, an object is not there that was written, or another
            process has written the sample since.
        """
        own = dict(attributes)
        with reported_as_store_error(self.folder.path):
            self._check_is_ours()
            if own["status"] == "complete":
                own[OBJECTS] = self._finish_objects()
                if self.folder.path != self._final_path:
                    self._replace(own)
            elif self._writer is not None:
                own["owner"] = self._writer.id
            self._write(self.folder.path, own)
            if own["status"] != "running" and self._writer is not None:
                self._writer.release(self.name)

    def write_coordinates(
        self, steps: Sequence[int], timesteps: Sequence[float], branches: Sequence[str]
    ) -> None:
        """Write step, timestep and, for more than one branch, guidance.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """
        with reported_as_store_error(self.folder.path):
            values = {
                STEP: np.asarray(steps, np.int64),
                TIMESTEP: np.asarray(timesteps, np.float64),
            }
            nodes = {name: single_chunk_metadata(array, (STEP,)) for name, array in values.items()}
            write_nodes(self.folder, nodes, values)
            if len(branches) > 1:
                write_text_array(self.folder, GUIDANCE, branches, GUIDANCE)

    def write_images(
        self, images: Mapping[str, Array], boxes: Mapping[str, Box] | None = None
    ) -> None:
        """Write images and masks; all are checked before the first one is written.

        Parameters
        ----------
        images : mapping of str to array, uint8 (y, x, 3), or for a mask (y, x) of 0 and 255
            By their names in the contract.
        boxes : mapping of str to Box, optional
            By the names of some of the images: the part that the model saw, where that is not all.

        Raises
        ------
        SchemaError
            If an image has another name, shape or dtype.
        StoreError
            If the store cannot be reached.
        """
        nodes: dict[str, NodeMetadata] = {}
        for name, array in images.items():
            names = image_dims(name)
            if names is None or array.ndim != len(names) or array.dtype != np.uint8:
                msg = (
                    f"Expected uint8 (y, x, 3), or a mask (y, x), under an image's name, got "
                    f"{array.dtype} {array.shape}, at {name!r}. Read it with add_images."
                )
                raise SchemaError(msg)
            nodes[name] = _image_metadata(array, (boxes or {}).get(name), names)
        with reported_as_store_error(self.folder.path):
            write_nodes(self.folder / "images", nodes, images)

    def write_box(self, name: str, shape: Sequence[int], box: Box) -> None:
        """Write which part of an image that is stored already the model saw.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """
        array = np.broadcast_to(np.uint8(0), shape)  # Of its values nothing is written.
        with reported_as_store_error(self.folder.path):
            node = _image_metadata(array, box, image_dims(name) or ())
            write_nodes(self.folder / "images", {name: node})

    def _finish_objects(self) -> str:
        """Return the inventory, once all that it lists is there, and on the disk."""
        path, inventory = self.folder.path, self.folder.inventory
        found = list_sizes(path)
        for name, (size, _) in inventory.objects.items():
            if (got := found.get(name)) != size:
                what = "none" if got is None else f"one of {got:,}"
                msg = (
                    f"Expected an object of {size:,} bytes that was just written, got {what}, at "
                    f"{path}/{name}. Check the storage, then run the sample again."
                )
                raise StorageError(msg)
        if self._durable:
            make_durable(path, inventory.objects)
        return inventory.to_text()

    def _replace(self, own: Mapping[str, Any]) -> None:
        """Move the sample to where it belongs, over the one that was complete there."""
        # From here on the new one can be completed by any process, so the old one may go.
        self._write(self.folder.path, {**own, "status": "running"})
        move_over(self.folder.path, self._final_path, own, self.folder.inventory, self._durable)
        self.folder = ObjectFolder(self._final_path, self.folder.inventory)

    def _write(self, path: StorePath, own: Mapping[str, Any]) -> None:
        for _ in range(_WRITE_ATTEMPTS):
            self._written = write_metadata(path, own, durable=self._durable)
            if local_path(path) is not None:
                return
            # A bucket may acknowledge what it does not keep.
            found = read_object(path / METADATA_KEY)
            if found is not None and found.to_bytes() == self._written:
                return
        msg = (
            f"Expected the status that was just written, got {'none' if found is None else 'another'}, "
            f"at {path}/{METADATA_KEY}. Check the storage, then run the sample again."
        )
        raise StorageError(msg)

    def _check_is_ours(self) -> None:
        if self._written is None:
            return
        found = read_object(self.folder.path / METADATA_KEY)
        if found is None or found.to_bytes() != self._written:
            msg = (
                f"Expected the sample as this capture left it, got one that another process has "
                f"written since, at {self.folder.path}. Capture it again under another name."
            )
            raise StoreError(msg)


def _status(path: StorePath, sample: str) -> str | None:
    """Return a sample's status; None where there is none, or nothing but what was left of one."""
    content = read_object(path / METADATA_KEY)
    if content is None:
        return None
    own = own_facts(content)
    if "status" not in own:
        msg = (
            f"Expected a sample's metadata or none, got others, at {sample}/{METADATA_KEY}. "
            "'i2am repair RUN --apply' takes the sample out, so that it can be captured again."
        )
        raise StoreError(msg)
    return str(own["status"])


def _image_metadata(array: Array, box: Box | None, names: Sequence[str]) -> NodeMetadata:
    attributes = None if box is None else ImageAttributes(box=box).to_store()
    return single_chunk_metadata(array, names, attributes)


def _open_root(store: str | Path) -> StorePath:
    """Return where a run lies, after it was created if it was not there."""
    place = to_store(store)
    with reported_as_store_error(store):
        if isinstance(place, Path) and _is_something_else(place):
            msg = f"Expected a run or nothing, got another file or folder at {store}. "
            raise StoreError(msg + "Name a new one.")
        root = path_to_write(store)
        content = read_object(root / METADATA_KEY)
        node = {
            "attributes": RunAttributes().to_store(),
            "zarr_format": 3,
            "node_type": "group",
        }
        wanted = json.dumps(node, indent=2).encode()
        if content is None:
            check_not_in_store(store)
            create_object(root / METADATA_KEY, wanted)
            make_durable(root, [METADATA_KEY])
            return root
        if len(content) < len(wanted) and wanted.startswith(content.to_bytes()):
            # Its creation was cut short. Whoever writes it writes the same.
            put_objects([(root / METADATA_KEY, to_buffer(wanted))], durable=True)
            return root
    _check_is_run(own_facts(content), store)
    return root


def _check_is_run(own: Mapping[str, Any], store: str | Path) -> None:
    if (kind := own.get("kind")) != "run":
        msg = f"Expected a run, got {kind or 'another Zarr group'} at {store}. Name a new store."
        raise StoreError(msg)
    if (schema := own.get("schema")) != SCHEMA_VERSION:
        msg = (
            f"Expected a run of schema {SCHEMA_VERSION}, got {schema!r}, at {store}. Name a new store, "
            "or upgrade i2am if a newer version wrote this one."
        )
        raise StoreError(msg)


def _is_something_else(path: Path) -> bool:
    # In this order: another process may just be creating the run.
    if not path.exists():
        return False
    if not path.is_dir():
        return True
    if (path / METADATA_KEY).exists():  # A run of many samples is not listed for every one of them.
        return False
    # zarr writes files under this suffix first.
    entries = [entry for entry in path.iterdir() if entry.suffix != ".partial"]
    return bool(entries) and not (path / METADATA_KEY).exists()
