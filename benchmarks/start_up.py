"""What stands before the work: how long it takes to import a stage, and to look at a small store.

    python benchmarks/start_up.py [--rounds 9] [--dir DIR] [--quick]

Each door is opened in a fresh process, by turns with what nobody can go without: ``import zarr`` before a
store, ``import torch`` before a model. Seconds are by the clock and of the processor, from the start of
Python until its end; ratios are by the clock, within a round. The first round, which reads the files from
the disk, does not count.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.figures import Figures, Section, at_most, benchmark_parser
from support.synthetic_run import layers, write_run
from support.turns import ratios_of, take_turns

from i2am.analysis import analyze_run

# As a shell calls it at TAB.
AT_TAB = """import os
line = "i2am figure run.zarr --kinds t"
os.environ |= {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull, "COMP_TYPE": "9"}
os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
from i2am.cli import main
main()"""


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
        "i2am at TAB": Door(("-c", AT_TAB), most_cpu_s=0.4),
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
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    figures = Figures("start_up", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run = write_run(
            Path(folder, "run.zarr"), ("0", "1", "2"), steps=2, own_layers=tuple(layers(16))
        )
        maps = analyze_run(run, Path(folder, "maps.zarr"), progress=False)
        opened = doors(str(run), str(maps))
        ways = {name: partial(time_process, door.call) for name, door in opened.items()}
        title = f"Fresh processes, rounds: {rounds}; ratios by the clock"
        with figures.section("doors", title) as section:
            # The first round reads the files from the disk.
            tell(opened, take_turns(ways, rounds), section)


def time_process(call: Sequence[str]) -> tuple[float, float]:
    """Return what a new Python takes, in seconds by the clock and of the processor."""
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *call], stdout=subprocess.DEVNULL, check=True)
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s


def tell(
    opened: Mapping[str, Door],
    found: Mapping[str, Sequence[tuple[float, float]]],
    section: Section,
) -> None:
    """Record seconds by the clock and of the processor, and the ratio within each round."""
    for name, door in opened.items():
        wall_s, cpu_s = zip(*found[name], strict=True)
        section.add(name, "by the clock", wall_s, "s")
        bar = None if door.most_cpu_s is None else at_most(door.most_cpu_s)
        section.add(name, "of the processor", cpu_s, "s", bar=bar)
        if door.beside:
            ratios = ratios_of(wall_s, [wall for wall, _ in found[door.beside]])
            bar = None if door.most is None else at_most(door.most)
            section.add(name, "ratio", ratios, f"× {door.beside}", bar=bar)


if __name__ == "__main__":
    main()
