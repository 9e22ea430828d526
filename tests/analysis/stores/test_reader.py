from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from i2am.analysis import Run, open_maps, open_run
from i2am.analysis.statistics.groups import group_samples
from i2am.analysis.stores.reader import open_tree
from i2am.schemas import StoreError
from tests.support import reference_maps
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import LAYERS, write_run


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "run.zarr"
    write_run(path, ["b", "a", "half-done"], guidance=True)
    reference_maps.change_attributes(path / "half-done", status="running")
    return path


def test_a_run_is_a_mapping_of_its_complete_samples(run_path: Path) -> None:
    run = open_run(run_path)
    assert list(run) == ["a", "b"]
    assert len(run) == 2
    assert "a" in run
    assert "half-done" not in run
    assert run.get("half-done") is None
    assert "" not in run
    assert f"a/layers/{LAYERS[0].name}" not in run


def test_a_sample_is_lazy_and_labelled(run_path: Path) -> None:
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        sample: Any = open_run(run_path)["a"]
        assert sample["guidance"].values.tolist() == ["unconditional", "conditional"]
        assert sample["step"].values.tolist() == [0, 1, 2, 3]
        assert sample["timestep"].values[0] == 981
        layer = sample["layers"][LAYERS[0].name]
        assert layer["query"].dims == ("guidance", "step", "head", "generated", "channel")
        assert layer["step"].values.tolist() == [0, 1, 2, 3]
        assert dask.is_dask_collection(sample["images/generated"].data)
        with pytest.raises(AssertionError, match="something was computed"):
            layer["query"].compute()


def test_lazy_arrays_hold_what_was_stored(run_path: Path) -> None:
    name = f"layers/{LAYERS[0].name}"
    stored = reference_maps.stored(run_path / "a")
    sample = open_run(run_path)["a"]
    np.testing.assert_array_equal(sample[f"{name}/key"], stored[f"{name}/key"][:])
    np.testing.assert_array_equal(sample["images/source"], stored["images/source"][:])
    assert sample[name].attrs["i2am"]["generated_grid"] == [8, 8]


def test_many_small_chunks_are_read_as_one_block(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", steps=6)
    values = reference_maps.rechunk(path / "first" / "layers" / LAYERS[0].name, "query", step=1)
    query = open_run(path)["first"][f"layers/{LAYERS[0].name}/query"]
    assert query.chunksizes["step"] == (6,)
    np.testing.assert_array_equal(query, values)


def test_opening_reads_one_file_whatever_the_number_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = zarr.create_group(
        tmp_path / "run.zarr", attributes={"i2am": {"kind": "run", "schema": 1}}
    )
    for number in range(30):
        root.create_group(f"s{number}", attributes={"i2am": {"status": "complete"}})
    reads = watch_reads(monkeypatch)
    run = open_run(tmp_path / "run.zarr")
    assert [key for key, _ in reads if key.startswith("s")] == []
    assert len(run) == 30


def test_the_table_has_a_row_for_each_sample_and_spreads_nested_provenance(run_path: Path) -> None:
    table = open_run(run_path).table()
    assert table["sample"].tolist() == ["a", "b"]
    assert table["guidance_scale"].tolist() == [3.0, 3.0]
    assert table["versions.i2am"].tolist() == ["0", "0"]
    assert "status" not in table


def test_seeds_of_64_bits_stay_what_they_are_where_one_is_missing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a", "b", "c"], LAYERS[:1])
    for name, seed in (("a", 2**60), ("b", 2**60 + 1), ("c", None)):
        reference_maps.change_attributes(path / name, seed=seed)
    run = open_run(path)
    assert run.table()["seed"].tolist() == [2**60, 2**60 + 1, None]
    groups = group_samples(run, list("abc"), ["seed"])
    assert [group.samples for group in groups] == [("a",), ("b",), ("c",)]


def test_a_run_without_samples_has_an_empty_table() -> None:
    store = MemoryStore()
    zarr.create_group(store, attributes={"i2am": {"kind": "run", "schema": 1}})
    assert Run(store).table().empty


def test_a_url_opens_as_a_path_does(run_path: Path) -> None:
    assert list(open_run(f"file://{run_path}")) == ["a", "b"]


def _nothing(path: Path) -> Path:
    return path / "missing.zarr"


def _file(path: Path) -> Path:
    (path / "file.txt").write_text("no store")
    return path / "file.txt"


def _folder(path: Path) -> Path:
    (path / "file.txt").write_text("no store")
    return path


def _empty(path: Path) -> Path:
    return path


def _array(path: Path) -> Path:
    zarr.create_array(path / "array.zarr", data=np.zeros(3))
    return path / "array.zarr"


def _foreign(path: Path) -> Path:
    zarr.create_group(path / "other.zarr", attributes={"ome": {}})
    return path / "other.zarr"


def _maps(path: Path) -> Path:
    zarr.create_group(path / "maps.zarr", attributes={"i2am": {"kind": "maps", "schema": 1}})
    return path / "maps.zarr"


def _newer(path: Path) -> Path:
    zarr.create_group(path / "new.zarr", attributes={"i2am": {"kind": "run", "schema": 2}})
    return path / "new.zarr"


def _sample(path: Path) -> Path:
    return write_run(path / "run.zarr", ["a"]) / "a"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_nothing, r"Expected a store, got nothing, at .*missing\.zarr"),
        (_file, r"got a file, at .*file\.txt"),
        (_folder, "got a folder without Zarr metadata"),
        (_empty, "got an empty folder"),
        (_array, "got a Zarr array"),
        (_foreign, "got a Zarr group with the attributes ome"),
        (_maps, r"Expected a run store, got a maps store at .* Give the run"),
        (_newer, r"Expected schema 1, got 2, at .*Upgrade i2am"),
        (_sample, "got a sample's group"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(
    make: Callable[[Path], Path], match: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        open_run(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_run_is_no_maps_store(run_path: Path) -> None:
    with pytest.raises(StoreError, match=r"Expected a maps store, got a run store at .*analyze"):
        open_maps(run_path)


def test_an_address_that_nothing_serves_is_refused() -> None:
    with pytest.raises(StoreError, match=r"at nowhere://bucket/run\.zarr"):
        open_run("nowhere://bucket/run.zarr")


def test_an_unknown_sample_names_the_nearest(run_path: Path) -> None:
    run = open_run(run_path)
    with pytest.raises(StoreError, match=r"none named 'nothing', at .* Known: 'a', 'b'"):
        run["nothing"]
    with pytest.raises(KeyError, match="Did you mean 'a'"):
        run["aa"]


def test_an_unfinished_sample_is_told_from_one_that_is_not_there(run_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got 'half-done' unfinished, at .*given no images"):
        open_run(run_path)["half-done"]


def test_an_array_without_named_dimensions_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr")
    images = zarr.open_group(path / "first" / "images")
    images.create_array("reference_1", data=np.zeros((2, 2, 3), np.uint8))
    wanted = (
        r"'first/images/reference_1: expected dims \('reference_1_y', .*\), got None', at .*run"
    )
    with pytest.raises(StoreError, match=wanted):
        open_run(path)["first"]
    with pytest.raises(StoreError, match=r"named dimensions, got None, at .*reference_1"):
        open_tree(images)


def test_importing_the_stage_loads_neither_figures_nor_clusters() -> None:
    code = (
        "import sys, i2am.analysis; print({'matplotlib', 'distributed', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_maps_sample_of_another_program_needs_no_status(tmp_path: Path) -> None:
    attributes = {"kind": "maps", "schema": 1, "convention": "i2am", "normalisation": "mass"}
    root = zarr.create_group(
        tmp_path / "maps.zarr", attributes={"i2am": {**attributes, "source": "run.zarr"}}
    )
    root.create_group("finished")
    root.create_group("stopped", attributes={"i2am": {"kind": "maps", "status": "running"}})
    assert list(open_maps(tmp_path / "maps.zarr")) == ["finished"]
