"""How a picture is prepared for a model: which part of it the tokens then lie over.

A family's profile says so for its references (`Profile.prepares`). For the picture that is painted it
is the same in all of diffusers' pipelines: it is the whole picture, except where an inpainting pipeline
paints a crop and pastes it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from i2am.capture.hooks.picture_log import ProcessedPicture
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import Box

__all__ = [
    "CanvasPart",
    "CentreCrop",
    "Fitted",
    "Preparation",
    "Preparations",
    "Prepares",
    "SeenPart",
    "Stretched",
    "covered",
    "encoded_pictures",
    "filled_canvas",
    "is_same_shape",
    "padded_canvas",
    "painted_part",
    "stretched",
]

# As transformers calls them, now and before. Others may prepare otherwise.
_KNOWN_PROCESSORS = {
    *("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
    *("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil"),
    "CLIPFeatureExtractor",
}


class Preparation(Protocol):
    """How one picture is prepared for a model."""

    def box(self, height: int, width: int) -> Box | None:
        """Return the part that the model saw of a stored picture, in pixels of that picture.

        Parameters
        ----------
        height, width : int
            Of the stored picture, in pixels.

        Returns
        -------
        Box or None
            None if the stored picture cannot be the one that was prepared.
        """


# One for all references, or one for each in the order in which the model takes them; None is unknown.
Preparations = Preparation | Sequence[Preparation | None] | None
Prepares = Callable[[RunningCall], Preparations]


@dataclass(frozen=True)
class Stretched:
    """The whole picture, resized to what the model takes, whatever its shape.

    Examples
    --------
    >>> Stretched().box(32, 96)
    Box(y0=0, x0=0, y1=32, x1=96)
    """

    def box(self, height: int, width: int) -> Box:
        """See `Preparation`."""
        return Box.whole(height, width)


@dataclass(frozen=True)
class CentreCrop:
    """The middle of the resized picture, as CLIP's image processor prepares it.

    Parameters
    ----------
    resize : int, (int, int) or None
        The shorter side after the resize, in pixels; or height and width, whatever the picture's
        shape; None leaves its size.
    crop : int, (int, int) or None
        Side, or height and width, of what is then cut from the middle; None leaves all. Where it is
        larger than the picture, the picture is padded.
    has_odd_pixel_before : bool
        Whether an odd number of padding pixels has one more before the picture than after it.

    Examples
    --------
    >>> CentreCrop(resize=224, crop=224).box(32, 96)
    Box(y0=0.0, x0=32.0, y1=32.0, x1=64.0)
    """

    resize: int | tuple[int, int] | None
    crop: int | tuple[int, int] | None
    has_odd_pixel_before: bool = True

    def box(self, height: int, width: int) -> Box:
        """See `Preparation`."""
        resized = self._resized(height, width)
        crop = (self.crop,) * 2 if isinstance(self.crop, int) else self.crop or resized
        starts = [self._start(*sides) for sides in zip(resized, crop, strict=True)]
        spans = [
            (start * side / scaled, (start + cut) * side / scaled)
            for start, cut, side, scaled in zip(starts, crop, (height, width), resized, strict=True)
        ]
        (y0, y1), (x0, x1) = spans
        return Box(y0, x0, y1, x1)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if not isinstance(self.resize, int):
            return self.resize
        longer = int(self.resize * max(height, width) / min(height, width))
        return (longer, self.resize) if width <= height else (self.resize, longer)

    def _start(self, side: int, cut: int) -> int:
        return (side - cut) // 2 if self.has_odd_pixel_before else int((side - cut) / 2)


@dataclass(frozen=True)
class Fitted:
    """The picture in its own shape, in the middle of a canvas: it covers that, or fits into it.

    Parameters
    ----------
    height, width : int
        Of the canvas, in pixels.
    covers : bool
        Whether the picture is enlarged until no margin is left, and what juts out is cut off.
    multiple : int
        Its sides are first brought down to a multiple of so many pixels.

    Examples
    --------
    >>> Fitted(64, 64, covers=True).box(32, 96), Fitted(64, 64).box(32, 64)
    (Box(y0=0.0, x0=32.0, y1=32.0, x1=64.0), Box(y0=-16.0, x0=0.0, y1=48.0, x1=64.0))
    """

    height: int
    width: int
    covers: bool = False
    multiple: int = 1

    def box(self, height: int, width: int) -> Box:
        """See `Preparation`."""
        choose, whole = (max, math.ceil) if self.covers else (min, int)
        rows, columns = (max(side - side % self.multiple, 1) for side in (height, width))
        scale = choose(self.height / rows, self.width / columns)
        spans = []
        for side, own, canvas in (
            (height, rows, self.height),
            (width, columns, self.width),
        ):
            resized = whole(own * scale)
            # Where the canvas begins, in pixels of the resized picture.
            start = (resized - canvas) // 2 if self.covers else -((canvas - resized) // 2)
            spans.append((start * side / resized, (start + canvas) * side / resized))
        (y0, y1), (x0, x1) = spans
        return Box(y0, x0, y1, x1)


@dataclass(frozen=True)
class SeenPart:
    """A known part of a picture, whose size is known from the model's call.

    Parameters
    ----------
    height, width : int
        Of the picture, in pixels.
    seen : Box
        In its pixels.
    is_stretched : bool
        Whether the picture was first resized to that size, whatever its shape.

    Examples
    --------
    The same picture may be stored smaller, but not in another shape:

    >>> part = SeenPart(64, 192, Box(0, 64, 64, 128))
    >>> part.box(32, 96)
    Box(y0=0.0, x0=32.0, y1=32.0, x1=64.0)
    >>> part.box(64, 64)
    """

    height: int
    width: int
    seen: Box
    is_stretched: bool = False

    def box(self, height: int, width: int) -> Box | None:
        """See `Preparation`."""
        if not self.is_stretched and not is_same_shape((self.height, self.width), (height, width)):
            return None
        (y0, x0, y1, x1), rows, columns = self.seen, self.height, self.width
        return Box(
            y0 * height / rows, x0 * width / columns, y1 * height / rows, x1 * width / columns
        )


@dataclass(frozen=True)
class CanvasPart:
    """The part of a painted canvas that is the generated image: it is stored alone, or the canvas is.

    Which of them a picture is its shape tells. Where both have one shape, nothing does.

    Parameters
    ----------
    grid : (height, width)
        Of the part, in tokens.
    part : Box
        In fractions of the canvas.

    Examples
    --------
    The right half of a canvas of two squares:

    >>> right = CanvasPart((16, 16), Box(0, 0.5, 1, 1))
    >>> right.box(64, 128), right.box(64, 64), right.box(64, 100)
    (Box(y0=0, x0=64.0, y1=64, x1=128), Box(y0=0, x0=0, y1=64, x1=64), None)
    """

    grid: tuple[int, int]
    part: Box

    def box(self, height: int, width: int) -> Box | None:
        """See `Preparation`."""
        rows, columns = self.grid
        canvas = rows / self.part.height, columns / self.part.width
        is_part, is_canvas = (is_same_shape(s, (height, width)) for s in (self.grid, canvas))
        if is_part == is_canvas:
            return None
        if is_part:
            return Box.whole(height, width)
        y0, x0, y1, x1 = self.part
        return Box(y0 * height, x0 * width, y1 * height, x1 * width)


def is_same_shape(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Return whether two sizes (height, width) have one aspect ratio.

    They may differ by the rounding of one pixel, or token, of the smaller size.

    Examples
    --------
    >>> is_same_shape((16, 16), (512, 530)), is_same_shape((16, 16), (512, 768))
    (True, False)
    """
    return abs(first[0] * second[1] - first[1] * second[0]) <= max(*first, *second)


def stretched(_call: RunningCall) -> Preparation:
    """Return that all references are resized, whatever their shape; see `Profile.prepares`."""
    return Stretched()


def covered(picture: Image.Image, size: tuple[int, int]) -> SeenPart:
    """Return the middle of a picture that is resized to cover a size, and no more.

    Parameters
    ----------
    picture : Image
    size : (height, width)
        In pixels.

    Examples
    --------
    >>> covered(Image.new("RGB", (96, 32)), (64, 64)).seen
    Box(y0=0.0, x0=32.0, y1=32.0, x1=64.0)
    """
    height, width = picture.height, picture.width
    factor = max(size[0] / height, size[1] / width)
    resized = math.ceil(height * factor), math.ceil(width * factor)
    return SeenPart(height, width, CentreCrop(resized, size).box(height, width))


def encoded_pictures(call: RunningCall, count: int) -> list[Preparation | None] | None:
    """Return how the pictures came to an image encoder, through the pipeline's image processor.

    Parameters
    ----------
    call : RunningCall
    count : int
        How many pictures the model reads.

    Returns
    -------
    list of Preparation or None
        None if the processor prepared another number of pictures: some were given as tensors, or as
        an encoder's output.
    """
    if len(call.pictures) != count:
        return None
    return [_processed(picture) for picture in call.pictures]


def _processed(picture: ProcessedPicture) -> SeenPart | None:
    """Return which part of a picture its processor kept; None where its way is not known."""
    settings = picture.settings
    size, crop = settings["size"], settings["crop_size"]
    resize: Any = None
    if settings["do_resize"]:
        resize = _shortest_edge(size) or _sides(size)
    kept = _sides(crop) if settings["do_center_crop"] else None
    is_known = (
        picture.size is not None
        and picture.processor in _KNOWN_PROCESSORS
        and not settings["do_pad"]
        and (resize is not None or not settings["do_resize"])
        and (kept is not None or not settings["do_center_crop"])
    )
    if picture.size is None or not is_known:
        return None
    # Where transformers prepares with torchvision, it pads the other way round.
    way = CentreCrop(resize, kept, settings["backend"] != "torchvision")
    return SeenPart(*picture.size, way.box(*picture.size))


def _sides(size: Any) -> tuple[int, int] | None:
    """Return height and width of a processor's size, where it has both and nothing else."""
    if isinstance(size, int):  # Of a crop; of a resize it is the shorter side.
        return size, size
    found = dict(size or {})
    return (found["height"], found["width"]) if found.keys() == {"height", "width"} else None


def _shortest_edge(size: Any) -> int | None:
    if isinstance(size, int):
        return size
    found = dict(size or {})
    return found["shortest_edge"] if found.keys() == {"shortest_edge"} else None


def painted_part(call: RunningCall) -> Preparation | None:
    """Return which part of the returned picture an inpainting pipeline has painted.

    With ``padding_mask_crop``, diffusers' pipelines paint a crop, enlarged, and paste it back into
    the original picture. FLUX.3 paints more than it returns, around a picture whose sides are no
    multiples of its tokens.

    Returns
    -------
    Preparation or None
        None if the returned picture is what the pipeline painted.
    """
    if (padded := padded_canvas(call)) is not None:
        return padded
    crop, original = (call.variables.get(name) for name in ("crops_coords", "original_image"))
    if crop is None or not isinstance(original, Image.Image):
        return None
    prepared = call.variables.get("init_image")
    canvas: list[int] = (
        [call.variables[side] for side in ("height", "width")]
        if prepared is None
        else list(prepared.shape[-2:])
    )
    return SeenPart(original.height, original.width, _pasted_canvas(crop, *canvas))


def padded_canvas(call: RunningCall) -> SeenPart | None:
    """Return the canvas of a picture that FLUX.3 has padded to whole tokens, in its pixels; None without.

    The returned picture has the pixels of the padded one.
    """
    places = [place for place in call.variables.get("reference_crop") or () if place is not None]
    if not places:
        return None
    left, top, right, bottom = places[0]
    height, width = call.variables["condition_images"][0].shape[-2:]
    return SeenPart(bottom - top, right - left, Box(-top, -left, height - top, width - left))


def _pasted_canvas(crop: tuple[int, int, int, int], height: int, width: int) -> Box:
    """Return the box of a painted canvas that is pasted into a crop, of which it may exceed a side.

    Parameters
    ----------
    crop : (x0, y0, x1, y1)
        As diffusers has it.
    height, width : int
        Of the canvas.

    Notes
    -----
    As ``VaeImageProcessor.apply_overlay`` does it, with ``resize_mode="crop"``.
    """
    x, y = crop[:2]
    columns, rows = crop[2] - x, crop[3] - y
    is_wider = columns / rows > width / height
    pasted_width = columns if is_wider else width * rows // height
    pasted_height = height * columns // width if is_wider else rows
    left = x + columns // 2 - pasted_width // 2
    top = y + rows // 2 - pasted_height // 2
    return Box(top, left, top + pasted_height, left + pasted_width)


def filled_canvas(crop: tuple[int, int, int, int], height: int, width: int) -> Box:
    """Return the box of a canvas that a crop of a picture is resized into, with filled margins.

    Parameters
    ----------
    crop : (x0, y0, x1, y1)
        In pixels of the picture, as diffusers has it.
    height, width : int
        Of the canvas.

    Notes
    -----
    As ``VaeImageProcessor.preprocess`` does it, with ``resize_mode="fill"``.
    """
    x, y = crop[:2]
    columns, rows = crop[2] - x, crop[3] - y
    is_narrower = width / height < columns / rows
    filled_width = width if is_narrower else columns * height // rows
    filled_height = rows * width // columns if is_narrower else height
    per_row, per_column = rows / filled_height, columns / filled_width
    y0 = y - (height // 2 - filled_height // 2) * per_row
    x0 = x - (width // 2 - filled_width // 2) * per_column
    return Box(y0, x0, y0 + height * per_row, x0 + width * per_column)
