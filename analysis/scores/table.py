"""The table of all scores of all samples, and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd
import xarray as xr

from i2am.analysis.intervals.bootstrap import DEFAULT_CONFIDENCE, check_confidence
from i2am.analysis.intervals.clusters import Clusters, mean_interval
from i2am.analysis.scores.imacs import check_weights
from i2am.analysis.scores.masks import is_within_mask, masks_of
from i2am.analysis.scores.registry import compute_score, known_scores
from i2am.analysis.scores.score import (
    DEFAULT_PENALTY,
    DEFAULT_THRESHOLD,
    ScoredMap,
    ScoreOptions,
)
from i2am.analysis.stores.reader import open_maps
from i2am.analysis.stores.related import run_of
from i2am.analysis.stores.tables import check_table_path, write_table
from i2am.schemas import AnalysisError, SchemaError, StoreError
from i2am.schemas.choices import POLARITIES, Polarity, check_choice
from i2am.schemas.directions import DIRECTIONS, R2G
from i2am.storage.addresses import StoreLike

__all__ = ["read_scores", "score_maps", "summarise_scores"]

_COLUMNS: Final = ("sample", "score", "value")


def score_maps(
    maps: StoreLike,
    *,
    run: StoreLike | None = None,
    out: str | Path | None = None,
    samples: Iterable[str] | None = None,
    penalty: float = DEFAULT_PENALTY,
    threshold: float = DEFAULT_THRESHOLD,
    polarity: Polarity = "direct",
    premask: bool = False,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Score every sample of a maps store and return one tidy table.

    Parameters
    ----------
    maps : str, Path or zarr Store
    run : str, Path or zarr Store, optional
        Where images and masks are; by default what the maps' ``source`` says, which is absolute or
        relative to the maps store.
    out : str or Path, optional
        A ``.csv`` or ``.parquet`` file to write the table to.
    samples : iterable of str, optional
        All by default.
    penalty, threshold, premask
        As in `imacs`; `premask` is for IMACS_r alone.
    polarity : "direct" or "inverted"
        Of R2G; G2R is always scored directly.
    overwrite : bool
        Whether `out` may exist.

    Returns
    -------
    DataFrame
        Columns sample, score, value. Scores: imacs_g, imacs_r, detection_iou and its baselines
        whole_image_iou and random_box_iou (the mean of 100 boxes); then of the ULAM of each
        direction, as `spread` defines them, r2g_entropy, r2g_concentration, r2g_inside and
        r2g_inside_chance, and the same of g2r; then those that were registered or that installed
        packages publish. A score that does not exist for a sample has no row: no mask, no G2R. Of maps
        within the inpainting mask G2R alone is scored, as R2G is 0 outside by its making.

    Raises
    ------
    StoreError
        If a store is missing or of the wrong kind, a sample is not there, the maps hold none, or
        `out` exists and `overwrite` is false.
    AnalysisError
        If an option is unknown, or `out` is neither CSV nor Parquet.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     maps = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     table = score_maps(maps)
    >>> list(table.columns), "imacs_g" in set(table["score"])
    (['sample', 'score', 'value'], True)
    """
    check_choice("polarity", polarity, POLARITIES, AnalysisError)
    check_weights(penalty, threshold)
    path = None if out is None else check_table_path(out, overwrite=overwrite)
    opened = open_maps(maps)
    captured = run_of(opened, run)
    rows = []
    for name in _each_once(opened if samples is None else samples):
        found = _scores(
            opened[name],
            captured[name],
            ScoreOptions(penalty, threshold, polarity, premask),
        )
        rows += [(name, score, value) for score, value in found]
    if not rows:
        msg = f"Expected complete samples, got none, at {maps}. Analyze some first."
        raise StoreError(msg)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    if path is not None:
        write_table(table, path)
    return table


def _each_once(names: Iterable[str]) -> Iterator[str]:
    """Yield each name the first time that it comes, when it is asked for."""
    seen: set[str] = set()
    for name in names:
        if name not in seen:
            seen.add(name)
            yield name


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read a table that `score_maps` wrote; sample names stay text.

    Parameters
    ----------
    path : str or Path
        A ``.csv`` or ``.parquet`` file.

    Returns
    -------
    DataFrame
        Columns sample (str), score (str) and value (float).

    Raises
    ------
    SchemaError
        If the file is not such a table.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     maps = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", samples=["truck"], progress=False)
    ...     table = score_maps(maps, out=f"{folder}/scores.csv")
    ...     print(len(read_scores(f"{folder}/scores.csv")) == len(table))
    True
    """
    try:
        is_parquet = Path(path).suffix == ".parquet"
        table = pd.read_parquet(path) if is_parquet else _read_csv(path)
        return table[list(_COLUMNS)].astype({"value": float})
    except (ValueError, KeyError) as e:
        reason = " ".join(str(e).split())
        msg = (
            f"Expected columns sample, score and value, got another table, at {path} ({reason}). "
            "Give one that 'i2am score --out' wrote."
        )
        raise SchemaError(msg) from e


def _read_csv(path: str | Path) -> pd.DataFrame:
    # A sample may be called "NA" or "007": neither a missing name nor a number.
    texts = dict.fromkeys(_COLUMNS[:2], str)
    missing = {_COLUMNS[2]: ["", "NA", "NaN", "nan"]}
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=missing)


def summarise_scores(
    table: pd.DataFrame,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Return each score's mean over the samples, with its confidence interval.

    Parameters
    ----------
    table : DataFrame, columns score, value and, for clusters, sample
        As `score_maps` gives it.
    confidence : float
        Of the interval, between 0 and 1.
    clusters : mapping of str to label, optional
        The cluster of each sample, as `sample_clusters` gives it: the interval draws samples of one
        together. By default each sample is alone.

    Returns
    -------
    DataFrame
        Indexed by score, in the table's order of scores; columns count, mean, std, and low and
        high: the bootstrap interval of the mean over samples, NaN for one sample or cluster alone.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample has no cluster.

    Examples
    --------
    >>> rows = [("a", "imacs_g", 0.5), ("b", "imacs_g", 0.1)]
    >>> table = pd.DataFrame(rows, columns=["sample", "score", "value"])
    >>> summarise_scores(table).round(2).to_dict("index")
    {'imacs_g': {'count': 2, 'mean': 0.3, 'std': 0.28, 'low': 0.1, 'high': 0.5}}
    """
    check_confidence(confidence)
    scores = table.groupby("score", sort=False)
    summary = scores["value"].agg(["count", "mean", "std"])
    summary[["low", "high"]] = [
        mean_interval(own, "value", confidence, clusters) for _, own in scores
    ]
    return summary


def _scores(
    maps: xr.DataTree, sample: xr.DataTree, options: ScoreOptions
) -> Iterator[tuple[str, float]]:
    """Yield the name and number of every score of one sample that exists."""
    ulam = {
        direction: maps.children[direction].dataset["ulam"].compute().to_numpy()
        for direction in DIRECTIONS
        if direction in maps.children and not (direction == R2G.name and is_within_mask(maps))
    }
    masks = masks_of(sample, maps)
    for score in known_scores():
        for direction, values in ulam.items():
            scored = ScoredMap(direction, values, masks.get(direction), sample, options)
            yield from compute_score(score, scored).items()
