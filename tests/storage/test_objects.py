"""Objects in a store: whole or not at all, on a disk as elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath

from i2am.storage.objects import put_object, put_objects


def put_one(path: StorePath, buffer: Buffer) -> None:
    put_objects([(path, buffer)])


PUTS = pytest.mark.parametrize("put", [put_object, put_one])
Put = Callable[[StorePath, Buffer], None]


def buffer_of(text: str) -> Buffer:
    return Buffer(np.frombuffer(text.encode(), np.uint8))


@PUTS
@pytest.mark.parametrize("build", [LocalStore, lambda _: MemoryStore()], ids=["disk", "memory"])
def test_what_is_put_replaces_what_was_there(put: Put, build: Any, tmp_path: Path) -> None:
    path = StorePath(build(tmp_path / "new"), "a/c/0/0")
    for text in ("first", "second, longer", "3"):
        put(path, buffer_of(text))
        found: Any = sync(path.get(default_buffer_prototype()))
        assert found.to_bytes() == text.encode()


@PUTS
def test_a_failure_leaves_nothing_half_written(put: Put, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    put(StorePath(store, "a/inner"), buffer_of("kept"))
    with pytest.raises(OSError, match="directory"):
        put(StorePath(store, "a"), buffer_of("a file where a folder is"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "a" / "inner"]
    assert files[0].read_text() == "kept"


def test_several_objects_are_put_together(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    put_objects((StorePath(store, f"{n}/zarr.json"), buffer_of(str(n))) for n in range(20))
    assert {p.parent.name: p.read_text() for p in tmp_path.rglob("zarr.json")} == {
        str(n): str(n) for n in range(20)
    }
    put_objects([])
