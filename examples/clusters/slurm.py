"""Analyse a run on Slurm: dask-jobqueue submits jobs of workers, and this process drives them.

    pip install dask-jobqueue
    python slurm.py run.zarr maps.zarr --queue cpu --account mine --jobs 4

Run it on a login node, or in a small job of its own: it computes nothing itself. `--show-job` prints
the job that would be submitted, and submits none. See docs/how-to/clusters.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from i2am.analysis import analyze_run

if TYPE_CHECKING:
    from pathlib import Path

# One process of one thread for each core: more threads in the matrix products would fight for it.
PINNED = tuple(f"export {library}_NUM_THREADS=1" for library in ("OMP", "OPENBLAS", "MKL"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="the capture store: a path that all nodes see, or a URL")
    parser.add_argument("out", help="the maps store: a path that all nodes see")
    parser.add_argument("--jobs", type=int, default=2, help="Slurm jobs; default 2")
    parser.add_argument("--cores", type=int, default=16, help="workers in each; default 16")
    parser.add_argument("--memory", default="32GiB", help="of each job; default 32GiB")
    parser.add_argument("--hours", type=int, default=4, help="time limit of each; default 4")
    parser.add_argument("--queue", help="Slurm's partition")
    parser.add_argument("--account", help="who pays")
    parser.add_argument("--interface", help="network between the nodes, as ib0")
    parser.add_argument("--show-job", action="store_true", help="print the job, submit none")
    return parser.parse_args(arguments)


def start(options: argparse.Namespace) -> Any:
    """Return a cluster without workers yet; its scheduler runs in this process."""
    from dask_jobqueue import SLURMCluster

    # Workers leave before their job is killed, each in its own minute, and hand on what they hold.
    lifetime = ["--lifetime", f"{60 * options.hours - 5}m", "--lifetime-stagger", "4m"]
    return SLURMCluster(
        job_name="i2am-worker",
        queue=options.queue,
        account=options.account,
        cores=options.cores,
        processes=options.cores,
        memory=options.memory,
        walltime=f"{options.hours}:00:00",
        interface=options.interface,
        job_script_prologue=list(PINNED),
        worker_extra_args=lifetime,
    )


def analyse(cluster: Any, run: str, out: str | Path) -> None:
    """Analyse a run on a cluster of any kind; its dashboard is told with the progress."""
    print(f"Scheduler: {cluster.scheduler_address}")
    analyze_run(run, out, scheduler=cluster.scheduler_address)
    print(f"Maps: {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with start(options) as cluster:
        if options.show_job:
            print(cluster.job_script())
            return
        # Not scale(): a job that ends early, or is preempted, is submitted again.
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)
        analyse(cluster, options.run, options.out)


if __name__ == "__main__":
    main()
