"""What is wrong with a store, and how what is damaged is made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from i2am.analysis import analyze_run, open_maps, open_run
from i2am.analysis.inspection.condition import examine_store, take_out
from i2am.capture.writer.run_store import finished_samples
from i2am.cli import main
from i2am.schemas import StoreError
from i2am.storage.addresses import path_to_write
from i2am.storage.owners import SampleTaken, Writer
from tests.support import synthetic_run
from tests.support.written_run import begin, own, same, values, write


def flip(file: Path) -> bytes:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    whole = file.read_bytes()
    file.write_bytes(content)
    return whole


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        write(tmp_path / "run.zarr", name, seed)
    return tmp_path / "run.zarr"


SHARD = "layers/down.0.attn2/query/c/0/0/0/0"


def test_validate_is_quick_or_deep(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "b" / SHARD)
    assert main(["validate", str(run)]) == 0
    assert capsys.readouterr().out == f"{run} keeps the contract\n"
    assert main(["validate", str(run), "--deep"]) == 1
    assert capsys.readouterr().out.startswith(f"b/{SHARD}: expected values as they were written")


def test_every_damaged_sample_is_named_and_the_others_are_looked_at(run: Path) -> None:
    (run / "a" / "zarr.json").write_text("{")
    (run / "b" / "zarr.json").unlink()
    (run / "c" / "layers" / "up.0.attn2" / "zarr.json").write_text("[]")
    (run / "d").mkdir()
    (run / "d" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    )
    faults = [str(fault) for fault in examine_store(run).iter_faults()]
    assert [fault.partition(":")[0] for fault in faults] == [
        "a/zarr.json",
        "b/zarr.json",
        "c/layers/up.0.attn2/zarr.json",
        "d/zarr.json",
    ]


def test_samples_without_an_inventory_are_named_and_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic_run.write_run(tmp_path / "old.zarr", ["a", "b"])
    assert main(["validate", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a: without checksums, as older versions wrote it",
        "b: without checksums, as older versions wrote it",
        f"{run} keeps the contract",
    ]


def test_repair_lists_what_must_be_made_again_and_takes_it_out_when_asked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = values(run, "b")
    assert main(["repair", str(run)]) == 0
    assert capsys.readouterr().out == f"{run} has no damaged sample\n"
    flip(run / "b" / SHARD)
    (run / "c" / "zarr.json").write_text("{")
    assert main(["repair", str(run), "--quick"]) == 1
    assert "b: damaged" not in capsys.readouterr().out
    assert main(["repair", str(run)]) == 1
    told = capsys.readouterr().out
    assert f"b: damaged, as b/{SHARD}: expected values" in told
    assert "c: damaged, as c/zarr.json: " in told
    assert finished_samples(run) == {"a", "b"}
    assert main(["repair", str(run), "--apply"]) == 0
    assert "2 taken out" in capsys.readouterr().out
    assert list(open_run(run)) == ["a"]
    assert main(["repair", str(run)]) == 0
    failed = json.loads((run / "b" / "zarr.json").read_text())["attributes"]["i2am"]
    assert (failed["status"], failed["error"], failed["seed"]) == ("failed", "damaged", 1)
    write(run, "b", 1)  # As the next capture does.
    assert same(values(run, "b"), before)
    assert list(open_run(run)) == ["a", "b"]


def test_maps_are_taken_out_and_made_again(run: Path, tmp_path: Path) -> None:
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    chunk = maps / "b" / "r2g" / "ulam" / "c" / "0" / "0"
    whole = flip(chunk)
    with pytest.raises(StoreError, match=r"values as they were written.*b/r2g/ulam/c/0/0"):
        open_maps(maps)["b"]["r2g/ulam"].load()
    assert [fault.place for fault in examine_store(maps, deep=True).iter_faults()] == [
        "b/r2g/ulam/c/0/0"
    ]
    take_out(maps, ["b"], "damaged")
    assert list(open_maps(maps)) == ["a", "c"]
    analyze_run(run, maps, progress=False)
    assert chunk.read_bytes() == whole
    assert list(open_maps(maps)) == ["a", "b", "c"]


def test_what_another_process_writes_is_not_taken_out(run: Path) -> None:
    with Writer(path_to_write(run)) as writer:
        writer.claim("a")
        with pytest.raises(SampleTaken):
            take_out(run, ["a"], "damaged")
    assert list(open_run(run)) == ["a", "b", "c"]


def test_repair_ends_what_a_process_was_replacing(run: Path, tmp_path: Path) -> None:
    write(tmp_path / "new.zarr", "a", 5)
    new = begin(run, "a", 5, overwrite=True)
    facts = own(5, "complete")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("i2am.capture.writer.run_store.move_over", stop)
        with pytest.raises(KeyboardInterrupt):
            new.set_status(facts)
    assert main(["repair", str(run), "--apply"]) == 0
    assert same(values(run, "a"), values(tmp_path / "new.zarr", "a"))


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_samples_that_were_swapped_are_seen(run: Path) -> None:
    (run / "a").rename(run / "x")
    (run / "b").rename(run / "a")
    (run / "x").rename(run / "b")
    assert [fault.place for fault in examine_store(run).iter_faults()] == [
        "a/zarr.json",
        "b/zarr.json",
    ]
    with pytest.raises(StoreError, match="they were altered"):
        open_run(run)["a"]


def test_options_of_maps_that_were_altered_are_seen(run: Path, tmp_path: Path) -> None:
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    root = maps / "zarr.json"
    root.write_text(root.read_text().replace('"mass"', '"density"'))
    with pytest.raises(StoreError, match=r"its zarr.json altered: .*Make it anew"):
        open_maps(maps)
