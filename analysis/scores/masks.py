"""The masks that a sample's maps are compared with, over the part of the image that the model saw.

A map fills that part, the box, whatever its grid; so masks are cut to it before they are compared.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid
from i2am.analysis.stores.boxes import box_of_maps, describe_box, image_box, is_whole_image
from i2am.analysis.stores.layers import reference_image
from i2am.schemas import AnalysisError, Box
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.directions import G2R, R2G, DirectionName

__all__ = [
    "area_mean",
    "box_pixels",
    "check_mask",
    "cut_to_box",
    "is_within_mask",
    "mask_over",
    "masks_of",
]

_DECIMALS: Final = 9


def is_within_mask(maps: xr.DataTree) -> bool:
    """Return whether maps are of the inpainting mask's patches alone: R2G is 0 elsewhere by its making."""
    own = maps.attrs.get(ATTRIBUTE_KEY) or {}
    return bool(own.get("within") == "mask")


def masks_of(sample: xr.DataTree, maps: xr.DataTree) -> dict[DirectionName, NDArray[np.float64]]:
    """Return the masks that a sample's maps can be compared with, 0..1, by direction.

    R2G has the inpainting mask, G2R the reference's, which belongs to the first reference image alone.
    Each is cut to the part of its image that the model saw. A mask that is empty or whole there has
    no inside or no outside, and is left out; so is that of R2G maps which are of its inside alone.
    """
    images = sample.children["images"].dataset
    directions = [] if is_within_mask(maps) else [R2G]
    if G2R.name in maps.children and reference_image(sample, maps) == G2R.image:
        directions.append(G2R)
    found: dict[DirectionName, NDArray[np.float64]] = {}
    for direction in directions:
        if direction.mask in images:
            mask = np.asarray(images[direction.mask].to_numpy(), np.float64) / 255
            if direction.image in images and not is_whole_image(sample, direction.image):
                mask = cut_to_box(mask, image_box(sample, direction.image))
            found[direction.name] = mask
    return {direction: mask for direction, mask in found.items() if 0 < mask.mean() < 1}


def box_pixels(box: Box) -> Grid:
    """Return the whole pixels that a box is counted in: its size, rounded.

    Examples
    --------
    >>> box_pixels(Box(0, 21.4, 32, 53.2))
    (32, 32)
    """
    return max(1, round(box.height)), max(1, round(box.width))


def cut_to_box(mask: NDArray[Any], box: Box) -> NDArray[np.float64]:
    """Return the part of a mask that lies in a box; 0 where the box reaches beyond the image.

    Parameters
    ----------
    mask : array (image y, image x), 0..1
    box : Box
        In pixels of the image.

    Returns
    -------
    array (y, x), float64, 0..1
        Of `box_pixels`; each holds the exact mean of the mask over its area.

    Examples
    --------
    >>> cut_to_box(np.array([[0.0, 1.0, 1.0, 0.0]]), Box(0, 1, 1, 3)).tolist()
    [[1.0, 1.0]]
    >>> cut_to_box(np.array([[0.0, 1.0, 1.0, 0.0]]), Box(0, 2.5, 1, 6.5)).tolist()
    [[0.5, 0.0, 0.0, 0.0]]
    """
    cut = mask.astype(np.float64)
    ends = ((box.y0, box.y1), (box.x0, box.x1))
    for axis, ((low, high), count) in enumerate(zip(ends, box_pixels(box), strict=True)):
        edges = low + np.arange(count + 1) * (high - low) / count
        cut = np.apply_along_axis(_sums_between, axis, cut, edges) * count / (high - low)
    # The whole of a mask must stay exactly 1.
    return np.clip(cut.round(_DECIMALS), 0, 1)


def _sums_between(line: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral of a line of pixels between neighbouring edges; beyond it is nothing."""
    total = np.concatenate([[0.0], np.cumsum(line)])
    sums: NDArray[np.float64] = np.diff(np.interp(edges, np.arange(len(total)), total))
    return sums


def mask_over(maps: object, mask: object) -> NDArray[Any]:
    """Return a mask over the part of the image that maps lie over.

    Parameters
    ----------
    maps : array or DataArray (…, y, x)
        Their coordinates tell the part, in pixels of the image; without them it is all of it.
    mask : array or DataArray (y, x)
        Of that part, or of the whole image: then it is cut to the part.

    Raises
    ------
    AnalysisError
        If the mask may lie elsewhere.

    Examples
    --------
    >>> px = {"units": "px"}  # maps over the middle of an image of 2 x 4 pixels
    >>> centres = {"y": ("y", [0.5, 1.5], px), "x": ("x", [1.5, 2.5], px)}
    >>> maps = xr.DataArray(np.ones((2, 2)), centres, ("y", "x"))
    >>> mask_over(maps, np.array([[0, 0, 1, 1], [0, 0, 1, 1]])).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    given = np.asarray(mask)
    box = None
    if isinstance(maps, xr.DataArray) and given.ndim == 2:
        box = box_of_maps(maps, (str(maps.dims[-2]), str(maps.dims[-1])))
    if box is None:
        return given
    (height, width), own = given.shape, box_pixels(box)
    # Half a pixel may be rounded up here and down there.
    if abs(height - own[0]) <= 1 and abs(width - own[1]) <= 1:
        return given
    is_larger = box.y1 <= height and box.x1 <= width
    begins_at_0 = box.y0 == box.x0 == 0
    if is_larger and not begins_at_0 and box.y0 >= 0 and box.x0 >= 0:
        return cut_to_box(given, box)
    # Smaller than the part, it is no mask of the image, but one on a coarser grid over a whole image.
    # Larger and from 0 on, it may be either.
    has_shape = abs(height * own[1] - width * own[0]) <= max(own)
    if begins_at_0 and has_shape and not is_larger:
        return given
    msg = (
        f"Expected a mask of {own} pixels over {describe_box(box)} of the image, where the maps lie, "
        f"got one of {given.shape}, at mask. Cut or scale it to that part."
    )
    raise AnalysisError(msg)


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
