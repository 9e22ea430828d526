"""Scores on maps: whether attention keeps to the mask, boxes the painted thing, or gathers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from i2am.analysis.scores.bootstrap import (
    DEFAULT_CONFIDENCE,
    bootstrap_mean_interval,
    check_confidence,
)
from i2am.analysis.scores.detection import bounding_box, detection_scores
from i2am.analysis.scores.imacs import (
    DEFAULT_PENALTY,
    DEFAULT_THRESHOLD,
    imacs,
    normalise,
    with_polarity,
)
from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import spread
from i2am.analysis.stores.reader import open_maps
from i2am.analysis.stores.related import run_of
from i2am.analysis.stores.tables import check_table_path, write_table
from i2am.schemas import AnalysisError, SchemaError, StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.choices import POLARITIES, Polarity, check_choice
from i2am.schemas.directions import DIRECTIONS
from i2am.storage import StoreLike

__all__ = ["read_scores", "score_maps", "summarise_scores"]


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
        r2g_inside_chance, and the same of g2r. A score that does not exist for a sample has no row:
        no mask, no G2R.

    Raises
    ------
    StoreError
        If a store is missing or of the wrong kind, a sample is not there, the maps hold none, or
        `out` exists and `overwrite` is false.
    AnalysisError
        If an option is unknown, or `out` is neither CSV nor Parquet.
    """
    check_choice("polarity", polarity, POLARITIES, AnalysisError)
    path = None if out is None else check_table_path(out, overwrite=overwrite)
    opened = open_maps(maps)
    captured = run_of(opened, run)
    rows = []
    for name in opened if samples is None else samples:
        found = _scores(
            opened[name],
            captured[name],
            penalty=penalty,
            threshold=threshold,
            polarity=polarity,
            premask=premask,
        )
        rows += [(name, score, value) for score, value in found]
    if not rows:
        msg = f"Expected complete samples, got none, at {maps}. Analyze some first."
        raise StoreError(msg)
    table = pd.DataFrame(rows, columns=["sample", "score", "value"])
    if path is not None:
        write_table(table, path)
    return table


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read a table that `score_maps` wrote; sample names stay text.

    Raises
    ------
    SchemaError
        If the file is not such a table.
    """
    try:
        is_parquet = Path(path).suffix == ".parquet"
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, dtype={"sample": str})
        return table[["sample", "score", "value"]]
    except (ValueError, KeyError) as e:
        msg = f"Expected columns sample, score and value, got another table, at {path} ({e})."
        raise SchemaError(msg) from e


def summarise_scores(table: pd.DataFrame, confidence: float = DEFAULT_CONFIDENCE) -> pd.DataFrame:
    """Return each score's mean over the samples and how sure it is.

    Parameters
    ----------
    table : DataFrame, columns score and value
        As `score_maps` gives it.
    confidence : float
        Of the interval, between 0 and 1.

    Returns
    -------
    DataFrame
        Indexed by score, in the table's order of scores; columns count, mean, std, and low and
        high: the bootstrap interval of the mean over samples, NaN for one sample alone.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1.
    """
    check_confidence(confidence)
    values = table.groupby("score", sort=False)["value"]
    summary = values.agg(["count", "mean", "std"])
    ends = [bootstrap_mean_interval(of_score, confidence) for _, of_score in values]
    summary[["low", "high"]] = ends
    return summary


def _scores(
    maps: xr.DataTree,
    sample: xr.DataTree,
    *,
    penalty: float,
    threshold: float,
    polarity: Polarity,
    premask: bool,
) -> Iterator[tuple[str, float]]:
    """Yield the scores of one sample that exist."""
    options: dict[str, Any] = {"penalty": penalty, "threshold": threshold}
    ulam = {direction: node.dataset["ulam"].compute() for direction, node in maps.children.items()}
    masks = masks_of(sample, maps)
    r2g, mask = ulam["r2g"].to_numpy(), masks.get("r2g")
    if mask is not None:
        yield "imacs_g", imacs(r2g, mask, polarity=polarity, **options)
    if "g2r" in masks:
        yield "imacs_r", imacs(ulam["g2r"].to_numpy(), masks["g2r"], premask=premask, **options)
    box = sample.attrs[ATTRIBUTE_KEY].get("box") or (None if mask is None else bounding_box(mask))
    if box is not None:
        heat = with_polarity(normalise(r2g.astype(np.float64)), polarity)
        yield from detection_scores(sample, heat, box)
    for direction in DIRECTIONS:
        if direction in ulam:
            found = spread(ulam[direction], masks.get(direction))
            for measure, value in found.items():
                name = "inside_chance" if measure == "chance" else measure
                if not np.isnan(value):
                    yield f"{direction}_{name}", float(value)
