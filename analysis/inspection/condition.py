"""The condition of a store: which objects of it are not those that were written, and its contract's faults.

A sample with damaged objects is not looked at any further: its metadata may say anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from i2am.analysis.inspection.describe import describe_store, sample_names
from i2am.analysis.stores.reader import open_root
from i2am.schemas import SCHEMA_VERSION, Fault, find_faults
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
    """

    faults: dict[str, list[Fault]] = field(default_factory=dict)
    without_checksums: list[str] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Add a fault to its sample."""
        self.faults.setdefault(fault.place.partition("/")[0], []).append(fault)

    def iter_faults(self) -> Iterator[Fault]:
        """Yield the faults of all samples."""
        for faults in self.faults.values():
            yield from faults


def examine_store(
    store: StoreLike, *, deep: bool = False, progress: Progress = lambda _bytes: None
) -> Condition:
    """Return what is wrong with a run, a maps or an effects store.

    Parameters
    ----------
    store : str, Path or zarr Store
    deep : bool
        Read every value, too; else sizes, metadata and each object's last bytes.
    progress : callable (int) -> None
        Called with the bytes that were read.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.
    """
    root = open_root(store)
    condition = Condition()
    path = root.store_path
    unstated = "complete" if own_attributes(root)["kind"] == "maps" else "running"
    has_digest = DIGEST in own_attributes(root)
    for name in sample_names(path):
        content = read_object(path / name / METADATA_KEY)
        own = own_facts(content)
        if not own:
            what = "none" if content is None else "others"
            condition.add(
                Fault(f"{name}/{METADATA_KEY}", f"expected a sample's metadata, got {what}")
            )
        elif OBJECTS not in own and own.get("status", unstated) != "complete":
            continue
        elif OBJECTS not in own and DIGEST not in own:
            if has_digest:
                msg = "expected an inventory, as the store's metadata have a digest, got none"
                condition.add(Fault(f"{name}/{METADATA_KEY}", msg))
            else:
                condition.without_checksums.append(name)
        else:
            look = damaged_objects(path / name, name, progress) if deep else None
            for fault in look or altered_objects(path / name, name):
                condition.add(fault)
    for fault in find_faults(describe_store(store, left_out=set(condition.faults))):
        condition.add(fault)
    return condition


def stored_bytes(store: StoreLike) -> int:
    """Return how many bytes a store takes."""
    return sum(list_sizes(open_root(store).store_path).values())


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
