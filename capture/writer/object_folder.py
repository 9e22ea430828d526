"""A folder of a sample that remembers the objects that were written into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zarr.abc.buffer import Buffer
from zarr.storage import LocalStore, ObjectStore, StorePath

from i2am.storage.inventory import Inventory
from i2am.storage.objects import delete_object, put_object, put_objects, read_object

__all__ = ["ObjectFolder"]


@dataclass(frozen=True)
class ObjectFolder:
    """A place in a store; what is written below it is added to an inventory.

    Parameters
    ----------
    path : zarr.StorePath
        Of the folder.
    inventory : Inventory
        Of the sample, shared by all of its folders.
    inner_path : str
        The folder's path below the sample.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> sample = ObjectFolder(StorePath(MemoryStore(), "shirt"))
    >>> (sample / "layers" / "a").inner_path
    'layers/a'
    """

    path: StorePath
    inventory: Inventory = field(default_factory=Inventory)
    inner_path: str = ""

    def __truediv__(self, name: str) -> ObjectFolder:
        return ObjectFolder(self.path / name, self.inventory, self._inner(name))

    @property
    def keeps_buffers(self) -> bool:
        """Whether the store keeps a buffer itself, instead of what it holds."""
        return not isinstance(self.path.store, LocalStore | ObjectStore)

    def put(self, name: str, buffer: Buffer) -> None:
        """Write or replace a large object."""
        put_object(self.path / name, buffer)
        self._add(name, buffer)

    def put_all(self, buffers: Mapping[str, Buffer]) -> None:
        """Write or replace objects together."""
        put_objects((self.path / name, buffer) for name, buffer in buffers.items())
        for name, buffer in buffers.items():
            self._add(name, buffer)

    def read(self, name: str) -> Buffer | None:
        """Return an object's bytes; None where there is none."""
        return read_object(self.path / name)

    def delete(self, name: str) -> None:
        """Delete an object."""
        delete_object(self.path / name)
        self.inventory.remove(self._inner(name))

    def _add(self, name: str, buffer: Buffer) -> None:
        self.inventory.add(self._inner(name), buffer.as_numpy_array())

    def _inner(self, name: str) -> str:
        return f"{self.inner_path}/{name}" if self.inner_path else name
