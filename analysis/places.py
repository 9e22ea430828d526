"""The places of an image that are asked about: one, or many regions, as the pixels they hold."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.grid import Grid
from i2am.schemas import AnalysisError

__all__ = ["REGION", "Place", "Places", "Regions", "find_regions"]

REGION: Final = "region"

# A pixel (y, x), or a boolean mask of the image's size.
Place = tuple[int, int] | NDArray[np.bool_] | xr.DataArray
# One of them, several, or a stack of masks whose leading dimension is the region.
Places = Place | Sequence[Place]


@dataclass(frozen=True)
class Regions:
    """What is asked about, in pixels of a stored image."""

    pixels: tuple[NDArray[np.intp], ...]  # of each region (n, 2): y and x
    labels: tuple[Any, ...] | None  # None where a single place was given as such
    size: tuple[int, int]  # of the image

    def patches(self, grid: Grid) -> list[NDArray[np.intp]]:
        """Return each region's patches on a grid, row-major: those that hold its pixels."""
        height, width = grid
        found = []
        for pixels in self.pixels:
            rows = pixels[:, 0] * height // self.size[0]
            columns = pixels[:, 1] * width // self.size[1]
            held = np.bincount(rows * width + columns, minlength=height * width)
            found.append(np.flatnonzero(held))
        return found


def find_regions(sample: xr.DataTree, places: Any, name: str) -> Regions:
    """Return the pixels of one place or of many in a stored image.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    places : Places
    name : str
        Of the stored image.

    Raises
    ------
    AnalysisError
        If the sample has no such image, there is no place, or one is not in the image.
    """
    image = sample["images"].get(name) if "images" in sample.children else None
    if image is None:
        msg = (
            f"Expected the {name} image that the place is in, got none, "
            f"at {sample.name or 'sample'}. Capture it with recording.add_images()."
        )
        raise AnalysisError(msg)
    size = (int(image.shape[0]), int(image.shape[1]))
    if not _is_many(places):
        return Regions((_pixels(places, size, name, f"{name}="),), None, size)
    labels: Sequence[Any] = range(len(places))
    if isinstance(places, xr.DataArray) and REGION in places.dims:
        places = places.transpose(REGION, ...)
        labels = places[REGION].values.tolist()
    found = tuple(
        _pixels(place, size, name, f"{name}[{number}]") for number, place in enumerate(places)
    )
    if not found:
        msg = f"Expected at least one place, got none, at {name}=. Give a pixel or a mask."
        raise AnalysisError(msg)
    return Regions(found, tuple(labels), size)


def _is_many(places: Any) -> bool:
    if isinstance(places, tuple | list):
        return not _is_pixel(places)
    return np.ndim(places) == 3


def _is_pixel(place: Any) -> bool:
    return (
        isinstance(place, tuple | list)
        and len(place) == 2
        and all(np.ndim(value) == 0 for value in place)
    )


def _pixels(place: Any, size: tuple[int, int], name: str, where: str) -> NDArray[np.intp]:
    """Return a place's pixels (n, 2)."""
    if _is_pixel(place):
        y, x = (operator.index(value) for value in place)
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            msg = (
                f"Expected a pixel (y, x) within {size}, got {(y, x)}, at {where}. "
                f"Give a pixel of the stored {name} image."
            )
            raise AnalysisError(msg)
        return np.array([[y, x]])
    mask = np.asarray(place)
    if mask.shape != size or mask.dtype != bool or not mask.any():
        got = f"{mask.dtype} {mask.shape}" if mask.any() else "an empty mask"
        msg = (
            f"Expected a pixel (y, x) or a boolean mask of {size} with a True in it, got {got}, "
            f"at {where}. Give a mask of the stored {name} image."
        )
        raise AnalysisError(msg)
    return np.argwhere(mask)
