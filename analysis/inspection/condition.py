"""The condition of a store: which objects of it are not those that were written, and its contract's faults.

A sample with damaged objects is not looked at any further: its metadata may say anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import zarr

from i2am.analysis.inspection.address import RESULT_KINDS, member_names, open_address
from i2am.analysis.inspection.chunks import iter_chunk_faults
from i2am.analysis.inspection.describe import describe_store
from i2am.analysis.stores.reader import open_root
from i2am.schemas import SCHEMA_VERSION, Fault, find_faults, find_sample_faults
from i2am.storage.addresses import StoreLike, own_attributes, path_to_write
from i2am.storage.integrity import Progress, altered_objects, damaged_objects
from i2am.storage.inventory import DIGEST, METADATA_KEY, OBJECTS, own_facts, without_inventory
from i2am.storage.objects import list_sizes, read_object
from i2am.storage.owners import Writer
from i2am.storage.replacement import finish_replacements, write_metadata

__all__ = ["Condition", "examine_store", "stored_bytes", "take_out"]


@dataclass
class Condition:
    """What an examination of a store has found.

    Parameters
    ----------
    faults : dict of str to list of Fault
        By sample; those of the store itself under "".
    without_checksums : list of str
        Samples that do not say what they consist of: an older version wrote them.
    unfinished : list of str
        Samples that are not complete, so that readers leave them out.
    """

    faults: dict[str, list[Fault]] = field(default_factory=dict)
    without_checksums: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Add a fault to its sample."""
        self.faults.setdefault(fault.place.partition("/")[0], []).append(fault)

    def iter_faults(self) -> Iterator[Fault]:
        """Yield the faults of all samples."""
        for faults in self.faults.values():
            yield from faults


def examine_store(
    address: StoreLike, *, deep: bool = False, progress: Progress = lambda _bytes: None
) -> Condition:
    """Return what is wrong with a store of any kind, or with one sample in it.

    Parameters
    ----------
    address : str, Path or zarr Store
        Of a store, or of a sample in it.
    deep : bool
        Read every value, too; else sizes, metadata and each object's last bytes.
    progress : callable (int) -> None
        Called with the bytes that were read.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.
    """
    store, root, only = open_address(address)
    condition = Condition()
    if own_attributes(root)["kind"] in RESULT_KINDS:
        for fault in iter_chunk_faults(root, only, progress if deep else None):
            condition.add(fault)
    else:
        _examine_objects(root, condition, only, progress if deep else None)
    described = describe_store(store, left_out=set(condition.faults))
    if only is None:
        found = find_faults(described)
    elif only in described.groups:
        found = find_sample_faults(own_attributes(root)["kind"], only, described.groups[only])
    else:
        found = iter(())
    for fault in found:
        condition.add(fault)
    return condition


def _examine_objects(
    root: zarr.Group, condition: Condition, only: str | None, progress: Progress | None
) -> None:
    """Hold the objects of samples against their inventories; with `progress`, every byte of them."""
    path = root.store_path
    unstated = "complete" if own_attributes(root)["kind"] == "maps" else "running"
    has_digest = DIGEST in own_attributes(root)
    for name in member_names(root) if only is None else [only]:
        content = read_object(path / name / METADATA_KEY)
        own = own_facts(content)
        if not own:
            what = "none" if content is None else "others"
            condition.add(
                Fault(f"{name}/{METADATA_KEY}", f"expected a sample's metadata, got {what}")
            )
        elif OBJECTS not in own and own.get("status", unstated) != "complete":
            condition.unfinished.append(name)
        elif OBJECTS not in own and DIGEST not in own:
            if has_digest:
                msg = "expected an inventory, as the store's metadata have a digest, got none"
                condition.add(Fault(f"{name}/{METADATA_KEY}", msg))
            else:
                condition.without_checksums.append(name)
        else:
            look = None if progress is None else damaged_objects(path / name, name, progress)
            for fault in look or altered_objects(path / name, name):
                condition.add(fault)


def stored_bytes(address: StoreLike) -> int:
    """Return how many bytes a store takes, or a sample in it."""
    _, root, only = open_address(address)
    path = root.store_path
    return sum(list_sizes(path if only is None else path / only).values())


def take_out(store: StoreLike, samples: Iterable[str], reason: str) -> None:
    """Mark samples as failed, so that no reader takes them and the next run makes them again.

    Their values stay until then. What a process was replacing when it ended is brought to its end
    first.

    Parameters
    ----------
    store : str, Path or zarr Store
    samples : iterable of str
    reason : str
        Stored with them.

    Raises
    ------
    SampleTaken
        If another process writes one of them.
    StoreError
        If it is missing, no store of i2am, or cannot be written.
    """
    root = open_root(store)
    kind = own_attributes(root)["kind"]
    kind = "capture" if kind == "run" else kind
    path = path_to_write(store)
    with Writer(path) as writer:
        for name in samples:
            writer.claim(name)
            own = without_inventory(own_facts(read_object(path / name / METADATA_KEY)))
            own |= {"kind": kind, "schema": SCHEMA_VERSION, "status": "failed", "error": reason}
            write_metadata(path / name, own, durable=True)
            writer.release(name)
        if kind == "capture":
            finish_replacements(path, writer)
