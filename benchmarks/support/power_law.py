"""Lines through logarithms: by which power of its size something grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PowerLaw", "fit_power_law"]


@dataclass(frozen=True)
class PowerLaw:
    """``value = factor · size ** exponent``, and the exponent's standard error."""

    factor: float
    exponent: float
    error: float

    def at(self, size: float) -> float:
        """Return the value on the line."""
        return float(self.factor * size**self.exponent)

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def fit_power_law(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw:
    """Return the least squares line through the logarithms of three points or more.

    Notes
    -----
    The variance of the slope is that of the residuals, with n − 2 degrees of freedom, over the
    sum of squares of x around its mean.
    """
    x, y = np.log(sizes), np.log(values)
    slope, intercept = np.polyfit(x, y, 1)
    residuals = y - (intercept + slope * x)
    variance = float(residuals @ residuals) / (len(x) - 2) / float(((x - x.mean()) ** 2).sum())
    return PowerLaw(math.exp(intercept), float(slope), math.sqrt(variance))
