"""Ctrl-C and SIGTERM: what is finished is kept, and one line says how to go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster

from i2am.cli.stopping import stopped_by_signals
from tests.support import stopping
from tests.support.cli_process import CliProcess, start_cli
from tests.support.interruptions import capture_call
from tests.support.synthetic_run import SyntheticLayer, write_run

KEPT = "what is finished is kept, and the same command goes on from here"


def own_attributes(store: Path, sample: str) -> dict[str, Any]:
    path = store / sample / "zarr.json"
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())["attributes"]["i2am"]
    return found


def status(store: Path, sample: str) -> str | None:
    return own_attributes(store, sample).get("status")


def written(store: Path, sample: str) -> int:
    return (store / sample / "zarr.json").stat().st_mtime_ns


def wait(process: CliProcess, is_so: Callable[[], bool]) -> None:
    while not is_so():
        assert process.is_running, process.end()
        time.sleep(0.02)


# --- Capture.


def test_a_capture_that_is_told_to_stop_keeps_what_is_finished_and_goes_on(tmp_path: Path) -> None:
    arguments, out = capture_call(tmp_path, samples=3)
    process = start_cli(arguments)
    wait(process, lambda: status(out, "s1") == "running")
    process.send(signal.SIGTERM)
    ended = process.end()
    assert (ended.code, ended.out) == (143, "")
    assert f"i2am: stopped by SIGTERM; {KEPT}\n" in ended.err
    assert "Traceback" not in ended.err
    assert status(out, "s0") == "complete"
    assert status(out, "s2") is None
    # Not "failed" where the signal came before the sample was entered.
    assert status(out, "s1") in {"running", "failed"}
    assert own_attributes(out, "s1").get("error") in {None, "Stopped: by SIGTERM"}
    before = written(out, "s0")
    again = start_cli(arguments).end()
    assert f"{out}: 2 captured, 1 were complete, 0 failed" in again.out
    assert written(out, "s0") == before


# --- Analysis, on threads and on clusters.

# So many that some are left when a signal comes.
_SAMPLES = [f"s{number:02}" for number in range(16)]


def _run(folder: Path) -> list[str]:
    layers = [SyntheticLayer("down", (16, 16), (8, 8))]
    run = write_run(folder / "run.zarr", _SAMPLES, layers, steps=5)
    return ["analyze", str(run), "--out", str(folder / "maps.zarr")]


def _stop_analysis(folder: Path, arguments: list[str], code: int, number: int) -> str:
    """Stop a command, and the processes that it started, when its first sample is complete."""
    maps = folder / "maps.zarr"
    process = start_cli(arguments)
    wait(process, lambda: status(maps, _SAMPLES[0]) == "complete")
    children = psutil.Process(process.pid).children(recursive=True)
    for pid in [*(child.pid for child in children), process.pid]:
        os.kill(pid, number)
    ended = process.end()
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.count("i2am:") == 1
    assert "Traceback" not in ended.err
    assert status(maps, _SAMPLES[0]) == "complete"
    assert status(maps, _SAMPLES[-1]) != "complete"
    return ended.err


def test_an_analysis_that_is_told_to_stop_keeps_what_is_finished_and_goes_on(
    tmp_path: Path,
) -> None:
    arguments, maps = _run(tmp_path), tmp_path / "maps.zarr"
    said = _stop_analysis(tmp_path, arguments, 130, signal.SIGINT)
    assert f"i2am: stopped by Ctrl-C; {KEPT}\n" in said
    before = written(maps, _SAMPLES[0])
    assert start_cli(arguments).end().code == 0
    assert {status(maps, sample) for sample in _SAMPLES} == {"complete"}
    assert written(maps, _SAMPLES[0]) == before


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_too_and_none_of_them_shows_a_traceback(tmp_path: Path) -> None:
    said = _stop_analysis(tmp_path, [*_run(tmp_path), "--workers", "1"], 130, signal.SIGINT)
    assert f"i2am: stopped by Ctrl-C; {KEPT}\n" in said


def test_a_cluster_goes_on_for_others_when_its_client_is_stopped(tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=1, processes=False, dashboard_address=":0", protocol="tcp://"
    ) as cluster:
        arguments = [*_run(tmp_path), "--scheduler", cluster.scheduler_address]
        _stop_analysis(tmp_path, arguments, 143, signal.SIGTERM)
        assert start_cli(arguments).end().code == 0
    assert status(tmp_path / "maps.zarr", _SAMPLES[-1]) == "complete"


# --- Where no exception can reach.


def _ended(target: Callable[[str, str], None], folder: Path, *numbers: int) -> int | None:
    """Return the exit code of a process that was sent signals."""
    context = multiprocessing.get_context("forkserver")
    begun = folder / "begun"
    process = context.Process(target=target, args=(str(begun), str(folder / "errors")))
    process.start()
    while not begun.exists():
        assert process.is_alive()
        time.sleep(0.005)
    assert process.pid is not None
    for number in numbers:
        os.kill(process.pid, number)
        time.sleep(0.1)
    process.join(120)
    return process.exitcode


def test_a_process_that_cannot_handle_a_signal_ends_all_the_same(tmp_path: Path) -> None:
    assert _ended(stopping.wait_for_ever, tmp_path, signal.SIGTERM) == 143
    assert (tmp_path / "errors").read_text() == "stopped by SIGTERM"


def test_a_second_ctrl_c_ends_a_process_at_once(tmp_path: Path) -> None:
    assert _ended(stopping.wait_for_ever, tmp_path, signal.SIGINT, signal.SIGINT) == 130
    assert not (tmp_path / "errors").exists()


def test_a_signal_that_was_ignored_before_is_ignored(tmp_path: Path) -> None:
    assert _ended(stopping.ignore_and_end, tmp_path) == 7


def test_a_signal_to_a_forked_process_does_not_stop_the_one_that_it_came_from(
    tmp_path: Path,
) -> None:
    assert _ended(stopping.wait_in_a_forked_process, tmp_path) == 7


def test_signals_are_handled_as_before_afterwards() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    threads = threading.active_count()
    stopped = stopping.raised_here(signal.SIGTERM)
    assert stopped is not None
    assert (str(stopped), stopped.exit_code) == ("by SIGTERM", 143)
    assert [signal.getsignal(number) for number in numbers] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def look() -> None:
        with stopped_by_signals(lambda _stopped: None):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
