"""Metrics that a trained network computes: LPIPS, FID and KID, by torchmetrics.

The only file of the analysis stage that computes with PyTorch. It loads it when such a metric is asked for,
through the door for optional packages: whoever reads maps on a laptop needs neither. The networks' weights
come as torchmetrics and torchvision fetch them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas import require

__all__ = ["LPIPS", "PairMetric", "lpips_metric", "measure_sets"]

LPIPS: Final = "lpips"
PairMetric = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]

_EXTRA: Final = "metrics"
# By module, as torchmetrics lists a class without its network nowhere else; and what holds the network.
_CLASSES: Final = {
    "lpips": ("lpip", "LearnedPerceptualImagePatchSimilarity", "torchvision"),
    "fid": ("fid", "FrechetInceptionDistance", "torch_fidelity"),
    "kid": ("kid", "KernelInceptionDistance", "torch_fidelity"),
}
_KID_SUBSETS: Final = 100
_KID_SUBSET_SIZE: Final = 1000
_SEED: Final = 0


def lpips_metric(network: Callable[[Any, Any], Any] | None = None) -> PairMetric:
    """Return a function that gives the LPIPS of two pictures (y, x, rgb), uint8.

    Parameters
    ----------
    network : callable (tensor, tensor) -> tensor, optional
        In place of torchmetrics' LPIPS of AlexNet: takes two pictures (1, 3, y, x), float32, 0..1.

    Raises
    ------
    MissingExtra
        If torchmetrics, or the torchvision that its network needs, is missing.

    Notes
    -----
    Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018.
    """
    torch = require("torch", "for LPIPS", _EXTRA)
    metric: Any = network or _made(LPIPS, has_own_network=False, normalize=True)

    def distance(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
        with torch.inference_mode():
            found = float(metric(*(_tensor(torch, picture) / 255 for picture in (first, second))))
        if network is None:
            metric.reset()  # It keeps what it has seen.
        return found

    return distance


def measure_sets(
    metrics: Iterable[str],
    generated: Iterable[NDArray[np.uint8]],
    true: Iterable[NDArray[np.uint8]],
    count: int,
    features: Any = None,
) -> dict[str, tuple[float, float]]:
    """Return value and standard deviation of each metric between two sets of pictures.

    Parameters
    ----------
    metrics : iterable of str
        Of `SET_METRICS`.
    generated, true : iterable of array (y, x, rgb), uint8
        Each is read once.
    count : int
        Of pictures on the smaller side.
    features : torch.nn.Module, optional
        In place of Inception-v3: takes (N, 3, y, x), uint8, and gives (N, features).

    Raises
    ------
    MissingExtra
        If torchmetrics, or what its network needs, is missing.
    """
    torch = require("torch", "for FID and KID", _EXTRA)
    network: Any = 2048 if features is None else features
    size = min(_KID_SUBSET_SIZE, max(2, count // 2))
    options: dict[str, dict[str, Any]] = {
        "fid": {},
        "kid": {"subsets": _KID_SUBSETS, "subset_size": size},
    }
    has_own = features is not None
    made = {
        name: _made(name, has_own_network=has_own, feature=network, **options[name])
        for name in metrics
    }
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)  # KID draws its subsets.
        for pictures, are_real in ((generated, False), (true, True)):
            for picture in pictures:
                for metric in made.values():
                    metric.update(_tensor(torch, picture), real=are_real)
        found: dict[str, tuple[float, float]] = {}
        for name, metric in made.items():
            value, std = metric.compute() if name == "kid" else (metric.compute(), math.nan)
            found[name] = float(value), float(std)
    return found


def _made(name: str, *, has_own_network: bool, **options: Any) -> Any:
    """Return one of torchmetrics' metrics; an error names what it lacks."""
    module, kind, network = _CLASSES[name]
    purpose = f"for {name.upper()}"
    made = getattr(require(f"torchmetrics.image.{module}", purpose, _EXTRA), kind)
    if not has_own_network:
        require(network, purpose, _EXTRA)
    with warnings.catch_warnings():
        # KID keeps the features of all pictures: 8 kB each.
        warnings.filterwarnings(
            "ignore", "Metric `Kernel Inception Distance` will save", UserWarning
        )
        return made(**options)


def _tensor(torch: Any, picture: NDArray[np.uint8]) -> Any:
    """Return a picture as a tensor (1, 3, y, x), uint8."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
