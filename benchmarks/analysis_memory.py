"""The memory of `i2am analyze` on a run that is far larger than it, and its time by samples.

    python benchmarks/analysis_memory.py [--dir DIR] [--samples 10] [--workers N] [--quick]

Makes a run of at least 12 GB (samples with the layers of Stable Diffusion 1.5, 50 steps), and
analyses it with the command line in a process of its own. The resident memory of that process and
of all its children is added up twenty times a second; pages of files that the kernel keeps cached
are not among it. Then 1, 2, 4 and 8 samples are analysed, and a line is drawn through the times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from support.figures import Figures, at_most, benchmark_parser
from support.synthetic_run import STEPS, layers, write_run

BAR_MB = 2000
LEAST_BYTES = 12 * 10**9
COUNTS = (1, 2, 4, 8)
_INTERVAL_S = 0.05


@dataclass(frozen=True)
class Measured:
    """One call of the command line."""

    seconds: float
    peak_bytes: int  # of the process tree, resident


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--workers", type=int, help="as in i2am analyze; default: threads")
    options = parser.parse_args(arguments)
    counts = (1, 2) if options.quick else COUNTS
    names = [str(number) for number in range(2 if options.quick else options.samples)]
    more = [] if options.workers is None else ["--workers", str(options.workers)]
    ways = "threads" if options.workers is None else f"{options.workers} worker processes"
    figures = Figures("analysis_memory", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        steps, max_side = (2, 16) if options.quick else (STEPS, 64)
        run = write_run(
            Path(folder) / "run.zarr", names, steps=steps, own_layers=tuple(layers(max_side))
        )
        run_bytes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        title = f"A run of {len(names)} samples, {run_bytes / 1e9:.1f} GB, {ways}"
        if run_bytes < LEAST_BYTES:
            title += f"; less than {LEAST_BYTES / 1e9:.0f} GB: give more --samples"
        with figures.section("large-run", title) as section:
            every = analyse(run, Path(folder) / "maps.zarr", more)
            section.add("all samples", "time", every.seconds, "s")
            section.add("all samples", "rate", run_bytes / 1e6 / every.seconds, "MB/s")
            peak_mb = every.peak_bytes / 1e6
            section.add(
                "all samples", "peak of the process tree", peak_mb, "MB", bar=at_most(BAR_MB)
            )
        with figures.section("by-samples", f"Some of its samples, {ways}") as section:
            times = []
            for count in counts:
                chosen = ["--samples", *names[:count]]
                one = analyse(run, Path(folder) / f"maps-{count}.zarr", [*chosen, *more])
                times.append(one.seconds)
                section.add(f"samples: {count}", "time", one.seconds, "s")
                section.add(
                    f"samples: {count}", "peak of the process tree", one.peak_bytes / 1e6, "MB"
                )
            section.add("their line", "time", (), "s", note=describe_line(counts, times))


def analyse(run: Path, out: Path, more: Sequence[str]) -> Measured:
    """Run ``i2am analyze`` in a process of its own, and watch its tree."""
    command = [sys.executable, "-m", "i2am", "analyze", str(run), "--out", str(out), *more]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    watched, peak_bytes = psutil.Process(process.pid), 0
    while process.poll() is None:
        peak_bytes = max(peak_bytes, resident_bytes(watched))
        time.sleep(_INTERVAL_S)
    seconds = time.perf_counter() - start_s
    if process.returncode:
        msg = f"Expected maps of {run}, got exit code {process.returncode}. Run {' '.join(command)}"
        raise RuntimeError(msg)
    return Measured(seconds, peak_bytes)


def resident_bytes(process: psutil.Process) -> int:
    """Return the resident memory of a process and all below it; shared pages count several times."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def describe_line(counts: Sequence[int], times: Sequence[float]) -> str:
    """Return slope, intercept and how far the times are from their line."""
    slope, intercept = np.polyfit(counts, times, 1)
    fitted = np.polyval([slope, intercept], counts)
    furthest = np.abs(fitted / np.array(times) - 1).max()
    return (
        f"{intercept:.1f} s + {slope:.1f} s a sample; "
        f"no count is further from that line than {furthest:.0%}"
    )


if __name__ == "__main__":
    main()
