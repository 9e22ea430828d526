"""What stands before the work: how long it takes to import a stage, and to look at a small store.

    python benchmarks/start_up.py [--rounds 9] [--dir DIR] [--quick]

Each door is opened in a fresh process, by turns with what nobody can go without: ``import zarr`` before a
store, ``import torch`` before a model. Seconds are by the clock and of the processor, from the start of
Python until its end; ratios are by the clock, within a round. The first round, which reads the files from
the disk, does not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr
from support.ratios import format_ratio, ratios_of
from support.synthetic_run import write_run

from i2am.analysis import analyze_run


@dataclass(frozen=True)
class Door:
    """A call of Python, what it is held against, and by which factor or seconds it is bound."""

    call: tuple[str, ...]
    beside: str = ""
    most: float | None = None
    most_cpu_s: float | None = None


def doors(run: str, maps: str) -> dict[str, Door]:
    """Return every door; of what others are held against, too."""
    return {
        "Python alone": Door(("-c", "pass")),
        "import zarr": Door(("-c", "import zarr")),
        "import torch": Door(("-c", "import torch")),
        "i2am --help": Door(("-m", "i2am", "--help"), "import zarr"),
        "i2am info, a run": Door(("-m", "i2am", "info", run), "import zarr", most=3),
        "i2am info, maps": Door(("-m", "i2am", "info", maps), "import zarr", most=3),
        "i2am validate, a run": Door(("-m", "i2am", "validate", run), "import zarr", most=3),
        "i2am validate, maps": Door(("-m", "i2am", "validate", maps), "import zarr", most=3),
        "import i2am.analysis": Door(("-c", "import i2am.analysis"), "import zarr", most_cpu_s=0.6),
        "open_run": Door(
            ("-c", f"from i2am.analysis import open_run; list(open_run({run!r}))"), "import zarr"
        ),
        "open_run, a sample": Door(
            ("-c", f"from i2am.analysis import open_run; open_run({run!r})['0']"), "import zarr"
        ),
        "import i2am.capture": Door(("-c", "import i2am.capture"), "import torch", most=1.15),
        "from i2am.capture import capture": Door(
            ("-c", "from i2am.capture import capture"), "import torch"
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--quick", action="store_true", help="only whether it works")
    options = parser.parse_args(arguments)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"zarr {zarr.__version__}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run = write_run(Path(folder, "run.zarr"), ("0", "1", "2"), steps=2, max_side=16)
        maps = analyze_run(run, Path(folder, "maps.zarr"), progress=False)
        opened = doors(str(run), str(maps))
        print(
            *format_doors(opened, measure(opened, 1 if options.quick else options.rounds)), sep="\n"
        )


def measure(opened: Mapping[str, Door], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds by the clock and of the processor of each door, in each round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in opened}
    for number in range(rounds + 1):
        for name, door in opened.items():
            seconds = time_process(door.call)
            if number:  # The first round reads the files from the disk.
                found[name].append(seconds)
    return found


def time_process(call: Sequence[str]) -> tuple[float, float]:
    """Return what a new Python takes, in seconds by the clock and of the processor."""
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *call], stdout=subprocess.DEVNULL, check=True)
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s


def format_doors(
    opened: Mapping[str, Door], found: Mapping[str, Sequence[tuple[float, float]]]
) -> list[str]:
    """Return a table: medians of the seconds, the ratio, and whether the bar is met."""
    lines = ["", "| | s | s of the processor | ratio | bar |", "|---|---|---|---|---|"]
    for name, door in opened.items():
        wall_s, cpu_s = zip(*found[name], strict=True)
        ratio, bar = "", ""
        if door.beside:
            ratios = ratios_of(wall_s, [wall for wall, _ in found[door.beside]])
            ratio = f"{format_ratio(ratios)} × {door.beside}"
            if door.most is not None:
                is_met = statistics.median(ratios) <= door.most
                bar = f"≤ {door.most:g} ×: {'met' if is_met else 'missed'}"
        if door.most_cpu_s is not None:
            is_met = statistics.median(cpu_s) <= door.most_cpu_s
            bar = f"≤ {door.most_cpu_s:g} s of the processor: {'met' if is_met else 'missed'}"
        medians = " | ".join(f"{statistics.median(each):.2f}" for each in (wall_s, cpu_s))
        lines.append(f"| {name} | {medians} | {ratio} | {bar} |")
    return lines


if __name__ == "__main__":
    main()
