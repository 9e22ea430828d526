"""Whether a sample that is open is still the one that was opened.

A sample may be replaced while somebody reads it. Its own metadata are changed before anything else of it,
so values that were read before a look at these are all of one sample.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from zarr.storage import ObjectStore, StorePath

from i2am.schemas import StoreError
from i2am.storage.guard.guarded_store import GuardedStore
from i2am.storage.integrity import altered_objects, inventory_of
from i2am.storage.inventory import METADATA_KEY, Inventory, own_facts
from i2am.storage.objects import local_path, read_object

__all__ = ["SampleState"]


class SampleState:
    """A sample as it was opened; can be pickled.

    Parameters
    ----------
    sample : StorePath
        The sample's group.
    """

    def __init__(self, sample: StorePath) -> None:
        self.path = sample
        # In this order: what is read afterwards is no older than the mark.
        self._mark = self._look()
        content = read_object(sample / METADATA_KEY)
        self._content = b"" if content is None else content.to_bytes()

    @property
    def name(self) -> str:
        """The sample's name."""
        return self.path.path.rpartition("/")[2]

    @functools.cached_property
    def inventory(self) -> Inventory | None:
        """The objects that it consists of; None of a sample that does not say."""
        return inventory_of(own_facts(self._content))

    def check_whole(self, store: object) -> None:
        """Check at a glance that all objects are those that were written.

        Raises
        ------
        StoreError
            If one is not.
        """
        fault = next(altered_objects(self.path, self.name, self._content), None)
        if fault is not None:
            msg = (
                f"Expected the sample as it was written, got {fault}, at {store}. "
                "'i2am repair' lists the samples that must be made again."
            )
            raise StoreError(msg)

    def check_same(self) -> None:
        """Check that values which were just read belong to the sample that was opened.

        Raises
        ------
        StoreError
            If it was replaced or removed in the meantime.
        """
        mark = self._look()
        if mark == self._mark:
            return
        if own_facts(read_object(self.path / METADATA_KEY)) != own_facts(self._content):
            msg = (
                f"Expected the sample that was opened, got one that was written since, at "
                f"{self.path}. Open it again."
            )
            raise StoreError(msg)
        self._mark = mark

    def _look(self) -> Any:
        """Return what changes with the sample's metadata, at the least cost."""
        path = self.path / METADATA_KEY
        if (file := local_path(path)) is not None:
            return _mark_of_file(file)
        store = path.store.unguarded if isinstance(path.store, GuardedStore) else path.store
        if isinstance(store, ObjectStore):
            try:
                found: Any = store.store.head(path.path)
            except FileNotFoundError:
                return None
            return found["e_tag"], found["size"], str(found["last_modified"])
        content = read_object(path)
        return None if content is None else json.dumps(own_facts(content), sort_keys=True)


def _mark_of_file(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
