"""Damages to a sample's objects, found at a glance or by reading every value."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from zarr.storage import LocalStore, StorePath

from i2am.analysis import open_run
from i2am.schemas import StoreError
from i2am.storage.integrity import altered_objects, damaged_objects
from i2am.storage.sample_state import SampleState
from tests.support.written_run import begin, own, write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def quick(run: Path) -> list[str]:
    return [str(f) for f in altered_objects(StorePath(LocalStore(run), "shirt"), "shirt")]


def deep(run: Path) -> list[str]:
    return [str(f) for f in damaged_objects(StorePath(LocalStore(run), "shirt"), "shirt")]


def test_a_sample_as_it_was_written_has_no_fault_and_is_read_wholly(run: Path) -> None:
    read: list[int] = []
    assert quick(run) == []
    path = StorePath(LocalStore(run), "shirt")
    assert list(damaged_objects(path, "shirt", read.append)) == []
    values = [p for p in (run / "shirt").rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert sum(read) == sum(p.stat().st_size for p in values)


def test_every_flipped_byte_of_every_object_is_found(run: Path) -> None:
    """Of the large objects one byte in some hundred, the ends among them."""
    for file in sorted((run / "shirt").rglob("*")):
        if not file.is_file():
            continue
        content = file.read_bytes()
        stride = max(1, len(content) // 24)
        for at in {*range(0, len(content), stride), len(content) - 1, len(content) - 5}:
            damaged = bytearray(content)
            damaged[at] ^= 0x10
            file.write_bytes(damaged)
            found = deep(run)
            name = file.relative_to(run).as_posix()
            assert any(line.startswith(f"{name}: ") for line in found), (name, at)
            if file.name == "zarr.json":
                assert quick(run)
        file.write_bytes(content)
    assert deep(run) == []


def test_a_glance_finds_what_is_missing_new_cut_or_swapped(run: Path) -> None:
    sample = run / "shirt"
    shards = sorted((sample / "layers").rglob("query/c/*/0/0/0"))
    assert len({shard.stat().st_size for shard in shards}) < len(shards)
    for file in sorted(sample.rglob("*")):
        if not file.is_file() or file.parent == sample:
            continue
        content = file.read_bytes()
        name = f"shirt/{file.relative_to(sample).as_posix()}"
        for new in (None, b"", content[:-1], content + b"\0"):
            if new is None:
                file.unlink()
            else:
                file.write_bytes(new)
            assert any(line.startswith(f"{name}: expected") for line in quick(run)), (name, new)
        file.write_bytes(content)
    one, other = (
        sample / f"layers/{layer}/query/c/0/0/0/0" for layer in ("down.0.attn2", "up.0.attn2")
    )
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    assert [line.partition(":")[2] for line in quick(run)] == [
        " expected the object that was written, got another"
    ] * 2
    one.write_bytes(first)
    other.write_bytes(second)
    (sample / "layers" / "down.0.attn2" / "key" / "c" / "0" / "0" / "1").write_bytes(b"1")
    assert quick(run) == ["shirt/layers/down.0.attn2/key/c/0/0/1: expected no object here, got one"]


def test_a_fact_that_was_altered_is_found(run: Path) -> None:
    file = run / "shirt" / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["i2am"]["seed"] = 5
    file.write_text(json.dumps(document))
    assert quick(run) == deep(run)
    assert "they were altered" in quick(run)[0]
    with pytest.raises(StoreError, match=r"as it was written, got shirt/zarr.json: .*altered"):
        open_run(run)["shirt"]


def test_metadata_that_were_only_laid_out_anew_are_no_damage(run: Path) -> None:
    file = run / "shirt" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert deep(run) == []


def test_values_read_after_the_sample_was_replaced_are_an_error(run: Path) -> None:
    sample = open_run(run)["shirt"]
    query: Any = sample["layers/down.0.attn2/query"]
    query[:1].load()
    state = pickle.loads(pickle.dumps(SampleState(StorePath(LocalStore(run), "shirt"))))
    new = begin(run, seed=1, overwrite=True)
    query[:1].load()
    state.check_same()
    new.set_status(own(1, "complete"))
    with pytest.raises(StoreError, match="one that was written since"):
        query[:1].load()
    with pytest.raises(StoreError, match="one that was written since"):
        state.check_same()


def test_status_and_facts_written_again_alike_are_no_other_sample(run: Path) -> None:
    sample = open_run(run)["shirt"]
    file = run / "shirt" / "zarr.json"
    file.write_text(file.read_text())
    sample["layers/down.0.attn2/query"].load()


def test_a_damaged_chunk_is_named_by_whoever_reads_it(run: Path) -> None:
    sample = open_run(run)["shirt"]
    shard = run / "shirt" / "layers" / "down.0.attn2" / "query" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        StoreError,
        match=r"got others in chunk \d+ of \d+, at .*shirt/layers/down.0.attn2/query/c/0/0/0/0",
    ):
        sample["layers/down.0.attn2/query"].load()
