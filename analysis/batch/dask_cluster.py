"""Where Dask computes: on threads of this process, on processes started here, or on a cluster.

If a worker is lost, its unfinished blocks are computed again elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final

import dask
import dask.threaded
from dask.callbacks import Callback
from threadpoolctl import threadpool_limits

from i2am.schemas import AnalysisError

if TYPE_CHECKING:
    import dask.array as da
    from distributed import Client

__all__ = ["Executor", "open_executor"]

_TIMEOUT: Final = "20s"
_STOP_S: Final = 0.5
_THREADS_PER_SAMPLE: Final = 8
# Dask makes the C library return all memory at once. Blocks of one size come again and again, and
# pages that are touched anew for each cost a worker a quarter of its time; its statistical profile
# of every worker costs another twelfth.
_WORKER_SETTINGS: Final = {
    "distributed.worker.profile.enabled": False,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 256 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
}

# What a worker imports takes it a second: one process does it, and workers are forks of that.
_FORKS: Final = "forkserver"
_IMPORTED_BY_WORKERS: Final = ("distributed.nanny", "i2am.analysis.batch.analyze_run")

# Lazy arrays whose blocks are written to a store when they are computed.
LazyWrites = Sequence["da.Array"]
# Is called with the share of the writes that was just done, 0..1.
ProgressCallback = Callable[[float], object]


@dataclass(frozen=True)
class Executor:
    """Runs lazy writes on local threads or on a Dask cluster.

    Parameters
    ----------
    start : callable (LazyWrites, ProgressCallback) -> callable ()
        Starts the writes; the returned function waits until they are done, and raises their errors.
    max_started : int
        How many samples to start before waiting for the first of them.
    dashboard : str or None
        Address of the page that shows the cluster at work.
    """

    start: Callable[[LazyWrites, ProgressCallback], Callable[[], None]]
    max_started: int
    dashboard: str | None = None


@contextlib.contextmanager
def open_executor(scheduler: str | None = None, workers: int | None = None) -> Iterator[Executor]:
    """Open an executor for the context: a cluster, or Dask's default if neither is given.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler, for instance ``tcp://host:8786``.
    workers : int, optional
        Start that many processes of one thread each, and stop them at the end.

    Raises
    ------
    AnalysisError
        If both are given, `workers` is less than 1, or the scheduler does not answer.
    """
    if scheduler is not None and workers is not None:
        msg = "Expected scheduler or workers, got both, at the call. Give one of the two."
        raise AnalysisError(msg)
    if workers is not None and workers < 1:
        msg = f"Expected at least one worker, got {workers}, at workers. Give 1 or more."
        raise AnalysisError(msg)
    if scheduler is None and workers is None:
        # Each block has a thread of Dask's; more of the matrix product's own would fight them.
        with threadpool_limits(1, user_api="blas"):
            yield Executor(_start_here, max_started=1)
        return
    # A second to import, and not needed on one machine.
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            # Its processes use one thread each for matrix products, too.
            with dask.config.set(_WORKER_SETTINGS | _forks()), _without_ctrl_c():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",  # Whoever reaches a scheduler can run code on its workers.
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,  # A failure is raised as an error.
                )
            scheduler = stack.enter_context(cluster).scheduler_address
            stack.push(partial(_end_workers, cluster))
        try:
            client = Client(scheduler, timeout=_TIMEOUT)
        except (OSError, TimeoutError, ValueError) as e:
            msg = (
                f"Expected a Dask scheduler that answers, got none, at {scheduler}. "
                "Check the address, or use workers."
            )
            raise AnalysisError(msg) from e
        stack.enter_context(client)
        # The next sample is prepared, and its first blocks are read, while one comes to its end;
        # and a sample has only enough blocks for a few threads.
        threads = sum(client.nthreads().values())
        yield Executor(
            _StartOn(client),
            max_started=2 + threads // _THREADS_PER_SAMPLE,
            dashboard=client.dashboard_link,
        )


def _forks() -> dict[str, str]:
    """Return the setting that makes workers forks of one process that has imported what they need."""
    if sys.platform != "linux":  # macOS's own libraries may not live through a fork.
        return {}
    from distributed.utils import get_mp_context

    setting = {"distributed.worker.multiprocessing-method": _FORKS}
    with dask.config.set(setting):
        context = get_mp_context()  # With Dask's own list of imports, the first time.
    context.set_forkserver_preload(list(_IMPORTED_BY_WORKERS))
    return setting


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: the one that started them ends them.

    A terminal sends it to all of them at once, and each would show where it was.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # It is started with the first process, and unblocks signals.
    # Processes have the mask of the thread that starts them, and that of the one that started it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers(cluster: Any, kind: type[BaseException] | None, *_: object) -> None:
    """End the workers in the middle of their work when this process was told to stop.

    Dask would wait some seconds for them, of the few that there are.
    """
    if kind is None or issubclass(kind, Exception):
        return

    async def end() -> None:
        closing = (worker.close(timeout=_STOP_S) for worker in cluster.workers.values())
        await asyncio.gather(*closing, return_exceptions=True)

    cluster.sync(end)


def _start_here(writes: LazyWrites, advance: ProgressCallback) -> Callable[[], None]:
    def wait() -> None:
        # Asked for no scheduler, Dask imports its cluster to look for a client, which takes half a second.
        has_other = "distributed" in sys.modules or dask.config.get("scheduler", None) is not None
        with _Progress(advance):
            dask.compute(*writes, scheduler=None if has_other else dask.threaded.get)

    return wait


class _Progress(Callback):  # type: ignore[misc]
    """Reports what share of a graph is done, for the local scheduler; clusters have a dashboard."""

    def __init__(self, advance: ProgressCallback) -> None:
        super().__init__()
        self._advance, self._rest = advance, 1.0

    def _start_state(self, _graph: Any, state: dict[str, Any]) -> None:
        self._share = 1 / max(1, sum(len(state[part]) for part in ("ready", "waiting")))

    def _posttask(self, *_: Any) -> None:
        self._rest -= self._share
        self._advance(self._share)

    def _finish(self, _graph: Any, _state: Any, failed: bool) -> None:
        if not failed:
            self._advance(self._rest)
        self._rest = 0.0

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error[0] is None:
            self._advance(self._rest)  # A client that is active in this process computed it.


@dataclass(frozen=True)
class _StartOn:
    """Starts writes on a cluster."""

    client: Client

    def __call__(self, writes: LazyWrites, advance: ProgressCallback) -> Callable[[], None]:
        from distributed import as_completed, futures_of

        futures = futures_of(self.client.persist(list(writes)))

        def wait() -> None:
            for future in as_completed(futures):
                future.result()
                advance(1 / len(futures))

        return wait
