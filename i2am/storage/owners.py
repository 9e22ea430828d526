"""Which process writes what: several may fill one store, and no two of them the same sample.

Each process that writes enters itself below the store's folder ``.captures``, with a beat that goes
on while it lives, and claims a sample before it writes it. Who is gone has lost its claims: a process
of this machine that no longer runs, or one elsewhere whose beat has stood still for `LEASE_S`.

Entries and claims are Zarr groups that no reader takes for samples: their status is "running", and
their folder's name begins with a dot. A claim is an object that only one process can create. To take
over what a process has left, the next one creates the claim's next number: so two that try it at once
cannot both succeed, and nobody deletes what another has just written.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from zarr.storage import StorePath

from i2am.schemas import StorageError, StoreError
from i2am.storage.inventory import METADATA_KEY, hidden_group, own_facts
from i2am.storage.objects import (
    create_object,
    delete_object,
    folder_names,
    local_path,
    put_objects,
    read_object,
    to_buffer,
)

__all__ = ["LEASE_S", "OWNERS", "Owner", "SampleTaken", "Writer", "read_owner"]

OWNERS: Final = ".captures"
LEASE_S: Final = 45.0
_BEAT_S: Final = 10.0
_ENTRY: Final = "~"  # No sample's name has it.

# Writers of this process that have left their store, which perhaps did not take even that.
_left: set[str] = set()


class SampleTaken(StoreError):
    """Another process writes this sample now."""


@dataclass(frozen=True)
class Owner:
    """A process that writes into a store.

    Parameters
    ----------
    id : str
    host : str
        Of the machine, and where processes are numbered by container, of that.
    pid : int
    process_started : str
        By the machine's own clock, so that a number that is used again is not mistaken.
    entered_s : float
        Seconds since the epoch.
    beat : int
        Counts up while the process lives.
    settings : mapping
        What every sample of a run has in common.
    """

    id: str
    host: str
    pid: int
    process_started: str
    entered_s: float
    beat: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return who it is, for people."""
        return f"process {self.pid} on {self.host.partition(' ')[0]}"

    @property
    def is_here(self) -> bool:
        """Whether it is or was a process of this machine."""
        return self.host == _host()

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine and no longer runs."""
        return self.is_here and self.process_started != _process_start(self.pid)


class Writer:
    """The process that runs, entered into a store; a context manager, or closed by `close`.

    Parameters
    ----------
    root : StorePath
        The store.
    settings : mapping, optional
        JSON types; see `Owner`.

    Raises
    ------
    OSError
        If the store cannot be written.

    Attributes
    ----------
    root : StorePath
    """

    def __init__(self, root: StorePath, settings: Mapping[str, Any] | None = None) -> None:
        pid = os.getpid()
        self.root, self._root = root, root / OWNERS
        self._me = Owner(
            uuid4().hex, _host(), pid, _process_start(pid) or "", time.time(), 0, settings or {}
        )
        self._claims: dict[str, str] = {}
        self._seen: dict[str, tuple[int, float]] = {}  # of others: beat, and when it was first seen
        self._ended = threading.Event()
        self._enter()
        self._thread = threading.Thread(target=self._go_on, name="i2am-beat", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """What samples that this process writes name as their owner."""
        return self._me.id

    @property
    def entered_s(self) -> float:
        """When it entered, in seconds since the epoch."""
        return self._me.entered_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, sample: str) -> None:
        """Claim a sample; a claim that this process has is kept.

        Raises
        ------
        SampleTaken
            If another process has it, and may still be alive.
        """
        if sample in self._claims:
            return
        while True:
            latest = -1
            for number, owner in self._claims_on(sample):
                latest = number
                if owner is not None and not self.is_lost(owner):
                    msg = (
                        f"Expected a sample that nobody else writes, got {sample!r}, which {owner} "
                        f"writes now, at {self._root.path or self._root.store}. Wait for it, or name another."
                    )
                    raise SampleTaken(msg)
            name = f"{sample}{_ENTRY}{latest + 1}"
            if create_object(self._root / name / METADATA_KEY, hidden_group(owner=self.id)):
                self._claims[sample] = name
                return

    def wait_for(self, sample: str) -> bool:
        """Return whether a sample is free; wait as long as it takes to know whether its owner lives."""
        first: dict[str, int] = {}
        while True:
            held = [owner for _, owner in self._claims_on(sample) if owner is not None]
            held = [owner for owner in held if not self.is_lost(owner)]
            if not held:
                return True
            if any(first.setdefault(owner.id, owner.beat) != owner.beat for owner in held):
                return False
            if any(owner.is_here and os.name != "nt" for owner in held):
                return False
            time.sleep(1)

    def release(self, sample: str) -> None:
        """Give up a claim, and what others have left of theirs."""
        own = self._claims.pop(sample, None)
        if own is None:
            return
        earlier = [f"{sample}{_ENTRY}{number}" for number, _ in self._claims_on(sample)]
        for name in sorted(earlier, key=_number):
            if _number(name) <= _number(own):
                self._remove(name)

    def is_lost(self, owner: Owner) -> bool:
        """Whether a process is gone, or its beat has stood still for as long as it may."""
        if owner.is_gone or owner.id in _left:
            return True
        if owner.is_here and os.name != "nt":
            return False
        beat, since_s = self._seen.get(owner.id, (-1, 0.0))
        if beat != owner.beat:
            self._seen[owner.id] = owner.beat, time.monotonic()
            return False
        return time.monotonic() - since_s >= LEASE_S

    def others(self) -> list[Owner]:
        """Return the other processes that write into the store now, as far as one can see."""
        found = []
        for name in folder_names(self._root):
            if name.startswith(_ENTRY) and (identity := name.removeprefix(_ENTRY)) != self.id:
                owner = read_owner(self._root, identity)
                if owner is None:
                    continue
                if self.is_lost(owner):
                    self._remove(name)
                else:
                    found.append(owner)
        return found

    def close(self) -> None:
        """Give up all claims and leave the store; the last one leaves nothing behind."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        _left.add(self.id)
        with suppress(OSError, StorageError):
            for sample in list(self._claims):
                self.release(sample)
            self._remove(f"{_ENTRY}{self.id}")
            if set(folder_names(self._root)) <= {METADATA_KEY}:
                delete_object(self._root / METADATA_KEY)
                _remove_empty_folder(self._root)

    def _enter(self) -> None:
        # So that other readers of Zarr know what the folder is.
        create_object(self._root / METADATA_KEY, hidden_group())
        self._write_entry()

    def _write_entry(self) -> None:
        content = hidden_group(owner=vars(self._me) | {"settings": dict(self._me.settings)})
        put_objects([(self._root / f"{_ENTRY}{self.id}" / METADATA_KEY, to_buffer(content))])

    def _go_on(self) -> None:
        while not self._ended.wait(_BEAT_S):
            with suppress(Exception):  # The next beat may reach the store again.
                self._me = Owner(**(vars(self._me) | {"beat": self._me.beat + 1}))
                self._write_entry()

    def _claims_on(self, sample: str) -> Iterator[tuple[int, Owner | None]]:
        """Yield number and owner of each claim on a sample, in their order."""
        start = f"{sample}{_ENTRY}"
        names = [name for name in folder_names(self._root) if name.startswith(start)]
        for name in sorted(names, key=_number):
            content = read_object(self._root / name / METADATA_KEY)
            if content is None:
                continue  # Just given up.
            identity = str(own_facts(content).get("owner"))
            yield _number(name), read_owner(self._root, identity)

    def _remove(self, name: str) -> None:
        delete_object(self._root / name / METADATA_KEY)
        _remove_empty_folder(self._root / name)


def read_owner(root: StorePath, identity: str) -> Owner | None:
    """Return the process of a name; None where it has left.

    Parameters
    ----------
    root : StorePath
        The store's folder `OWNERS`.
    identity : str
    """
    content = read_object(root / f"{_ENTRY}{identity}" / METADATA_KEY)
    if content is None:
        return None
    try:
        return Owner(**own_facts(content)["owner"])
    except (TypeError, KeyError):
        return None


def _number(name: str) -> int:
    number = name.rpartition(_ENTRY)[2]
    return int(number) if number.isdecimal() else -1


def _remove_empty_folder(path: StorePath) -> None:
    if (folder := local_path(path)) is not None:
        with suppress(OSError):
            folder.rmdir()


def _host() -> str:
    """Return this machine's name and, in a container with processes of its own, that one's."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()} {booted} {namespace}"


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine began, by its own clock; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        pass
    else:
        fields = text.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return "unknown" if _is_running(pid) else None


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        return True  # There the call below would end it.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
