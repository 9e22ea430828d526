"""A disk that is full, or may only be read: what is said, what is kept, and that a re-run goes on.

The disk has room for a little more in each round, so that the end is met at another point: at the run's
root, at a shard, at an image, at the status.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze_run, describe_store, open_run, summarise_store
from i2am.capture import capture, capture_manifest
from i2am.cli import main
from i2am.schemas import I2AMError, StorageError, find_faults
from tests.support.small_disk import SmallDisk, on_small_disk
from tests.support.stored_values import Values, complete_samples
from tests.support.synthetic_run import write_run
from tests.support.tiny_pipelines import models

_FULL = re.compile(
    r"room to write, got '(No space left on device|File too large)', at /\S+\. Make room"
)
_BLANK = np.zeros((8, 8, 3), np.uint8)
_SAMPLES = ("a", "b")


def sweep(seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    """Yield what was tried and how it ended, for four sizes of the disk a round, and each stage.

    Outcomes: survived (it had room), mended (an error; a re-run gave the whole), LOST (a re-run did
    not), UNDETECTED (something was marked as complete and is not what it should be).
    """
    yield from on_small_disk(_sweep, seed, 4 * rounds)


def _sweep(disk: SmallDisk, seed: int, rounds: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    run = disk.folder / "run.zarr"
    pipeline = models.reference_inpaint()
    results = _fill_up(
        disk, run, functools.partial(_capture, pipeline, run), rng, rounds, "capture"
    )
    overwrite = functools.partial(_capture, pipeline, run, steps=3, overwrite=True)
    _capture(pipeline, run)
    results += _fill_up(disk, run, overwrite, rng, max(2, rounds // 2), "capture --overwrite")
    disk.clear()
    maps = disk.folder / "maps.zarr"
    write_run(run, _SAMPLES)
    analysis = functools.partial(analyze_run, run, maps, progress=False)
    return results + _fill_up(disk, maps, analysis, rng, max(2, rounds // 2), "analyze")


def _capture(pipeline: Any, run: Path, steps: int = 2, *, overwrite: bool = False) -> None:
    for sample in _SAMPLES:
        if overwrite or sample not in complete_samples(run):
            # So little memory that shards are written while the model runs.
            with capture(
                pipeline, run, sample=sample, memory_bytes=100_000, overwrite=overwrite
            ) as recording:
                models.run(pipeline, steps)
                recording.add_images(generated=_BLANK + steps, reference=_BLANK)


def _fill_up(
    disk: SmallDisk,
    store: Path,
    work: Callable[[], object],
    rng: np.random.Generator,
    rounds: int,
    name: str,
) -> list[tuple[str, str]]:
    """Do work that fills a store with each of several rooms, and again without a bound.

    What is in the store before is there before each.
    """
    earlier = disk.folder / "earlier"
    if store.exists():
        shutil.copytree(store, earlier)
    old = complete_samples(store)
    work()
    wanted = complete_samples(store)
    assert wanted.keys() == set(_SAMPLES)
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    if disk.kind == "tmpfs":
        most = sum(-(-size // 4096) for size in sizes)
        rooms = [4096 * int(pages) for pages in np.linspace(0, most, rounds, endpoint=False)]
        rooms = [room + 4096 * int(rng.integers(0, max(1, most // rounds))) for room in rooms]
    else:
        rooms = [int(size) - 1 for size in rng.choice(sorted(set(sizes)), rounds)]
    results = []
    for room in rooms:
        shutil.rmtree(store, ignore_errors=True)
        if earlier.exists():
            shutil.copytree(earlier, store)
        outcome = _try_once(disk, store, work, old, wanted, room)
        results.append((f"{name}, {disk.kind} {room:,} bytes", outcome))
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)
    return results


def _try_once(
    disk: SmallDisk,
    store: Path,
    work: Callable[[], object],
    old: dict[str, Values],
    wanted: dict[str, Values],
    room: int,
) -> str:
    said = None
    with disk.room(room):
        try:
            work()
        except I2AMError as e:
            said = str(e)
        kept = complete_samples(store)
    if any(values not in (wanted[name], old.get(name)) for name, values in kept.items()):
        return "UNDETECTED"
    if said is None:
        return "survived" if kept == wanted else "UNDETECTED"
    assert _FULL.search(said), said
    assert "\n" not in said
    work()
    return "mended" if complete_samples(store) == wanted else "LOST"


def _call(*arguments: str) -> tuple[int, str, str]:
    """Run a command here; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def _own_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("i2am: ")]


def _manifest(folder: Path, rows: int) -> Path:
    inputs = models.noise_images(64)
    names = {"reference": "example_image", "source": "image", "mask": "mask_image"}
    for column, image in names.items():
        inputs[image].save(folder / f"{column}.png")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", *names])
        for number in range(rows):
            writer.writerow([f"s{number}", *(f"{column}.png" for column in names)])
    return folder / "rows.csv"


def _command_on_a_full_disk(disk: SmallDisk, folder: Path) -> None:
    run, whole = disk.folder / "run.zarr", folder / "whole.zarr"
    manifest = _manifest(folder, 5)
    capture_manifest("i2am-tiny", manifest, whole, steps=1, progress=False)
    wanted = complete_samples(whole)
    sizes = [p.stat().st_size for p in (whole / "s0").rglob("*") if p.is_file()]
    room = 3 * sum(-(-size // 4096) for size in sizes) // 2 * 4096  # for one sample and a half
    call = ["capture", "--model", "i2am-tiny", "--manifest", str(manifest), "--steps", "1"]
    with disk.room(room if disk.kind == "tmpfs" else max(sizes) - 1):
        code, out, err = _call(*call, "--out", str(run))
    assert code == 1, (out, err)
    done = 1 if disk.kind == "tmpfs" else 0
    assert f"{done} captured, 0 were complete, 2 failed, {3 - done} not tried" in out, (out, err)
    lines = _own_lines(err)
    assert len(lines) == 3, err
    assert all(_FULL.search(line) for line in lines[:2]), err
    assert f"stopped, as the store failed: {3 - done} samples were not tried." in lines[2]
    assert "The same command goes on from here" in lines[2]
    assert len(complete_samples(run)) == done
    code, out, err = _call(*call, "--out", str(run))
    assert (code, f"{5 - done} captured, {done} were complete" in out) == (0, True), (out, err)
    assert complete_samples(run) == wanted
    # So for maps: two samples fail, and the others are not tried.
    maps = disk.folder / "maps.zarr"
    with disk.room(8 * 4096 if disk.kind == "tmpfs" else 4096):
        code, out, err = _call("analyze", str(run), "--out", str(maps))
    (line,) = _own_lines(err)
    assert (code, out) == (1, "")
    assert _FULL.search(line), err
    assert "So do 1 more. 3 more were not tried; a re-run goes on from here." in line
    assert _call("analyze", str(run), "--out", str(maps))[0] == 0
    assert complete_samples(maps).keys() == wanted.keys()


def test_a_command_on_a_full_disk_stops_after_two_samples_and_goes_on_later(
    tmp_path: Path,
) -> None:
    on_small_disk(_command_on_a_full_disk, tmp_path)


def _read_only(disk: SmallDisk, folder: Path) -> str | None:
    run, maps = disk.folder / "run.zarr", folder / "maps.zarr"
    write_run(run, _SAMPLES)
    with disk.read_only() as is_possible:
        if not is_possible:
            return "the superuser may write everywhere, and there is no file system of our own"
        # What reads a run works.
        analyze_run(run, maps, progress=False)
        assert complete_samples(maps).keys() == set(_SAMPLES)
        assert list(open_run(run)) == list(_SAMPLES)
        assert summarise_store(run)["kind"] == "run"
        assert list(find_faults(describe_store(run))) == []
        # What writes is told at once, and writes nothing.
        refused = r"the right to use it, got '(Read-only file system|Permission denied)', at "
        with pytest.raises(StorageError, match=refused):
            analyze_run(run, disk.folder / "maps.zarr", progress=False)
        pipeline = models.reference_inpaint()
        with (
            pytest.raises(StorageError, match=refused),
            capture(pipeline, disk.folder / "new.zarr", sample="a"),
        ):
            pytest.fail("the model ran")
        code, out, err = _call("analyze", str(run))
        assert (code, out) == (1, "")
        assert re.search(refused, err), err
        assert len(err.splitlines()) == 1
        assert [path.name for path in disk.folder.iterdir()] == ["run.zarr"]
    return None


def test_a_disk_that_may_only_be_read_can_be_read_and_says_so_before_the_work(
    tmp_path: Path,
) -> None:
    if (reason := on_small_disk(_read_only, tmp_path)) is not None:
        pytest.skip(reason)
