"""The tools that cut the power find what is lost; the cuts themselves are for ``make faults``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash_cases import WITHOUT_FSYNC
from tests.support.power_cut import Disk, disk_states, replay
from tests.support.power_cuts import PowerCuts, fast_folder
from tests.support.write_log import Event, Tree, recorded_writes, tree_of


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory."""
    with tempfile.TemporaryDirectory(dir=fast_folder()) as path:
        yield Path(path)


def test_a_sample_that_was_not_written_out_is_found_to_be_damaged(folder: Path) -> None:
    cuts = PowerCuts(WITHOUT_FSYNC, folder)
    tried = cuts.run(randoms=3, reruns=0, seed=0, share=0.1)
    assert {"LOST", "UNDETECTED"} & {each.outcome for each in tried}


def test_a_log_replays_to_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("1")
    with recorded_writes(tmp_path) as log:
        (tmp_path / "new").mkdir()
        with (tmp_path / "new" / "b.partial").open("w") as file:
            file.write("22")
            file.flush()
            os.fsync(file.fileno())
            file.write("2")
        (tmp_path / "new" / "b.partial").rename(tmp_path / "new" / "b")
        os.link(tmp_path / "new" / "b", tmp_path / "new" / "c")
        (tmp_path / "old" / "a").unlink()
        (tmp_path / "old").rmdir()
        (tmp_path / "new").rename(tmp_path / "newer")
    assert [event.kind for event in log.events] == [
        *("mkdir", "create", "write", "sync", "write", "rename", "link", "unlink", "rmdir", "rename")
    ]  # fmt: skip
    assert replay(log.before, log.events) == tree_of(tmp_path)
    assert tree_of(tmp_path) == {"newer": None, "newer/b": b"222", "newer/c": b"222"}


def test_what_was_not_synced_may_be_lost_and_what_was_may_not() -> None:
    events = [
        Event("create", "a.partial"),
        Event("write", "a.partial", content=b"new"),
        Event("sync", "a.partial"),
        Event("rename", "a.partial", "a"),
        Event("create", "b"),
        Event("write", "b", content=b"bbb"),
        Event("sync_folder", ""),
    ]
    before: Tree = {"a": b"old"}
    states = [tree for number, _, tree in disk_states(before, events, randoms=40, seed=0)]
    assert {tree["a"] for tree in states} == {b"old", b"new"}
    assert {tree.get("b") for tree in states} >= {None, b"", b"bbb", b"\0\0\0"}
    disk = Disk(before)
    for event in events:
        disk.apply(event)
    assert disk.certain_tree() == {"a": b"new", "b": b""}


def test_a_rename_changes_both_of_its_names_or_neither() -> None:
    events = [Event("mkdir", "to"), Event("sync_folder", ""), Event("rename", "from", "to/it")]
    before: Tree = {"from": b"1"}
    last = [tree for n, _, tree in disk_states(before, events, randoms=20, seed=0) if n == 3]
    assert {tuple(tree) for tree in last} <= {("from", "to"), ("to", "to/it")}
