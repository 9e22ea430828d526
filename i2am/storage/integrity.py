"""Whether a sample's objects are those that were written: at a glance, or to the last byte.

The glance is for every opening: all objects are there in their sizes, their last four bytes are those
of the inventory, and all metadata are as they were. The whole check reads every value as well.
Samples of older versions have no inventory: of them nothing can be told.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import crc32c
import numpy as np
from numpy.typing import NDArray
from zarr.storage import StorePath

from i2am.schemas import Fault, StoreError
from i2am.storage.inventory import (
    CHECKSUM_BYTES,
    DIGEST,
    METADATA_KEY,
    OBJECTS,
    Inventory,
    ObjectFacts,
    checksum_of,
    digest_of,
    is_metadata,
    own_facts,
    own_of,
)
from i2am.storage.objects import list_sizes, read_objects

__all__ = [
    "ABSENT",
    "INDEX_ENTRY_BYTES",
    "altered_objects",
    "damaged_objects",
    "damaged_values",
    "inventory_of",
    "metadata_fault",
    "shard_checksum",
]

INDEX_ENTRY_BYTES: Final = 16  # of a shard: offset and size of a chunk
ABSENT: Final = 2**64 - 1  # in both places, of a chunk that is not there

Progress = Callable[[int], None]


def inventory_of(attributes: Mapping[str, Any]) -> Inventory | None:
    """Return the inventory that a sample's own attributes hold; None where there is none.

    Raises
    ------
    StoreError
        If it is no inventory.
    """
    text = attributes.get(OBJECTS)
    return None if text is None else Inventory.from_text(str(text))


def metadata_fault(document: Mapping[str, Any], name: str) -> str | None:
    """Return what is wrong with the ``zarr.json`` of a sample or a root; None if nothing can be told.

    Parameters
    ----------
    document : mapping
        The parsed file.
    name : str
        Of the sample; "" for a store's root.
    """
    own = own_of(document)
    if DIGEST not in own:
        return "expected a digest beside the inventory, got none" if OBJECTS in own else None
    if own[DIGEST] != digest_of(document, name):
        return f"expected metadata with the digest {own[DIGEST]!r}, got others: they were altered"
    return None


def altered_objects(sample: StorePath, name: str, content: bytes | None = None) -> Iterator[Fault]:
    """Yield each object of a sample that is missing, new, or not the one that was written.

    Parameters
    ----------
    sample : StorePath
        The sample's group.
    name : str
        Of the sample, for the places of the faults.
    content : bytes, optional
        The sample's own metadata, where they were read already.
    """
    if content is None:
        content = read_objects(sample, [METADATA_KEY])[0]
    try:
        document = json.loads(content or b"")
        own = own_of(document)
    except (ValueError, RecursionError):
        yield Fault(f"{name}/{METADATA_KEY}", "expected JSON, got something else")
        return
    if (fault := metadata_fault(document, name)) is not None:
        yield Fault(f"{name}/{METADATA_KEY}", fault)
        return
    try:
        inventory = inventory_of(own)
    except StoreError as e:
        yield Fault(f"{name}/{METADATA_KEY}", str(e))
        return
    if inventory is None:
        return
    yield from (Fault(f"{name}/{one}", msg) for one, msg in _altered(sample, inventory.objects))


def _altered(sample: StorePath, objects: Mapping[str, ObjectFacts]) -> Iterator[tuple[str, str]]:
    sizes = list_sizes(sample)
    sizes.pop(METADATA_KEY, None)
    whole: list[str] = []
    for name, (size, _) in objects.items():
        if name not in sizes:
            yield name, "expected an object, got none"
        elif sizes[name] != size:
            yield name, f"expected {size:,} bytes, got {sizes[name]:,}"
        else:
            whole.append(name)
    for name in sizes:
        if name not in objects and not name.rpartition("/")[2].startswith("."):
            yield name, "expected no object here, got one"
    for last_bytes, names in (
        (None, [name for name in whole if is_metadata(name)]),
        (CHECKSUM_BYTES, [name for name in whole if not is_metadata(name)]),
    ):
        for name, content in zip(
            names, read_objects(sample, names, last_bytes=last_bytes), strict=True
        ):
            if content is None or checksum_of(name, content) != objects[name].checksum:
                yield name, "expected the object that was written, got another"


def damaged_objects(
    sample: StorePath, name: str, progress: Progress = lambda _bytes: None
) -> Iterator[Fault]:
    """Yield each object of a sample that is not, byte for byte, the one that was written.

    Parameters
    ----------
    sample, name
        As for `altered_objects`.
    progress : callable (int) -> None
        Called with the bytes that were read.
    """
    content = read_objects(sample, [METADATA_KEY])[0]
    faults = list(altered_objects(sample, name, content))
    yield from faults
    known = {fault.place for fault in faults}
    if f"{name}/{METADATA_KEY}" in known:
        return
    inventory = inventory_of(own_facts(content))
    objects = {} if inventory is None else inventory.objects
    sound = [one for one in objects if is_metadata(one) and f"{name}/{one}" not in known]
    for array in sorted(one.removesuffix(f"/{METADATA_KEY}") for one in sound):
        for one, msg in damaged_values(sample, objects, array, progress):
            if f"{name}/{one}" not in known:
                yield Fault(f"{name}/{one}", msg)


def damaged_values(
    sample: StorePath,
    objects: Mapping[str, ObjectFacts],
    array: str,
    progress: Progress = lambda _bytes: None,
) -> Iterator[tuple[str, str]]:
    """Yield each object of an array whose values are not those that were written, and what is wrong.

    Parameters
    ----------
    sample : StorePath
    objects : mapping of str to ObjectFacts
        The sample's inventory.
    array : str
        Its path below the sample; a group has no values.
    progress
        As for `damaged_objects`.
    """
    try:
        document = json.loads(read_objects(sample, [f"{array}/{METADATA_KEY}"])[0] or b"")
    except (ValueError, RecursionError):
        yield f"{array}/{METADATA_KEY}", "expected JSON, got something else"
        return
    if document.get("node_type") != "array":
        return
    for one, (size, checksum) in objects.items():
        if not one.startswith(f"{array}/c"):
            continue
        found = read_objects(sample, [one])[0]
        if found is None:
            yield one, "expected an object, got none"
            continue
        progress(len(found))
        if len(found) != size:
            yield one, f"expected {size:,} bytes, got {len(found):,}"
        elif (msg := _damage(found, document)) is not None:
            yield one, msg
        elif checksum_of(one, found) != checksum:
            yield one, "expected the object that was written, got another"


def _damage(content: bytes, array: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a chunk's or shard's bytes; None if nothing is."""
    last = array["codecs"][-1]
    values = np.frombuffer(content, np.uint8)
    if last["name"] == "crc32c":
        return None if _is_sealed(values) else "expected values as they were written, got others"
    if last["name"] != "sharding_indexed":
        return "expected the codec 'crc32c', got none"
    shard = array["chunk_grid"]["configuration"]["chunk_shape"]
    inner = last["configuration"]["chunk_shape"]
    count = math.prod(s // c for s, c in zip(shard, inner, strict=True))
    return _shard_damage(values, count)


def _shard_damage(shard: NDArray[np.uint8], count: int) -> str | None:
    index_bytes = count * INDEX_ENTRY_BYTES + CHECKSUM_BYTES
    if len(shard) < index_bytes + CHECKSUM_BYTES or not _is_sealed(shard[:index_bytes]):
        return "expected a shard's index, got other bytes"
    entries = shard[: index_bytes - CHECKSUM_BYTES].view("<u8").reshape(count, 2)
    end = index_bytes
    seals = [shard[:index_bytes]]
    for number, (start, size) in enumerate(entries.tolist()):
        if start == ABSENT:
            continue
        chunk = shard[start : start + size]
        if start != end or size < CHECKSUM_BYTES or len(chunk) != size or not _is_sealed(chunk):
            return f"expected values as they were written, got others in chunk {number} of {count}"
        seals.append(chunk[-CHECKSUM_BYTES:])
        end = start + size
    if end + CHECKSUM_BYTES != len(shard) or shard_checksum(seals) != _seal(shard):
        return "expected the shard's own checksum, got another"
    return None


def shard_checksum(parts: list[NDArray[np.uint8]]) -> int:
    """Return the checksum in which a shard ends.

    Parameters
    ----------
    parts : list of array (byte,), uint8
        The index with its checksum, then the checksum of each chunk.
    """
    return int(crc32c.crc32c(np.concatenate(parts).data))


def _is_sealed(values: NDArray[np.uint8]) -> bool:
    """Whether bytes end in their own CRC-32C."""
    return len(values) >= CHECKSUM_BYTES and _seal(values) == crc32c.crc32c(
        values[:-CHECKSUM_BYTES].data
    )


def _seal(values: NDArray[np.uint8]) -> int:
    return int.from_bytes(values[-CHECKSUM_BYTES:].tobytes(), "little")
