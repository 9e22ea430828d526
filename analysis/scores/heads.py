"""How each head of each layer spreads its attention, at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import dask
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import MEASURES, spread
from i2am.analysis.stores.reader import open_maps
from i2am.analysis.stores.related import run_of
from i2am.analysis.stores.tables import check_table_path, writing_table
from i2am.schemas import StoreError
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.directions import DIRECTIONS
from i2am.storage.addresses import StoreLike

__all__ = ["head_scores", "iter_head_scores", "write_head_scores"]

_DIRECTION: Final = "direction"
_COLUMNS: Final = ("sample", _DIRECTION, LAYER, STEP, HEAD, *MEASURES)


def head_scores(
    maps: StoreLike, *, run: StoreLike | None = None, samples: Iterable[str] | None = None
) -> pd.DataFrame:
    """Return how every head spreads its attention, at every step.

    The table of a long run is large; `write_head_scores` has one sample of it in memory at a time.

    Parameters
    ----------
    maps : str, Path or zarr Store
    run : str, Path or zarr Store, optional
        Where the masks are; by default what the maps' ``source`` says.
    samples : iterable of str, optional
        All by default.

    Returns
    -------
    DataFrame
        One row for each sample, direction, layer, step and head that there is; columns sample,
        direction, layer, step, head, and float32 entropy, concentration, inside and chance, as
        `spread` defines them. The last two are NaN where the sample has no mask.

    Raises
    ------
    StoreError
        If a store is missing or of the wrong kind, or a sample is not there.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     maps = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     heads = head_scores(maps)
    >>> bool((heads["concentration"] > 0).all()), sorted(heads["direction"].unique())
    (True, ['g2r', 'r2g'])
    """
    return pd.concat(iter_head_scores(maps, run=run, samples=samples), ignore_index=True)


def iter_head_scores(
    maps: StoreLike,
    *,
    run: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    progress: bool = False,
) -> Iterator[pd.DataFrame]:
    """Yield the rows of `head_scores` sample by sample; each is computed on demand."""
    opened = open_maps(maps)
    captured = run_of(opened, run)
    names = list(opened if samples is None else dict.fromkeys(samples))
    if not names:
        msg = f"Expected complete samples, got none, at {maps}. Analyze some first."
        raise StoreError(msg)
    for name in tqdm(names, desc="heads", unit="sample", disable=not progress):
        yield _of_sample(name, captured[name], opened[name])


def write_head_scores(
    maps: StoreLike,
    out: str | Path,
    *,
    run: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Write the table of `head_scores` sample by sample, and return the heads ranked by concentration.

    Parameters
    ----------
    maps, run, samples
        As in `head_scores`.
    out : str or Path
        A ``.csv`` or ``.parquet`` file; one row group a sample.
    progress : bool
        Show a bar over the samples.
    overwrite : bool
        Whether `out` may exist.

    Returns
    -------
    DataFrame
        One row for each direction, layer and head, with the means of entropy, concentration, inside
        and chance over samples and steps; in each direction the most concentrated first.

    Raises
    ------
    StoreError
        As `head_scores`, or if `out` exists and `overwrite` is false.
    AnalysisError
        If `out` is neither CSV nor Parquet.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     maps = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     ranked = write_head_scores(maps, f"{folder}/heads.csv", progress=False)
    >>> bool(ranked.query("direction == 'r2g'")["concentration"].is_monotonic_decreasing)
    True
    """
    path = check_table_path(out, overwrite=overwrite)
    parts = iter_head_scores(maps, run=run, samples=samples, progress=progress)
    tally = pd.DataFrame()
    with writing_table(path) as write:
        for part in parts:
            write(part)
            added = _tally(part)
            tally = added if tally.empty else tally.add(added, fill_value=0)
    means: pd.DataFrame = (tally["sum"] / tally["count"]).reset_index()
    # Descending, "r2g" comes before "g2r".
    return means.sort_values([_DIRECTION, "concentration"], ascending=False, ignore_index=True)


def _tally(part: pd.DataFrame) -> pd.DataFrame:
    """Return each head's sums and counts, which add up over samples."""
    by_head = part.groupby([_DIRECTION, LAYER, HEAD], sort=False)[list(MEASURES)]
    return pd.concat({"sum": by_head.sum().astype(float), "count": by_head.count()}, axis=1)


def _of_sample(name: str, sample: xr.DataTree, maps: xr.DataTree) -> pd.DataFrame:
    masks = masks_of(sample, maps)
    directions = [direction for direction in DIRECTIONS if direction in maps.children]
    lazy = [spread(maps[each].dataset["volume"], masks.get(each)) for each in directions]
    frames: list[pd.DataFrame] = []
    # Together, so that maps which are computed on the way are computed once.
    for direction, found in zip(directions, dask.compute(*lazy), strict=True):
        frame = found.to_dataframe(dim_order=[LAYER, STEP, HEAD]).reset_index()
        frame = frame.assign(sample=name, direction=direction).reindex(columns=list(_COLUMNS))
        frames.append(frame.dropna(subset="concentration"))
    table: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return table.astype(dict.fromkeys(MEASURES, "float32"))
