"""A sample is complete when it is whole, and one that is replaced stays until the new one is."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.storage import LocalStore, StorePath

from i2am.analysis import open_run
from i2am.capture.writer import run_store
from i2am.capture.writer.run_store import SampleComplete, enter_run, finished_samples
from i2am.schemas import StoreError
from i2am.storage import replacement
from i2am.storage.owners import SampleTaken
from tests.support.written_run import begin, own, same, values, write


def names(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def test_a_sample_that_is_replaced_is_the_old_one_until_the_new_one_is_complete(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run.zarr"
    write(run, seed=0)
    write(tmp_path / "new.zarr", seed=1)
    before, wanted = values(run), values(tmp_path / "new.zarr")
    new = begin(run, seed=1, overwrite=True)
    assert same(values(run), before)
    assert finished_samples(run) == {"shirt"}
    new.set_status(own(1, "complete"))
    assert same(values(run), wanted)
    files = {p.relative_to(run / "shirt") for p in (run / "shirt").rglob("*")}
    alone = tmp_path / "new.zarr" / "shirt"
    assert files == {p.relative_to(alone) for p in alone.rglob("*")}


def test_a_replacement_that_fails_leaves_the_old_sample(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    write(run, seed=0)
    before = values(run)
    begin(run, seed=1, overwrite=True).set_status(own(1, "failed"))
    assert same(values(run), before)
    with pytest.raises(SampleComplete, match="'shirt', which is complete"):
        begin(run, seed=1)
    with enter_run(run):
        pass
    assert names(run) == {"zarr.json", "shirt"}


class Stopped(BaseException):
    pass


_CALLS = (
    (replacement, "write_metadata"),
    (run_store, "write_metadata"),
    (replacement, "move_objects"),
    (replacement, "delete_others"),
    (replacement, "make_durable"),
    (replacement, "delete_tree"),
)


def stop_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Stop the process, as it were, before the call of that number."""
    calls = itertools.count()

    def stopping(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == number:
                raise Stopped
            return function(*arguments, **options)

        return call

    for module, name in _CALLS:
        patch.setattr(module, name, stopping(getattr(module, name)))


def test_a_replacement_that_was_stopped_anywhere_is_finished_by_the_next_process(
    tmp_path: Path,
) -> None:
    write(tmp_path / "new.zarr", seed=1)
    wanted = values(tmp_path / "new.zarr")
    for number in itertools.count():
        run = tmp_path / f"run-{number}.zarr"
        write(run, seed=0)
        before = values(run)
        new = begin(run, seed=1, overwrite=True)
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, number)
            try:
                new.set_status(own(1, "complete"))
                break
            except Stopped:
                pass
        if finished_samples(run):  # What a reader sees is whole: the old one or the new one.
            assert same(values(run), before) or same(values(run), wanted)
            open_run(run)["shirt"].load()
        with enter_run(run):
            pass
        assert same(values(run), wanted if number else before)
        open_run(run)["shirt"].load()
        assert names(run) == {"zarr.json", "shirt"}
    assert number > 6


def test_a_file_that_got_lost_on_the_way_is_missed_before_the_sample_is_complete(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run.zarr"
    sample = begin(run)
    shard = next((run / "shirt" / "layers").rglob("query/c/1/*/*/*"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(StoreError, match=r"just written, got none, at .*query/c/1"):
        sample.set_status(own(0, "complete"))
    shard.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=r"Expected an object of .* bytes .*, got one of"):
        sample.set_status(own(0, "complete"))
    assert finished_samples(run) == set()
    shard.write_bytes(content)
    sample.set_status(own(0, "complete"))
    assert finished_samples(run) == {"shirt"}


def test_a_sample_that_another_process_has_written_since_is_not_touched(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    slow = begin(run)
    write(run, seed=1)  # Without a claim, as if the first process had been taken for dead.
    before = values(run)
    for status in ("complete", "failed"):
        with pytest.raises(StoreError, match="another process has written since"):
            slow.set_status(own(0, status))
    assert same(values(run), before)


def test_a_sample_is_claimed_until_its_status_is_known(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    with enter_run(run) as one, enter_run(run) as other:
        sample = begin(run, writer=one)
        with pytest.raises(SampleTaken, match="'shirt', which process"):
            begin(run, writer=other)
        sample.set_status(own(0, "complete"))
        with pytest.raises(SampleComplete):
            begin(run, writer=other)
        begin(run, writer=other, overwrite=True).set_status(own(0, "failed"))
        begin(run, writer=one, overwrite=True)


def test_damaged_metadata_of_a_sample_are_not_taken_for_an_unfinished_one(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    write(run)
    (run / "shirt" / "zarr.json").write_text('{"zarr_format": 3, "node_')
    with pytest.raises(StoreError, match=r"metadata or none, got others, at shirt/zarr.json"):
        begin(run, overwrite=True)
    assert (run / "shirt" / "layers").is_dir()


def test_every_array_has_checksums_and_every_sample_an_inventory(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    write(run)
    group: Any = zarr.open_group(run, mode="r")["shirt"]
    arrays: Any = [n for _, n in group.members(max_depth=None) if isinstance(n, zarr.Array)]
    for array in arrays:
        codec: Any = array.metadata.codecs[-1].to_dict()
        inner = codec.get("configuration", {}).get("codecs", [codec])
        assert inner[-1]["name"] == "crc32c", array.path
    listed = group.attrs["i2am"]["objects"].splitlines()
    files = [path for path in (run / "shirt").rglob("*") if path.is_file()]
    assert len(listed) == len(files) - 1
    for line in listed:
        name, size, _ = line.split(" ")
        assert (run / "shirt" / name).stat().st_size == int(size)


def test_a_copy_of_a_run_is_as_good_as_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    write(run)
    shutil.copytree(run, tmp_path / "copy.zarr")
    open_run(tmp_path / "copy.zarr")["shirt"].load()


def test_a_new_run_is_entered_and_left_without_a_trace(tmp_path: Path) -> None:
    with enter_run(tmp_path / "run.zarr", {"steps": 3}) as writer:
        assert StorePath(LocalStore(tmp_path / "run.zarr")) == writer.root
    assert names(tmp_path / "run.zarr") == {"zarr.json"}
