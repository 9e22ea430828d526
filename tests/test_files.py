"""What is written is whole or not at all: on a full disk the old stays, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from i2am.analysis import (
    analyze_run,
    average_maps,
    open_maps,
    open_run,
    score_maps,
    write_head_scores,
)
from i2am.analysis.figures.files import write_comparison, write_figures
from i2am.analysis.statistics.run_pair import pair_runs
from i2am.analysis.stores.tables import write_table
from i2am.files import folder_written_whole, outputs_written_whole, written_whole
from i2am.page.report import write_report
from i2am.schemas import StoreError
from i2am.viewer.export.animation import write_animation
from i2am.viewer.export.pictures import write_picture
from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.pick_table import write_picks
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = [SyntheticLayer("down", (4, 4), (2, 2), channels=3)]
NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@contextmanager
def full_disk(room_bytes: int = 600) -> Iterator[None]:
    """Let no file grow beyond a size: to a program that is a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    path = write_run(folder / "run.zarr", ["a", "b"], LAYERS, steps=2, size_px=(32, 32))
    analyze_run(path, folder / "maps.zarr", progress=False)
    return path


def _figures(run: Path, out: Path) -> None:
    maps = open_maps(run.with_name("maps.zarr"))
    write_figures(open_run(run), maps, ["a"], out, ["hlam"], overwrite=True)


def _report(run: Path, out: Path) -> None:
    # Of no sample's figures: the summary alone is larger than the disk.
    maps, scores = (
        open_maps(run.with_name("maps.zarr")),
        score_maps(run.with_name("maps.zarr")),
    )
    out = out / "report.html"
    write_report(open_run(run), maps, scores, out, overwrite=True, max_samples=0)


def _comparison(run: Path, out: Path) -> None:
    pair = pair_runs(run, run, samples=["a"])
    write_comparison(pair, out, progress=False, overwrite=True)


def _average(run: Path, out: Path) -> None:
    average_maps(run.with_name("maps.zarr"), out=out / "average.zarr", overwrite=True)


def _heads(run: Path, out: Path) -> None:
    path = out / "heads.csv"
    write_head_scores(run.with_name("maps.zarr"), path, progress=False, overwrite=True)


def _scores(name: str) -> Callable[[Path, Path], None]:
    def write(run: Path, out: Path) -> None:
        values = np.random.default_rng(0).random(400)
        write_table(pd.DataFrame({"sample": "a", "score": "b", "value": values}), out / name)

    return write


def _picks(run: Path, out: Path) -> None:
    picks = [Pick("run.zarr", "a", "generated", (0, 0, 1, 1), (), (), (), "note")] * 40
    write_picks(picks, out / "picks.csv", overwrite=True)


def _picture(run: Path, out: Path) -> None:
    write_picture(NOISE[0], out / "picture.png", overwrite=True)


def _animation(name: str) -> Callable[[Path, Path], None]:
    def write(run: Path, out: Path) -> None:
        write_animation(NOISE, out / name, overwrite=True)

    return write


OUTPUTS: dict[str, Callable[[Path, Path], None]] = {
    "figures": _figures,
    "report": _report,
    "comparison": _comparison,
    "average": _average,
    "scores of heads": _heads,
    "CSV": _scores("scores.csv"),
    "Parquet": _scores("scores.parquet"),
    "picks": _picks,
    "picture": _picture,
    "GIF": _animation("moving.gif"),
    "MP4": _animation("moving.mp4"),
}


@pytest.mark.parametrize("write", OUTPUTS.values(), ids=OUTPUTS)
def test_on_a_full_disk_the_old_output_stays_and_nothing_is_left_beside_it(
    write: Callable[[Path, Path], None], run: Path, tmp_path: Path
) -> None:
    write(run, tmp_path)
    before = contents(tmp_path)
    assert before
    with (
        full_disk(),
        pytest.raises(StoreError, match=r"Expected (room on the disk|to write)") as told,
    ):
        write(run, tmp_path)
    assert str(tmp_path) in str(told.value)
    assert contents(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]


def test_a_new_folder_of_outputs_is_gone_after_an_error(run: Path, tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StoreError, match="Expected room on the disk"):
        _comparison(run, tmp_path / "comparison")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "table.csv").write_text("old")
    synced: list[tuple[str, str]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((str(name), path.read_text()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with written_whole(path) as unfinished:
        unfinished.write_text("new")
    assert synced == [(str(unfinished), "old"), (str(tmp_path), "new")]


def test_two_at_once_write_one_file_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with written_whole(path) as one, written_whole(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert contents(tmp_path) == {"table.csv": b"one"}


def test_a_folder_that_was_being_replaced_when_the_work_stopped_has_its_name_again(
    run: Path, tmp_path: Path
) -> None:
    _average(run, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "average.zarr").rename(tmp_path / "average.zarr.replaced")
    with pytest.raises(StoreError, match="Expected nothing to be there yet, got an average"):
        average_maps(run.with_name("maps.zarr"), out=tmp_path / "average.zarr")
    assert contents(tmp_path) == before


def test_a_store_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    store = tmp_path / "average.zarr"
    zarr.create_group(store, attributes={"is": "old"})
    with pytest.raises(OSError, match="no such device"), folder_written_whole(store) as unfinished:
        zarr.create_group(unfinished, attributes={"is": "new"})
        raise OSError(errno.ENODEV, "no such device")
    assert zarr.open_group(store, mode="r").attrs["is"] == "old"
    with folder_written_whole(store) as unfinished:
        zarr.create_group(unfinished, attributes={"is": "new"})
        assert zarr.open_group(store, mode="r").attrs["is"] == "old"
    assert zarr.open_group(store, mode="r").attrs["is"] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["average.zarr"]


def test_several_outputs_appear_together_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "table.csv").write_text("old")
    (tmp_path / "maps.zarr").write_text("a file, where a folder comes")
    with outputs_written_whole(tmp_path) as unfinished:
        (unfinished / "table.csv").write_text("new")
        (unfinished / "maps.zarr").mkdir()
        (unfinished / "maps.zarr" / "zarr.json").write_text("{}")
        assert (tmp_path / "table.csv").read_text() == "old"
    assert contents(tmp_path) == {
        "mine.txt": b"mine",
        "table.csv": b"new",
        "maps.zarr/zarr.json": b"{}",
    }


def test_another_error_goes_through_as_it_is(tmp_path: Path) -> None:
    def fail() -> Any:
        with written_whole(tmp_path / "table.csv") as unfinished:
            unfinished.write_text("new")
            raise ValueError("no number")

    with pytest.raises(ValueError, match="no number"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_result_has_a_checksum_for_every_chunk(run: Path, tmp_path: Path) -> None:
    _average(run, tmp_path)
    _comparison(run, tmp_path)
    for store in ("average.zarr", "differences.zarr"):
        members = zarr.open_group(tmp_path / store, mode="r").members(max_depth=None)
        arrays = [node for _, node in members if isinstance(node, zarr.Array)]
        assert arrays
        for array in arrays:
            stored: Any = array.metadata.to_dict()
            assert stored["codecs"][-1]["name"] == "crc32c"
