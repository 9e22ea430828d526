"""Analyze a whole run into a maps store: sample by sample, out of core, on threads or a cluster.

Complete samples are skipped, so a run that was stopped continues where it was.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import xarray as xr
import zarr
from tqdm.auto import tqdm

from i2am.analysis.batch.block_writes import write_blocks
from i2am.analysis.batch.dask_cluster import Executor, ProgressCallback, open_executor
from i2am.analysis.kernel.resize import Grid
from i2am.analysis.maps.analyze import Plan, check_options, plan_maps
from i2am.analysis.stores.effects import Effects, causal_weights, check_same_capture
from i2am.analysis.stores.layers import Labels, head_labels, step_labels
from i2am.analysis.stores.maps_writer import (
    Source,
    finish_sample,
    is_finished,
    open_output,
    start_sample,
)
from i2am.analysis.stores.reader import Run, open_run
from i2am.analysis.stores.related import effects_of
from i2am.files import check_can_hold_store
from i2am.schemas import AnalysisError, I2AMError, StorageError, StoreError
from i2am.schemas.choices import (
    LAYER_WEIGHTS,
    Convention,
    LayerWeights,
    Normalisation,
    Within,
    check_choice,
)
from i2am.schemas.dims import CONDITIONAL
from i2am.storage.addresses import StoreLike, is_url
from i2am.storage.failures import reported_as_store_error, storage_error
from i2am.storage.owners import SampleTaken, Writer
from i2am.storage.sources import source_of
from i2am.storage.strikes import StoreStrikes

__all__ = ["analyze_run"]

# What a single sample can raise, and the others need not.
_OF_ONE_SAMPLE: Final = (I2AMError, RuntimeError, OSError, ValueError)
# The bar counts parts of a sample, too: a whole one may take minutes.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
# What damage to one sample's files causes; any other error of the system says that storage fails.
_LOST_FILES: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


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
    weights: LayerWeights | None = None,
    effects: StoreLike | None = None,
    within: Within = "image",
    progress: bool = True,
    overwrite: bool = False,
    durable: bool = True,
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
    convention, normalisation, layers, steps, heads, guidance, time_groups, grid, weights, within
        As in `analyze`.
    effects : str, Path or zarr Store, optional
        What was measured on the run, for `weights`; by default the store beside the run.
    progress : bool
        Show a bar with rate and remaining time, and where a cluster's dashboard is.
    overwrite : bool
        Replace a maps store that was written with other options.
    durable : bool
        Whether a sample is complete only when it would outlive a power cut: its files are written
        out (fsync) before.

    Returns
    -------
    Path
        The maps store.

    Raises
    ------
    StoreError
        If the run is missing or has no such sample, or `out` is a URL or something else than such
        a maps store; at the end, when all others are done, if a sample cannot be read, or is so damaged
        that it was left out; or if weights are asked for and effects were not measured, or on another
        capture. After two
        samples in a row whose maps could not be read or written no further one is tried.
    AnalysisError
        If an option is unknown, a label was not captured, or the cluster does not answer.

    Examples
    --------
    >>> import i2am, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     print(store.name, list(i2am.open_maps(store)))
    maps.zarr ['truck']
    """
    check_options(convention, normalisation, grid, within)
    patterns = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    # Workers elsewhere may have another working folder.
    opened = open_run(run if scheduler is None else _absolute(run))
    chosen = _chosen(opened, samples)
    first, sample = _first_that_opens(opened, chosen)
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
    if within != "image":
        options["within"] = within
    if is_url(out):
        msg = f"Expected a local folder for the maps, got a URL, at {out}. Write them locally."
        raise StoreError(msg)
    check_can_hold_store(out)
    out = Path(out)
    measured = _measured(run, weights, effects, opened, chosen)
    # An error comes before anything is written.
    prepared = {first: plan_maps(sample, **options, **_own_effects(measured, first))}
    if measured is not None:
        options |= {"weights": weights, "effects": source_of(measured.path, out)}
    place = out if scheduler is None else out.resolve()
    with ExitStack() as opened_things:
        enter = partial(_entered, place, source_of(run, out), options, overwrite=overwrite)
        # What is wrong with a store is told before a cluster starts; one is made for one that answers.
        writer = opened_things.enter_context(enter()) if place.exists() else None
        executor = opened_things.enter_context(open_executor(scheduler, workers))
        writer = writer or opened_things.enter_context(enter())
        if progress and executor.dashboard:
            print(f"Dashboard: {executor.dashboard}", file=sys.stderr)  # noqa: T201
        with tqdm(
            desc="analyze", unit="sample", total=len(chosen), bar_format=_BAR, disable=not progress
        ) as bar:
            # Parts of samples do not add up to whole ones to the last digit.
            _Analysis(
                opened,
                zarr.open_group(writer.root, mode="r+"),
                options,
                executor,
                advance=lambda share: bar.update(min(share, len(chosen) - bar.n)),
                prepared=prepared,
                measured=measured,
                writer=writer,
                durable=durable,
            ).run(chosen)
    if samples is None and (damaged := sorted(opened.left_out)):
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        msg = (
            f"Expected every sample of the run, got all but {damaged[0]!r}{more}, which cannot be read, "
            f"at {run}. 'i2am repair' lists what must be captured again; the other maps are complete."
        )
        raise StoreError(msg)
    return out


@dataclass
class _Analysis:
    """Analyzes the samples of a run into a maps store."""

    opened: Run
    root: zarr.Group
    options: dict[str, Any]
    executor: Executor
    advance: ProgressCallback
    prepared: dict[str, Plan]
    measured: Effects | None
    writer: Writer
    durable: bool
    _started: deque[tuple[str, Source, Callable[[], None]]] = field(default_factory=deque)
    # The first alone: an error holds on to all that was in memory where it arose.
    _error: tuple[str, Exception] | None = None
    _failed: int = 0
    _strikes: StoreStrikes = field(default_factory=StoreStrikes)

    def run(self, samples: Mapping[str, Source]) -> None:
        """Analyze the unfinished samples; raise the first error at the end, when all others are done."""
        untried = set(samples)
        for name, source in samples.items():
            if self._strikes.is_out:
                break
            untried.remove(name)
            if self.measured is None and is_finished(self.root, name, source):
                self.advance(1.0)
                continue
            self._try(name, partial(self._start, name, source))
            while len(self._started) >= self.executor.max_started:
                self._finish_first()
        while self._started:
            self._finish_first()
        if self._error is not None:
            name, error = self._error
            others = f" So do {self._failed - 1} more." if self._failed > 1 else ""
            if untried:
                others += f" {len(untried)} more were not tried; a re-run goes on from here."
            raise _explained(error, name, self.opened, others) from error

    def _start(self, name: str, source: Source) -> None:
        if self.measured is not None:  # Measured again, a layer has another weight.
            source = replace(source, layer_weights=causal_weights(self.measured[name]))
            if is_finished(self.root, name, source):
                self.advance(1.0)
                return
        plan = self.prepared.pop(name, None)
        if plan is None:
            options = self.options | _own_effects(self.measured, name)
            plan = plan_maps(self.opened[name], **options)
        writes = start_sample(
            self.root,
            name,
            plan.maps,
            source,
            self.writer,
            by_block=None if not plan.layers else partial(write_blocks, plan),
            durable=self.durable,
        )
        self._started.append((name, source, self.executor.start(writes, self.advance)))

    def _finish_first(self) -> None:
        name, source, wait = self._started.popleft()

        def finish() -> None:
            wait()
            finish_sample(self.root, name, source, self.writer, durable=self.durable)
            self._strikes.done()

        self._try(name, finish)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except SampleTaken as e:  # Then it is analyzed all the same.
            with tqdm.external_write_mode(file=sys.stderr):
                warnings.warn(str(e), stacklevel=2)
            return
        except (I2AMError, RuntimeError, ValueError, *_LOST_FILES) as e:
            error: Exception = e
        except OSError as e:
            error = storage_error(e, e.filename or self.root.store_path / name)
        else:
            return
        self._error = self._error or (name, error)
        self._failed += 1
        self._strikes.failed(error)


def _measured(
    run: StoreLike,
    weights: LayerWeights | None,
    effects: StoreLike | None,
    opened: Run,
    samples: Iterable[str],
) -> Effects | None:
    """Return the effects by which layers are weighed, those of every sample; None without weights."""
    if weights is None:
        if effects is not None:
            msg = "Expected weights='causal' beside effects, got none, at weights. Give both."
            raise AnalysisError(msg)
        return None
    check_choice("weights", weights, LAYER_WEIGHTS, AnalysisError)
    found = effects_of(run, effects)
    for name in samples:
        check_same_capture(found, opened, name)
    return found


def _own_effects(measured: Effects | None, name: str) -> dict[str, Any]:
    return {} if measured is None else {"weights": "causal", "effects": measured[name]}


def _explained(error: Exception, name: str, run: Run, others: str) -> Exception:
    if isinstance(error, I2AMError):
        kind = StorageError if isinstance(error, StorageError) else StoreError
        return kind(f"{error}{others}") if others else error
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    msg = (
        f"Expected to read the sample and write its maps, got '{reason}', "
        f"at {name} of {run.path}.{others} Check both stores; a re-run goes on from here."
    )
    return StoreError(msg)


def _entered(out: Path, source: str, options: dict[str, Any], *, overwrite: bool) -> Writer:
    with reported_as_store_error(out):
        return open_output(out, source, options, overwrite=overwrite)


def _absolute(run: StoreLike) -> StoreLike:
    return Path(run).resolve() if isinstance(run, str | Path) and not is_url(run) else run


def _first_that_opens(run: Run, names: Iterable[str]) -> tuple[str, xr.DataTree]:
    """Return the first sample that can be opened; raise the first one's error if none can."""
    error: Exception | None = None
    for name in names:
        try:
            return name, run[name]
        except _OF_ONE_SAMPLE as e:
            error = error or e
    raise error or StoreError  # There are names.


def _chosen(run: Run, samples: Iterable[str] | None) -> dict[str, Source]:
    """Return what the maps of each chosen sample are made from, by its name."""
    if samples is not None:  # A long run is not listed for a few of its samples.
        names = list(dict.fromkeys(samples))
        chosen = {name: _source(run.attributes_of(name)) for name in names}
    else:
        chosen = {name: _source(own) for name, own in run.iter_attributes()}
    if not chosen:
        msg = f"Expected complete samples, got none, at {run.path}. Capture some first."
        raise StoreError(msg)
    return chosen


def _source(own: Mapping[str, Any]) -> Source:
    return Source(str(own.get("created")), own.get("contents"))
