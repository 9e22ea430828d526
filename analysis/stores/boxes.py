"""Where a sample's grids lie on its stored images, in pixels of those images."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr

from i2am.schemas import AnalysisError, Box, ImageAttributes
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import PIXEL_UNITS, X, Y

__all__ = ["box_of_maps", "describe_box", "image_box", "is_whole_image", "pixel_coordinates"]

_EDGE_DECIMALS: Final = 6


def image_box(sample: xr.DataTree, name: str) -> Box:
    """Return the part of a stored image that the model saw, over which the layers' grids lie.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    name : str
        Of the stored image: generated, reference, reference_1, …

    Returns
    -------
    Box
        In pixels of the stored image; the whole image where the store does not tell another.

    Raises
    ------
    AnalysisError
        If the sample has no such image.

    Examples
    --------
    >>> import numpy as np
    >>> wide = xr.DataArray(np.zeros((32, 96, 3), np.uint8), dims=("reference_y", "reference_x", "rgb"))
    >>> seen = wide.assign_attrs(i2am={"box": [0, 32, 32, 64]})
    >>> sample = xr.DataTree.from_dict({"/images": xr.Dataset({"reference": seen})})
    >>> image_box(sample, "reference")
    Box(y0=0.0, x0=32.0, y1=32.0, x1=64.0)
    """
    image = _image(sample, name)
    if image is None:
        msg = (
            f"Expected the stored image {name!r}, got none, at {sample.name or 'sample'}. Capture it "
            "with recording.add_images()."
        )
        raise AnalysisError(msg)
    if (own := image.attrs.get(ATTRIBUTE_KEY)) is not None:
        return ImageAttributes.model_validate(own).box
    return Box.whole(*image.shape[:2])


def is_whole_image(sample: xr.DataTree, name: str) -> bool:
    """Return whether the model saw all of a stored image, and nothing beyond it."""
    box = image_box(sample, name)  # Raises where there is no such image.
    return box.is_whole(*sample.children["images"].dataset[name].shape[:2])


def pixel_coordinates(
    sample: xr.DataTree, name: str, plane: tuple[str, str], grid: tuple[int, int]
) -> dict[str, xr.Variable]:
    """Return the coordinates of a map's two dimensions: where its cells lie on a stored image.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    name : str
        Of the stored image.
    plane : (str, str)
        The map's dimensions.
    grid : (height, width)
        Their sizes.

    Returns
    -------
    dict of str to Variable
        The centre of each cell, float64, with ``long_name`` and the units "px"; empty where the image is
        not stored.

    Examples
    --------
    >>> import numpy as np
    >>> image = xr.DataArray(np.zeros((32, 64, 3), np.uint8), dims=("y", "x", "rgb"))
    >>> sample = xr.DataTree.from_dict({"/images": xr.Dataset({"generated": image})})
    >>> found = pixel_coordinates(sample, "generated", ("y", "x"), (2, 4))
    >>> found["y"].values.tolist(), found["x"].values.tolist(), found["x"].attrs
    ([8.0, 24.0], [8.0, 24.0, 40.0, 56.0], {'units': 'px', 'long_name': 'x in the generated image'})
    """
    if _image(sample, name) is None:
        return {}
    centres = image_box(sample, name).cell_centres(grid)
    words = f"in the {name.replace('_', ' ')} image"
    return {
        dim: xr.Variable(
            dim,
            np.array(own, np.float64),
            {"units": PIXEL_UNITS, "long_name": f"{axis} {words}"},
        )
        for dim, axis, own in zip(plane, (Y, X), centres, strict=True)
    }


def box_of_maps(maps: xr.DataArray | xr.Dataset, plane: tuple[str, str]) -> Box | None:
    """Return the box that a map's coordinates in pixels tell; None where they do not.

    Parameters
    ----------
    maps : DataArray or Dataset
    plane : (str, str)
        The map's dimensions.

    Examples
    --------
    >>> px = {"units": "px"}
    >>> centres = {"y": ("y", [8.0, 24.0], px), "x": ("x", [40.0, 56.0], px)}
    >>> box_of_maps(xr.DataArray([[0, 1], [2, 3]], centres, ("y", "x")), ("y", "x"))
    Box(y0=0.0, x0=32.0, y1=32.0, x1=64.0)
    """
    ends = []
    for dim in plane:
        own = maps.coords.get(dim)
        # The centre of one cell tells no size.
        if own is None or own.attrs.get("units") != PIXEL_UNITS or own.size < 2:
            return None
        centres = own.to_numpy()
        half = (float(centres[-1]) - float(centres[0])) / (len(centres) - 1) / 2
        if half <= 0:
            return None
        # Rounding must not make two edges of one that is the same.
        ends.append(
            [round(float(end), _EDGE_DECIMALS) for end in (centres[0] - half, centres[-1] + half)]
        )
    (y0, y1), (x0, x1) = ends
    return Box(y0, x0, y1, x1)


def describe_box(box: Box) -> str:
    """Return a box in words.

    Examples
    --------
    >>> describe_box(Box(0, 32, 32.5, 64))
    'rows 0 to 32.5, columns 32 to 64'
    """
    y0, x0, y1, x1 = (f"{round(end, 2):g}" for end in box)
    return f"rows {y0} to {y1}, columns {x0} to {x1}"


def _image(sample: xr.DataTree, name: str) -> Any:
    images = sample.children["images"].dataset if "images" in sample.children else {}
    return images.get(name)
