from __future__ import annotations

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster

from i2am.analysis import analyze, analyze_run, describe_store, open_maps, open_run
from i2am.schemas import AnalysisError, StoreError, find_faults
from tests.analysis.maps.test_analyze import MIXED
from tests.support import reference_maps
from tests.support.synthetic_run import write_run


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run and its maps; each test has copies of them."""
    folder = tmp_path_factory.mktemp("analysed")
    run = write_run(folder / "run.zarr", ["a", "b"], MIXED, steps=5)
    analyze_run(run, folder / "maps.zarr", progress=False)
    return folder


@pytest.fixture
def run_path(analysed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(analysed / "run.zarr", tmp_path / "run.zarr"))


@pytest.fixture
def maps(analysed: Path, run_path: Path) -> Path:
    """Return the maps of `run_path`, beside it."""
    return Path(shutil.copytree(analysed / "maps.zarr", run_path.with_name("maps.zarr")))


def modification_times(path: Path) -> dict[str, int]:
    return {str(f.relative_to(path)): f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def assert_holds_the_maps_of(maps: Path, run: Path, **options: Any) -> None:
    stored = open_maps(maps)
    for name, sample in open_run(run).items():
        computed: Any = analyze(sample, **options).compute()
        for direction in computed.children:
            for level in computed[direction].data_vars:
                np.testing.assert_allclose(
                    stored[name][direction][level], computed[direction][level], rtol=1e-6
                )


def test_the_store_holds_the_maps_and_keeps_the_contract(run_path: Path, tmp_path: Path) -> None:
    maps = analyze_run(run_path, tmp_path / "maps.zarr", time_groups=2, progress=False)
    assert [str(fault) for fault in find_faults(describe_store(maps))] == []
    assert_holds_the_maps_of(maps, run_path, time_groups=2)
    root = reference_maps.stored(maps)
    own = root.attrs["i2am"]
    assert (own["kind"], own["schema"], own["source"]) == ("maps", 1, "../run.zarr")
    assert root["a"].attrs["i2am"]["status"] == "complete"
    volume = root["a/r2g/volume"]
    assert volume.metadata.dimension_names == ("layer", "step", "head", "y", "x")
    assert volume.chunks == (1, 5, 3, 16, 12)
    assert root["a/g2r/layer"][:].tolist() == ["down", "mid", "up"]


def test_xarray_alone_reads_the_store(maps: Path) -> None:
    with xr.open_datatree(maps, engine="zarr", consolidated=False) as tree:
        assert set(tree["a/r2g"].data_vars) == {"volume", "ulam", "tlam", "hlam", "llam"}
        assert {"layer", "head", "step", "timestep", "first_step"} <= set(tree["a/r2g"].coords)


def test_a_second_run_leaves_what_is_finished(run_path: Path, maps: Path) -> None:
    before = modification_times(maps)
    analyze_run(run_path, maps, progress=False)
    assert modification_times(maps) == before


def test_a_sample_that_was_left_half_way_does_not_exist_and_is_done_again(
    run_path: Path, maps: Path
) -> None:
    unfinished = {"kind": "maps", "schema": 1, "status": "running"}
    zarr.open_group(maps / "b").update_attributes({"i2am": unfinished})
    reference_maps.stored(maps / "b" / "r2g" / "ulam")[:] = 7
    before = modification_times(maps / "a")
    assert list(open_maps(maps)) == ["a"]
    analyze_run(run_path, maps, progress=False)
    assert list(open_maps(maps)) == ["a", "b"]
    assert modification_times(maps / "a") == before
    assert_holds_the_maps_of(maps, run_path)


def test_a_failure_leaves_the_sample_unfinished(run_path: Path, tmp_path: Path) -> None:
    for chunk in (run_path / "b" / "layers" / "up" / "logits" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"broken")
    maps = tmp_path / "maps.zarr"
    with pytest.raises(
        StoreError, match=r"Expected a chunk that zstd compressed.*, at .*run\.zarr/b/layers"
    ):
        analyze_run(run_path, maps, progress=False)
    assert list(open_maps(maps)) == ["a"]


@pytest.mark.parametrize("options", [{}, pytest.param({"workers": 1}, marks=pytest.mark.slow)])
def test_the_other_samples_are_done_when_one_fails(options: dict[str, Any], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "b", "c", "d"], MIXED, steps=5)
    for sample in ("a", "c"):
        for chunk in (run / sample / "layers" / "up" / "logits" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"broken")
    maps = tmp_path / "maps.zarr"
    with pytest.raises(StoreError, match=r"at .*run\.zarr/a/layers/up.* So do 1 more"):
        analyze_run(run, maps, progress=False, **options)
    assert list(open_maps(maps)) == ["b", "d"]


def test_a_sample_that_was_captured_anew_is_analysed_anew(run_path: Path, maps: Path) -> None:
    reference_maps.change_attributes(run_path / "a", created="2026-02-02T00:00:00Z")
    key = reference_maps.stored(run_path / "a" / "layers" / "down" / "key")
    key[:] = key[:] * 2
    analyze_run(run_path, maps, progress=False)
    assert_holds_the_maps_of(maps, run_path)


def test_samples_can_be_chosen_and_added(run_path: Path, tmp_path: Path) -> None:
    maps = analyze_run(run_path, tmp_path / "maps.zarr", samples=["b"], progress=False)
    assert list(open_maps(maps)) == ["b"]
    analyze_run(run_path, maps, progress=False)
    assert list(open_maps(maps)) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"convention": "official"}, "convention"),
        ({"normalisation": "density"}, "normalisation"),
        ({"layers": "up"}, "layers"),
        ({"time_groups": 2, "grid": (4, 4)}, "grid, time_groups"),
    ],
)
def test_other_options_refuse_a_store_until_overwrite_is_given(
    options: dict[str, Any], named: str, run_path: Path, tmp_path: Path
) -> None:
    maps = analyze_run(run_path, tmp_path / "maps.zarr", samples=["a"], progress=False)
    before = modification_times(maps)
    with pytest.raises(StoreError, match=f"got other {named}, at .*maps.zarr"):
        analyze_run(run_path, maps, progress=False, **options)
    assert modification_times(maps) == before
    analyze_run(run_path, maps, progress=False, overwrite=True, **options)
    assert_holds_the_maps_of(maps, run_path, **options)


def test_maps_of_another_run_are_refused(maps: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other.zarr", ["a"], MIXED)
    with pytest.raises(StoreError, match="got other source"):
        analyze_run(other, maps, progress=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_maps_store_is_never_touched(
    overwrite: bool, run_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"got a folder without Zarr metadata, at .*notes"):
        analyze_run(run_path, tmp_path / "notes", overwrite=overwrite, progress=False)
    with pytest.raises(StoreError, match="Expected a maps store to write to, got a run store"):
        analyze_run(run_path, run_path, overwrite=overwrite, progress=False)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    assert list(open_run(run_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"samples": ["c"]}, StoreError, "Expected a complete sample, got none named 'c'"),
        ({"layers": "nope"}, AnalysisError, "Known: 'down', 'mid', 'up'"),
        ({"convention": "theirs"}, AnalysisError, "Expected a known convention, got 'theirs'"),
        ({"time_groups": 0}, AnalysisError, "Expected at least one time group"),
        ({"workers": 1, "scheduler": "tcp://x"}, AnalysisError, "scheduler or workers, got both"),
        ({"workers": 0}, AnalysisError, "Expected at least one worker, got 0"),
        ({"scheduler": "carrier-pigeon"}, AnalysisError, "at carrier-pigeon. Check the address"),
    ],
)
def test_a_wrong_call_writes_nothing(
    options: dict[str, Any], error: type[Exception], match: str, run_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        analyze_run(run_path, tmp_path / "maps.zarr", progress=False, **options)
    assert not (tmp_path / "maps.zarr").exists()


def test_a_run_without_complete_samples_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", [])
    with pytest.raises(StoreError, match="Expected complete samples, got none"):
        analyze_run(run, tmp_path / "maps.zarr", progress=False)


def test_the_bar_counts_samples(
    run_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze_run(run_path, tmp_path / "maps.zarr")
    assert "100%" in (shown := capsys.readouterr().err)
    assert "2.0/2" in shown


def test_a_source_elsewhere_is_named_absolutely(run_path: Path, tmp_path: Path) -> None:
    maps = analyze_run(run_path, tmp_path / "deep" / "maps.zarr", progress=False)
    metadata = json.loads((maps / "zarr.json").read_text())
    assert metadata["attributes"]["i2am"]["source"] == str(run_path.resolve())


@pytest.mark.slow
def test_processes_that_are_started_here_give_the_same_maps(run_path: Path, tmp_path: Path) -> None:
    maps = analyze_run(run_path, tmp_path / "maps.zarr", workers=2, progress=False)
    assert_holds_the_maps_of(maps, run_path)


@pytest.mark.slow
def test_a_cluster_that_is_there_gives_the_same_maps_over_tcp(
    run_path: Path, tmp_path: Path
) -> None:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", protocol="tcp://"
    ) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        maps = analyze_run(
            run_path, tmp_path / "maps.zarr", scheduler=cluster.scheduler_address, progress=False
        )
    assert_holds_the_maps_of(maps, run_path)


@pytest.mark.slow
def test_a_worker_that_is_killed_half_way_changes_nothing(tmp_path: Path) -> None:
    def is_complete(metadata: Path) -> bool:
        return metadata.exists() and '"complete"' in metadata.read_text()

    samples = [str(number) for number in range(8)]
    run = write_run(tmp_path / "run.zarr", samples, MIXED, steps=10)
    out = tmp_path / "maps.zarr"
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        before = client.run(os.getpid)
        done = pool.submit(analyze_run, run, out, scheduler=cluster.scheduler_address)
        while not is_complete(out / "0" / "zarr.json"):
            assert not done.done()
            time.sleep(0.01)
        finished = sum(map(is_complete, out.glob("*/zarr.json")))
        os.kill(next(iter(before.values())), signal.SIGKILL)
        maps = done.result(timeout=120)
    assert finished < len(samples)
    assert list(open_maps(maps)) == sorted(samples)
    assert_holds_the_maps_of(maps, run)
