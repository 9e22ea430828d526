"""What many samples cost beside few: time, memory, open files and threads; and a hundred thousand rows.

    python benchmarks/many_samples.py [--dir DIR] [--samples 500] [--rows 100000] [--json FILE] [--quick]

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
from support.figures import Figures, Section, at_most, benchmark_parser
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
BAR_GROWTH_MIB, MIB = 16, 2**20
STEPS = 4
_INTERVAL_S = 0.01
_PROCESSES = multiprocessing.get_context("forkserver")
_FORMATS = ("csv", "jsonl", "parquet")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--pages", type=int, default=120, help="samples on the report's page")
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args(arguments)
    samples, pages, rows = options.samples, options.pages, options.rows
    if options.quick:
        samples, pages, rows = 6, 2, 300
    figures = Figures("many_samples", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as place:
        folder, few = Path(place), 3 if options.quick else 50
        title = f"{samples} samples, {STEPS} steps; the last {few} beside the first {few}"
        with figures.section("stages", title) as section:
            run = run_stages(section, folder, samples, min(pages, samples), few)
        formats = _FORMATS[:1] if options.quick else _FORMATS
        with figures.section(
            "many-rows", f"A manifest of {rows:,} rows, each with pictures"
        ) as section:
            begin_and_resume(section, folder, run, rows, formats)
            read_many(section, folder / "listed.zarr")
        counts = (1, 2) if options.quick else (50, 500)
        title = f"A sample's share of a look at {counts[0]} and at {counts[1]}"
        with figures.section("examine", title) as section:
            examine_many(section, folder, counts)


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


def run_stages(section: Section, folder: Path, count: int, pages: int, few: int) -> Path:
    """Take samples through all four stages, record each, and return the run."""
    run, maps = folder / "run.zarr", folder / "maps.zarr"
    manifest = write_manifest(folder / "few.csv", count)
    with watching() as watch:
        summary = capture_manifest(
            SHIPPED_MODEL, manifest, run, steps=STEPS, shard=(0, 1), progress=False
        )
        if summary.failed:
            raise RuntimeError(next(iter(summary.failed.values())))
    tell_stage(section, "capture", watch, written_at(run), few)
    with watching() as watch:
        analyze_run(run, maps, progress=False)
    tell_stage(section, "analyze", watch, written_at(maps), few)
    times: list[float] = []
    with watching() as watch:
        scores = score_maps(maps, samples=marked(open_maps(maps), times))
    tell_stage(section, "score", watch, times, few)
    seen = _Marked(open_run(run))
    with watching() as watch:
        write_report(seen, open_maps(maps), scores, folder / "report.html", max_samples=pages)
    tell_stage(section, "report", watch, seen.times, min(few, pages // 2))
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


def tell_stage(section: Section, name: str, watch: Watch, marks: Sequence[float], few: int) -> None:
    """Record the last samples over the first, and what the process held in the meantime."""
    wall = np.diff(marks)
    processor = np.diff(np.interp(marks, watch.seconds, watch.processor_s))
    few = max(1, min(few, len(wall) // 2))
    wall_ratio, own_ratio = (
        float(np.median(each[-few:]) / np.median(each[:few])) for each in (wall, processor)
    )
    # The first few are how long it takes until everything was needed once.
    early = marks[min(few, len(marks) - 2)], marks[min(2 * few, len(marks) - 1)]
    late = marks[-1 - few], marks[-1]
    section.add(name, "by the clock", wall_ratio)
    section.add(name, "of the processor", own_ratio, bar=at_most(BAR_RATIO))
    section.add(name, "a sample, first", 1e3 * float(np.median(wall[:few])), "ms")
    section.add(name, "last", 1e3 * float(np.median(wall[-few:])), "ms")
    memory = [
        statistics.median(watch.between(watch.resident_bytes, *t)) / MIB for t in (early, late)
    ]
    section.add(name, "memory", memory[1], "MiB")
    section.add(name, "more memory", memory[1] - memory[0], "MiB", bar=at_most(BAR_GROWTH_MIB))
    # Files and threads come and go: what is left of each sample is there at the least moment, too.
    for what, values in (("more files", watch.files), ("more threads", watch.threads)):
        first, last = (min(watch.between(values, *t)) for t in (early, late))
        section.add(name, what, last - first, bar=at_most(0))


def begin_and_resume(
    section: Section, folder: Path, run: Path, rows: int, formats: Sequence[str]
) -> None:
    """Record how long the command line takes to begin with many rows, and to skip them all."""
    one = write_manifest(folder / "one.csv", 1, own_files=True)
    load_packages()
    least = Begun.time(one, folder / "begun.zarr")
    least.tell(section, "until the first sample of one row begins")
    for suffix in formats:
        manifest = write_manifest(folder / f"many.{suffix}", rows, own_files=True)
        more = Begun.time(manifest, folder / f"begun-{suffix}.zarr").beyond(least)
        more.tell(section, f"until the first of all begins, beyond that: {suffix}", BAR_BEGIN_S)
    listed = folder / "listed.zarr"
    write_listed_samples(run, listed, 1)
    least = Begun.time(one, listed, is_complete=True)
    (listed / sample_name(0) / "zarr.json").unlink()
    (listed / sample_name(0)).rmdir()
    (listed / "zarr.json").unlink()
    listed.rmdir()
    write_listed_samples(run, listed, rows)
    more = Begun.time(folder / "many.csv", listed, is_complete=True).beyond(least)
    more.tell(section, "until a complete run was skipped, beyond that of one row", BAR_RESUME_S)


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

    def beyond(self, least: Begun) -> Begun:
        """Return what is above the least."""
        return Begun(self.seconds - least.seconds, self.processor_s - least.processor_s)

    def tell(self, section: Section, name: str, bar_s: float | None = None) -> None:
        """Record both, and whether the bar is met by the clock."""
        bar = None if bar_s is None else at_most(bar_s)
        section.add(name, "by the clock", self.seconds, "s", bar=bar)
        section.add(name, "of the processor", self.processor_s, "s")

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


def read_many(section: Section, run: Path) -> None:
    """Record how long readers take for the whole list."""
    opened = open_run(run)
    ways: dict[str, Callable[[], object]] = {
        "`open_run`": lambda: open_run(run),
        "the first sample's name": opened.first,
        "all names": lambda: list(opened),
        "`run.table()`": opened.table,
        "one name that is not there": lambda: opened.get("no such sample"),
    }
    for name, way in ways.items():
        start_s, used_s = time.perf_counter(), time.process_time()
        way()
        took = Begun(time.perf_counter() - start_s, time.process_time() - used_s)
        took.tell(section, name)


def examine_many(section: Section, folder: Path, counts: Sequence[int]) -> None:
    """Record what ``info`` and ``validate`` take for a sample, of few samples and of many."""
    from i2am.analysis import summarise_store
    from i2am.analysis.inspection.condition import examine_store

    manifest, run = folder / "one.csv", folder / "linked.zarr"
    capture_manifest(SHIPPED_MODEL, manifest, run, steps=STEPS, shard=(0, 1), progress=False)
    ways: dict[str, Callable[[Path], object]] = {
        "`info`": summarise_store,
        "`validate`": examine_store,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for count in counts:
        link_samples(run, count)
        for name, way in ways.items():
            used_s = time.process_time()
            way(run)
            took[name].append((time.process_time() - used_s) / count)
    for name, each in took.items():
        section.add(name, "of the processor", 1e3 * each[-1], "ms")
        section.add(name, "of many / of few", each[-1] / each[0])


if __name__ == "__main__":
    main()
