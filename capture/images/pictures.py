"""Pictures as a person sees them in a browser: of every input, RGB of 8 bits.

A file's bytes are not what is seen: it may be turned, transparent, of 16 bits, in inks or in a wide
colour space. The model and the store get what is seen. RGB of 8 bits stays as it is, bit for bit;
what cannot be shown without a choice (HDR, integers of unknown range) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from i2am.capture.images.image_inputs import (
    ImageInput,
    as_array,
    describe_place,
    open_image,
    unwrap,
)
from i2am.schemas import SchemaError

__all__ = ["Picture", "read_picture"]

_WHITE = 255
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "HSV"})
# A profile that changes no channel by more than this is sRGB, rounded in its own way.
_ROUNDING = 2
_SRGB_GAMMA = 1 / 2.2
# Modes whose range PIL, and so most pipelines, cut off where a browser scales it.
_WIDE_MODES = ("I", "F")


@dataclass(frozen=True)
class Picture:
    """A picture as it is shown and stored.

    Parameters
    ----------
    values : array, uint8 (y, x, 3)
    notes : tuple of str
        What its giver should know; each is worth one warning.
    """

    values: NDArray[np.uint8]
    notes: tuple[str, ...] = ()

    def to_pil(self) -> Image.Image:
        """Return it as a PIL image, RGB."""
        return Image.fromarray(self.values)


def read_picture(image: ImageInput, place: str) -> Picture:
    """Return a file, PIL image, array or tensor as a person sees it.

    Parameters
    ----------
    image : path, PIL image, array or Tensor; or a list with one of these
        Arrays: uint8, uint16 or bool over their whole range, or float from 0 to 1, with dims
        (y, x[, 1, 3 or 4]) or channels first.
    place : str
        What a message calls it; a file is called by its path.

    Returns
    -------
    Picture

    Raises
    ------
    SchemaError
        If it is no image, is cut off, or its shape or range can be meant in several ways.

    Notes
    -----
    Of a file: EXIF's orientation is applied, an embedded colour profile and a PNG's gamma are
    converted to sRGB, transparency is shown on white, and of several frames the first is read. A
    PIL image keeps its own colours, since they are what a pipeline reads.

    Examples
    --------
    >>> read_picture(np.full((2, 5), 65535, np.uint16), "image 'reference'").values[0, 0].tolist()
    [255, 255, 255]
    """
    image = unwrap(image)
    if isinstance(image, Picture):
        return image
    place = describe_place(image, place)
    notes: tuple[str, ...] = ()
    advice = "If another ground is meant, fill it in the file."
    if not isinstance(image, str | Path):
        advice = "The pipeline may have seen what lies beneath: give both of them one RGB image."
    if isinstance(image, str | Path | Image.Image):
        opened, notes = open_image(image, place)
        if not isinstance(image, Image.Image):
            opened = _as_srgb(opened)
        elif opened.mode.startswith(_WIDE_MODES):
            own = "The pipeline may have cut it off: give both of them one RGB image."
            notes = (*notes, f"Mode {opened.mode} is scaled to 8 bits, at {place}. {own}")
        channels = _pil_channels(opened, place)
    else:
        channels = as_array(image, place)
    values, share = _on_white(_to_8_bits(channels, place))
    if share:
        note = f"{share:.1%} of the picture is transparent and shown on white, at {place}. {advice}"
        notes = (*notes, note)
    return Picture(values, notes)


def _pil_channels(image: Image.Image, place: str) -> NDArray[Any]:
    """Return dims (y, x) or (y, x, 3 or 4)."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        if (clear := image.info.get("transparency")) is None:
            return values
        alpha = np.where(values == clear, 0, 65535).astype(np.uint16)
        return np.dstack([values, values, values, alpha])
    if image.mode == "F":
        return np.asarray(image)
    if image.mode == "I":
        low, high = image.getextrema()
        msg = (
            f"Expected 8 or 16 bits a channel, got 32-bit integers from {low} to {high}, at "
            f"{place}. Scale them to 0…255 and save 8 bits."
        )
        raise SchemaError(msg)
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        return np.asarray(straight.convert("RGBA"))
    if image.mode not in _PLAIN_MODES:
        msg = f"Expected a colour or grey image, got mode {image.mode}, at {place}. Save it as RGB."
        raise SchemaError(msg)
    return np.asarray(image.convert("RGB"))


def _to_8_bits(values: NDArray[Any], place: str) -> NDArray[np.uint8]:
    """Return whole ranges as 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    low, high = values.min(), values.max()
    if values.dtype.kind != "f":
        msg = (
            f"Expected uint8 (y, x, 3), or uint16, or float from 0 to 1, got {values.dtype} from "
            f"{low} to {high}, at {place}. Convert it to uint8."
        )
        raise SchemaError(msg)
    # What rounds to 0 and 255 is within: half precision ends a little beside 1.
    if not (low * 255 > -0.5 and high * 255 < 255.5):  # False of NaN, too.
        msg = (
            f"Expected float values from 0 to 1, or uint8 (y, x, 3), got {low:.4g} to {high:.4g}, "
            f"at {place}. {_advice(low, high)}"
        )
        raise SchemaError(msg)
    return np.rint(values.clip(0, 1).astype(np.float64) * 255).astype(np.uint8)


def _advice(low: float, high: float) -> str:
    if -1.1 <= low < 0 and high <= 1.1:
        return "If it runs from -1 to 1, give image / 2 + 0.5."
    if low >= 0 and 100 < high <= 255:
        return "Convert it to uint8."
    return "Bring it to that range first (HDR by a tone mapping of your choice)."


def _on_white(values: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Return RGB on white, and the share that is transparent; 0 where that changes nothing."""
    if values.ndim == 2:
        return np.dstack([values] * 3), 0.0
    rgb = np.ascontiguousarray(values[:, :, :3])
    if values.shape[2] == 3:
        return rgb, 0.0
    alpha = values[:, :, 3:].astype(np.uint32)
    shown = ((rgb * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)
    if np.array_equal(shown, rgb):
        return rgb, 0.0
    return shown, float((alpha < 255).mean())


def _as_srgb(image: Image.Image) -> Image.Image:
    """Return an image whose profile or gamma is another than sRGB's in sRGB, alpha kept."""
    colour = _with_profile(image)
    if colour is None and (gamma := _gamma(image)) is not None:
        colour = _without_alpha(image).convert("RGB").point(_to_srgb_table(gamma) * 3)
    if colour is None:
        return image
    if image.has_transparency_data:
        colour.putalpha(image.convert("RGBA").getchannel("A"))
    return colour


def _with_profile(image: Image.Image) -> Image.Image | None:
    """Return RGB after an embedded profile; None where it is sRGB, or no browser would use it."""
    profile_bytes = image.info.get("icc_profile")
    if not profile_bytes:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(profile_bytes))
        space = profile.profile.xcolor_space.strip()
        is_grey = image.mode in {"1", "L", "LA", "La"} or image.mode.startswith("I;16")
        if (space == "CMYK") != (image.mode == "CMYK") or (space == "GRAY" and not is_grey):
            return None
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
        if mode is None or image.mode in {"F", "I", "LAB"} or _has_clear_level_of_16_bits(image):
            return None
        srgb = ImageCms.createProfile("sRGB")
        to_srgb = ImageCms.buildTransform(profile, srgb, mode, "RGB")
        if mode != "CMYK" and _is_identity(to_srgb, mode):
            return None
        return ImageCms.applyTransform(_without_alpha(image).convert(mode), to_srgb)
    except (ImageCms.PyCMSError, OSError, ValueError):  # A broken profile counts as none.
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        colours = levels[None]
    else:
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform)).astype(int)
    wanted = np.asarray(Image.fromarray(colours).convert("RGB")).astype(int)
    return bool(np.abs(found - wanted).max() <= _ROUNDING)


def _has_clear_level_of_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") and "transparency" in image.info


def _without_alpha(image: Image.Image) -> Image.Image:
    """Return 8 bits a channel that convert to RGB or L; what is transparent keeps its colour."""
    if image.mode == "P" and image.has_transparency_data:
        return image.convert("RGBA").convert("RGB")
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(_to_8_bits(np.asarray(image).astype(np.uint16), ""))


def _gamma(image: Image.Image) -> float | None:
    """Return a PNG's gamma where it is not that of sRGB, and nothing stronger is said."""
    gamma = image.info.get("gamma")
    if not gamma or "srgb" in image.info or image.info.get("icc_profile"):
        return None
    is_plain = image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"}
    return float(gamma) if is_plain and abs(gamma / _SRGB_GAMMA - 1) > 0.05 else None


def _to_srgb_table(gamma: float) -> list[int]:
    """Return the sRGB value of each of 256 values that stand for light to the power of `gamma`."""
    light = (np.arange(256) / 255) ** (1 / gamma)
    bright = 1.055 * light ** (1 / 2.4) - 0.055
    table: list[int] = np.rint(np.where(light <= 0.0031308, 12.92 * light, bright) * 255).tolist()
    return [int(value) for value in table]
