"""Masks as they are meant: of every input, 0 and 255.

A mask has no one form on disk: 0 and 255, 0 and 1, a palette's indices, the transparency of a
cut-out. Each is read as the tools that write it mean it. What has several meanings is refused with
the values that were found, because a mask that was read wrong still looks like a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2am.capture.images.image_inputs import (
    ImageInput,
    as_array,
    describe_place,
    open_image,
    unwrap,
)
from i2am.schemas import SchemaError

__all__ = ["Mask", "check_shape", "fit_mask", "have_one_shape", "read_mask", "resize_mask"]

# Sides are rounded to multiples of 8 or 16 by pipelines, and to pixels by everybody.
_SHAPE_TOLERANCE = 0.02
_VOID_INDEX = 255
# A soft mask runs from black to white: its ends lie within _END of 0 and 255, and no gap between
# its values is wider than _GAP, unless that gap parts black from white.
_END, _GAP, _DARK, _BRIGHT = 15, 64, 64, 191
_SHOWN_VALUES = 8


@dataclass(frozen=True)
class Mask:
    """A mask as it is stored.

    Parameters
    ----------
    values : array, uint8 (y, x), of 0 and 255
    notes : tuple of str
        What its giver should know; each is worth one warning.
    """

    values: NDArray[np.uint8]
    notes: tuple[str, ...] = ()

    def to_pil(self) -> Image.Image:
        """Return it as a PIL image, L."""
        return Image.fromarray(self.values)


def read_mask(image: ImageInput, place: str) -> Mask:
    """Return a file, PIL image, array or tensor as a mask that marks something.

    Parameters
    ----------
    image : path, PIL image, array or Tensor; or a list with one of these
    place : str
        What a message calls it; a file is called by its path.

    Returns
    -------
    Mask

    Raises
    ------
    SchemaError
        If it is no image, its values can be meant in several ways, or it marks nothing.

    Notes
    -----
    Read are: bool; 0 and 1; 0 and 255 (65535 of 16 bits); 0 and one other value, which is noted;
    floats from 0 to 1 and soft masks that run from black to white, cut at half; the indices of a
    coloured palette, where 0 is background and 255 beside others is VOC's border, which is not
    marked; a grey palette by its greys; the transparency of an image of one colour: opaque is
    marked. Refused are class indices, coloured label maps, and what marks nothing; a mask that
    marks everything is noted.

    Examples
    --------
    >>> read_mask(np.array([[0, 1], [0, 0]], np.uint8), "image 'inpainting_mask'").values.tolist()
    [[0, 255], [0, 0]]
    """
    image = unwrap(image)
    if isinstance(image, Mask):
        return image
    place = describe_place(image, place)
    notes: tuple[str, ...] = ()
    if isinstance(image, str | Path | Image.Image):
        opened, notes = open_image(image, place)
        marked, more = _read_pil(opened, place)
    else:
        marked, more = _read_array(as_array(image, place), place)
    _check_marks(marked, place)
    if marked.all():
        more = (*more, f"The mask marks 100 % of its image, at {place}. Is that meant?")
    return Mask(np.ascontiguousarray(marked, np.uint8) * 255, (*notes, *more))


def fit_mask(mask: Mask, size: tuple[int, int], place: str, other: str) -> Mask:
    """Return a mask in an image's size, by the nearest pixel.

    Parameters
    ----------
    mask : Mask
    size : (int, int)
        Height and width in pixels.
    place : str
        What a message calls the mask.
    other : str
        And the image.

    Raises
    ------
    SchemaError
        If the image has another shape (height to width), or nothing is left of a small mask.
    """
    check_shape(mask, size, place, other)
    return resize_mask(mask, size, place)


def check_shape(mask: Mask, size: tuple[int, int], place: str, other: str) -> None:
    """Raise SchemaError if a mask and its image differ in height to width; see `fit_mask`."""
    own = mask.values.shape
    if not have_one_shape(own, size):
        msg = (
            f"Expected a mask of the shape of {other}, {_pixels(size)}, got {_pixels(own)}, at "
            f"{place}. Crop or pad it as its image was, so that both show the same."
        )
        raise SchemaError(msg)


def resize_mask(mask: Mask, size: tuple[int, int], place: str) -> Mask:
    """Return a mask of another height and width, whatever their ratio; see `fit_mask`."""
    if mask.values.shape == size:
        return mask
    resized = mask.to_pil().resize(size[::-1], Image.Resampling.NEAREST)
    values = np.asarray(resized)
    _check_marks(values > 0, f"{place}, resized to {_pixels(size)}")
    return Mask(values, mask.notes)


def have_one_shape(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two sizes have the same ratio of height to width, but for rounding.

    Examples
    --------
    >>> have_one_shape((1000, 667), (1000, 664)), have_one_shape((64, 64), (64, 48))
    (True, False)
    """
    ratio = one[0] * other[1] / (one[1] * other[0])
    return max(ratio, 1 / ratio) <= 1 + _SHAPE_TOLERANCE


_Read = tuple[NDArray[np.bool_], tuple[str, ...]]


def _read_pil(image: Image.Image, place: str) -> _Read:
    if image.mode == "1":
        return np.asarray(image), ()
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        values = np.asarray(image)
        is_16_bits = image.mode.startswith("I;16")
        return _read_grey(values.astype(np.uint16) if is_16_bits else values, place)
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        channels = np.asarray(straight.convert("RGBA"))
        if (channels[:, :, 3] < 255).any():
            return _read_array(channels, place)
    if image.mode == "P":
        return _read_palette(image, place)
    if image.mode in {"L", "LA", "La"}:
        return _read_grey(np.asarray(image.convert("L")), place)
    try:
        return _read_array(np.asarray(image.convert("RGB")), place)
    except ValueError as e:
        if isinstance(e, SchemaError):
            raise
        msg = f"Expected a mask of black and white, got mode {image.mode}, at {place}. Save it so."
        raise SchemaError(msg) from e


def _read_array(array: NDArray[Any], place: str) -> _Read:
    """Read (y, x) or (y, x, 3 or 4)."""
    if array.ndim == 2:
        return _read_grey(array, place)
    colour = array[:, :, :3]
    is_grey = (colour == colour[:, :, :1]).all()
    if array.shape[2] == 4:
        if (top := _full(array.dtype)) is None:
            msg = f"Expected four channels of uint8, got {array.dtype}, at {place}. Convert them."
            raise SchemaError(msg)
        if (array[:, :, 3] != top).any():
            return _read_transparency(colour, array[:, :, 3] / top, place, is_grey=bool(is_grey))
    if not is_grey:
        colours = np.unique(colour.reshape(-1, 3), axis=0)
        shown = _shown([tuple(c.tolist()) for c in colours])
        msg = (
            f"Expected a mask of black and white, got the colours {shown}, at {place}. "
            "Save it with white (255) where the mask is, black elsewhere."
        )
        raise SchemaError(msg)
    return _read_grey(colour[:, :, 0], place)


def _read_transparency(
    colour: NDArray[Any], alpha: NDArray[Any], place: str, *, is_grey: bool
) -> _Read:
    """Read a mask from what is opaque, where the colours tell nothing else.

    `alpha` runs from 0 to 1.
    """
    visible = colour[alpha > 0]
    is_uniform = not len(visible) or (visible == visible[0]).all()
    if not len(visible) and (colour != colour[0, 0]).any():
        is_uniform = False  # All is transparent, and the colours beneath may be the mask.
    elif not is_uniform and is_grey:
        is_white = colour[:, :, 0] > (_full(colour.dtype) or 1) / 2
        is_uniform = bool((is_white == (alpha > 0.5)).all())
    if not is_uniform:
        msg = (
            "Expected a mask of black and white, or of one colour with the mask as its opaque "
            f"part, got colours and transparency that both vary, at {place}. Save either alone."
        )
        raise SchemaError(msg)
    return alpha > 0.5, ()


def _read_palette(image: Image.Image, place: str) -> _Read:
    """Read greys where the palette's used colours are grey and differ, else its indices."""
    indices = np.asarray(image)
    used = np.unique(indices)
    colours = np.full((256, 3), -1)
    palette = np.array(image.getpalette("RGB") or [], int).reshape(-1, 3)[:256]
    colours[: len(palette)] = palette
    shown = colours[used]
    is_grey = (shown >= 0).all() and (shown == shown[:, :1]).all()
    if is_grey and len(np.unique(shown[:, 0])) == len(used):
        return _read_grey(colours[indices, 0].astype(np.uint8), place)
    if colours[0].max() > 0:
        names = _shown([tuple(c.tolist()) for c in shown])
        msg = (
            f"Expected a palette whose index 0 is the background, black, got the colours {names}, "
            f"at {place}. Save the mask as black and white."
        )
        raise SchemaError(msg)
    classes = used[(used > 0) & (used != _VOID_INDEX)]
    notes: tuple[str, ...] = ()
    if len(classes) and _VOID_INDEX in used:
        notes = (f"Palette index {_VOID_INDEX} is taken as a border, not marked, at {place}.",)
    if len(classes) > 1:
        notes = (*notes, f"Palette indices {_shown(classes)} are all marked, at {place}.")
    marked = np.isin(indices, classes) if len(classes) else indices > 0
    return marked, notes


def _read_grey(values: NDArray[Any], place: str) -> _Read:
    """Read one channel by the values that it holds."""
    if values.dtype == bool:
        return values, ()
    found = np.unique(values)
    if values.dtype.kind == "f":
        return _read_floats(values, found, place), ()
    known = set(found.tolist())
    top = _full(values.dtype)
    if known <= {0, 1}:
        return values == 1, ()
    if known <= {0, 255} or known <= {0, top}:
        return values > 0, ()
    if len(found) == 2 and found[0] == 0:
        is_white = top is not None and found[1] >= top * (255 - _END) / 255
        note = f"The mask holds 0 and {found[1]}: {found[1]} is marked, at {place}."
        return values > 0, () if is_white else (note,)
    if top is not None and _is_soft(found * (255 / top)):
        return values > top / 2, ()
    msg = (
        f"Expected a mask of two values, or soft from black to white, got the values "
        f"{_shown(found)}, at {place}. Save it with 255 where the mask is, 0 elsewhere."
    )
    raise SchemaError(msg)


def _read_floats(values: NDArray[Any], found: NDArray[Any], place: str) -> NDArray[np.bool_]:
    if set(found.tolist()) <= {0.0, 255.0}:
        return values > 0
    if not (found[0] >= 0 and found[-1] <= 1):  # NaN is sorted to the end.
        msg = (
            f"Expected a mask of floats from 0 to 1, got {found[0]:.4g} to {found[-1]:.4g}, at "
            f"{place}. Give 0 and 1, or 0 and 255 as uint8."
        )
        raise SchemaError(msg)
    return values >= 0.5


def _is_soft(levels: NDArray[Any]) -> bool:
    """Return whether sorted levels of 0…255 run from black to white, as no class indices do."""
    if levels[0] > _END or levels[-1] < 255 - _END:
        return False
    # Class indices with 255 for "ignore" have one bright value; soft or lossy masks have more.
    if len(levels) > 2 and (levels > 127.5).sum() < 2:
        return False
    below, above = levels[:-1], levels[1:]
    is_gap = above - below > _GAP
    return bool((~is_gap | ((below <= _DARK) & (above >= _BRIGHT))).all())


def _full(dtype: np.dtype[Any]) -> float | None:
    """Return the value of white; None where a dtype does not tell."""
    if dtype.kind == "f":
        return 1.0
    return {"bool": 1, "uint8": 255, "uint16": 65535}.get(dtype.name)


def _check_marks(marked: NDArray[np.bool_], place: str) -> None:
    if not marked.any():
        msg = (
            f"Expected a mask that marks a part of its image, got one that marks 0 %, at {place}. "
            "White (255) is marked: what shall be painted, or the object."
        )
        raise SchemaError(msg)


def _shown(values: Any) -> str:
    """Return some values, and how many there are."""
    names = [str(value) for value in list(values)]
    if len(names) <= _SHOWN_VALUES:
        return ", ".join(names)
    return f"{', '.join(names[: _SHOWN_VALUES - 1])} … {names[-1]} ({len(names)} in all)"


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]} × {size[0]} px"
