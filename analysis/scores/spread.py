"""How attention spreads over a map: evenly or in few places, inside a mask or outside.

Maps of any level and with any leading dimensions; lazy in, lazy out. Each map is divided by its own
sum, so that normalisation changes no measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.scores.masks import area_mean, check_mask, mask_over
from i2am.analysis.scores.score import Score, ScoredMap, ScoreValue
from i2am.schemas import AnalysisError
from i2am.schemas.directions import DIRECTIONS, G2R, R2G

__all__ = ["MEASURES", "SCORE", "spread", "whole_maps"]

MEASURES: Final = ("entropy", "concentration", "inside", "chance")
# The share of the positions that counts as the brightest; what `concentration` is of an even map.
_BRIGHTEST: Final = 0.1


def spread(maps: xr.DataArray, mask: NDArray[Any] | xr.DataArray | None = None) -> xr.Dataset:
    """Return measures of how each map's attention spreads.

    Parameters
    ----------
    maps : DataArray, dims (…, y, x) or (…, reference_y, reference_x)
        Maps of any level, at least 0, in memory or lazy.
    mask : array or DataArray (image y, image x), 0..1, optional
        Where attention may belong; fractions count as weights. Where the maps' coordinates say that
        they lie over a part of the image, it is cut to that part, unless it has that part's size.

    Returns
    -------
    Dataset
        Over the leading dimensions, float32, lazy where `maps` are; NaN for maps that hold NaN, as
        those of heads that a layer lacks, and for maps without attention.

        - entropy: 0..1; 1 is even, 0 all in one place; NaN on a grid of one position.
        - concentration: the share of the attention in the brightest tenth of the positions,
          0.1..1; 0.1 is even. On fewer than ten positions it is at most a tenth of their number.
        - inside: the share of the attention inside the mask, 0..1; only with a mask.
        - chance: the mask's share of the area, which is what `inside` is of an even map; one value.

    Raises
    ------
    AnalysisError
        If the mask has other dimensions than two, or values beyond 0..1, or may lie elsewhere than
        the maps; or `maps` is no DataArray.

    Notes
    -----
    With p the map divided by its sum, over n positions: entropy is Shannon's, -sum(p log p), divided
    by log(n); concentration is the top-10 % share of p, where n / 10 is no whole number with the
    fitting part of the next position; inside is sum(p w), w the mask on the map's grid by exact
    means over the area of each position.

    Examples
    --------
    >>> corner = xr.DataArray([[1.0, 0.0], [0.0, 0.0]], dims=("y", "x"))
    >>> found = spread(corner, np.array([[1.0, 1.0], [0.0, 0.0]]))
    >>> {name: float(value) for name, value in found.items()}
    {'entropy': 0.0, 'concentration': 0.4..., 'inside': 1.0, 'chance': 0.5}
    """
    _check_maps(maps)
    plane = maps.dims[-2:]
    weights = None
    if mask is not None:
        over = check_mask(np.asarray(mask))
        weights = area_mean(mask_over(maps, over), (maps.shape[-2], maps.shape[-1]))
    names = MEASURES[: 2 if weights is None else 3]
    measures = xr.apply_ufunc(
        _measure,
        whole_maps(maps),
        input_core_dims=[plane],
        output_core_dims=[[]] * len(names),
        kwargs={"weights": weights},
        dask="parallelized",
        output_dtypes=[np.float32] * len(names),
    )
    found = xr.Dataset(dict(zip(names, measures, strict=True)))
    return found if weights is None else found.assign(chance=np.float32(weights.mean()))


def _check_maps(maps: object) -> None:
    if isinstance(maps, xr.DataArray) and maps.ndim >= 2:
        return
    if isinstance(maps, xr.DataTree | xr.Dataset):
        got, remedy = f"a {type(maps).__name__} of many", "Give one of them: maps['r2g/ulam']."
    elif isinstance(maps, xr.DataArray):
        got, remedy = f"one of dims {maps.dims}", "Its last two must be y and x."
    else:
        got = type(maps).__name__
        remedy = "Name its dims: xr.DataArray(values, dims=('y', 'x'))."
    msg = f"Expected a DataArray of maps (…, y, x), got {got}, at maps. {remedy}"
    raise AnalysisError(msg)


def whole_maps(maps: xr.DataArray) -> xr.DataArray:
    """Return lazy maps (…, y, x) in blocks of whole maps; maps in memory as they are."""
    if maps.chunks is None:
        return maps
    return maps.copy(data=maps.data.rechunk({maps.ndim - 2: -1, maps.ndim - 1: -1}))


def _measure(
    maps: NDArray[Any], *, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float32], ...]:
    """Return entropy, concentration and, with weights, the share inside, of maps (…, y, x)."""
    flat = maps.reshape(*maps.shape[:-2], -1)
    total = flat.sum(axis=-1, dtype=np.float64)
    total = np.where(total > 0, total, np.nan)
    count = flat.shape[-1]
    logs = np.log(flat, out=np.zeros_like(flat), where=flat > 0)
    nats = np.log(total) - (flat * logs).sum(axis=-1, dtype=np.float64) / total
    measures = [nats / (math.log(count) if count > 1 else math.nan), _brightest(flat) / total]
    if weights is not None:
        measures.append(flat @ weights.ravel() / total)
    # Rounding must not leave the range.
    return tuple(np.clip(measure, 0, 1).astype(np.float32) for measure in measures)


def _brightest(flat: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum over the brightest tenth of the positions (…, n), the last one in part."""
    wanted = flat.shape[-1] * _BRIGHTEST
    whole = math.floor(wanted)
    last = flat.shape[-1] - 1 - whole
    ordered = np.partition(flat, last, axis=-1)
    part = ordered[..., last] * (wanted - whole)
    brightest: NDArray[np.float64] = ordered[..., last + 1 :].sum(axis=-1, dtype=np.float64) + part
    return brightest


def _compute(scored: ScoredMap) -> Iterator[tuple[str, float]]:
    plane = DIRECTIONS[scored.direction].plane
    for measure, value in spread(xr.DataArray(scored.values, dims=plane), scored.mask).items():
        name = "inside_chance" if measure == "chance" else measure
        if not np.isnan(value):
            yield f"{scored.direction}_{name}", float(value)


SCORE: Final = Score(
    "spread",
    "How attention spreads over a map: evenly or in few places, inside the mask or outside.",
    _compute,
    (
        ScoreValue(
            "r2g_inside",
            "The share of R2G attention inside the inpainting mask.",
            R2G.name,
            "inside the mask",
            better="high",
            chance="r2g_inside_chance",
        ),
        ScoreValue(
            "r2g_inside_chance",
            "For comparison: the mask's share of the area.",
            R2G.name,
            "by chance",
            is_baseline=True,
        ),
        ScoreValue(
            "r2g_entropy",
            "How even R2G is: 1 is even, 0 all in one place.",
            R2G.name,
            "entropy",
            chance=1.0,
        ),
        ScoreValue(
            "r2g_concentration",
            "R2G attention in the brightest tenth of the map: 0.1 is even.",
            R2G.name,
            "concentration",
            chance=0.1,
        ),
        ScoreValue(
            "g2r_inside",
            "The share of G2R attention on the reference's object.",
            G2R.name,
            "inside the mask",
            better="high",
            chance="g2r_inside_chance",
        ),
        ScoreValue(
            "g2r_inside_chance",
            "For comparison: the object's share of the reference's area.",
            G2R.name,
            "by chance",
            is_baseline=True,
        ),
        ScoreValue(
            "g2r_entropy",
            "How even G2R is: 1 is even, 0 all in one place.",
            G2R.name,
            "entropy",
            chance=1.0,
        ),
        ScoreValue(
            "g2r_concentration",
            "G2R attention in the brightest tenth of the map: 0.1 is even.",
            G2R.name,
            "concentration",
            chance=0.1,
        ),
    ),
)
