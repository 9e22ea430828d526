"""By how much two worker processes are faster than one, their start included.

    python benchmarks/analysis_workers.py [--rounds N] [--dir DIR] [--json FILE] [--quick]

Four samples with the layers of Stable Diffusion 1.5, 50 steps, from the store on disk to maps on disk,
by ``analyze_run(…, workers=…)``, by turns.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from support.figures import Figures, at_least, benchmark_parser
from support.synthetic_run import STEPS, write_run
from support.turns import ratios_of, take_turns, timed

from i2am.analysis import analyze_run

BAR = 1.8
SAMPLES = "0123"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    rounds, steps = (1, 2) if options.quick else (options.rounds, STEPS)
    figures = Figures("analysis_workers", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run = write_run(Path(folder) / "run.zarr", SAMPLES, steps=steps)
        ways = {str(workers): partial(analyse, run, workers) for workers in (1, 2)}
        times = take_turns(ways, rounds, warm_up=0)
    title = f"{len(SAMPLES)} samples, {steps} steps, rounds: {rounds}"
    with figures.section("workers", title) as section:
        for workers, seconds in times.items():
            section.add(f"worker processes: {workers}", "time", seconds, "s")
        section.add("one / two", "ratio", ratios_of(times["1"], times["2"]), bar=at_least(BAR))


def analyse(run: Path, workers: int) -> float:
    """Return the seconds that a run's maps take, from store to store."""
    maps = run.with_name("maps.zarr")
    shutil.rmtree(maps, ignore_errors=True)
    return timed(lambda: analyze_run(run, maps, progress=False, workers=workers))


if __name__ == "__main__":
    main()
