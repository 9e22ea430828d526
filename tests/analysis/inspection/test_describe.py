from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr

from i2am.analysis import analyze_run, average_maps, describe_store, open_maps, summarise_store
from i2am.schemas import StoreError, find_faults
from tests.support import reference_maps
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    path = write_run(tmp_path / "run.zarr", ["a", "b"], guidance=True)
    reference_maps.change_attributes(path / "b", status="running")
    return path


def test_a_description_holds_dims_shapes_dtypes_and_coordinates(run_path: Path) -> None:
    sample = describe_store(run_path).groups["a"]
    assert sample.arrays["guidance"].values == ("unconditional", "conditional")
    assert sample.arrays["step"].values == (0, 1, 2, 3)
    query = sample.groups["layers"].groups[LAYERS[0].name].arrays["query"]
    assert query.dims == ("guidance", "step", "head", "generated", "channel")
    assert (query.shape, query.dtype) == ((2, 4, 2, 64, 8), "float16")


def test_samples_are_described_when_asked_for(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = watch_reads(monkeypatch)
    groups = describe_store(run_path).groups
    assert list(groups) == ["a", "b"]
    assert not [key for key, _ in reads if key.startswith("a/layers")]
    groups["a"].groups["layers"].groups[LAYERS[0].name]
    assert [key for key, _ in reads if key.startswith("a/layers")]
    with pytest.raises(KeyError):
        groups["c"]


def test_validation_finds_no_fault_in_a_sound_store_and_the_fault_in_another(
    run_path: Path,
) -> None:
    assert list(find_faults(describe_store(run_path))) == []
    reference_maps.stored(run_path / "a").create_group("extra")
    faults = [str(fault) for fault in find_faults(describe_store(run_path))]
    assert faults == ["a/extra: expected only the groups 'images' and 'layers'"]


def test_the_summary_of_a_run_tells_what_was_captured(run_path: Path) -> None:
    facts = summarise_store(run_path)
    assert facts["kind"] == "run"
    assert facts["samples"] == "1 complete, 1 not: a"
    assert facts["steps"] == "4, timestep 981 to 1"
    assert facts["guidance"] == "unconditional, conditional"
    assert facts["layers"] == [
        f"{LAYERS[0].name}: 8x8 <- 4x4 + 1, 2 heads, factors float16",
        f"{LAYERS[1].name}: 4x4 <- 4x4 + 1, 2 heads, factors float16",
        f"{LAYERS[2].name}: 8x8 <- 4x4 + 1, 2 heads, logits float16",
    ]
    members = reference_maps.stored(run_path / "a").members(max_depth=None)
    arrays = [m for name, m in members if isinstance(m, zarr.Array) and "/" in name]
    assert facts["arrays"] == f"{sum(a.nbytes for a in arrays):,} bytes a sample"
    stored = sum(f.stat().st_size for f in run_path.rglob("*") if f.is_file())
    assert facts["stored"] == f"{stored:,} bytes"


def test_the_summary_of_maps_tells_how_they_were_made(run_path: Path, tmp_path: Path) -> None:
    facts: dict[str, Any] = summarise_store(
        analyze_run(run_path, tmp_path / "maps.zarr", progress=False)
    )
    assert (facts["kind"], facts["convention"], facts["source"]) == ("maps", "i2am", "../run.zarr")
    assert facts["directions"] == [
        "g2r: 3 layer, 4 step, 2 head, 4 reference_y, 4 reference_x",
        "r2g: 3 layer, 4 step, 2 head, 8 y, 8 x",
    ]


def test_the_summary_of_averages_tells_their_groups(run_path: Path, tmp_path: Path) -> None:
    maps = analyze_run(run_path, tmp_path / "maps.zarr", progress=False)
    average_maps(maps, by="seed", out=tmp_path / "average.zarr")
    facts = summarise_store(tmp_path / "average.zarr")
    assert {key: facts[key] for key in list(facts)[:-1]} == {
        "kind": "average",
        "schema": "1",
        "convention": "i2am",
        "normalisation": "mass",
        "source": "../maps.zarr",
        "by": "seed",
        "groups": ["0: 1 sample"],
    }
    with pytest.raises(
        StoreError, match="a run, maps or effects store of i2am, got one of kind 'average'"
    ):
        open_maps(tmp_path / "average.zarr")


def test_the_summary_of_differences_tells_their_samples(tmp_path: Path) -> None:
    own = {"kind": "differences", "schema": 1, "a": "one.zarr", "b": "two.zarr"}
    root = zarr.create_group(tmp_path / "d.zarr", attributes={"i2am": own})
    for name in "abcdefg":
        root.create_group(name)
    facts = summarise_store(tmp_path / "d.zarr")
    assert (facts["a"], facts["b"]) == ("one.zarr", "two.zarr")
    assert facts["samples"] == "7: a, b, c, d, e, …"


def test_an_empty_run_has_a_summary(tmp_path: Path) -> None:
    assert summarise_store(write_run(tmp_path / "run.zarr", []))["samples"] == "0 complete"


def test_what_is_not_there_has_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Expected a store, got nothing"):
        summarise_store(tmp_path / "missing.zarr")


def test_the_summary_tells_by_what_a_layers_contribution_is_multiplied(tmp_path: Path) -> None:
    layers = (
        SyntheticLayer("one", (2, 2), weights=(0.7,)),
        SyntheticLayer("stepped", (2, 2), weights=(0.5, 0.5, 0.25), masked=True),
        SyntheticLayer("reduced", (2, 2), weights=(0.0, 1.0, 1.0), representation="maps"),
    )
    path = write_run(tmp_path / "run.zarr", ["a"], layers, steps=3)
    assert list(find_faults(describe_store(path))) == []
    region = reference_maps.stored(path / "a/layers/stepped")["region"][:].mean()
    endings = [line.partition(" float")[2] for line in summarise_store(path)["layers"]]
    assert endings == [
        "16; weight 0.7",
        f"16; weight 0.25 to 0.5, by step; masked, mean {region:.2f}",
        "32; weight 0 to 1, by step",
    ]
