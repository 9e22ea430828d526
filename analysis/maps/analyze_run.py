"""Analyze a whole run into a maps store: sample by sample, out of core, on threads or a cluster.

Complete samples are skipped, so a run that was stopped continues where it was.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from tqdm.auto import tqdm

from i2am.analysis.kernel.resize import Grid
from i2am.analysis.maps.analyze import analyze, check_options
from i2am.analysis.maps.dask_cluster import Executor, ProgressCallback, open_executor
from i2am.analysis.stores.layers import Labels, head_labels, step_labels
from i2am.analysis.stores.maps_writer import (
    finish_sample,
    is_finished,
    open_output,
    source_of,
    start_sample,
)
from i2am.analysis.stores.reader import Run, open_run
from i2am.files import check_not_in_store
from i2am.schemas import I2AMError, StoreError
from i2am.schemas.choices import Convention, Normalisation
from i2am.schemas.dims import CONDITIONAL
from i2am.storage.addresses import StoreLike, is_url

__all__ = ["analyze_run"]

# The bar counts parts of a sample, too: a whole one may take minutes.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


def analyze_run(
    run: StoreLike,
    out: str | Path,
    *,
    samples: Iterable[str] | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    convention: Convention = "i2am",
    normalisation: Normalisation = "mass",
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
    time_groups: int = 5,
    grid: Grid | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write every map of a run's samples to a maps store; finished samples are skipped.

    Parameters
    ----------
    run : str, Path or zarr Store
        The capture store.
    out : str or Path
        The maps store: a local folder that is new, or that an earlier call with the same options
        wrote.
    samples : iterable of str, optional
        All complete samples by default.
    scheduler : str, optional
        Address of a running Dask cluster; its workers must be able to open both stores.
    workers : int, optional
        Start a local cluster of that many processes, of one thread each. By default Dask's own:
        threads, or the client that is active in this process.
    convention, normalisation, layers, steps, heads, guidance, time_groups, grid
        As in `analyze`.
    progress : bool
        Show a bar with rate and remaining time, and where a cluster's dashboard is.
    overwrite : bool
        Replace a maps store that was written with other options.

    Returns
    -------
    Path
        The maps store.

    Raises
    ------
    StoreError
        If the run is missing or has no such sample, or `out` is a URL or something else than such
        a maps store; at the end, when all others are done, if a sample cannot be read.
    AnalysisError
        If an option is unknown, a label was not captured, or the cluster does not answer.
    """
    check_options(convention, normalisation, grid)
    patterns = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    # Workers elsewhere may have another working folder.
    opened = open_run(run if scheduler is None else _absolute(run))
    chosen = _chosen(opened, samples)
    first = next(iter(chosen))
    sample = opened[first]
    options: dict[str, Any] = {
        "convention": convention,
        "normalisation": normalisation,
        "layers": patterns,
        "steps": None if steps is None else step_labels(sample, steps),
        "heads": None if heads is None else head_labels(sample, patterns, heads),
        "guidance": guidance,
        "time_groups": time_groups,
        "grid": None if grid is None else (grid[0], grid[1]),
    }
    if is_url(out):
        msg = f"Expected a local folder for the maps, got a URL, at {out}. Write them locally."
        raise StoreError(msg)
    check_not_in_store(out)
    out = Path(out)
    # An error comes before anything is written.
    prepared = {first: analyze(sample, **options)}
    with open_executor(scheduler, workers) as executor:
        root = open_output(
            out if scheduler is None else out.resolve(),
            source_of(run, out),
            options,
            overwrite=overwrite,
        )
        if progress and executor.dashboard:
            print(f"Dashboard: {executor.dashboard}", file=sys.stderr)  # noqa: T201
        with tqdm(
            desc="analyze", unit="sample", total=len(chosen), bar_format=_BAR, disable=not progress
        ) as bar:
            # Parts of samples do not add up to whole ones to the last digit.
            _Analysis(
                opened,
                root,
                options,
                executor,
                advance=lambda share: bar.update(min(share, len(chosen) - bar.n)),
                prepared=prepared,
            ).run(chosen)
    return out


@dataclass
class _Analysis:
    """Analyzes the samples of a run into a maps store."""

    opened: Run
    root: zarr.Group
    options: dict[str, Any]
    executor: Executor
    advance: ProgressCallback
    prepared: dict[str, xr.DataTree]
    _started: deque[tuple[str, str, Callable[[], None]]] = field(default_factory=deque)
    _failed: dict[str, Exception] = field(default_factory=dict)

    def run(self, samples: Mapping[str, str]) -> None:
        """Analyze the unfinished samples; raise the first error at the end, when all others are done."""
        for name, created in samples.items():
            if is_finished(self.root, name, created):
                self.advance(1.0)
                continue
            self._try(name, partial(self._start, name, created))
            while len(self._started) >= self.executor.max_started:
                self._finish_first()
        while self._started:
            self._finish_first()
        if self._failed:
            name, error = next(iter(self._failed.items()))
            others = f" So do {len(self._failed) - 1} more." if len(self._failed) > 1 else ""
            raise _explained(error, name, self.opened, others) from error

    def _start(self, name: str, created: str) -> None:
        maps = self.prepared.pop(name, None)
        if maps is None:
            maps = analyze(self.opened[name], **self.options)
        writes = start_sample(self.root, name, maps, created)
        self._started.append((name, created, self.executor.start(writes, self.advance)))

    def _finish_first(self) -> None:
        name, created, wait = self._started.popleft()

        def finish() -> None:
            wait()
            finish_sample(self.root, name, created)

        self._try(name, finish)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (I2AMError, RuntimeError, OSError, ValueError) as e:
            self._failed[name] = e


def _explained(error: Exception, name: str, run: Run, others: str) -> Exception:
    if isinstance(error, I2AMError):
        return StoreError(f"{error}{others}") if others else error
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    msg = (
        f"Expected to read the sample and write its maps, got '{reason}', "
        f"at {name} of {run.path}.{others} Check both stores; a re-run goes on from here."
    )
    return StoreError(msg)


def _absolute(run: StoreLike) -> StoreLike:
    return Path(run).resolve() if isinstance(run, str | Path) and not is_url(run) else run


def _chosen(run: Run, samples: Iterable[str] | None) -> dict[str, str]:
    """Return the time of capture of each chosen sample, by name."""
    known = run.sample_attributes()
    names = list(known) if samples is None else list(dict.fromkeys(samples))
    for name in names:
        if name not in known:
            run[name]  # Raises, and names the samples that exist.
    if not names:
        msg = f"Expected complete samples, got none, at {run.path}. Capture some first."
        raise StoreError(msg)
    return {name: str(known[name].get("created")) for name in names}
