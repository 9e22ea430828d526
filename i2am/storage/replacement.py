"""A complete sample that is replaced stays what it is until the new one is whole.

So long the new one lies below the store's folder ``.replacing``. Then it is moved over the old one, in
an order in which any process can bring to an end what another has begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from zarr.storage import StorePath

from i2am.schemas import StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import TIMESTEP
from i2am.storage.inventory import (
    METADATA_KEY,
    OBJECTS,
    Inventory,
    hidden_group,
    own_facts,
    with_digest,
    without_inventory,
)
from i2am.storage.objects import (
    create_object,
    delete_others,
    delete_tree,
    folder_names,
    make_durable,
    move_objects,
    put_objects,
    read_object,
    to_buffer,
)
from i2am.storage.owners import OWNERS, Owner, SampleTaken, Writer

__all__ = [
    "delete_sample",
    "empty_store",
    "finish_replacements",
    "move_over",
    "place_for_replacement",
    "write_metadata",
]

_REPLACING: Final = ".replacing"


def place_for_replacement(root: StorePath, sample: str) -> StorePath:
    """Return where the sample that shall replace a complete one is written."""
    create_object(root / _REPLACING / METADATA_KEY, hidden_group())
    return root / _REPLACING / sample


def finish_replacements(root: StorePath, writer: Writer) -> list[str]:
    """Bring to an end what a process was replacing when it ended, and return the samples' names.

    Samples that another process is just replacing are left to it.

    Raises
    ------
    OSError
        If the store cannot be reached.
    """
    finished: list[str] = []
    for name in folder_names(root / _REPLACING):
        if name == METADATA_KEY:
            continue
        try:
            writer.claim(name)
        except SampleTaken:
            continue
        path, final_path = root / _REPLACING / name, root / name
        own = own_facts(read_object(path / METADATA_KEY))
        if OBJECTS in own:
            own = {key: value for key, value in own.items() if key != "owner"}
            own["status"] = "complete"
            move_over(path, final_path, own, Inventory.from_text(own[OBJECTS]), durable=True)
            finished.append(name)
        else:  # It was not whole.
            delete_sample(path)
        writer.release(name)
    _leave_no_empty_folder(root)
    return finished


def move_over(
    path: StorePath,
    final_path: StorePath,
    own: Mapping[str, Any],
    inventory: Inventory,
    durable: bool,
) -> None:
    """Replace a complete sample by another one that is whole.

    Can be done again from any point: until the last one the new sample's own metadata stay where they
    are, and say what it consists of.
    """
    earlier = own_facts(read_object(final_path / METADATA_KEY))
    if earlier.get("status") == "complete" and earlier.get(OBJECTS) != own[OBJECTS]:
        write_metadata(
            final_path, {**without_inventory(earlier), "status": "running"}, durable=durable
        )
    move_objects(path, final_path, inventory.objects)
    delete_others(final_path, {*inventory.objects, METADATA_KEY})
    if durable:
        make_durable(final_path, inventory.objects)
    write_metadata(final_path, own, durable=durable)
    delete_sample(path)


def write_metadata(path: StorePath, own: Mapping[str, Any], *, durable: bool) -> bytes:
    """Write a sample's own metadata, with their digest, and return them.

    Parameters
    ----------
    path : StorePath
        Of the sample.
    own : mapping
        What its ``i2am`` attribute is to hold.
    durable : bool
        Whether it has to outlive a power cut once this returns.
    """
    attributes: dict[str, Any] = {ATTRIBUTE_KEY: dict(own)}
    if own.get("kind") == "capture":
        attributes["coordinates"] = TIMESTEP  # xarray's own mark
    node = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    content = with_digest(node, path.path.rpartition("/")[2])
    put_objects([(path / METADATA_KEY, to_buffer(content))], durable=durable)
    return content


def delete_sample(path: StorePath) -> None:
    """Delete a sample, its metadata last: until then it is one that is not complete."""
    own = own_facts(read_object(path / METADATA_KEY))
    if own and own.get("status", "complete") == "complete":
        write_metadata(path, {**without_inventory(own), "status": "running"}, durable=True)
    for name in folder_names(path):
        if name != METADATA_KEY:
            delete_tree(path / name)
    delete_tree(path)


def empty_store(root: StorePath, others: Sequence[Owner]) -> None:
    """Remove all samples of a store; until the last one is gone the root says what they are.

    Parameters
    ----------
    root : StorePath
    others : sequence of Owner
        The other processes that write it, as `Writer.others` gives them.

    Raises
    ------
    StoreError
        If there are any.
    """
    if others:
        msg = f"Expected a store that nobody writes, got one that {others[0]} writes, at {root}. "
        raise StoreError(msg + "Wait for it, or give another output.")
    for name in folder_names(root):
        if name not in (METADATA_KEY, OWNERS):
            delete_sample(root / name)


def _leave_no_empty_folder(root: StorePath) -> None:
    if folder_names(root / _REPLACING) == [METADATA_KEY]:
        delete_tree(root / _REPLACING)
