"""A sample's inventory: which objects it consists of, and how one sees that they are whole.

A checksum inside an array sees a damaged chunk, but no missing file, no two files that were swapped,
no metadata that were altered. So a sample lists its objects beside its status, in the attribute
``objects``: one line each with the path below the sample, the size in bytes and a checksum in hex.

- Of ``zarr.json`` files it is the CRC-32C of all bytes.
- Every other object ends in its own checksum, which is listed: an array in one piece in that of Zarr's
  codec ``crc32c``; a shard, in which each chunk ends in one, in the CRC-32C of its index and these.

So a look at the last four bytes tells whether an object is the one that was written, whatever its
size; `i2am.storage.integrity` also reads the rest. The sample's own ``zarr.json`` cannot list
itself: its attribute ``digest`` is the CRC-32C of the sample's name and the document without it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import crc32c
from zarr.abc.buffer import Buffer
from zarr.storage import StorePath

from i2am.schemas import StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY, SCHEMA_VERSION
from i2am.storage.objects import list_sizes, read_objects

__all__ = [
    "CHECKSUM_BYTES",
    "DIGEST",
    "METADATA_KEY",
    "OBJECTS",
    "Inventory",
    "ObjectFacts",
    "checksum_of",
    "contents_of",
    "digest_of",
    "hidden_group",
    "inventory_below",
    "is_metadata",
    "own_facts",
    "own_of",
    "with_digest",
    "without_inventory",
]

METADATA_KEY: Final = "zarr.json"
OBJECTS: Final = "objects"
DIGEST: Final = "digest"
CHECKSUM_BYTES: Final = 4


class ObjectFacts(NamedTuple):
    """What is known of an object: its size, and its checksum."""

    size_bytes: int
    checksum: int


def is_metadata(name: str) -> bool:
    """Whether a path names metadata rather than values."""
    return name.rpartition("/")[2] == METADATA_KEY


def checksum_of(name: str, content: Any) -> int:
    """Return an object's checksum as inventories list it.

    Parameters
    ----------
    name : str
        The object's path.
    content : bytes or array of bytes
        All of it; of an object that holds values its last four bytes are enough.
    """
    if is_metadata(name):
        return int(crc32c.crc32c(bytes(content)))
    return int.from_bytes(bytes(content[-CHECKSUM_BYTES:]), "little")


@dataclass
class Inventory:
    """The objects below a sample, from any thread.

    Examples
    --------
    >>> inventory = Inventory()
    >>> inventory.add("layers/a/key/c/0", b"values" + bytes([1, 2, 3, 4]))
    >>> inventory.to_text()
    'layers/a/key/c/0 10 04030201'
    >>> Inventory.from_text("layers/a/key/c/0 10 04030201") == inventory
    True
    """

    objects: dict[str, ObjectFacts] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def add(self, name: str, content: Any) -> None:
        """Add or replace an object, by its path below the sample."""
        facts = ObjectFacts(len(content), checksum_of(name, content))
        with self._lock:
            self.objects[name] = facts

    def remove(self, name: str) -> None:
        """Remove an object."""
        with self._lock:
            self.objects.pop(name, None)

    def to_text(self) -> str:
        """Return it as the attribute holds it, sorted by path."""
        with self._lock:
            found = sorted(self.objects.items())
        return "\n".join(f"{name} {size} {checksum:08x}" for name, (size, checksum) in found)

    def __getstate__(self) -> dict[str, Any]:
        return {"objects": self.objects}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.objects, self._lock = state["objects"], threading.Lock()

    @classmethod
    def from_text(cls, text: str) -> Inventory:
        """Return what an attribute holds.

        Raises
        ------
        StoreError
            If it is no inventory.
        """
        objects: dict[str, ObjectFacts] = {}
        for line in text.splitlines():
            name, _, rest = line.partition(" ")
            size, _, checksum = rest.partition(" ")
            if not (name and size.isdecimal() and len(checksum) == 8) or ".." in name.split("/"):
                msg = (
                    f"Expected 'PATH SIZE CHECKSUM', got {line[:80]!r}, in the sample's inventory. "
                )
                raise StoreError(msg + "Run 'i2am repair' on the store.")
            try:
                objects[name] = ObjectFacts(int(size), int(checksum, 16))
            except ValueError as e:
                msg = f"Expected a checksum in hex, got {checksum!r}, in the sample's inventory. "
                raise StoreError(msg + "Run 'i2am repair' on the store.") from e
        return cls(objects)


def digest_of(document: Mapping[str, Any], name: str) -> str:
    """Return the digest of a group's ``zarr.json``, whose own digest is left out, in hex.

    Parameters
    ----------
    document : mapping
        The parsed file. Consolidated metadata, which others may add later, do not count.
    name : str
        Of the sample, so that two that were swapped are seen; "" for a store's root.
    """
    plain = {key: value for key, value in document.items() if key != "consolidated_metadata"}
    attributes = dict(plain.get("attributes") or {})
    own = attributes.get(ATTRIBUTE_KEY)
    if isinstance(own, Mapping):
        attributes[ATTRIBUTE_KEY] = {key: value for key, value in own.items() if key != DIGEST}
    plain["attributes"] = attributes
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    checksum = crc32c.crc32c("\n".join([name, canonical]).encode())
    return f"{checksum:08x}"


def with_digest(document: Mapping[str, Any], name: str) -> bytes:
    """Return a group's ``zarr.json`` with its digest; see `digest_of`."""
    found: dict[str, Any] = json.loads(json.dumps(document))  # as it will be read
    found["attributes"][ATTRIBUTE_KEY][DIGEST] = digest_of(found, name)
    return json.dumps(found, indent=2).encode()


def own_facts(content: Buffer | bytes | None) -> dict[str, Any]:
    """Return what the ``i2am`` attribute of a group's ``zarr.json`` holds; nothing where there is none."""
    try:
        return own_of(
            json.loads(content.to_bytes() if isinstance(content, Buffer) else content or b"")
        )
    except (ValueError, RecursionError):
        return {}


def own_of(document: Any) -> dict[str, Any]:
    """Return what the ``i2am`` attribute of a parsed ``zarr.json`` holds; nothing where there is none."""
    try:
        own = document["attributes"][ATTRIBUTE_KEY]
    except (TypeError, KeyError):
        return {}
    return own if isinstance(own, dict) else {}


def hidden_group(**facts: Any) -> bytes:
    """Return the metadata of a group of the store's own, which no reader takes for a sample.

    It says so by its status; its name begins with a dot, or lies below one that does.
    """
    own = {"kind": "capture", "schema": SCHEMA_VERSION, "status": "running", **facts}
    node = {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE_KEY: own}}
    return json.dumps(node).encode()


def without_inventory(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample's own attributes without the inventory and the digest."""
    return {key: value for key, value in own.items() if key not in (OBJECTS, DIGEST)}


def contents_of(own: Mapping[str, Any]) -> str | None:
    """Return a checksum of all that a sample consists of, in hex; None of one that does not say."""
    text = own.get(OBJECTS)
    return None if text is None else f"{crc32c.crc32c(str(text).encode()):08x}"


def inventory_below(sample: StorePath) -> Inventory:
    """Return the inventory of what lies below a sample now, its own metadata left out."""
    sizes = list_sizes(sample)
    sizes.pop(METADATA_KEY, None)
    inventory = Inventory()
    metadata = [name for name in sizes if is_metadata(name)]
    values = [name for name in sizes if not is_metadata(name)]
    for names, last_bytes in ((metadata, None), (values, CHECKSUM_BYTES)):
        found = read_objects(sample, names, last_bytes=last_bytes)
        for name, content in zip(names, found, strict=True):
            checksum = checksum_of(name, content or b"")
            inventory.objects[name] = ObjectFacts(sizes[name], checksum)
    return inventory
