"""Where Dask computes: this process's threads, processes started here, or a cluster that is there.

A worker that is lost costs its unfinished blocks: they are computed again elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dask
from dask.callbacks import Callback
from threadpoolctl import threadpool_limits

from i2am.schemas import AnalysisError

if TYPE_CHECKING:
    import dask.array as da
    from distributed import Client

__all__ = ["Computer", "computing_on"]

_TIMEOUT: Final = "20s"
_THREADS_OF_A_WORK: Final = 8
# Dask has the C library give all memory back at once. Blocks of one size come again and again, and
# pages that are touched anew for each cost a worker a quarter of its time; its statistical profile
# of every worker costs another twelfth.
_WORKER_SETTINGS: Final = {
    "distributed.worker.profile.enabled": False,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 256 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
}

# Lazy arrays that are computed for what that does: their blocks write themselves to a store.
Work = Sequence["da.Array"]
# Takes by how much a work has come nearer to its end, of 1.
Advance = Callable[[float], object]


@dataclass(frozen=True)
class Computer:
    """Computes works, one after the other or some of them at a time.

    Parameters
    ----------
    start : callable (Work, Advance) -> callable ()
        Returns what waits until the work is done, and raises what went wrong in it.
    most_started : int
        How many works to start before the first of them is waited for.
    dashboard : str or None
        Address of the page that shows the cluster at work.
    """

    start: Callable[[Work, Advance], Callable[[], None]]
    most_started: int
    dashboard: str | None = None


@contextlib.contextmanager
def computing_on(scheduler: str | None = None, workers: int | None = None) -> Iterator[Computer]:
    """Compute on a cluster within the context; on Dask's default when neither is given.

    Parameters
    ----------
    scheduler : str, optional
        Address of a scheduler that is there already, for instance ``tcp://host:8786``.
    workers : int, optional
        Start that many processes of one thread each, and stop them at the end.

    Raises
    ------
    AnalysisError
        If both are given, there is to be no worker, or the scheduler does not answer.
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
            yield Computer(_start_here, most_started=1)
        return
    # A second to import, and not needed on one machine.
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            # Its processes are told to use one thread each for matrix products, too.
            with dask.config.set(_WORKER_SETTINGS):
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,  # What fails comes back as an error.
                )
            scheduler = stack.enter_context(cluster).scheduler_address
        try:
            client = Client(scheduler, timeout=_TIMEOUT)
        except (OSError, TimeoutError, ValueError) as e:
            msg = (
                f"Expected a Dask scheduler that answers, got none, at {scheduler}. "
                "Check the address, or use workers."
            )
            raise AnalysisError(msg) from e
        stack.enter_context(client)
        # The next work is prepared, and its first blocks are read, while one nears its end; and
        # one has no more blocks than keep a few threads busy.
        threads = sum(client.nthreads().values())
        yield Computer(
            _StartOn(client),
            most_started=2 + threads // _THREADS_OF_A_WORK,
            dashboard=client.dashboard_link,
        )


def _start_here(work: Work, advance: Advance) -> Callable[[], None]:
    def wait() -> None:
        with _Progress(advance):
            dask.compute(*work)

    return wait


class _Progress(Callback):  # type: ignore[misc]
    """Tells how much of a graph is done; a local scheduler's only, clusters have a dashboard."""

    def __init__(self, advance: Advance) -> None:
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
    """Starts works on a cluster."""

    client: Client

    def __call__(self, work: Work, advance: Advance) -> Callable[[], None]:
        from distributed import as_completed, futures_of

        futures = futures_of(self.client.persist(list(work)))

        def wait() -> None:
            for future in as_completed(futures):
                future.result()
                advance(1 / len(futures))

        return wait
