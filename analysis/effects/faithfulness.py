"""Do the maps tell what matters: maps against measured effects, beside baselines that know nothing.

A map says what a patch reads; a measured effect says what changes when it cannot be read any more. Where
the two rank the regions of the reference alike, the map may be believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.effects.region_masses import (
    mean_over_layers,
    nearness,
    object_patches,
    region_masses,
)
from i2am.analysis.intervals.bootstrap import (
    DEFAULT_CONFIDENCE,
    check_confidence,
)
from i2am.analysis.intervals.clusters import Clusters, mean_interval
from i2am.analysis.kernel.resize import Grid
from i2am.analysis.stores.effects import (
    NO_EFFECT_SHARE,
    causal_weights,
    check_same_capture,
    effect_share,
)
from i2am.analysis.stores.reader import open_run
from i2am.analysis.stores.related import effects_of
from i2am.analysis.stores.tables import check_table_path, write_table
from i2am.schemas import AnalysisError, StoreError
from i2am.schemas.choices import EFFECT_KINDS, EffectKind, check_choice
from i2am.schemas.dims import COUNT, CUT, CUT_BOX, GENERATED_PLANE, LAYER, ORDER
from i2am.storage.addresses import StoreLike

__all__ = [
    "BASELINES",
    "EFFECT_SCORES",
    "ComparedSample",
    "compare_with_effects",
    "curve_shares",
    "object_or_changed",
    "score_effects",
    "summarise_effect_scores",
]

BASELINES: Final = ("random", "uniform", "position", "randomised")
EFFECT_SCORES: Final = {
    "rank_correlation": "Spearman's rank correlation of a patch's attention to the regions with what "
    "cutting each does to the patch; mean over the object's patches. 1: the same order, 0: none.",
    "same_peak": "The share of the object's patches whose most read region is the one that matters most.",
    "near_peak": "The same, where the two may be neighbours.",
    "g2r_rank_correlation": "The rank correlation over the regions, both summed over the object.",
    "deletion_area": "The area under the effect when regions are cut in the map's order, as share of the "
    "effect of cutting all. High: what the map names first matters first.",
    "insertion_area": "The area under the effect when all but the map's first regions are cut. Low is good.",
    "share_of_effect": "The effect of cutting the layer's whole reference, as share of cutting it in all "
    f"layers. Below {NO_EFFECT_SHARE:g} the layer has no effect, whatever its map shows.",
}
MEAN: Final = "mean"
CAUSAL: Final = "causal"
MEAN_RANK: Final = "mean rank"
CAUSAL_RANK: Final = "causal rank"

_COLUMNS: Final = ("sample", "map", "score", "value")
_EFFECTS: Final = {"total": "region", "direct": "direct_region", "occlusion": "occlusion"}
_CEILINGS: Final = {"total": "ceiling", "direct": "direct_ceiling", "occlusion": "ceiling"}
# Curves are stored under the names of orders; the default order is by the mean map.
_MAP_OF_ORDER: Final = {"map": MEAN}
_PAIRS: Final = ((CAUSAL, MEAN), (CAUSAL_RANK, MEAN_RANK))
_PAIRED: Final = ("rank_correlation", "same_peak", "near_peak", "g2r_rank_correlation")
_AREA_DECIMALS: Final = 9
_TOUCHING_PX: Final = 1e-6

Floats = NDArray[np.float64]


def score_effects(
    run: StoreLike,
    effects: StoreLike | None = None,
    *,
    samples: Iterable[str] | None = None,
    kind: EffectKind = "total",
    layers: str | Iterable[str] | None = None,
    randomised: StoreLike | None = None,
    objects: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Compare the maps of each sample with its measured effects, and return one tidy table.

    Parameters
    ----------
    run : str, Path or zarr Store
        The captured run.
    effects : str, Path or zarr Store, optional
        What ``i2am causal`` measured on it; by default the store beside the run.
    samples : iterable of str, optional
        All that were measured, by default.
    kind : "total", "direct" or "occlusion"
        Which effect of the regions: of cutting them in a free run, in one that is held on its way, or of
        painting them over in the picture.
    layers : str or iterable of str, optional
        Names or patterns; by default all that have SRAM.
    randomised : str, Path or zarr Store, optional
        A run of the same samples by the same model with random weights.
    objects : mapping of sample to mask (y, x) of bool, optional
        The object, in pixels of the stored generated image, where the inpainting mask does not mark it, or
        more than it.
    seed : int
        Of the random baseline.
    out : str or Path, optional
        A ``.csv`` or ``.parquet`` file to write the table to.
    overwrite : bool
        Whether `out` may exist.

    Returns
    -------
    DataFrame
        Columns sample, map, score, value. Maps: "mean" over the layers, what SRAM shows; "causal", the
        mean weighted by each layer's measured effect; "mean rank" and "causal rank", the same means of
        the layers' ranks; each layer; and the baselines "random", "uniform",
        "position" (near in the picture is near in the reference) and "randomised". Scores: see
        `EFFECT_SCORES`. What was not measured has no row.

    Raises
    ------
    StoreError
        If a store is missing or of the wrong kind, a sample is in one of them alone or was captured
        again since it was measured, none was measured, or `out` exists and `overwrite` is false.
    AnalysisError
        If that kind of effect was not measured, no layer has SRAM, a layer has no measured effect while
        others have, or the reference has no effect at all.

    Notes
    -----
    The object's patches are those of `objects`, or of the stored inpainting mask; without, those that change more
    than the median patch when all of the reference is cut. A patch on which all cuts have the same
    effect has no rank correlation; a map that is the same for all regions has one of 0.

    Attention may be so peaked that a layer gives nearly nothing to most regions. In a mean of masses the
    most diffuse layer alone then decides their order, however little it does; in a mean of ranks each
    layer's order counts.

    Examples
    --------
    ::

        table = score_effects("run.zarr")
        summarise_effect_scores(table).loc["mean"]
    """
    check_choice("kind", kind, EFFECT_KINDS, AnalysisError)
    path = None if out is None else check_table_path(out, overwrite=overwrite)
    opened, measured = open_run(run), effects_of(run, effects)
    others = None if randomised is None else open_run(randomised)
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    rows: list[tuple[str, str, str, float]] = []
    for number, name in enumerate(dict.fromkeys(measured if samples is None else samples)):
        check_same_capture(measured, opened, name)
        effects_of_sample = measured[name]
        compared = compare_with_effects(
            opened[name],
            effects_of_sample,
            kind=kind,
            layers=named,
            region=None if objects is None else objects.get(name),
        )
        maps = compared.maps | compared.baselines(np.random.default_rng([seed, number]))
        if others is not None:
            masses = region_masses(
                others[name], compared.boxes, grid=_grid_of(compared.inside), layers=named
            )
            maps["randomised"] = _values(mean_over_layers(masses))
        rows += [
            (name, own, score, value)
            for own, plane in maps.items()
            for score, value in compared.agreement(plane)
        ]
        rows += [
            (name, own, score, value)
            for own, score, value in _measured(effects_of_sample, compared.inside)
        ]
    if not rows:
        msg = (
            f"Expected measured samples, got none, at {measured.path}. Measure some: 'i2am causal'."
        )
        raise StoreError(msg)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    if path is not None:
        write_table(table, path)
    return table


@dataclass(frozen=True)
class ComparedSample:
    """One sample's maps and effects on the same regions and patches; `compare_with_effects` makes it.

    Parameters
    ----------
    sample : DataTree
    boxes : array (cut, corner)
        Of the regions, in pixels of the stored reference.
    effect : array (cut, y, x)
    inside : array (y, x) of bool
        The patches that are compared: those of the object.
    maps : dict of str to array (cut, y, x)
        The attention to each region: "mean" over layers, "causal" where layers were measured, and that of
        each layer.
    """

    sample: xr.DataTree
    boxes: Floats
    effect: Floats
    inside: NDArray[np.bool_]
    maps: dict[str, Floats]

    def baselines(self, rng: np.random.Generator) -> dict[str, Floats]:
        """Return maps (cut, y, x) that know nothing of the attention."""
        areas = np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1).round(_AREA_DECIMALS)
        return {
            "random": rng.uniform(size=self.effect.shape),
            "uniform": np.broadcast_to(areas[:, None, None], self.effect.shape),
            "position": nearness(self.sample, self.boxes, _grid_of(self.inside)),
        }

    def agreement(self, plane: Floats) -> Iterator[tuple[str, float]]:
        """Yield how well a map (cut, y, x) agrees with the effects; nothing for a single region."""
        masses, effect = plane[:, self.inside], self.effect[:, self.inside]
        if len(masses) < 2:
            return
        yield "rank_correlation", _rank_correlation(masses, effect)
        yield "same_peak", _peak_agreement(masses, effect, np.eye(len(masses), dtype=bool))
        yield "near_peak", _peak_agreement(masses, effect, _touching(self.boxes))
        summed = masses.sum(1, keepdims=True), effect.sum(1, keepdims=True)
        yield "g2r_rank_correlation", _rank_correlation(*summed)


def compare_with_effects(
    sample: xr.DataTree,
    effects: xr.Dataset,
    *,
    kind: EffectKind = "total",
    layers: str | Iterable[str] | None = None,
    region: Any = None,
) -> ComparedSample:
    """Compute the attention of a sample to the regions whose effects were measured.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    effects : Dataset
        This sample of `open_effects`.
    kind, layers
        As in `score_effects`.
    region : mask (y, x) of bool, optional
        Where the object is, as in ``objects`` there.

    Raises
    ------
    AnalysisError
        As `score_effects`, of one sample.
    """
    if _EFFECTS[kind] not in effects:
        msg = (
            f"Expected {kind} effects of regions, got none, at {sample.name}. Measure them: "
            "'i2am causal', or ask for another kind."
        )
        raise AnalysisError(msg)
    boxes = effects[CUT_BOX].to_numpy()
    inside = object_or_changed(sample, effects[_CEILINGS[kind]], region)
    masses = region_masses(sample, boxes, grid=_grid_of(inside), layers=layers).compute()
    planes = {MEAN: mean_over_layers(masses)}
    if "layer_effect" in effects:
        planes[CAUSAL] = mean_over_layers(masses, causal_weights(effects))
    ranks = _ranks(masses)
    planes[MEAN_RANK] = mean_over_layers(ranks)
    if CAUSAL in planes:
        planes[CAUSAL_RANK] = mean_over_layers(ranks, causal_weights(effects))
    planes |= {str(name): masses.sel({LAYER: name}) for name in masses[LAYER].values}
    maps = {name: _values(plane) for name, plane in planes.items()}
    return ComparedSample(sample, boxes, _values(effects[_EFFECTS[kind]]), inside, maps)


def _ranks(masses: xr.DataArray) -> xr.DataArray:
    """Return the place of each region among all that a patch reads in a layer, from 1, the least."""
    from scipy.stats import rankdata  # Up to a second to import, and few need it.

    return masses.copy(data=rankdata(masses.to_numpy(), axis=masses.get_axis_num(CUT)))


def _values(plane: xr.DataArray) -> Floats:
    values: Floats = plane.transpose(CUT, *GENERATED_PLANE).to_numpy().astype(np.float64)
    return values


def _grid_of(inside: NDArray[np.bool_]) -> Grid:
    height, width = inside.shape
    return height, width


def object_or_changed(
    sample: xr.DataTree, ceiling: xr.DataArray, region: Any = None
) -> NDArray[np.bool_]:
    """Return the patches that are compared: the object's, or those that change more than the median.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    ceiling : DataArray, dims (y, x)
        The effect of cutting all of the reference.
    region : mask (y, x) of bool, optional
        See `object_patches`.

    Returns
    -------
    array (y, x) of bool
    """
    whole = ceiling.transpose(*GENERATED_PLANE).to_numpy()
    inside = object_patches(sample, (whole.shape[0], whole.shape[1]), region)
    if inside is not None:
        return inside
    changed = np.asarray(whole > np.median(whole))
    return changed if changed.any() else np.ones(whole.shape, bool)


def _rank_correlation(masses: Floats, effect: Floats) -> float:
    """Return Spearman's rank correlation over the regions, mean over the patches; NaN where no patch has one."""
    from scipy.stats import rankdata  # Up to a second to import, and few need it.

    ranks = [rankdata(values, axis=0) for values in (masses, effect)]
    ours, theirs = (own - own.mean(axis=0) for own in ranks)
    scale = np.sqrt((ours**2).sum(axis=0) * (theirs**2).sum(axis=0))
    told = (theirs != 0).any(axis=0)
    if not told.any():
        return math.nan
    products = (ours * theirs).sum(axis=0)
    rho = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)
    return float(rho[told].mean())


def _peak_agreement(masses: Floats, effect: Floats, near: NDArray[np.bool_]) -> float:
    """Return the share of patches whose most read region is near the one that matters most.

    Of several that are read alike each counts by its share: a map that is even hits by chance.
    """
    tied = masses == masses.max(axis=0)
    hits = near[effect.argmax(axis=0)].T
    return float(((tied & hits).sum(axis=0) / tied.sum(axis=0)).mean())


def _touching(boxes: Floats) -> NDArray[np.bool_]:
    """Return which regions share an edge or a corner, (cut, cut); each touches itself."""
    low, high = boxes[:, :2], boxes[:, 2:]
    meets = (low[:, None] <= high + _TOUCHING_PX) & (high[:, None] >= low - _TOUCHING_PX)
    return np.asarray(meets.all(axis=-1))


def _measured(effects: xr.Dataset, inside: NDArray[np.bool_]) -> Iterator[tuple[str, str, float]]:
    """Yield map, score and value of what was measured of whole layers and along curves."""
    if "layer_effect" in effects:
        of_layers = effect_share(effects["layer_effect"], effects["ceiling"]).to_numpy()
        for name, share in zip(effects[LAYER].values, of_layers, strict=True):
            yield str(name), "share_of_effect", float(share)
    for curve in ("deletion", "insertion"):
        if curve not in effects:
            continue
        taken, shares = curve_shares(effects, curve, inside)
        for name, own in zip(effects[ORDER].values, shares, strict=True):
            if len(taken) > 1:
                area = np.trapezoid(own, taken) / (taken[-1] - taken[0])
                yield _MAP_OF_ORDER.get(str(name), str(name)), f"{curve}_area", float(area)


def curve_shares(
    effects: xr.Dataset, curve: str, inside: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return a curve of cuts: the share of the regions that were taken, and of the effect on the object.

    Parameters
    ----------
    effects : Dataset
        One sample of `open_effects`.
    curve : "deletion" or "insertion"
    inside : array (y, x) of bool
        The object's patches: orders are by what these read.

    Returns
    -------
    taken : array (count,), 0..1
    shares : array (order, count)
        Of the effect of cutting all tokens. At the end of a curve all regions are cut, and the special
        tokens, which belong to none, are left alone: that may do more.
    """
    taken: Floats = effects[COUNT].to_numpy() / effects.sizes[CUT]
    plane = xr.DataArray(inside, dims=GENERATED_PLANE)
    own, whole = (effects[name].where(plane) for name in (curve, "ceiling"))
    shares: Floats = effect_share(own, whole).transpose(ORDER, COUNT).to_numpy()
    return taken, shares


def summarise_effect_scores(
    table: pd.DataFrame,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Return each score's mean over the samples, by map, with its confidence interval.

    Parameters
    ----------
    table : DataFrame, columns sample, map, score and value
        As `score_effects` gives it.
    confidence : float
        Of the interval, between 0 and 1.
    clusters : mapping of str to label, optional
        As in `summarise_scores`.

    Returns
    -------
    DataFrame
        Indexed by map and score, in the table's order; columns count, mean, std, and low and high: the
        bootstrap interval of the mean over samples, NaN for one sample alone. The maps "causal - mean"
        and "causal rank - mean rank" hold the paired differences.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample has no cluster.

    Examples
    --------
    >>> rows = [("a", "mean", "same_peak", 0.5), ("b", "mean", "same_peak", 0.7)]
    >>> table = pd.DataFrame(rows, columns=["sample", "map", "score", "value"])
    >>> summarise_effect_scores(table).round(2).loc["mean"].to_dict("index")
    {'same_peak': {'count': 2, 'mean': 0.6, 'std': 0.14, 'low': 0.5, 'high': 0.7}}
    """
    check_confidence(confidence)
    whole = pd.concat([table, _differences(table)], ignore_index=True)
    groups = whole.groupby(["map", "score"], sort=False)
    summary = groups["value"].agg(["count", "mean", "std"])
    summary[["low", "high"]] = [
        mean_interval(own, "value", confidence, clusters) for _, own in groups
    ]
    return summary


def _differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the paired differences of weighted and plain means; no row where one is missing."""
    found = [table.iloc[:0]]
    for weighed, plain in _PAIRS:
        own = table[table["map"].isin((weighed, plain)) & table["score"].isin(_PAIRED)]
        if set(own["map"]) == {weighed, plain}:
            pairs: Any = own.pivot_table(
                index=["sample", "score"], columns="map", values="value", sort=False
            )
            differences = (pairs[weighed] - pairs[plain]).dropna().rename("value").reset_index()
            found.append(differences.assign(map=f"{weighed} - {plain}")[list(_COLUMNS)])
    return pd.concat(found, ignore_index=True)
