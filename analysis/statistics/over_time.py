"""Attention over denoising: how much of it lies inside a mask at each step, over the samples of a run."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.intervals.bootstrap import (
    DEFAULT_CONFIDENCE,
    bootstrap_mean_interval,
    check_confidence,
)
from i2am.analysis.intervals.clusters import Clusters, cluster_labels, sample_clusters
from i2am.analysis.maps.analyze import maps_of
from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import spread
from i2am.analysis.stores.reader import Maps, Run, open_maps, open_root, open_run
from i2am.analysis.stores.related import find_maps, run_of
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.dims import HEAD, LAYER, STEP, TIMESTEP
from i2am.schemas.directions import DIRECTIONS, R2G, DirectionName
from i2am.storage.addresses import StoreLike, own_attributes

__all__ = ["Samples", "evolution", "timesteps_of"]

SAMPLE: Final = "sample"
DIRECTION: Final = "direction"
Samples = Mapping[str, xr.DataTree]
Mask = NDArray[Any] | xr.DataArray
Shares = dict[DirectionName, tuple[NDArray[np.float64], float]]


def evolution(
    run: StoreLike | Samples,
    maps: StoreLike | Samples | None = None,
    *,
    inside: Mask | Mapping[str, Mask] | None = None,
    direction: DirectionName | None = None,
    samples: Iterable[str] | None = None,
    layers: str | Iterable[str] | None = None,
    heads: int | Iterable[int] | None = None,
    cluster: str | Clusters = "picture",
    confidence: float = DEFAULT_CONFIDENCE,
) -> xr.Dataset:
    """Return the share of attention inside a mask at each denoising step: mean over samples, interval.

    Parameters
    ----------
    run : str, Path, zarr Store, or Mapping of str to DataTree
        A run, or a maps store, which brings its run.
    maps : str, Path, zarr Store, or Mapping of str to DataTree, optional
        By default those beside the run; samples that they lack are analyzed on demand.
    inside : array (y, x), 0..1, or mapping of sample to such an array, optional
        Of the size of the image that the maps lie over. By default the stored masks: the inpainting mask
        for R2G, the reference's for G2R.
    direction : "r2g" or "g2r", optional
        By default both, or with `inside` "r2g".
    samples : iterable of str, optional
        By default all. Those without a mask, or with other timesteps than the first, are left out.
    layers : str or iterable of str, optional
        Names or glob patterns; all by default.
    heads : int or iterable of int, optional
        Labels; all by default.
    cluster : str or mapping of sample to label
        Which samples the interval draws together, as `by` of `sample_clusters`: by default those of the
        same pictures under several seeds.
    confidence : float
        Of the interval, between 0 and 1.

    Returns
    -------
    Dataset
        In memory, over ``step``, with the coordinate ``timestep`` of the scheduler; over ``direction``, too,
        where none was named. Shares are 0..1, of each map's own attention.

        - mean, low, high (step): over the samples, and the bootstrap interval of it, NaN of one alone.
        - share (sample, step): of each sample, NaN where it has no mask; ``cluster`` is a coordinate.
        - chance: the mask's share of the area, mean over samples: what an even map has.
        - count: of samples.

    Raises
    ------
    AnalysisError
        If no sample has a mask, a layer or head is not there, a mask does not fit, or `confidence` is
        not between 0 and 1.
    StoreError
        If a store is missing or of the wrong kind, or a sample is not there.

    Notes
    -----
    The share is ``inside`` of `spread`, of the mean of the volume over the selected layers and heads.

    Examples
    --------
    >>> import i2am
    >>> curve = evolution(i2am.DEMO_RUN, direction="r2g")
    >>> dict(curve["share"].sizes), int(curve["count"])
    ({'sample': 3, 'step': 10}, 3)
    >>> bool((curve["mean"] > curve["chance"]).all())  # more inside than by its area, at every step
    True
    """
    check_confidence(confidence)
    captured, mapped = _run_and_maps(run, maps)
    wanted = _directions(direction, has_mask=inside is not None)
    names = list(captured if samples is None else dict.fromkeys(samples))
    found: dict[str, Shares] = {}
    steps: xr.DataArray | None = None
    for name in names:  # One sample in memory at a time.
        sample, of_sample = captured[name], mapped[name]
        own = timesteps_of(sample, of_sample)
        steps = own if steps is None else steps
        if not np.array_equal(own, steps):
            continue
        masks = _masks(sample, of_sample, inside, wanted, name)
        if shares := _shares(of_sample, masks, layers, heads):
            found[name] = shares
    if not found or steps is None:
        msg = (
            f"Expected a sample with an inpainting mask or a reference's mask, got {len(names)} without, "
            "at samples. Capture them with recording.add_images(…, inpainting_mask=mask)."
        )
        raise AnalysisError(msg)
    labels = _clusters(captured, list(found), cluster)
    curves = _curves(found, [d for d in wanted if any(d in own for own in found.values())], labels)
    curves = _with_interval(curves, confidence).assign_coords(
        {STEP: steps[STEP], TIMESTEP: (STEP, steps.to_numpy())}
    )
    return curves if direction is None and inside is None else curves.squeeze(DIRECTION)


def timesteps_of(sample: xr.DataTree, maps: xr.DataTree) -> xr.DataArray:
    """Return the scheduler's timestep of each step that a sample's maps hold, dims (step,)."""
    (first, *_) = (maps.children[d] for d in DIRECTIONS if d in maps.children)
    own: xr.DataArray = sample.dataset[TIMESTEP].sel({STEP: first.dataset["volume"][STEP].values})
    return own.astype(np.float64)


def _run_and_maps(
    run: StoreLike | Samples, maps: StoreLike | Samples | None
) -> tuple[Samples, Samples]:
    """Return the samples, and the maps of each."""
    if not isinstance(run, Mapping):
        is_maps = own_attributes(open_root(run)).get("kind") == "maps"
        run = open_maps(run) if is_maps else open_run(run)
    if isinstance(run, Maps):
        return run_of(run), run
    if isinstance(maps, Mapping):
        return run, maps
    if maps is None and isinstance(run, Run) and isinstance(run.path, str | Path):
        maps = find_maps(run.path)
    return run, maps_of(run, maps)


def _directions(direction: DirectionName | None, *, has_mask: bool) -> list[DirectionName]:
    if direction is None:
        return [R2G.name] if has_mask else list(DIRECTIONS)
    if direction not in DIRECTIONS:
        hint = did_you_mean(str(direction), DIRECTIONS)
        msg = f"Expected 'r2g' or 'g2r', got {direction!r}, at direction. {hint}"
        raise AnalysisError(msg)
    return [direction]


def _masks(
    sample: xr.DataTree,
    maps: xr.DataTree,
    inside: Mask | Mapping[str, Mask] | None,
    wanted: list[DirectionName],
    name: str,
) -> dict[DirectionName, Mask]:
    if inside is None:
        stored = masks_of(sample, maps)
        return {d: stored[d] for d in wanted if d in stored}
    own = inside.get(name) if isinstance(inside, Mapping) else inside
    return {} if own is None else dict.fromkeys(wanted, own)


def _shares(
    maps: xr.DataTree,
    masks: Mapping[DirectionName, Mask],
    layers: str | Iterable[str] | None,
    heads: int | Iterable[int] | None,
) -> Shares:
    """Return each direction's share inside its mask at every step, and the mask's share of the area."""
    lazy = {
        direction: _selected(maps.children[direction].dataset["volume"], layers, heads, maps.name)
        for direction in masks
        if direction in maps.children
    }
    # Together, so that maps which are computed on the way are computed once.
    (computed,) = dask.compute(lazy)
    found: Shares = {}
    for direction, by_step in computed.items():
        measures = spread(by_step, masks[direction])
        shares = measures["inside"].to_numpy().astype(np.float64)
        found[direction] = shares, float(measures["chance"])
    return found


def _selected(
    volume: xr.DataArray,
    layers: str | Iterable[str] | None,
    heads: int | Iterable[int] | None,
    sample: object,
) -> xr.DataArray:
    """Return the mean of a volume over the selected layers and heads."""
    chosen: dict[str, list[Any]] = {}
    for dim, wanted in ((LAYER, layers), (HEAD, heads)):
        if wanted is None:
            continue
        known = volume[dim].values.tolist()
        labels = [wanted] if isinstance(wanted, str | int) else list(wanted)
        chosen[dim] = [
            own for own in known if any(fnmatch.fnmatch(str(own), str(label)) for label in labels)
        ]
        if not chosen[dim]:
            msg = f"Expected a {dim} of the maps, got {wanted!r}, at {sample or 'sample'}. "
            raise AnalysisError(
                msg + did_you_mean(str(labels[0]) if labels else "", map(str, known))
            )
    return volume.sel(chosen).mean((LAYER, HEAD))


def _clusters(run: Samples, names: list[str], cluster: str | Clusters) -> list[str]:
    if isinstance(cluster, Mapping):
        return [str(label) for label in cluster_labels(names, cluster)]
    if isinstance(run, Run):
        return list(sample_clusters(run, names, cluster).values())
    return names  # Samples without a store tell no more than their names.


def _curves(
    found: Mapping[str, Shares], directions: list[DirectionName], clusters: list[str]
) -> xr.Dataset:
    """Return the shares of each sample, and what an even map would have."""
    count = len(next(iter(next(iter(found.values())).values()))[0])
    missing = np.full(count, np.nan), np.nan
    shares = [[own.get(d, missing)[0] for own in found.values()] for d in directions]
    chances = [[own.get(d, missing)[1] for own in found.values()] for d in directions]
    return xr.Dataset(
        {
            "share": ((DIRECTION, SAMPLE, STEP), np.array(shares)),
            "chance": (DIRECTION, np.nanmean(np.array(chances), axis=1)),
            "count": (DIRECTION, np.isfinite(np.array(chances)).sum(axis=1)),
        },
        {DIRECTION: directions, SAMPLE: list(found), "cluster": (SAMPLE, clusters)},
    )


def _with_interval(curves: xr.Dataset, confidence: float) -> xr.Dataset:
    labels = curves["cluster"].values.tolist()

    def ends(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(bootstrap_mean_interval(shares, confidence, labels))

    share = curves["share"]
    interval = xr.apply_ufunc(
        ends, share, input_core_dims=[[SAMPLE]], output_core_dims=[["end"]], vectorize=True
    )
    for name, long_name in (
        ("mean", "mean share of attention inside the mask"),
        ("low", f"low end of its {confidence:.0%} interval"),
        ("high", f"high end of its {confidence:.0%} interval"),
    ):
        values = share.mean(SAMPLE) if name == "mean" else interval.isel(end=int(name == "high"))
        curves[name] = values.assign_attrs(long_name=long_name)
    return curves
