"""By how much two worker processes are faster than one, their start included.

    python benchmarks/analysis_workers.py [--rounds N] [--dir DIR] [--json FILE] [--quick]

Four samples with the layers of Stable Diffusion 1.5, 50 steps, from the store on disk to maps on disk,
by ``analyze_run(…, workers=…)``, by turns. Beside it what two processes gain that do nothing but the kernel
on a block in memory: virtual cores may share arithmetic and caches.

Two cores say nothing of a scheduler's limit. So a sample's tasks are counted: 64 workers of this machine's
speed would ask for so many a second, and the scheduler gives out so many that do nothing.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster, SchedulerPlugin, wait
from support.figures import Figures, at_least, benchmark_parser
from support.kernel_block import Block
from support.synthetic_run import STEPS, write_run
from support.turns import ratios_of, take_turns, timed
from threadpoolctl import threadpool_limits

from i2am.analysis import analyze_run

BAR = 1.8
SAMPLES = "0123"
KERNELS = 100
MANY_WORKERS = 64
IDLE_TASKS = 5000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    rounds, steps = (1, 2) if options.quick else (options.rounds, STEPS)
    figures = Figures("analysis_workers", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run = write_run(Path(folder) / "run.zarr", SAMPLES, steps=steps)
        ways = {str(workers): partial(analyse, run, workers=workers) for workers in (1, 2)}
        times = take_turns(ways, rounds, warm_up=0)
        tasks, rate = schedule(run)
    alone = kernels_at_once(rounds)
    title = f"{len(SAMPLES)} samples, {steps} steps, rounds: {rounds}"
    with figures.section("workers", title) as section:
        for workers, seconds in times.items():
            section.add(f"worker processes: {workers}", "time", seconds, "s")
        gains = ratios_of(times["1"], times["2"])
        possible = [2 * ratio for ratio in ratios_of(alone["1"], alone["2"])]
        section.add("one / two", "ratio", gains, bar=at_least(BAR))
        section.add("one / two, the kernel alone", "ratio", possible)
        share = statistics.median(gains) / statistics.median(possible)
        section.add("of what the kernel alone gains", "ratio", [share])
    one = statistics.median(times["1"]) / len(SAMPLES)
    with figures.section("scheduler", f"Tasks, and {MANY_WORKERS} workers") as section:
        section.add("of a sample", "tasks", [tasks])
        section.add(
            f"{MANY_WORKERS} workers ask for", "tasks a second", [MANY_WORKERS * tasks / one]
        )
        section.add("the scheduler gives out", "tasks a second", [rate])


def analyse(run: Path, **options: Any) -> float:
    """Return the seconds that a run's maps take, from store to store."""
    maps = run.with_name("maps.zarr")
    shutil.rmtree(maps, ignore_errors=True)
    return timed(lambda: analyze_run(run, maps, progress=False, **options))


def kernels_at_once(rounds: int) -> dict[str, list[float]]:
    """Return what the same blocks take one process, and each of two that work at once."""
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
            for _ in range(2)
        ]

        def run_in(count: int) -> float:
            waiting = [pool.submit(kernel_seconds) for pool in pools[:count]]
            return statistics.mean(one.result() for one in waiting)

        return take_turns({"1": partial(run_in, 1), "2": partial(run_in, 2)}, rounds)


def kernel_seconds() -> float:
    """Return what the kernel takes for some blocks of Stable Diffusion 1.5's finest layer."""
    block = Block(4096, 257, 40)
    with threadpool_limits(1):
        return sum(timed(partial(block.ours, "compiled")) for _ in range(KERNELS))


class DoneTasks(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types
    """Counts tasks that workers have done."""

    count = 0

    def transition(self, _key: str, _start: str, finish: str, *_: Any, **__: Any) -> None:
        """Count what is in a worker's memory now."""
        self.count += finish == "memory"


def schedule(run: Path) -> tuple[int, float]:
    """Return the tasks of a sample, and how many that do nothing a scheduler gives out a second."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        done = DoneTasks()
        cluster.scheduler.add_plugin(done)
        analyse(run, samples=SAMPLES[:1], scheduler=cluster.scheduler_address)
        tasks = done.count
        seconds = timed(lambda: wait(client.map(abs, range(IDLE_TASKS), pure=False)))
    return tasks, IDLE_TASKS / seconds


if __name__ == "__main__":
    main()
