"""From what two images of a model differ by to one number for each generated patch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Values", "change_of_patches", "patch_means", "strength", "with_frames_stacked"]

Values = NDArray[np.floating[Any]]


def change_of_patches(change: Values, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the root of a change's mean square over the channels and pixels of each patch.

    Parameters
    ----------
    change : array (channel, y, x)
        Of latents, or of an image.
    grid : (height, width)
        Of the patches, which fill it.

    Returns
    -------
    array (height, width) of float32

    Examples
    --------
    >>> change_of_patches(np.array([[[3.0, 0.0], [3.0, 0.0]]]), (1, 2)).tolist()
    [[3.0, 0.0]]
    """
    squares = np.square(change, dtype=np.float64).mean(axis=0)
    return np.sqrt(patch_means(squares, grid)).astype(np.float32)


def patch_means(values: Values, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the mean of an array (y, x) over the area of each patch.

    Parameters
    ----------
    values : array (y, x)
    grid : (height, width)
        Of the patches; a pixel that two of them share counts by its parts.

    Examples
    --------
    >>> patch_means(np.array([[0.0, 3.0, 6.0]]), (1, 2)).tolist()
    [[1.0, 5.0]]
    """
    rows, columns = (
        _shares(cells, pixels) for cells, pixels in zip(grid, values.shape, strict=True)
    )
    means: NDArray[np.float64] = rows @ values @ columns.T
    return means


def strength(effect: Values) -> float:
    """Return an effect in one number: the root of its mean square over the patches."""
    return float(np.sqrt(np.mean(np.square(effect, dtype=np.float64))))


def with_frames_stacked(values: Values, frames: int, latent_frames: int | None = None) -> Values:
    """Return images as (image, channel, y, x), the frames of a video above one another.

    Parameters
    ----------
    values : array (image, channel, y, x) or (image, channel, frame, y, x)
    frames : int
        How many are generated; others before them were given.
    latent_frames : int, optional
        Of decoded frames, the number of those that they were decoded from: the first of as many as
        belong to one is kept.
    """
    if values.ndim == 4:
        return values
    stride = 1
    if latent_frames is not None and latent_frames > 1:
        stride = round((values.shape[2] - 1) / (latent_frames - 1))
    kept = values[:, :, ::stride][:, :, -frames:]
    return kept.reshape(*kept.shape[:2], -1, kept.shape[-1])


def _shares(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return which share of each cell each pixel has, as a matrix (cell, pixel)."""
    start = np.arange(cells)[:, None] * pixels / cells
    pixel = np.arange(pixels)
    overlap = np.minimum(start + pixels / cells, pixel + 1) - np.maximum(start, pixel)
    shares: NDArray[np.float64] = np.clip(overlap, 0, None) * cells / pixels
    return shares
