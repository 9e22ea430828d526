"""What `add_images` is given, as the arrays that are stored: read, and of sizes that fit.

A source and a mask lie over the generated image, a reference's mask over the reference. One of
another size but the same shape is resized. One of another shape is refused: whether the pipeline
stretched, cropped or padded it is not known here, and the mask would lie beside what was painted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2am.capture.images.masks import Mask, fit_mask, have_one_shape, read_mask
from i2am.capture.images.pictures import Picture, read_picture
from i2am.schemas import CaptureError, SchemaError, did_you_mean
from i2am.schemas.dims import IMAGE_ARRAYS, RGB, image_dims

__all__ = ["read_images"]

_LIES_OVER = {
    "source": "generated",
    "inpainting_mask": "generated",
    "reference_mask": "reference",
}


def read_images(
    images: Mapping[str, Any], known: Mapping[str, tuple[int, ...]], sample: str
) -> tuple[dict[str, NDArray[np.uint8]], tuple[str, ...]]:
    """Return what is to be stored by name, and notes for the caller.

    Parameters
    ----------
    images : mapping of str to path, PIL image, array, Tensor, Picture or Mask
    known : mapping of str to tuple of int
        Shapes of the images that are stored already.
    sample : str
        What a message calls the sample.

    Returns
    -------
    dict of str to uint8 array
        (y, x, 3), or for a mask (y, x) of 0 and 255.
    tuple of str
        Of those that are read here: a Picture's or Mask's own were told when it was read.

    Raises
    ------
    CaptureError
        If a name is unknown or stored already.
    SchemaError
        If an image cannot be read, or does not fit the one that it lies over.
    """
    found: dict[str, Picture | Mask] = {}
    notes: list[str] = []
    for name, image in images.items():
        if (dims := image_dims(name)) is None:
            msg = f"Expected an image's name, got {name!r}. {did_you_mean(name, IMAGE_ARRAYS)}"
            raise CaptureError(msg)
        if name in known:
            msg = f"Expected image {name!r} once, got it again, at sample {sample!r}. Omit it."
            raise CaptureError(msg)
        place = f"image {name!r}"
        found[name] = read_picture(image, place) if RGB in dims else read_mask(image, place)
        if found[name] is not image:
            notes += found[name].notes
    shapes = dict(known) | {name: each.values.shape for name, each in found.items()}
    for name, base in _LIES_OVER.items():
        if name in shapes and base in shapes and shapes[name][:2] != shapes[base][:2]:
            if name not in found:
                _refuse_late(name, base)
            found[name] = _fit(found[name], shapes[base][:2], name, base)
    return {name: each.values for name, each in found.items()}, tuple(notes)


def _fit(image: Picture | Mask, size: tuple[int, ...], name: str, base: str) -> Picture | Mask:
    height, width = size
    if isinstance(image, Mask):
        return fit_mask(image, (height, width), f"image {name!r}", f"image {base!r}")
    if not have_one_shape(image.values.shape, size):
        own = image.values.shape
        msg = (
            f"Expected image {name!r} in the shape of {base!r}, {width} × {height} px, got "
            f"{own[1]} × {own[0]} px. Give it as the pipeline prepared it: stretched, cropped "
            "or padded."
        )
        raise SchemaError(msg)
    resized = image.to_pil().resize((width, height), Image.Resampling.LANCZOS)
    return Picture(np.asarray(resized), image.notes)


def _refuse_late(name: str, base: str) -> None:
    msg = (
        f"Expected image {base!r} in the size of {name!r}, which is stored already, got another. "
        f"Give both in one call of add_images: {name!r} is resized then."
    )
    raise SchemaError(msg)
