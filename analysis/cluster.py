"""Where Dask computes: this process's threads, processes started here, or a cluster that is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from i2am.schemas import AnalysisError

__all__ = ["computing_on"]

_TIMEOUT: Final = "20s"


@contextlib.contextmanager
def computing_on(scheduler: str | None = None, workers: int | None = None) -> Iterator[None]:
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
        yield
        return
    # A second to import, and not needed on one machine.
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
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
        yield
