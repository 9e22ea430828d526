"""How near generated images come to true ones: SSIM and PSNR, of all of the image and inside the mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from i2am.analysis.evaluation.learned_metrics import (
    LPIPS,
    PairMetric,
    lpips_metric,
    measure_sets,
)
from i2am.analysis.evaluation.true_pictures import (
    DEFAULT_COLUMN,
    Picture,
    Truth,
    find_true_pictures,
    iter_pictures,
    read_picture,
)
from i2am.analysis.intervals.bootstrap import DEFAULT_CONFIDENCE, check_confidence
from i2am.analysis.intervals.clusters import Clusters, cluster_labels
from i2am.analysis.intervals.rank_correlation import rank_correlation
from i2am.analysis.stores.reader import open_run
from i2am.analysis.stores.tables import check_table_path, write_table
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.choices import PAIR_METRICS, SET_METRICS
from i2am.schemas.directions import R2G
from i2am.storage.addresses import StoreLike

__all__ = [
    "picture_distances",
    "picture_quality",
    "rank_correlations",
    "ssim_and_psnr",
]

_COLUMNS: Final = ("sample", "score", "value")
_LARGEST: Final = 255
# Wang et al.'s window: a Gaussian of 1.5 pixels, cut off at 11 x 11.
_SIGMA_PX: Final = 1.5
_WINDOW_PX: Final = 11


def picture_quality(
    run: StoreLike,
    truth: Truth,
    *,
    column: str = DEFAULT_COLUMN,
    metrics: str | Iterable[str] = ("ssim", "psnr"),
    samples: Iterable[str] | None = None,
    lpips: Callable[[Any, Any], Any] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how near each sample's generated image comes to its true one.

    Parameters
    ----------
    run : str, Path or zarr Store
    truth : str, Path or mapping
        A folder with SAMPLE.png, a manifest with a column of paths, or a mapping of sample to path or
        array: see `find_true_pictures`. Of the generated image's size.
    column : str
        Of a manifest.
    metrics : str or iterable of str
        Of "ssim", "psnr" and "lpips"; the last needs ``i2am[metrics]``.
    samples : iterable of str, optional
        All by default.
    lpips : callable (tensor, tensor) -> tensor, optional
        In place of torchmetrics' LPIPS of AlexNet: takes two pictures (1, 3, y, x), float32, 0..1.
    out : str or Path, optional
        A ``.csv`` or ``.parquet`` file to write the table to.
    overwrite : bool
        Whether `out` may exist.
    progress : bool
        Show a bar over the samples.

    Returns
    -------
    DataFrame
        Columns sample, score, value, as of `score_maps`: `summarise_scores` takes it. Scores: ssim, at most
        1, higher is better; psnr in dB, higher is better; ssim_inside and psnr_inside, the same inside the
        inpainting mask; lpips, 0 or more, lower is better. Where there is no such mask, and of two pictures
        that are the same, which have no PSNR, there is no row.

    Raises
    ------
    AnalysisError
        If a metric is unknown, a sample has no true picture or one of another size, stores no generated
        image, or an image is smaller than SSIM's window of 11 pixels.
    StoreError
        If the run is missing, a sample is not there, or `out` exists and `overwrite` is false.
    MissingExtra
        If LPIPS is asked for and torchmetrics, or the torchvision that its network needs, is missing.

    Notes
    -----
    SSIM as Wang et al. 2004 define it: a Gaussian window of 1.5 pixels, 11 x 11, K1 = 0.01, K2 = 0.03;
    of each color, and their mean. Inside a mask it is the mean of the SSIM map, weighted by the mask;
    PSNR there uses the mean square error, weighted in the same way. In many images the painted region is
    small, so that values of the whole image mostly measure what was not painted.

    Examples
    --------
    >>> import i2am
    >>> from i2am.analysis import open_run
    >>> sources = {name: sample["images/source"] for name, sample in open_run(i2am.DEMO_RUN).items()}
    >>> table = picture_quality(i2am.DEMO_RUN, sources)  # held against the pictures painted into
    >>> sorted(set(table["score"]))
    ['psnr', 'psnr_inside', 'ssim', 'ssim_inside']
    """
    wanted = _known([metrics] if isinstance(metrics, str) else list(metrics), PAIR_METRICS)
    path = None if out is None else check_table_path(out, overwrite=overwrite)
    opened = open_run(run)
    names = list(opened if samples is None else dict.fromkeys(samples))
    true = find_true_pictures(truth, column)
    _check_complete(names, true, truth)
    distance = lpips_metric(lpips) if LPIPS in wanted else None
    rows = [
        (name, score, value)
        for name in tqdm(names, "quality", unit="sample", disable=not progress)
        for score, value in _of_sample(opened[name], name, true[name], wanted, distance)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    if path is not None:
        write_table(table, path)
    return table


def picture_distances(
    run: StoreLike,
    truth: Truth,
    *,
    column: str = DEFAULT_COLUMN,
    metrics: str | Iterable[str] = SET_METRICS,
    samples: Iterable[str] | None = None,
    features: Any = None,
) -> pd.DataFrame:
    """Measure how far the generated images as a set lie from a set of true ones: FID, KID.

    Parameters
    ----------
    run : str, Path or zarr Store
    truth : str, Path or mapping
        As in `picture_quality`; but these need not be of the same samples, nor as many, nor of one size.
    column, samples
        As in `picture_quality`.
    metrics : str or iterable of str
        Of "fid" and "kid".
    features : torch.nn.Module, optional
        In place of Inception-v3: takes pictures (N, 3, y, x), uint8, and gives (N, features).

    Returns
    -------
    DataFrame
        Indexed by metric; columns value, std (of KID over its subsets), generated and true: how many pictures.

    Raises
    ------
    AnalysisError
        If a metric is unknown, there are fewer than two pictures on a side, or a sample stores no generated image.
    StoreError
        If the run is missing, or a sample is not there.
    MissingExtra
        If torchmetrics, or what its network needs, is missing.

    Notes
    -----
    FID is biased upwards, and more so with fewer pictures: compare only values of equally many pictures,
    at least a few thousand. KID (here with 100 subsets of 1,000 pictures, or of half of the pictures where
    they are fewer, drawn the same at every call) is not biased.

    Examples
    --------
    ::

        table = picture_distances("run.zarr", "photographs/")
        table.loc["fid", "value"]
    """
    wanted = _known([metrics] if isinstance(metrics, str) else list(metrics), SET_METRICS)
    opened = open_run(run)
    names = list(opened if samples is None else dict.fromkeys(samples))
    true = find_true_pictures(truth, column)
    if len(names) < 2 or len(true) < 2:
        msg = (
            f"Expected two pictures or more on either side, got {len(names)} generated and {len(true)} "
            "true, at samples and truth. Sets are compared, not pictures."
        )
        raise AnalysisError(msg)
    generated = (_generated(opened[name], name) for name in names)
    found = measure_sets(
        wanted, generated, iter_pictures(true), min(len(names), len(true)), features
    )
    rows = [
        {"metric": metric, "value": value, "std": std, "generated": len(names), "true": len(true)}
        for metric, (value, std) in found.items()
    ]
    return pd.DataFrame(rows).set_index("metric")


def rank_correlations(
    scores: pd.DataFrame,
    quality: pd.DataFrame,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Return how scores of maps and of pictures rank the samples alike: Spearman's correlation.

    Parameters
    ----------
    scores, quality : DataFrame, columns sample, score and value
        As `score_maps` and `picture_quality` give them.
    confidence : float
        Of the interval, between 0 and 1.
    clusters : mapping of str to label, optional
        The cluster of each sample, as `sample_clusters` gives it: the interval draws samples of one
        together. By default each sample is alone.

    Returns
    -------
    DataFrame
        Indexed by score and quality; columns count, of samples that have both; rank_correlation, -1..1; low
        and high, its bootstrap interval. NaN where fewer than three samples have both, or all have one value.
        Of LPIPS a negative one says that better maps go with better pictures.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample has no cluster.

    Examples
    --------
    >>> names = list("abcd")
    >>> scores = pd.DataFrame({"sample": names, "score": "imacs_g", "value": [0.1, 0.2, 0.3, 0.4]})
    >>> quality = pd.DataFrame({"sample": names, "score": "ssim", "value": [0.5, 0.6, 0.8, 0.7]})
    >>> rank_correlations(scores, quality)["rank_correlation"].round(2).to_dict()
    {('imacs_g', 'ssim'): 0.8}
    """
    check_confidence(confidence)
    rows = []
    for score, of_maps in scores.groupby("score", sort=False):
        for metric, of_pictures in quality.groupby("score", sort=False):
            both = of_maps.merge(of_pictures, on="sample", suffixes=("_a", "_b")).dropna()
            labels = None if clusters is None else cluster_labels(both["sample"], clusters)
            rho, low, high = rank_correlation(both["value_a"], both["value_b"], confidence, labels)
            found = {"count": len(both), "rank_correlation": rho, "low": low, "high": high}
            rows.append({"score": score, "quality": metric} | found)
    columns = ["score", "quality", "count", "rank_correlation", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index(["score", "quality"])


def ssim_and_psnr(
    generated: Picture, true: Picture, mask: NDArray[Any] | None = None
) -> Iterator[tuple[str, float]]:
    """Yield ssim and psnr of two pictures, and with a mask those inside it; see `picture_quality`.

    Parameters
    ----------
    generated, true : array (y, x, rgb), uint8
    mask : array (y, x), 0..1, optional
        Weights; one that is empty has no inside.

    Examples
    --------
    >>> grey = np.full((16, 16, 3), 128, np.uint8)
    >>> {name: round(value, 2) for name, value in ssim_and_psnr(grey, grey + np.uint8(16))}
    {'ssim': 0.99, 'psnr': 24.05}
    """
    from skimage.metrics import structural_similarity

    whole, ssim_map = structural_similarity(
        generated,
        true,
        channel_axis=-1,
        data_range=_LARGEST,
        gaussian_weights=True,
        sigma=_SIGMA_PX,
        use_sample_covariance=False,
        full=True,
    )
    squares = np.square(generated.astype(np.float64) - true).mean(axis=-1)
    yield "ssim", float(whole)
    yield from _psnr("psnr", float(squares.mean()))
    if mask is not None and mask.sum() > 0:
        yield "ssim_inside", float(np.average(ssim_map.mean(axis=-1), weights=mask))
        yield from _psnr("psnr_inside", float(np.average(squares, weights=mask)))


def _psnr(name: str, mean_square: float) -> Iterator[tuple[str, float]]:
    if mean_square > 0:
        yield name, 10 * math.log10(_LARGEST**2 / mean_square)


def _known(metrics: list[str], known: tuple[str, ...]) -> list[str]:
    for metric in metrics:
        if metric not in known:
            hint = did_you_mean(metric, known)
            msg = f"Expected a metric of pictures, got {metric!r}, at metrics. {hint}"
            raise AnalysisError(msg)
    if not metrics:
        msg = f"Expected at least one metric, got none, at metrics. Known: {', '.join(known)}."
        raise AnalysisError(msg)
    return list(dict.fromkeys(metrics))


def _check_complete(names: list[str], true: Any, truth: Truth) -> None:
    missing = [name for name in names if name not in true]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        at = "truth" if not isinstance(truth, str | Path) else truth
        msg = (
            f"Expected a true picture of each sample, got none of {missing[0]!r}{more}, at {at}. "
            "Add them, or name the samples that have one."
        )
        raise AnalysisError(msg)


def _generated(sample: xr.DataTree, name: str) -> Picture:
    images = sample["images"].dataset
    if R2G.image not in images:
        msg = (
            f"Expected a stored generated image, got none, at {name}. Capture it with "
            "recording.add_images(generated=…)."
        )
        raise AnalysisError(msg)
    return np.asarray(images[R2G.image].to_numpy(), np.uint8)


def _of_sample(
    sample: xr.DataTree, name: str, truth: Any, metrics: list[str], distance: PairMetric | None
) -> Iterator[tuple[str, float]]:
    """Yield the scores of one sample that were asked for."""
    generated, true = _generated(sample, name), read_picture(truth)
    if generated.shape != true.shape:
        msg = (
            f"Expected a true picture of the generated image's {_size(generated)} pixels, got "
            f"{_size(true)}, at sample {name!r}. Scale it to that size."
        )
        raise AnalysisError(msg)
    if min(generated.shape[:2]) < _WINDOW_PX:
        msg = (
            f"Expected a picture of at least {_WINDOW_PX} pixels on each side, got {_size(generated)}, at "
            f"sample {name!r}. SSIM has no meaning there."
        )
        raise AnalysisError(msg)
    images = sample["images"].dataset
    mask = images[R2G.mask].to_numpy() / _LARGEST if R2G.mask in images else None
    for score, value in ssim_and_psnr(generated, true, mask):
        if score.removesuffix("_inside") in metrics:
            yield score, value
    if distance is not None:
        yield LPIPS, distance(generated, true)


def _size(picture: Picture) -> str:
    return f"{picture.shape[0]} x {picture.shape[1]}"
