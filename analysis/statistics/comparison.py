"""Compare two runs sample by sample: with and without guidance, or two models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import dask
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from i2am.analysis.intervals.bootstrap import DEFAULT_CONFIDENCE, check_confidence
from i2am.analysis.intervals.clusters import Clusters, mean_interval
from i2am.analysis.scores.imacs import imacs
from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import spread
from i2am.analysis.statistics.differences import Pair, agreement, matching_levels
from i2am.analysis.statistics.over_time import timesteps_of
from i2am.analysis.statistics.run_pair import RunPair, SampleWithMaps, lie_alike
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["compare_runs", "compare_sample", "summarise_comparison"]

_COLUMNS: Final = ("sample", "direction", "level", "label", "measure", "a", "b", "difference")
_KEYS: Final = list(_COLUMNS[1:5])
# The maps of each level of the table, and the dimension of its labels.
_LEVELS: Final = {
    "ulam": ("ulam", None),
    "layer": ("llam", LAYER),
    "head": ("hlam", HEAD),
    "step": ("by_step", STEP),
}
_MEASURES: Final = ("inside", "entropy", "concentration")


def compare_runs(pair: RunPair, *, by_step: bool = False, progress: bool = False) -> pd.DataFrame:
    """Compare every pair of samples.

    Parameters
    ----------
    pair : RunPair
        As `pair_runs` gives it.
    by_step : bool
        Compare every denoising step, too, which reads the volumes.
    progress : bool
        Show a bar over the samples.

    Returns
    -------
    DataFrame
        One row for each sample, direction, level, label and measure; columns sample, direction,
        level, label, measure, a, b and difference, which is b - a.

        - level "ulam" has the label "all"; "layer" a row for each layer that both name; "head" a
          row for each head that both have, if their layers are all the same; "step", where `by_step`,
          one for each step, if the two have the same timesteps: the mean over layers and heads.
        - measures: inside, entropy and concentration, as in `spread`, each map on its own grid;
          for ulam also imacs_g or imacs_r, with their defaults; and of the two maps themselves
          correlation and total_variation, as in `agreement`: these have neither a nor b, and stand
          in `difference`. They do not exist where the models saw other parts of the image.

        A measure that does not exist in both has no row.

    Examples
    --------
    >>> import i2am
    >>> from i2am.analysis import pair_runs
    >>> table = compare_runs(pair_runs(i2am.DEMO_RUN, i2am.DEMO_RUN, samples=["truck"]))
    >>> bool(table.query("measure == 'concentration'")["difference"].abs().max() < 1e-6)
    True
    """
    opened = tqdm(
        pair.opened(), "compare", total=len(pair.names), unit="sample", disable=not progress
    )
    parts = [compare_sample(*each, by_step=by_step) for each in opened]
    return pd.concat(parts, ignore_index=True)


def summarise_comparison(
    table: pd.DataFrame,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Return the mean of each measure over the samples, with the interval of its difference.

    Parameters
    ----------
    table : DataFrame
        As `compare_runs` gives it.
    confidence : float
        Of the interval, between 0 and 1.
    clusters : mapping of str to label, optional
        The cluster of each pair, as `sample_clusters` gives it of run A: the interval draws pairs of one
        together. By default each pair is alone.

    Returns
    -------
    DataFrame
        One row for each direction, level, label and measure, in the table's order; columns
        direction, level, label, measure, n, mean_a, mean_b, mean_difference, low and high: the
        paired bootstrap interval of the mean difference, NaN for one sample alone.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample has no cluster.

    Examples
    --------
    >>> row = {"direction": "r2g", "level": "ulam", "label": "all", "measure": "inside"}
    >>> table = pd.DataFrame([row | {"a": a, "b": a + 0.5, "difference": 0.5} for a in (0.0, 0.25)])
    >>> summarise_comparison(table)[["n", "mean_a", "mean_b", "low", "high"]].to_numpy().tolist()
    [[2.0, 0.125, 0.625, 0.5, 0.5]]
    """
    check_confidence(confidence)
    groups = table.groupby(_KEYS, sort=False)
    summary = groups.agg(
        n=("difference", "count"),
        mean_a=("a", "mean"),
        mean_b=("b", "mean"),
        mean_difference=("difference", "mean"),
    )
    summary[["low", "high"]] = [
        mean_interval(own, "difference", confidence, clusters) for _, own in groups
    ]
    return summary.reset_index()


def compare_sample(
    name: str, a: SampleWithMaps, b: SampleWithMaps, *, by_step: bool = False
) -> pd.DataFrame:
    """Return the rows of `compare_runs` of one pair of samples, as `RunPair.opened` gives it."""
    masks = masks_of(*a), masks_of(*b)
    shared: list[DirectionName] = [
        d for d in DIRECTIONS if d in a.maps.children and d in b.maps.children
    ]
    of_steps = _step_maps(a, b, shared) if by_step else {}
    rows = [
        (name, direction, *row)
        for direction in shared
        for row in _direction_rows(
            direction,
            matching_levels(a.maps[direction].to_dataset(), b.maps[direction].to_dataset())
            | ({"by_step": of_steps[direction]} if direction in of_steps else {}),
            [own.get(direction) for own in masks],
            are_alike=lie_alike(a, b, direction),
        )
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).dropna(subset="difference")


def _step_maps(
    a: SampleWithMaps, b: SampleWithMaps, directions: list[DirectionName]
) -> dict[DirectionName, Pair]:
    """Return the mean over layers and heads at each step; nothing where the timesteps differ."""
    if not np.array_equal(timesteps_of(*a), timesteps_of(*b)):
        return {}
    lazy = [
        {d: own.maps[d].dataset["volume"].mean((LAYER, HEAD)) for d in directions} for own in (a, b)
    ]
    # One sample's directions together: they share what they are computed from.
    of_a, of_b = (dask.compute(own)[0] for own in lazy)
    return {d: (of_a[d], of_b[d]) for d in directions}


def _direction_rows(
    direction: DirectionName,
    matching: Mapping[str, Pair],
    masks: list[NDArray[np.float64] | None],
    *,
    are_alike: bool,
) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Yield level, label, measure, a, b and difference."""
    for level, (name, dim) in _LEVELS.items():
        if name not in matching:
            continue
        of_a, of_b = matching[name]
        labels = ["all"] if dim is None else [str(label) for label in of_a[dim].values]
        both = [spread(own, mask) for own, mask in zip((of_a, of_b), masks, strict=True)]
        measured = {
            measure: [_values(own[measure]) for own in both]
            for measure in _MEASURES
            if all(measure in own for own in both)
        }
        if dim is None and masks[0] is not None and masks[1] is not None:
            scores = imacs(of_a.to_numpy(), masks[0]), imacs(of_b.to_numpy(), masks[1])
            measured[DIRECTIONS[direction].imacs] = [np.array([score]) for score in scores]
        similarity = {
            str(key): _values(found)
            for key, found in (agreement(of_a, of_b).items() if are_alike else ())
        }
        for row, label in enumerate(labels):
            for measure, (x, y) in measured.items():
                yield level, label, measure, x[row], y[row], y[row] - x[row]
            for measure, z in similarity.items():
                yield level, label, measure, math.nan, math.nan, z[row]


def _values(found: xr.DataArray) -> NDArray[np.float64]:
    return np.atleast_1d(found.to_numpy().astype(np.float64))
