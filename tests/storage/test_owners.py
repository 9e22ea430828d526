"""Processes that fill one store: who is entered, who has a sample, and who takes over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore, StorePath

from i2am.storage import owners
from i2am.storage.owners import OWNERS, SampleTaken, Writer, read_owner

Build = Callable[[Path], StorePath]
STORES = pytest.mark.parametrize(
    "build", [lambda path: StorePath(LocalStore(path)), lambda _: StorePath(MemoryStore())]
)


def local(path: Path) -> StorePath:
    zarr.create_group(path)
    return StorePath(LocalStore(path))


@STORES
def test_a_sample_that_one_process_has_no_other_one_gets(build: Build, tmp_path: Path) -> None:
    root = build(tmp_path)
    with Writer(root) as one, Writer(root) as other:
        one.claim("shirt")
        one.claim("shirt")  # It has it already.
        with pytest.raises(SampleTaken, match=r"'shirt', which process \d+ on .* writes now"):
            other.claim("shirt")
        other.claim("hat")
        one.release("shirt")
        other.claim("shirt")


def test_of_many_that_try_at_once_one_gets_each_sample(tmp_path: Path) -> None:
    root = local(tmp_path / "run.zarr")
    writers = [Writer(root) for _ in range(6)]
    got: list[tuple[str, int]] = []
    start = threading.Barrier(len(writers))

    def claim(number: int) -> None:
        for sample in map(str, range(20)):
            start.wait()
            try:
                writers[number].claim(sample)
            except SampleTaken:
                continue
            got.append((sample, number))

    threads = [threading.Thread(target=claim, args=[number]) for number in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    assert sorted(sample for sample, _ in got) == sorted(map(str, range(20)))


DIES = """
import os, sys
from zarr.storage import LocalStore, StorePath
from i2am.storage.owners import Writer
Writer(StorePath(LocalStore(sys.argv[1])), {"steps": 3}).claim("shirt")
os._exit(9)
"""


def test_what_a_process_of_this_machine_has_left_is_taken_over_at_once(tmp_path: Path) -> None:
    root = local(tmp_path / "run.zarr")
    for _ in range(2):  # Each takes over from the one before.
        subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "run.zarr")], check=False)
    with Writer(root) as writer:
        writer.claim("shirt")
        assert not writer.others()
        writer.release("shirt")
        assert not [
            path for path in (tmp_path / "run.zarr" / OWNERS).iterdir() if "shirt" in path.name
        ]


def elsewhere(root: StorePath, beat: int = 0) -> None:
    """Let a process of another machine have claimed a sample."""
    entry = {"id": "x", "host": "node7 boot 1", "pid": 1, "process_started": "1"}
    facts = entry | {"entered_s": 1.0, "beat": beat, "settings": {}}
    for name, owner in {"~x": facts, "shirt~0": "x"}.items():
        own = {"kind": "capture", "schema": 1, "status": "running", "owner": owner}
        zarr.create_group(root / OWNERS / name, attributes={"i2am": own}, overwrite=True)


def test_a_process_elsewhere_is_gone_when_its_beat_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = local(tmp_path / "run.zarr")
    monkeypatch.setattr(owners, "LEASE_S", 0.2)
    elsewhere(root)
    with Writer(root) as writer:
        with pytest.raises(SampleTaken, match="process 1 on node7 writes now"):
            writer.claim("shirt")
        assert [owner.id for owner in writer.others()] == ["x"]
        assert writer.wait_for("shirt")
        writer.claim("shirt")
        assert writer.others() == []


def test_a_process_elsewhere_whose_beat_goes_on_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = local(tmp_path / "run.zarr")
    monkeypatch.setattr(owners, "LEASE_S", 20.0)
    elsewhere(root)
    with Writer(root) as writer:
        beat = threading.Timer(0.3, elsewhere, [root, 1])
        beat.start()
        assert not writer.wait_for("shirt")
        beat.join()


def test_the_beat_goes_on_while_the_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = local(tmp_path / "run.zarr")
    monkeypatch.setattr(owners, "_BEAT_S", 0.01)
    with Writer(root, {"steps": 3}) as writer:
        beats: set[int] = set()
        while len(beats) < 3:
            found = read_owner(root / OWNERS, writer.id)
            assert found is not None
            assert found.settings == {"steps": 3}
            beats.add(found.beat)


def test_no_reader_of_zarr_is_disturbed_and_nothing_is_left(tmp_path: Path) -> None:
    root = local(tmp_path / "run.zarr")
    with Writer(root) as writer:
        writer.claim("shirt")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            group = zarr.open_group(tmp_path / "run.zarr", mode="r")
            statuses: list[Any] = [g.attrs["i2am"]["status"] for _, g in group.groups()]  # type: ignore[index,call-overload]
            assert statuses == ["running"]
            assert list(group.members(max_depth=None))
    assert [path.name for path in (tmp_path / "run.zarr").iterdir()] == ["zarr.json"]


def test_an_entry_that_is_no_entry_is_nobody(tmp_path: Path) -> None:
    root = local(tmp_path / "run.zarr")
    for name, text in {"~x": "{", "~y": "[]", "shirt~0": json.dumps({"attributes": {}})}.items():
        folder = tmp_path / "run.zarr" / OWNERS / name
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_text(text)
    with Writer(root) as writer:
        assert writer.others() == []
        writer.claim("shirt")
