"""Detection: whether the bright part of a map has the bounding box of the painted object.

Boxes are (x, y, width, height) in pixels, as in a manifest. Where the model saw a part of the
generated image alone, its map fills that part, and all boxes are counted from the part's corner.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from i2am.analysis.kernel.resize import resize
from i2am.analysis.scores.imacs import normalise, with_polarity
from i2am.analysis.scores.masks import box_pixels
from i2am.analysis.scores.score import Score, ScoredMap, ScoreValue
from i2am.analysis.stores.boxes import image_box, is_whole_image
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.directions import R2G

__all__ = [
    "SCORE",
    "Box",
    "bounding_box",
    "box_iou",
    "box_within",
    "detect_box",
    "detection_scores",
    "random_box",
]

Box = tuple[float, float, float, float]
_PERCENTILE: Final = 65.0
_FIVE_BY_FIVE: Final = np.ones((5, 5), bool)
_TOUCHING: Final = np.ones((3, 3), bool)  # diagonal neighbours belong together
# The random box's area as a fraction of the image, and its width by its height.
_AREA_FRACTION: Final = (0.1, 0.3)
_ASPECT: Final = (0.5, 2.0)
_RANDOM_BOXES: Final = 100


def detect_box(heat: NDArray[Any], percentile: float = _PERCENTILE) -> Box | None:
    """Return the box around the part of a map that a detector would report.

    Parameters
    ----------
    heat : array (y, x)
        A map at the image's size.
    percentile : float
        Pixels strictly above it are foreground.

    Returns
    -------
    (x, y, width, height) or None
        Of the foreground's connected parts after opening, closing and dilation with 5x5, the one
        whose bounding box contains most foreground. None if nothing is left, as for a constant map.

    Examples
    --------
    >>> heat = np.zeros((40, 40))
    >>> heat[10:20, 5:15] = 1
    >>> detect_box(heat)
    (3, 8, 14, 14)
    """
    foreground = heat > np.percentile(heat, percentile)
    opened = _dilate(_erode(foreground))
    closed = _erode(_dilate(opened))
    cleaned = _dilate(closed)
    parts, _ = ndimage.label(cleaned, structure=_TOUCHING)
    boxes = ndimage.find_objects(parts)
    if not boxes:
        return None
    rows, columns = max(boxes, key=lambda box: np.count_nonzero(cleaned[box]))
    return (
        int(columns.start),
        int(rows.start),
        int(columns.stop - columns.start),
        int(rows.stop - rows.start),
    )


def box_iou(first: Box, second: Box) -> float:
    """Return intersection over union of two boxes.

    Examples
    --------
    >>> box_iou((0, 0, 2, 2), (1, 0, 2, 2))
    0.3333333333333333
    """
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2], second[0] + second[2])
    bottom = min(first[1] + first[3], second[1] + second[3])
    shared = max(0, right - left) * max(0, bottom - top)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def bounding_box(mask: NDArray[Any]) -> Box | None:
    """Return the box around the non-zero pixels; None if there are none.

    Examples
    --------
    >>> bounding_box(np.array([[0, 0, 0], [0, 9, 9]]))
    (1, 1, 2, 1)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def random_box(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Return a box anywhere in an image (height, width): the baseline that knows nothing."""
    height, width = size
    area = rng.uniform(*_AREA_FRACTION) * height * width
    aspect = rng.uniform(*_ASPECT)
    box_width = min(width, max(1, round(np.sqrt(area * aspect))))
    box_height = min(height, max(1, round(np.sqrt(area / aspect))))
    left = int(rng.integers(0, width - box_width + 1))
    top = int(rng.integers(0, height - box_height + 1))
    return left, top, box_width, box_height


def _erode(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Erode; what lies beyond the edge counts as foreground, so that the edge eats nothing."""
    eroded: NDArray[np.bool_] = ndimage.binary_erosion(mask, _FIVE_BY_FIVE, border_value=1)
    return eroded


def _dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    dilated: NDArray[np.bool_] = ndimage.binary_dilation(mask, _FIVE_BY_FIVE)
    return dilated


def detection_scores(
    sample: xr.DataTree, heat: NDArray[np.float64], box: Box
) -> Iterator[tuple[str, float]]:
    """Yield the overlap of the box found in `heat` with the true one, and two baselines.

    `box` is counted from the corner of the part that the model saw; see `box_within`.
    """
    height, width = box_pixels(image_box(sample, R2G.image))
    found = detect_box(resize(heat, (height, width)))
    yield "detection_iou", box_iou(found, box) if found else 0.0
    yield "whole_image_iou", box_iou((0, 0, width, height), box)
    rng = np.random.default_rng(zlib.crc32(str(sample.name).encode()))
    chance = [box_iou(random_box((height, width), rng), box) for _ in range(_RANDOM_BOXES)]
    yield "random_box_iou", float(np.mean(chance))


def box_within(sample: xr.DataTree, box: Box) -> Box | None:
    """Return the part of a box of the generated image that the model saw, from that part's corner.

    Parameters
    ----------
    sample : DataTree
    box : (x, y, width, height)
        In pixels of the stored generated image.

    Returns
    -------
    (x, y, width, height) or None
        In the pixels of `box_pixels`; None if the model saw nothing of it, or the image has no part.
    """
    seen = image_box(sample, R2G.image)
    height, width = box_pixels(seen)
    if is_whole_image(sample, R2G.image) and _is_within(box, height, width):
        return box
    left, right = (
        float(np.clip((x - seen.x0) / seen.width, 0, 1)) * width for x in (box[0], box[0] + box[2])
    )
    top, bottom = (
        float(np.clip((y - seen.y0) / seen.height, 0, 1)) * height
        for y in (box[1], box[1] + box[3])
    )
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _is_within(box: Box, height: int, width: int) -> bool:
    x, y, box_width, box_height = box
    return x >= 0 and y >= 0 and x + box_width <= width and y + box_height <= height


def _compute(scored: ScoredMap) -> Iterator[tuple[str, float]]:
    """Yield the scores of R2G of a sample whose box is known: the manifest's, or the mask's."""
    if scored.direction != R2G.name or scored.sample is None:
        return
    mask = scored.mask
    if told := scored.sample.attrs[ATTRIBUTE_KEY].get("box"):
        box = box_within(scored.sample, told)
    else:
        box = None if mask is None else bounding_box(mask)
    if box is not None:
        heat = with_polarity(normalise(scored.values.astype(np.float64)), scored.options.polarity)
        yield from detection_scores(scored.sample, heat, box)


SCORE: Final = Score(
    "detection",
    "Whether the map's bright part boxes the thing that was painted.",
    _compute,
    (
        ScoreValue(
            "detection_iou",
            "Overlap of the box found from R2G with the true one: 1 is best.",
            R2G.name,
            better="high",
            chance="random_box_iou",
        ),
        ScoreValue(
            "whole_image_iou",
            "For comparison: the whole image as the box.",
            R2G.name,
            is_baseline=True,
        ),
        ScoreValue(
            "random_box_iou",
            "For comparison: the mean of random boxes.",
            R2G.name,
            is_baseline=True,
        ),
    ),
)
