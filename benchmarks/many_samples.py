"""What many samples cost beside few: time, memory, open files and threads; and a hundred thousand rows.

    python benchmarks/many_samples.py [--dir DIR] [--samples 500] [--rows 100000] [--quick]

The shipped model paints the demo's pictures over and over, in four steps each, in one process: all
samples are captured, then analysed, scored and put on one page. A thread notes the process's own
time, its resident memory, open files and threads; when a sample was done is told by its metadata in the
store. The first fifty samples are held against the last fifty, by their medians: in seconds, and in
seconds of the processor, which other processes disturb less.

Then the command line begins with a manifest of as many rows, each with pictures of its own, and goes on
with a run in which all of them are complete; from its start until the first sample's folder is there,
or until it has ended, less what it takes with a manifest of one row; in processes that are forked from
one that has loaded the packages. Last, readers list that run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
from support.many_samples import (
    link_samples,
    sample_name,
    write_listed_samples,
    write_manifest,
)

from i2am.analysis import analyze_run, open_maps, open_run, score_maps
from i2am.capture import SHIPPED_MODEL, capture_manifest
from i2am.page.report import write_report

BAR_RATIO, BAR_BEGIN_S, BAR_RESUME_S = 1.05, 3.0, 30.0
BAR_GROWTH_BYTES = 16 * 2**20
STEPS = 4
_INTERVAL_S = 0.01
_PROCESSES = multiprocessing.get_context("forkserver")
_FORMATS = ("csv", "jsonl", "parquet")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--pages", type=int, default=120, help="samples on the report's page")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="only whether it works")
    options = parser.parse_args(arguments)
    samples, pages, rows = options.samples, options.pages, options.rows
    if options.quick:
        samples, pages, rows = 6, 2, 300
    with tempfile.TemporaryDirectory(dir=options.dir) as place:
        folder = Path(place)
        run = run_stages(folder, samples, min(pages, samples), few=3 if options.quick else 50)
        begin_and_resume(folder, run, rows, _FORMATS[:1] if options.quick else _FORMATS)
        read_many(folder / "listed.zarr")
        examine_many(folder, counts=(1, 2) if options.quick else (50, 500))


@dataclass
class Watch:
    """What a thread notes of this process, by the clock."""

    seconds: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def note(self, process: psutil.Process) -> None:
        """Note what is now."""
        self.seconds.append(time.time())
        self.processor_s.append(time.process_time())
        self.resident_bytes.append(process.memory_info().rss)
        self.files.append(process.num_fds())
        self.threads.append(threading.active_count())

    def between(self, values: Sequence[int], start_s: float, end_s: float) -> Sequence[int]:
        """Return what was noted between two times."""
        chosen = [v for t, v in zip(self.seconds, values, strict=True) if start_s <= t <= end_s]
        return chosen or values[-1:]


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch this process from a thread."""
    watch, is_over, process = Watch(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not is_over.wait(_INTERVAL_S):
            watch.note(process)

    watch.note(process)
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        thread.join()
        watch.note(process)


def run_stages(folder: Path, count: int, pages: int, few: int) -> Path:
    """Take samples through all four stages, print a line for each, and return the run."""
    run, maps = folder / "run.zarr", folder / "maps.zarr"
    manifest = write_manifest(folder / "few.csv", count)
    print(f"{count} samples, {STEPS} steps; the last {few} over the first {few}\n")
    print("| stage | seconds | of the processor | ms a sample | memory, MB | files | threads |")
    print("|---|---|---|---|---|---|---|")
    with watching() as watch:
        summary = capture_manifest(
            SHIPPED_MODEL, manifest, run, steps=STEPS, shard=(0, 1), progress=False
        )
        if summary.failed:
            raise RuntimeError(next(iter(summary.failed.values())))
    print_stage("capture", watch, written_at(run), few)
    with watching() as watch:
        analyze_run(run, maps, progress=False)
    print_stage("analyze", watch, written_at(maps), few)
    times: list[float] = []
    with watching() as watch:
        scores = score_maps(maps, samples=marked(open_maps(maps), times))
    print_stage("score", watch, times, few)
    seen = _Marked(open_run(run))
    with watching() as watch:
        write_report(seen, open_maps(maps), scores, folder / "report.html", max_samples=pages)
    print_stage("report", watch, seen.times, min(few, pages // 2))
    return run


def written_at(store: Path) -> list[float]:
    """Return when each sample's status was written, in order."""
    return sorted(path.stat().st_mtime for path in store.glob("[!.]*/zarr.json"))


def marked(names: Mapping[str, Any], times: list[float]) -> Iterator[str]:
    """Yield names, and note when each one was asked for."""
    for name in names:
        times.append(time.time())
        yield name


class _Marked(Mapping[str, xr.DataTree]):
    """A run that notes when each sample is opened."""

    def __init__(self, run: Mapping[str, xr.DataTree]) -> None:
        self._run, self.times = run, list[float]()
        self.path = getattr(run, "path", "run")

    def __getitem__(self, name: str) -> xr.DataTree:
        self.times.append(time.time())
        return self._run[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._run)

    def __len__(self) -> int:
        return len(self._run)


def print_stage(name: str, watch: Watch, marks: Sequence[float], few: int) -> None:
    """Print the last samples over the first, and what the process held in the meantime."""
    wall = np.diff(marks)
    processor = np.diff(np.interp(marks, watch.seconds, watch.processor_s))
    few = max(1, min(few, len(wall) // 2))
    ratios = [float(np.median(each[-few:]) / np.median(each[:few])) for each in (wall, processor)]
    # The first few are how long it takes until everything was needed once.
    early = marks[min(few, len(marks) - 2)], marks[min(2 * few, len(marks) - 1)]
    late = marks[-1 - few], marks[-1]
    # Files and threads come and go: what is left of each sample is there at the least moment, too.
    held = [
        (summary(watch.between(values, *early)), summary(watch.between(values, *late)))
        for values, summary in (
            (watch.resident_bytes, statistics.median),
            (watch.files, min),
            (watch.threads, min),
        )
    ]
    memory, files, threads = held
    met = [
        "met" if is_met else "missed"
        for is_met in (
            ratios[1] <= BAR_RATIO,
            memory[1] - memory[0] <= BAR_GROWTH_BYTES,
            files[1] <= files[0],
            threads[1] <= threads[0],
        )
    ]
    print(
        f"| {name} | {ratios[0]:.2f} | {ratios[1]:.2f}, bar {BAR_RATIO}: {met[0]} | "
        f"{1e3 * np.median(wall[:few]):.0f} → {1e3 * np.median(wall[-few:]):.0f} | "
        f"{memory[0] / 1e6:.0f} → {memory[1] / 1e6:.0f}: {met[1]} | "
        f"{files[0]:.0f} → {files[1]:.0f}: {met[2]} | "
        f"{threads[0]:.0f} → {threads[1]:.0f}: {met[3]} |",
        flush=True,
    )


def begin_and_resume(folder: Path, run: Path, rows: int, formats: Sequence[str]) -> None:
    """Print how long the command line takes to begin with many rows, and to skip them all."""
    one = write_manifest(folder / "one.csv", 1, own_files=True)
    load_packages()
    least = Begun.time(one, folder / "begun.zarr")
    print(f"\nuntil the first sample of {rows:,} begins, less {least} for one row\n")
    for suffix in formats:
        manifest = write_manifest(folder / f"many.{suffix}", rows, own_files=True)
        found = Begun.time(manifest, folder / f"begun-{suffix}.zarr")
        print(f"{suffix}: {found.beyond(least, BAR_BEGIN_S)}", flush=True)
    listed = folder / "listed.zarr"
    write_listed_samples(run, listed, 1)
    least = Begun.time(one, listed, is_complete=True)
    (listed / sample_name(0) / "zarr.json").unlink()
    (listed / sample_name(0)).rmdir()
    (listed / "zarr.json").unlink()
    listed.rmdir()
    write_listed_samples(run, listed, rows)
    print(f"\nuntil a run of {rows:,} complete samples was skipped, less {least} for one\n")
    found = Begun.time(folder / "many.csv", listed, is_complete=True)
    print(f"resume: {found.beyond(least, BAR_RESUME_S)}", flush=True)


def load_packages() -> None:
    """Start the process that others are forked from."""
    _PROCESSES.set_forkserver_preload(
        ["i2am.cli", "i2am.capture.batch.capture_manifest", "diffusers"]
    )
    first = _PROCESSES.Process(target=os.getpid)
    first.start()
    first.join()


@dataclass(frozen=True)
class Begun:
    """How long a process took: by the clock, and of the processor, both in seconds."""

    seconds: float
    processor_s: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s ({self.processor_s:.2f} s of the processor)"

    def beyond(self, least: Begun, bar_s: float) -> str:
        """Return what is above the least, and whether the bar is met."""
        more = Begun(self.seconds - least.seconds, self.processor_s - least.processor_s)
        return f"{more}, bar {bar_s:.0f}: {'met' if more.seconds <= bar_s else 'missed'}"

    @classmethod
    def time(cls, manifest: Path, out: Path, *, is_complete: bool = False) -> Begun:
        """Run ``i2am capture`` until it begins its first sample, or until it has ended."""
        command = ["capture", "--model", SHIPPED_MODEL, "--manifest", str(manifest)]
        command += ["--out", str(out), "--steps", str(STEPS)]
        process = _PROCESSES.Process(target=_run_command, args=(command,))
        start_s = time.perf_counter()
        process.start()
        watched, first, used_s = psutil.Process(process.pid), out / sample_name(0), 0.0
        try:
            while process.is_alive() and (is_complete or not first.exists()):
                used = watched.cpu_times()
                used_s = used.user + used.system
                time.sleep(0.005)
        except psutil.NoSuchProcess:
            pass
        seconds = time.perf_counter() - start_s
        if is_complete == process.is_alive() or process.exitcode not in (None, 0):
            process.kill()
            msg = f"Expected the capture to {'end' if is_complete else 'begin'}, got it otherwise."
            raise RuntimeError(msg)
        process.terminate()
        process.join()
        return cls(seconds, used_s)


def _run_command(arguments: Sequence[str]) -> None:
    from i2am.cli import main

    os.environ.update(RANK="0", WORLD_SIZE="1")
    with Path(os.devnull).open("w") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
    sys.exit(main(arguments))


def read_many(run: Path) -> None:
    """Print how long readers take for the whole list."""
    opened = open_run(run)
    ways: dict[str, Callable[[], object]] = {
        "open_run": lambda: open_run(run),
        "the first sample's name": opened.first,
        "all names": lambda: list(opened),
        "run.table()": opened.table,
        "one name that is not there": lambda: opened.get("no such sample"),
    }
    print()
    for name, way in ways.items():
        start_s, used_s = time.perf_counter(), time.process_time()
        way()
        took = Begun(time.perf_counter() - start_s, time.process_time() - used_s)
        print(f"{name}: {took}", flush=True)


def examine_many(folder: Path, counts: Sequence[int]) -> None:
    """Print what ``info`` and ``validate`` take for a sample, of few samples and of many."""
    from i2am.analysis import summarise_store
    from i2am.analysis.inspection.condition import examine_store

    manifest, run = folder / "one.csv", folder / "linked.zarr"
    capture_manifest(SHIPPED_MODEL, manifest, run, steps=STEPS, shard=(0, 1), progress=False)
    print()
    took: dict[str, list[float]] = {"info": [], "validate": []}
    for count in counts:
        link_samples(run, count)
        for name, way in (("info", summarise_store), ("validate", examine_store)):
            used_s = time.process_time()
            way(run)
            took[name].append((time.process_time() - used_s) / count)
    for name, each in took.items():
        print(
            f"{name}: {1e3 * each[-1]:.1f} ms of the processor a sample of {counts[-1]}, "
            f"{each[-1] / each[0]:.2f} of that of {counts[0]}"
        )


if __name__ == "__main__":
    main()
