"""Where a sample's grids lie on its stored images."""

from __future__ import annotations

import xarray as xr

from i2am.schemas import AnalysisError, Box, ImageAttributes
from i2am.schemas.attributes import ATTRIBUTE_KEY

__all__ = ["image_box"]


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
    images = sample.children["images"].dataset if "images" in sample.children else {}
    if name not in images:
        msg = (
            f"Expected the stored image {name!r}, got none, at {sample.name or 'sample'}. Capture it "
            "with recording.add_images()."
        )
        raise AnalysisError(msg)
    image = images[name]
    if (own := image.attrs.get(ATTRIBUTE_KEY)) is not None:
        return ImageAttributes.model_validate(own).box
    return Box.whole(*image.shape[:2])
