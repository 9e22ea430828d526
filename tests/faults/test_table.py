"""The table of ``make faults``: what is counted, and when it fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "faults.py"

pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def faults() -> Any:
    spec = importlib.util.spec_from_file_location("faults", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def good(seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    for number in range(rounds):
        yield f"damage {seed}.{number}", "refused"
    yield "a kill", "mended"


def bad(_seed: int, _rounds: int) -> Iterator[tuple[str, str]]:
    yield "a power cut", "LOST"


def broken(_seed: int, _rounds: int) -> Iterator[tuple[str, str]]:
    yield "a kill", "mended"
    raise OSError


def untouched(_seed: int, _rounds: int) -> Iterator[tuple[str, str]]:
    yield "a kill", "survived"


def nothing(_seed: int, _rounds: int) -> Iterator[tuple[str, str]]:
    yield from ()


def test_outcomes_are_counted_and_nothing_lost_is_a_success(
    faults: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults.try_sweeps({"good": good}, 7, 3) == 0
    head, row = capsys.readouterr().out.strip().splitlines()
    assert head.split()[-7:] == [
        "times",
        "refused",
        "survived",
        "mended",
        "LOST",
        "UNDETECTED",
        "seconds",
    ]
    assert row.split()[:7] == ["good", "4", "3", "0", "1", "0", "0"]


@pytest.mark.parametrize("sweep", [bad, broken, nothing, untouched])
def test_what_is_lost_or_broken_off_or_not_tried_fails(
    sweep: Any, faults: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults.try_sweeps({"good": good, "other": sweep}, 0, 1) == 1
    out = capsys.readouterr().out
    assert ("LOST: other: a power cut" in out) is (sweep is bad)
    assert ("BROKEN OFF: other" in out) is (sweep is broken)


def test_every_sweep_is_found(faults: Any) -> None:
    found = faults.find_sweeps()
    assert found["damaged_stores"] == "tests.support.damaged_stores"
