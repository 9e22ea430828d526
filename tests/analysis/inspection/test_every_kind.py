"""`i2am info` and `i2am validate` of every kind of store and of a sample in it, as text and as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from i2am.analysis import average_maps, pair_runs, summarise_store, write_comparison
from i2am.cli import main
from i2am.storage.addresses import own_attributes
from tests.support import written_run
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (SyntheticLayer("one", (4, 4), (2, 2)), SyntheticLayer("two", (2, 2), (2, 2)))
KINDS = {
    "run.zarr": "run",
    "maps.zarr": "maps",
    "maps.average.zarr": "average",
    "compared/differences.zarr": "differences",
    "effects.zarr": "effects",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("run", "other"):
        write_run(folder / f"{name}.zarr", ["a", "b"], LAYERS, steps=2, size_px=(16, 16))
    change(str(folder / "run.zarr" / "b"), seed=1)
    assert main(["analyze", str(folder / "run.zarr")]) == 0
    average_maps(folder / "maps.zarr", by="seed", out=folder / "maps.average.zarr")
    pair = pair_runs(folder / "run.zarr", folder / "other.zarr")
    write_comparison(pair, folder / "compared")
    names = [layer.name for layer in LAYERS]
    arrays = effect_arrays(size_px=(16, 16), reference_px=(16, 16), layers=names)
    write_effects(folder / "effects.zarr", {"a": arrays, "b": arrays})
    return folder


@pytest.fixture
def stores(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of these, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def told(capsys: pytest.CaptureFixture[str], *call: str, code: int = 0) -> str:
    assert main(call) == code
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *call: str, code: int = 0) -> Any:
    # Whatever else is said, as progress, is not on standard output.
    return json.loads(told(capsys, *call, "--json", code=code), parse_constant=pytest.fail)


def members(store: str) -> list[str]:
    return sorted(zarr.open_group(store, mode="r").group_keys())


@pytest.mark.parametrize("store", KINDS)
def test_every_kind_and_each_of_its_samples_keeps_the_contract(
    stores: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for deep in ([], ["--deep"]):
        for address in (store, *(f"{store}/{name}" for name in members(store))):
            said = told(capsys, "validate", address, *deep)
            assert said.endswith(f"{address} keeps the contract\n")
            found = as_json(capsys, "validate", address, *deep)
            assert (found["valid"], found["faults"], found["deep"]) == (True, [], bool(deep))


@pytest.mark.parametrize("store", KINDS)
def test_every_kind_tells_what_it_is(
    stores: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "info", store).startswith(f"kind:          {KINDS[store]}\n")
    found = as_json(capsys, "info", store)
    assert (found["store"], found["kind"], found["schema"]) == (store, KINDS[store], 1)
    size = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
    assert found["stored_bytes"] == size
    if KINDS[store] == "average":
        assert found["groups"] == [
            {"name": name, "labels": own["labels"], "samples": own["samples"]}
            for name in members(store)
            for own in [own_attributes(zarr.open_group(store, mode="r")[name])]
        ]
    else:
        assert found["samples"] == {"complete": 2, "unfinished": 0, "names": ["a", "b"]}


@pytest.mark.parametrize("store", KINDS)
def test_a_samples_path_tells_of_that_sample(
    stores: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = members(store)[-1]
    lines = told(capsys, "info", f"{store}/{name}/").splitlines()
    assert f"sample:        {name}" in lines
    assert not [line for line in lines if line.startswith(("samples:", "groups:"))]
    found = as_json(capsys, "info", f"{store}/{name}")
    assert found["store"] == store
    assert "samples" not in found
    assert (found["sample"]["name"], found["sample"]["status"]) == (name, "complete")


def test_numbers_of_a_run_are_numbers(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = as_json(capsys, "info", "run.zarr")["sample"]
    assert sample["steps"] == [0, 1]
    assert sample["images"]["generated"] == [16, 16]
    assert sample["layers"][0] == {
        "name": "one",
        "generated_grid": [4, 4],
        "frames": 1,
        "reference": "reference",
        "reference_grid": [2, 2],
        "special_tokens": 1,
        "reference_tokens": 5,
        "heads": 2,
        "representation": "factors",
        "dtypes": ["float16"],
        "causal": True,
        "weight": 1.0,
        "mask_mean": None,
    }
    maps = as_json(capsys, "info", "maps.zarr")
    assert maps["convention"] == "i2am"
    assert maps["sample"]["directions"]["r2g"]["sizes"] == {
        **{"layer": 2, "step": 2, "head": 2, "y": 4, "x": 4},
    }
    effects = as_json(capsys, "info", "effects.zarr/a")["sample"]
    assert effects["grid"] == [8, 8]
    assert effects["regions"] == 4


def change(path: str, **own: Any) -> None:
    group = zarr.open_group(path, mode="r+")
    found: Any = group.attrs["i2am"]
    group.attrs["i2am"] = {**found, **own}


def lose_chunk(path: str) -> None:
    (Path(path) / "c" / "0" / "0").unlink()


def flip(path: str) -> None:
    chunk = Path(path) / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 4
    chunk.write_bytes(content)


def remove(path: str) -> None:
    shutil.rmtree(path)


def rename_dims(path: str) -> None:
    document = Path(path) / "zarr.json"
    document.write_text(document.read_text().replace('"y"', '"z"'))


AVERAGE, DIFFERENCES = "maps.average.zarr/0", "compared/differences.zarr/b"
FAULTS: dict[str, tuple[Callable[[], object], str, str, bool]] = {
    "an average without its variance": (
        lambda: remove(f"{AVERAGE}/r2g/ulam_variance"),
        AVERAGE,
        "0/r2g/ulam_variance: expected a map, got none",
        False,
    ),
    "an average of no sample": (
        lambda: change(AVERAGE, samples=0),
        AVERAGE,
        "0/attributes: samples: input should be greater than 0, got 0",
        False,
    ),
    "an average that has lost a chunk": (
        lambda: lose_chunk(f"{AVERAGE}/r2g/ulam"),
        AVERAGE,
        "0/r2g/ulam: expected 1 chunks, got 0",
        False,
    ),
    "an average with a changed byte": (
        lambda: flip(f"{AVERAGE}/r2g/ulam"),
        AVERAGE,
        "0/r2g/ulam: expected values as they were written, got this: ",
        True,
    ),
    "differences in other dimensions": (
        lambda: rename_dims(f"{DIFFERENCES}/r2g/ulam"),
        DIFFERENCES,
        "b/r2g/ulam: expected dims ('y', 'x'), got ('z', 'x')",
        False,
    ),
    "differences of an unknown direction": (
        lambda: Path(f"{DIFFERENCES}/g2r").rename(f"{DIFFERENCES}/g3r"),
        DIFFERENCES,
        "b/g3r: unknown direction. Did you mean 'g2r'?",
        False,
    ),
    "differences with a changed byte": (
        lambda: flip(f"{DIFFERENCES}/r2g/ulam"),
        DIFFERENCES,
        "b/r2g/ulam: expected values as they were written, got this: ",
        True,
    ),
    "effects without a ceiling": (
        lambda: remove("effects.zarr/b/ceiling"),
        "effects.zarr/b",
        "b/ceiling: expected an array beside ",
        False,
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_in_the_store_and_in_the_sample_and_not_in_another(
    stores: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, sample, message, needs_deep = FAULTS[what]
    store = sample.rpartition("/")[0]
    damage()
    for address in (store, sample):
        call = ["validate", address, *(["--deep"] if needs_deep else [])]
        lines = told(capsys, *call, code=1).splitlines()
        assert [line for line in lines if line.startswith(message)], lines
        found = as_json(capsys, *call, code=1)
        assert found["valid"] is False
        assert f"{found['faults'][0]['place']}: {found['faults'][0]['message']}".startswith(message)
        if needs_deep:
            assert told(capsys, "validate", address).endswith("keeps the contract\n")
    other = next(name for name in members(store) if name != sample.rpartition("/")[2])
    assert told(capsys, "validate", f"{store}/{other}", "--deep").endswith("keeps the contract\n")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("run.zarr/a/layers", "Expected a run, maps or effects store of i2am, got "),
        ("run.zarr/a/layers/one", "Expected a run, maps or effects store of i2am, got "),
        ("compared", "Expected a Zarr store, got a folder without Zarr metadata, at compared"),
        ("foreign.zarr/group", "with the attributes multiscales"),
        ("newer.zarr", "Upgrade i2am"),
    ],
)
@pytest.mark.parametrize("command", ["info", "validate", "info --json", "validate --json"])
def test_what_is_none_of_ours_is_refused(
    stores: Path, command: str, address: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr.create_group("foreign.zarr/group", attributes={"multiscales": []})
    zarr.create_group("newer.zarr", attributes={"i2am": {"kind": "average", "schema": 2}})
    name, *options = command.split()
    assert main([name, address, *options]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err


def test_what_is_not_complete_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written_run.write(Path("run.zarr"), "a", 0)
    written_run.begin(Path("run.zarr"), "b", 1)
    note = "not complete, so that readers leave them out: b\n"
    assert told(capsys, "validate", "run.zarr") == f"{note}run.zarr keeps the contract\n"
    assert as_json(capsys, "validate", "run.zarr")["unfinished"] == ["b"]
    assert "sample:        b, not complete (running)\n" in told(capsys, "info", "run.zarr/b")
    assert as_json(capsys, "info", "run.zarr/b")["sample"] == {"name": "b", "status": "running"}
    assert as_json(capsys, "info", "run.zarr")["samples"]["unfinished"] == 1


def test_a_sample_whose_metadata_are_lost_is_told_by_its_path(
    stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.zarr/b/zarr.json").write_text("{")
    assert told(capsys, "validate", "run.zarr/b", code=1).startswith("b/zarr.json: expected ")
    assert told(capsys, "validate", "run.zarr/a").endswith("run.zarr/a keeps the contract\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("run.zarr/a")
        assert summarise_store(".")["sample"] == "a"


def test_the_scores_are_told_as_numbers(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "score", "maps.zarr")
    found = as_json(capsys, "score", "maps.zarr", "--heads-out", "heads.csv", "--out", "scores.csv")
    assert found["samples"] == ["a", "b"]
    assert found["confidence"] == 0.95
    for line in text.splitlines()[2:]:
        name, count, mean, *_ = line.split()
        if name in found["scores"]:
            assert found["scores"][name]["count"] == int(count)
            assert f"{found['scores'][name]['mean']:.4f}" == mean
    assert {"imacs_g", "imacs_r"} <= found["scores"].keys()
    assert {"direction", "layer", "head", "concentration"} <= found["heads"][0].keys()
    assert Path("heads.csv").is_file()
    alone = as_json(capsys, "score", "maps.zarr", "--samples", "a")
    # Of one sample there is neither a deviation nor an interval.
    assert {own["std"] for own in alone["scores"].values()} == {None}
    assert {own["low"] for own in alone["scores"].values()} == {None}


def test_what_is_held_against_the_truth_is_told_as_numbers_too(
    stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("points.csv").write_text("sample,y,x,reference_y,reference_x\na,4,4,4,4\nb,9,9,9,9\n")
    found = as_json(capsys, "score", "maps.zarr", "--points", "points.csv")
    assert found["points"]
    assert all(isinstance(row["mean"], float) for row in found["points"])
