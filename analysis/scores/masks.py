"""The masks that a sample's maps are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid
from i2am.analysis.stores.layers import reference_image
from i2am.schemas import AnalysisError
from i2am.schemas.directions import G2R, R2G, DirectionName

__all__ = ["area_mean", "check_mask", "masks_of"]


def masks_of(sample: xr.DataTree, maps: xr.DataTree) -> dict[DirectionName, NDArray[np.float64]]:
    """Return the masks that a sample's maps can be compared with, 0..1, by direction.

    R2G has the inpainting mask, G2R the reference's, which belongs to the first reference image alone.
    An empty or whole mask has no inside or no outside, and is left out.
    """
    images = sample.children["images"].dataset
    directions = [R2G]
    if G2R.name in maps.children and reference_image(sample, maps) == G2R.image:
        directions.append(G2R)
    found = {
        direction.name: np.asarray(images[direction.mask].to_numpy(), np.float64) / 255
        for direction in directions
        if direction.mask in images
    }
    return {direction: mask for direction, mask in found.items() if 0 < mask.mean() < 1}


def area_mean(mask: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Return a mask on another grid: each position holds the mean of the mask over its area.

    Parameters
    ----------
    mask : array (y, x)
    grid : (height, width)
        Finer or coarser, in any proportion.

    Returns
    -------
    array (height, width), float64
        With the mean of the mask.

    Examples
    --------
    >>> area_mean(np.array([[1.0, 0.0, 0.0]]), (1, 2))
    array([[0.66666667, 0.        ]])
    """
    from skimage.transform import resize_local_mean

    resized: NDArray[np.float64] = resize_local_mean(
        mask.astype(np.float64), grid, preserve_range=True
    )
    return resized


def check_mask(mask: NDArray[Any]) -> NDArray[Any]:
    """Return a mask (y, x) within 0..1; raise an AnalysisError for another."""
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > 1:
        msg = (
            f"Expected a mask (y, x) within 0..1, got {mask.ndim} dimensions and {mask.min():g} to "
            f"{mask.max():g}, at mask. Divide a stored mask by 255."
        )
        raise AnalysisError(msg)
    return mask
