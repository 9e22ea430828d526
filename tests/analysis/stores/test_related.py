"""The run that maps were made from: followed where that is safe, and asked for where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import average_maps, head_scores, open_maps, score_maps
from i2am.analysis.stores import related
from i2am.analysis.stores.related import run_of
from i2am.cli import main
from i2am.schemas import StoreError
from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import write_run

UNASKED = [
    "s3://bucket/run.zarr",
    "https://example.org/run.zarr",
    "file:///tmp/run.zarr",
    "simplecache::s3://bucket/run.zarr",
    "//server/share/run.zarr",
    r"\\server\share\run.zarr",
    "/net/server/run.zarr",
    "../../elsewhere/run.zarr",
    "../..",
    "..",
    "run.zarr",
    "sub/run.zarr",
    "../sub/run.zarr",
    r"..\..\run.zarr",
    "",
]


def _maps(folder: Path, source: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    volumes = {"r2g": spot_volume(), "g2r": spot_volume(grid=(8, 8))}
    return write_maps(folder / "maps.zarr", {"first": volumes}, source=source)


@pytest.mark.parametrize("source", UNASKED)
def test_no_address_of_a_store_is_followed_without_being_asked(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = _maps(tmp_path / "received", source)
    opened: list[Any] = []
    monkeypatch.setattr(related, "open_run", opened.append)
    with pytest.raises(StoreError, match=r"the maps' own word, .*--run RUN, or run= in Python"):
        run_of(open_maps(maps))
    assert opened == []
    for use in (score_maps, head_scores):
        with pytest.raises(StoreError, match="--run RUN"):
            use(maps)
    with pytest.raises(StoreError, match="--run RUN"):
        average_maps(maps, by="seed")
    assert opened == []


def test_the_command_says_how_to_name_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = _maps(tmp_path / "received", "s3://bucket/run.zarr")
    run = write_run(tmp_path / "run.zarr")
    assert main(["score", str(maps)]) == 1
    told = capsys.readouterr().err
    assert "s3://bucket/run.zarr" in told
    assert "--run" in told
    assert main(["score", str(maps), "--run", str(run)]) == 0


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_run_beside_the_maps_is_followed_also_when_both_were_moved(
    tmp_path: Path, is_moved: bool
) -> None:
    maps = _maps(tmp_path / "a", "../run.zarr")
    write_run(tmp_path / "a" / "run.zarr")
    if is_moved:
        (tmp_path / "a").rename(tmp_path / "b")
        maps = tmp_path / "b" / "maps.zarr"
    assert "first" in run_of(open_maps(maps))


def test_a_local_run_elsewhere_is_followed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "data" / "run.zarr")
    maps = _maps(tmp_path / "maps", str(run))
    assert "first" in run_of(open_maps(maps))


def test_maps_in_memory_need_a_named_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr")
    store = zarr.storage.MemoryStore()
    own = {"kind": "maps", "schema": 1, "convention": "i2am", "normalisation": "mass"}
    root = zarr.create_group(store, attributes={"i2am": {**own, "source": "../run.zarr"}})
    root.create_array("x", data=np.zeros((2, 2)))
    with pytest.raises(StoreError, match="--run RUN"):
        run_of(open_maps(store))
    assert "first" in run_of(open_maps(store), run)
