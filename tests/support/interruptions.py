"""Interrupt the command line at any moment, give the same command again, and compare."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cli_process import Ended, start_cli
from tests.support.manifests import write_manifest
from tests.support.store_contents import contents_of, differences
from tests.support.synthetic_run import SyntheticLayer, write_run

__all__ = ["Command", "analyze_command", "capture_call", "capture_command", "sweep", "tried"]

STOPPED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Command:
    """A command, what it writes, and what it writes when nobody interrupts it.

    Parameters
    ----------
    name : str
    arguments : sequence of str
    out : Path
        The store that it writes.
    whole : dict
        Contents of that store; see `tests.support.store_contents`.
    duration_s : float
        From the first file to the end, when nobody interrupts it.
    """

    name: str
    arguments: Sequence[str]
    out: Path
    whole: dict[str, Any]
    duration_s: float

    @classmethod
    def measured(cls, name: str, arguments: Sequence[str], out: Path) -> Command:
        """Do it once."""
        process = start_cli(arguments)
        _wait(out.exists)
        start_s = time.monotonic()
        ended = process.end()
        assert ended.code == 0, ended.err
        duration_s = time.monotonic() - start_s
        whole = contents_of(out)
        shutil.rmtree(out)
        return cls(name, arguments, out, whole, duration_s)

    def faults(self) -> list[str]:
        """Return what of the complete samples is not as it would be without interruption."""
        found: list[str] = []
        for metadata in self.out.glob("*/zarr.json"):
            if '"status": "complete"' in metadata.read_text():
                sample = metadata.parent.name
                own = _below(self.whole, sample)
                found += differences(contents_of(metadata.parent), own)
        return found


def _below(whole: dict[str, Any], sample: str) -> dict[str, Any]:
    """Return a sample's part of a store's contents, as its own group has it."""
    found = {}
    for name, content in whole.items():
        path, _, what = name.rpartition(" ")
        if path == sample or path.startswith(f"{sample}/"):
            found[f"{path[len(sample) + 1 :]} {what}"] = content
    return found


def capture_call(folder: Path, samples: int = 2) -> tuple[list[str], Path]:
    """Return the arguments of a capture with the shipped model, and what it writes."""
    manifest = write_manifest(folder, (f"s{number}" for number in range(samples)))
    call = ["capture", "--model", "i2am-tiny", "--manifest", str(manifest)]
    out = folder / "run.zarr"
    return [*call, "--out", str(out), "--steps", "6"], out


def capture_command(folder: Path) -> Command:
    """Return a capture of a manifest with the shipped model."""
    return Command.measured("capture", *capture_call(folder))


def analyze_command(folder: Path, samples: int = 3, steps: int = 3) -> Command:
    """Return an analysis of a small run."""
    layers = [SyntheticLayer(name, (8, 8), (4, 4)) for name in ("down", "mid", "up")]
    names = [f"s{number}" for number in range(samples)]
    run, out = write_run(folder / "run.zarr", names, layers, steps=steps), folder / "maps.zarr"
    return Command.measured("analyze", ["analyze", str(run), "--out", str(out)], out)


def tried(command: Command, number: int, moment: float) -> tuple[str, str]:
    """Interrupt a command, give it again, and return what came of it.

    Parameters
    ----------
    command : Command
    number : int
        The signal.
    moment : float, 0..1
        Share of the command's duration, from its first file on.

    Returns
    -------
    tuple (str, str)
        The outcome and a detail. survived: the command was done before. mended: the same command
        completed it. NOT STOPPED: its exit code is not that of a stopped one. UNDETECTED: a complete
        sample is not what it should be. LOST: the same command again does not give the whole result.
    """
    shutil.rmtree(command.out, ignore_errors=True)
    process = start_cli(command.arguments)
    _wait(command.out.exists)
    time.sleep(moment * command.duration_s)
    process.send(number)
    ended = process.end()
    if ended.code not in {0, STOPPED[signal.Signals(number)]}:
        return "NOT STOPPED", f"exit code {ended.code}: {_last_line(ended)}"
    if faults := command.faults():
        return "UNDETECTED", f"complete, but not whole: {faults[:3]}"
    again = start_cli(command.arguments).end()
    if again.code:
        return "LOST", f"the same command again: {_last_line(again)}"
    if differing := differences(contents_of(command.out), command.whole):
        return "LOST", f"the same command again gives other {differing[:3]}"
    return ("mended" if ended.code else "survived"), ""


def sweep(seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    """Yield what was tried and its outcome: `rounds` kills of an analysis, twice as many of a capture.

    A quarter as many are told to stop by SIGTERM and by Ctrl-C.
    """
    rng = random.Random(seed)
    commands: tuple[tuple[Callable[[Path], Command], int], ...] = (
        (capture_command, 2 * rounds),
        (analyze_command, rounds),
    )
    for make, times in commands:
        with tempfile.TemporaryDirectory() as folder:
            command = make(Path(folder))
            told = max(1, times // 4)
            numbers = [signal.SIGKILL] * times + [signal.SIGTERM, signal.SIGINT] * told
            for number in numbers:
                outcome, detail = tried(command, number, rng.random())
                what = f"{number.name} in {command.name}"
                yield f"{what}: {detail}" if detail else what, outcome


def _last_line(ended: Ended) -> str:
    return ended.err.strip().rpartition("\n")[2][:300]


def _wait(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)
