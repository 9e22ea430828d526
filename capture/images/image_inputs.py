"""What is given as an image, opened: a file, a PIL image, an array or a tensor.

Here the forms come together, before `pictures` and `masks` say what the values mean: one frame, the
right way up, 16 bits as 16 bits, channels last. What could be meant in two ways is refused.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from i2am.schemas import SchemaError

__all__ = [
    "ImageInput",
    "as_array",
    "check_image_file",
    "describe_place",
    "open_image",
    "unwrap",
]

# A path, a PIL image, an array or a tensor; also a list that holds one of them.
ImageInput: TypeAlias = Any

# Other pages of these are previews and depth of the same photograph, which no browser shows.
_FORMATS_OF_ONE_PICTURE = frozenset({"MPO"})
# PIL reads 16-bit greys of these as 32-bit integers, the older the more.
_FORMATS_OF_16_BITS = frozenset({"PNG", "PPM"})
_BITS_PER_SAMPLE = 258  # A tag of TIFF.
# Models see one or a few megapixels. PIL allows 180, and a few bytes can stand for as many.
_MOST_PIXELS = 100_000_000
# What PIL reads by running another program on the file.
_FORMATS_OF_PROGRAMS = frozenset({"EPS"})
_COLOURS = (3, 4)
# Transfer functions by their numbers in H.273.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


def unwrap(image: ImageInput) -> ImageInput:
    """Return the one image of a list or tuple, and anything else as it is.

    Examples
    --------
    >>> unwrap(["a.png"])
    'a.png'
    """
    is_alone = isinstance(image, list | tuple) and len(image) == 1
    return image[0] if is_alone and not isinstance(image[0], int | float) else image


def describe_place(image: ImageInput, place: str) -> str:
    """Return where an image is from: its file, or what the caller says."""
    return str(image) if isinstance(image, str | Path) else place


def open_image(image: str | Path | Image.Image, place: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an image the right way up, read to its end, and notes on what was left out.

    Parameters
    ----------
    image : str, Path or PIL image
    place : str
        What a message calls it.

    Returns
    -------
    PIL image
        16-bit greys have a mode that starts with ``I;16``.
    tuple of str

    Raises
    ------
    SchemaError
        If a file is no image, ends too early or has more than 100 megapixels, or a PIL image still
        waits to be turned.
    """
    with _reported(place):
        if isinstance(image, Image.Image):
            notes = _frame_notes(image, place)
            image.load()
            _check_is_upright(image, place)
            return _with_16_bits(image), notes
        with _open_file(image, place) as file:
            if file.format == "PNG":
                _check_is_not_hdr(Path(image))
            notes = _frame_notes(file, place)
            file.load()
            return ImageOps.exif_transpose(_with_16_bits(file)), notes


def check_image_file(path: str | Path) -> int:
    """Check that a file begins as an image does, without reading its pixels; return their number.

    Raises
    ------
    SchemaError
        As `open_image`, but for what only the pixels tell.
    """
    with _reported(str(path)), _open_file(path, str(path)) as file:
        return file.width * file.height


@contextmanager
def _reported(place: str) -> Iterator[None]:
    """Raise what PIL raises of a file as a SchemaError."""
    try:
        yield
    except SchemaError:
        raise
    except Image.DecompressionBombError as e:
        raise SchemaError(_too_large(str(e), place)) from e
    except OSError as e:
        if e.filename is not None:  # Rights, a broken disk: the file may well be an image.
            msg = f"Expected an image that can be read, got '{e.strerror}', at {place}. Check it."
            raise SchemaError(msg) from e
        raise SchemaError(_no_image(e, place)) from e
    except MemoryError as e:
        raise SchemaError(_too_large("more than memory holds", place)) from e
    except (
        Exception
    ) as e:  # PIL's readers of some forty formats raise whatever other bytes lead to.
        raise SchemaError(_no_image(e, place)) from e


def _no_image(error: Exception, place: str) -> str:
    reason = str(error) or type(error).__name__
    return f"Expected an image, got something else at {place} ({reason}). Convert it to PNG."


def _open_file(path: str | Path, place: str) -> Image.Image:
    """Open an image file whose pixels can be read."""
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises of a name that is too long
        msg = f"Expected an image file, found none at {place}. Check the path."
        raise SchemaError(msg)
    with warnings.catch_warnings():  # What it warns of is refused here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        file = Image.open(path)
    if file.format in _FORMATS_OF_PROGRAMS:
        msg = f"Expected an image of pixels, got {file.format}, at {place}. Convert it to PNG."
        raise SchemaError(msg)
    if file.width * file.height > _MOST_PIXELS:
        raise SchemaError(_too_large(f"{file.width} × {file.height} px", place))
    return file


def _too_large(came: str, place: str) -> str:
    return (
        f"Expected an image of at most {_MOST_PIXELS // 10**6} megapixels, got {came}, at {place}. "
        "Make it smaller."
    )


def as_array(image: ImageInput, place: str) -> NDArray[Any]:
    """Return an array or a tensor as (y, x) or (y, x, 3 or 4).

    Parameters
    ----------
    image : array or Tensor
        (y, x), (y, x, channel) or (channel, y, x), with or without a batch of one.
    place : str
        What a message calls it.

    Returns
    -------
    array
        bool, unsigned, int or float.

    Raises
    ------
    SchemaError
        If the shape has no meaning, or two, or the values are no numbers.

    Examples
    --------
    >>> as_array(torch.zeros(1, 3, 16, 32), "image 'reference'").shape
    (16, 32, 3)
    """
    try:
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
        found = np.asarray(image)
    except (TypeError, ValueError) as e:  # Images of several sizes; sparse tensors.
        msg = f"Expected one image, got {type(image).__name__} ({e}), at {place}. Convert it."
        raise SchemaError(msg) from e
    if found.dtype.kind not in "buif":
        came = type(image).__name__ if found.dtype == object else str(found.dtype)
        msg = f"Expected a file, PIL image, array or tensor, got {came}, at {place}. Convert it."
        raise SchemaError(msg)
    array = _with_channels_last(found[0] if found.ndim == 4 and len(found) == 1 else found)
    if array is None or not array.size:
        msg = (
            "Expected an image as a PIL image or array of uint8 (y, x, 3), got "
            f"{found.dtype} {found.shape}, at {place}. Give one image, with the channels last."
        )
        raise SchemaError(msg)
    return array


def _with_channels_last(array: NDArray[Any]) -> NDArray[Any] | None:
    """Return (y, x) or (y, x, 3 or 4); None where the shape says neither or both."""
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        return None
    first, last = array.shape[0], array.shape[2]
    if last in _COLOURS:
        # Of four channels in front and three columns nobody has pictures.
        is_ambiguous = first in {1, 3} or first == last
        return None if is_ambiguous else array
    if first in _COLOURS and last != 1:
        return array.transpose(1, 2, 0)
    if first == 1:
        return array.reshape(array.shape[1:])
    return array[:, :, 0] if last == 1 else None


def _check_is_upright(image: Image.Image, place: str) -> None:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(2, 9):
        msg = (
            f"Expected an upright image, got one that is turned when it is shown (EXIF orientation "
            f"{orientation}), at {place}. The pipeline saw it unturned: give both of them "
            "PIL.ImageOps.exif_transpose(image)."
        )
        raise SchemaError(msg)


def _check_is_not_hdr(path: Path) -> None:
    """Raise where a PNG's values stand for light beyond white, which PIL does not look at."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", header)
            if name in {b"IDAT", b"IEND"}:
                return
            body = file.read(length + 4)  # With the chunk's checksum.
            if name == b"cICP" and body[1] in _HDR_TRANSFERS:
                msg = (
                    f"Expected a picture of ordinary range, got HDR ({_HDR_TRANSFERS[body[1]]}), "
                    f"at {path}. Bring it to sRGB by a tone mapping of your choice."
                )
                raise SchemaError(msg)


def _frame_notes(image: Image.Image, place: str) -> tuple[str, ...]:
    frames = getattr(image, "n_frames", 1)
    # Who went to a later frame of an open image has chosen it.
    if frames == 1 or image.format in _FORMATS_OF_ONE_PICTURE or image.tell():
        return ()
    return (f"Only the first of {frames} frames or pages is read, at {place}.",)


def _with_16_bits(image: Image.Image) -> Image.Image:
    """Return greys of more than 8 bits as 16 bits over their whole range; others as they are."""
    if image.mode == "I" and image.format in _FORMATS_OF_16_BITS:
        values = np.asarray(image)
    elif image.mode == "I;16" and _tiff_bits(image) == 12:
        values = np.asarray(image).astype(np.int64) * 65535 // 4095
    else:
        return image
    found = Image.fromarray(values.astype(np.uint16))
    found.info = dict(image.info)
    return found


def _tiff_bits(image: Image.Image) -> int | None:
    bits: tuple[int, ...] = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return bits[0] if bits else None
