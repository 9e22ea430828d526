"""One sample whose own metadata are damaged: every other one is read, and the damage is named."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from i2am.analysis import analyze_run, open_maps, open_run, score_maps, summarise_store
from i2am.analysis.inspection.condition import examine_store
from i2am.schemas import StoreError, StoreWarning
from tests.support.synthetic_run import write_run

DAMAGES = {"JSON that is cut short": b'{"attributes": {"i2am": {"status"', "an empty file": b""}


@pytest.fixture(params=list(DAMAGES))
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Return a run of three samples, the first of which is damaged, and how that is told."""
    run = tmp_path / "run.zarr"
    write_run(run, samples=("a", "b", "c"))
    (run / "a" / "zarr.json").write_bytes(DAMAGES[request.param])
    return run, request.param


def test_readers_leave_a_damaged_sample_out_and_warn_of_it_once(
    damaged: tuple[Path, str],
) -> None:
    path, reason = damaged
    run = open_run(path)
    with pytest.warns(StoreWarning, match=rf"^Left out what cannot be read: 'a' \({reason}\), at "):
        assert list(run) == ["b", "c"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(run) == 2
        assert list(run.table()["sample"]) == ["b", "c"]
    assert run.first() == "b"
    assert "a" not in run
    assert run.get("a") is None
    assert run["b"]["layers"].children
    place = rf"got {reason}, at .*run\.zarr/a/zarr\.json\. Run 'i2am validate'"
    with pytest.raises(StoreError, match=place):
        run["a"]


@pytest.mark.filterwarnings("ignore::i2am.schemas.StoreWarning")
def test_all_other_samples_are_analyzed_scored_and_described(damaged: tuple[Path, str]) -> None:
    path, _ = damaged
    maps = path.with_name("maps.zarr")
    with pytest.raises(StoreError, match="all but 'a', which cannot be read"):
        analyze_run(path, maps, progress=False)
    assert list(open_maps(maps)) == ["b", "c"]
    assert set(score_maps(maps)["sample"]) == {"b", "c"}
    facts = summarise_store(path)
    assert facts["samples"] == "2 complete, 1 not: b, c"
    assert "unreadable" not in facts


def test_validate_names_the_damaged_file(damaged: tuple[Path, str]) -> None:
    path, _ = damaged
    faults = [str(fault) for fault in examine_store(path).iter_faults()]
    assert [fault for fault in faults if fault.startswith("a/zarr.json")]
    assert not [fault for fault in faults if not fault.startswith("a")]


def test_a_sample_damaged_further_in_keeps_no_other_from_being_analyzed(tmp_path: Path) -> None:
    run, maps = tmp_path / "run.zarr", tmp_path / "maps.zarr"
    write_run(run, samples=("a", "b"))
    next((run / "a" / "layers").glob("*/zarr.json")).write_bytes(b"{")
    with pytest.raises(Exception, match="a"):
        analyze_run(run, maps, progress=False)
    assert list(open_maps(maps)) == ["b"]
    facts = summarise_store(run)
    assert len(facts["unreadable"]) == 1
    assert facts["layers"]
