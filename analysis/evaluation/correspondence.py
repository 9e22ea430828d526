"""Where SRAM peaks, against places that are known to correspond: the error in pixels, and PCK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from i2am.analysis.evaluation.points import PLACES, RADIUS, SAMPLE, read_points
from i2am.analysis.intervals.bootstrap import (
    DEFAULT_CONFIDENCE,
    bootstrap_mean_interval,
    check_confidence,
)
from i2am.analysis.intervals.clusters import Clusters, cluster_labels
from i2am.analysis.maps.sram import sram
from i2am.analysis.stores.layers import Labels
from i2am.analysis.stores.reader import open_run
from i2am.analysis.stores.tables import check_table_path, write_table
from i2am.schemas import AnalysisError
from i2am.schemas.dims import HEAD, LAYER, REFERENCE_PLANE, STEP
from i2am.schemas.directions import G2R
from i2am.storage.addresses import StoreLike

__all__ = ["DEFAULT_ALPHA", "score_points", "summarise_points"]

DEFAULT_ALPHA: Final = 0.1
_KEPT: Final = (LAYER, STEP, HEAD)
_MEASURES: Final = {"error_px": "chance_px", "hit": "chance_hit"}
Floats = NDArray[np.float64]


def score_points(
    run: StoreLike,
    points: str | Path | pd.DataFrame,
    *,
    alpha: float = DEFAULT_ALPHA,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    keep: Iterable[str] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how far the peak of each place's SRAM lies from where the place is known to come from.

    Parameters
    ----------
    run : str, Path or zarr Store
    points : str, Path or DataFrame
        As `read_points` takes it: sample, y, x, reference_y, reference_x, and optionally radius.
    alpha : float
        A peak is right within this share of the reference image's longer side (PCK), where the table
        has no radius.
    layers, steps, heads
        As in `sram`.
    keep : iterable of str
        Of "layer", "step" and "head": each of them has rows of its own.
    out : str or Path, optional
        A ``.csv`` or ``.parquet`` file to write the table to.
    overwrite : bool
        Whether `out` may exist.
    progress : bool
        Show a bar over the samples.

    Returns
    -------
    DataFrame
        One row for each point, in their order (with `keep`, for each label, too). Columns: sample, the
        kept ones, y, x, reference_y, reference_x, radius;

        - peak_y, peak_x: the centre of the cell where the SRAM is highest;
        - error_px: its distance from the known place, in pixels of the reference image;
        - chance_px: what that is for a cell drawn at random, all cells alike; least_px: for the nearest
          cell, which is what a perfect map has;
        - hit: 1 if the error is at most the radius, else 0; chance_hit: the share of the cells for which
          it is.

        A map without a peak (even, or hidden by a mask) has NaN for peak, error and hit.

    Raises
    ------
    AnalysisError
        If the table is not as `read_points` wants it, `alpha` is not above 0, a place lies outside its
        image or where the model saw nothing of it, or a sample stores no reference image.
    StoreError
        If the run is missing, a sample is not there, or `out` exists and `overwrite` is false.

    Notes
    -----
    PCK, the percentage of correct keypoints: Yang & Ramanan, Articulated human detection with flexible
    mixtures of parts, 2013. There the radius is a share of the object's size: give it in
    the column ``radius``.

    Examples
    --------
    >>> import i2am
    >>> row = {"sample": "truck", "y": 30, "x": 40, "reference_y": 24, "reference_x": 36}
    >>> found = score_points(i2am.DEMO_RUN, pd.DataFrame([row]))
    >>> bool(found["error_px"][0] < found["chance_px"][0])
    True
    """
    if not alpha > 0:
        msg = f"Expected a share of the image above 0, got {alpha}, at alpha. Give 0.1, say."
        raise AnalysisError(msg)
    path = None if out is None else check_table_path(out, overwrite=overwrite)
    table = read_points(points)
    opened = open_run(run)
    selection: dict[str, Any] = {
        "layers": layers,
        "steps": steps,
        "heads": heads,
        "keep": tuple(keep),
    }
    kept: list[str] = [dim for dim in _KEPT if dim in selection["keep"]]
    groups = table.groupby(SAMPLE, sort=False)
    parts = [
        _of_sample(opened[str(name)], own, selection, kept, alpha)
        for name, own in tqdm(groups, "points", unit="sample", disable=not progress)
    ]
    # In the order of the points, whatever the order of their samples.
    found = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    if path is not None:
        write_table(found, path)
    return found


def summarise_points(
    table: pd.DataFrame,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Return the mean error and the share of hits over all points, with intervals by sample.

    Parameters
    ----------
    table : DataFrame
        As `score_points` gives it.
    confidence : float
        Of the intervals, between 0 and 1.
    clusters : mapping of str to label, optional
        The cluster of each sample, as `sample_clusters` gives it. By default each sample is one: its
        points are always drawn together.

    Returns
    -------
    DataFrame
        Indexed by the kept dimensions, if any, and measure: ``error_px``, and ``hit``, which is PCK. Columns:
        points and samples, that have a peak; mean, low and high; chance, of a cell drawn at random; best,
        of a perfect map on this grid.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample has no cluster.

    Examples
    --------
    >>> places = {"error_px": [1.0, 2.0], "hit": 1.0, "chance_px": 9.0, "chance_hit": 0.1}
    >>> table = pd.DataFrame({"sample": ["a", "b"], "least_px": 0.5, "radius": 3.0} | places)
    >>> summarise_points(table)[["samples", "mean", "chance", "best"]].to_dict("index")["error_px"]
    {'samples': 2, 'mean': 1.5, 'chance': 9.0, 'best': 0.5}
    """
    check_confidence(confidence)
    kept = [dim for dim in _KEPT if dim in table]
    rows = []
    for keys, own in table.groupby(kept, sort=False) if kept else [((), table)]:
        known = own.dropna(subset="error_px")
        samples = known[SAMPLE].tolist()
        labels = samples if clusters is None else cluster_labels(samples, clusters)
        best = {"error_px": known["least_px"], "hit": known["least_px"] <= known[RADIUS]}
        for measure, chance in _MEASURES.items():
            low, high = bootstrap_mean_interval(known[measure], confidence, labels)
            counts = {"points": len(known), "samples": known[SAMPLE].nunique()}
            means = {"mean": known[measure].mean(), "low": low, "high": high}
            told = {"chance": known[chance].mean(), "best": best[measure].mean()}
            rows.append(
                dict(zip(kept, keys, strict=True)) | {"measure": measure} | counts | means | told
            )
    return pd.DataFrame(rows).set_index([*kept, "measure"])


def _of_sample(
    sample: xr.DataTree,
    points: pd.DataFrame,
    selection: dict[str, Any],
    kept: list[str],
    alpha: float,
) -> pd.DataFrame:
    """Return the rows of one sample's points, indexed as these are."""
    # A float that is a whole number names a pixel: tables do not keep the two apart.
    places = [
        (_pixel_or_position(y), _pixel_or_position(x))
        for y, x in points[list(PLACES[:2])].to_numpy().tolist()
    ]
    maps = sram(sample, generated=places, **selection).compute()
    image = str(maps.attrs.get("reference_image", G2R.image))
    stored = sample["images"].dataset
    if image not in stored or any(dim not in maps.coords for dim in REFERENCE_PLANE):
        msg = (
            f"Expected the stored reference image, in whose pixels places are known, got none, at "
            f"{sample.name}. Capture it with recording.add_images()."
        )
        raise AnalysisError(msg)
    size = stored[image].shape[:2]
    true = points[list(PLACES[2:])].to_numpy()
    _check_inside(points, true, size, sample.name)
    true = np.where(true == np.floor(true), true + 0.5, true)  # A pixel is its centre.
    centres = np.stack(
        np.meshgrid(*(maps[dim].to_numpy() for dim in REFERENCE_PLANE), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    radius = points[RADIUS] if RADIUS in points else pd.Series(alpha * max(size), points.index)
    distances: Floats = np.linalg.norm(centres - true[:, None], axis=-1)  # (point, cell)
    hits = distances <= radius.to_numpy()[:, None]
    shared = points.drop(columns=RADIUS, errors="ignore").assign(
        radius=radius,
        chance_px=distances.mean(axis=1),
        least_px=distances.min(axis=1),
        chance_hit=hits.mean(axis=1),
    )
    parts = [
        shared.assign(**labels, **_at_peaks(values, centres, distances, hits))
        for labels, values in _by_label(maps, kept)
    ]
    columns = [
        *(SAMPLE, *kept, *PLACES, RADIUS, "peak_y", "peak_x"),
        *("error_px", "chance_px", "least_px", "hit", "chance_hit"),
    ]
    return pd.concat(parts)[columns]


def _pixel_or_position(value: float) -> float:
    return int(value) if value.is_integer() else value


def _check_inside(points: pd.DataFrame, true: Floats, size: tuple[int, ...], name: object) -> None:
    is_outside = ((true < 0) | (true >= np.array(size))).any(axis=1)
    if is_outside.any():
        row = int(np.flatnonzero(is_outside)[0])
        place = ", ".join(f"{value:g}" for value in true[row])
        msg = (
            f"Expected a place in the reference image of {size[0]} x {size[1]} pixels, got ({place}), at "
            f"row {points.index[row] + 1} of points, sample {name!r}. Correct it or leave the row out."
        )
        raise AnalysisError(msg)


def _by_label(maps: xr.DataArray, kept: list[str]) -> Iterator[tuple[dict[str, Any], Floats]]:
    """Yield the labels of the kept dimensions, and the maps (point, cell) there."""
    ordered = maps.transpose(*kept, ...)
    values = ordered.to_numpy().astype(np.float64)
    for index in np.ndindex(values.shape[: len(kept)]):
        labels = {dim: ordered[dim].values[i].item() for dim, i in zip(kept, index, strict=True)}
        yield labels, values[index].reshape(maps.sizes["region"], -1)


def _at_peaks(
    maps: Floats, centres: Floats, distances: Floats, hits: NDArray[np.bool_]
) -> dict[str, Floats]:
    """Return where maps (point, cell) peak, how far that is from the truth, and whether it is right."""
    rows = np.arange(len(maps))
    # NaN of a head that a layer lacks; an even map has no highest cell.
    has_peak = np.isfinite(maps).all(axis=1) & (maps.max(axis=1) > maps.min(axis=1))
    peak = np.where(has_peak, np.nan_to_num(maps, nan=-1).argmax(axis=1), 0)
    found = {
        "peak_y": centres[peak, 0],
        "peak_x": centres[peak, 1],
        "error_px": distances[rows, peak],
        "hit": hits[rows, peak].astype(np.float64),
    }
    return {name: np.where(has_peak, values, np.nan) for name, values in found.items()}
