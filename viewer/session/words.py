"""What is in view, in words: the lines in the window's corner, and the captions of what is exported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.boxes import Box
from i2am.viewer.data.axes import PLANE, SliderPosition, describe_map, describe_turned
from i2am.viewer.data.sample import SampleView
from i2am.viewer.scene.appearance import Appearance
from i2am.viewer.scene.placement import PlacedImage, cell_box

__all__ = ["describe_peaks", "describe_view", "heading", "peak_pixel"]

_SIDES: Final = {"r2g": "generated", "g2r": "reference"}


def heading(view: SampleView, appearance: Appearance) -> str:
    """Return the first line: the sample, how its maps were made, and how they are drawn.

    Parameters
    ----------
    view : SampleView
    appearance : Appearance
    """
    own = view.source
    shown = [name.upper() for name in view.volumes if appearance.direction in ("both", name)]
    parts = [own.sample, " and ".join(shown), f"{own.guidance} branch", own.normalisation]
    if own.within == "mask":
        parts.append("painted part only")
    if own.reference not in ("", "reference"):
        parts.append(own.reference.replace("_", " "))
    parts.append(f"{appearance.polarity} polarity")
    if appearance.threshold > 0:
        parts.append(f"clear below {appearance.threshold:.0%}")
    return " · ".join(filter(None, parts))


def describe_view(
    view: SampleView,
    position: SliderPosition,
    averaged_dims: frozenset[str],
    displayed: Sequence[str] = PLANE,
) -> str:
    """Return which map is in view, and what a reader must know of it.

    Parameters
    ----------
    view : SampleView
    position : SliderPosition
    averaged_dims : frozenset of str
        What is averaged over.
    displayed : sequence of str
        Names of the axes that are seen.
    """
    turned = describe_turned(displayed)
    if turned and tuple(displayed[-2:]) != PLANE[::-1]:
        return turned
    present = {direction: volume.loaded.present for direction, volume in view.volumes.items()}
    text = describe_map(position, averaged_dims, view.axes, present, displayed=displayed)
    return f"{text}\n{turned}" if turned else text


def describe_peaks(
    view: SampleView,
    placed: dict[str, PlacedImage],
    position: SliderPosition,
    averaged_dims: frozenset[str],
    directions: Iterable[str],
) -> str:
    """Return the highest values of the maps that are seen, and their pixels; empty without any.

    Parameters
    ----------
    view : SampleView
    placed : dict of PlacedImage
        Of the sample's images.
    position : SliderPosition
    averaged_dims : frozenset of str
    directions : iterable of "r2g" and "g2r"
        Those that are seen.
    """
    found = []
    for direction in directions:
        volume = view.volumes[direction]
        own = volume.to_own_position(position, averaged_dims)
        plane = None if own is None else volume.loaded.plane(own, averaged_dims)
        if plane is not None and np.isfinite(plane).any():
            y, x = peak_pixel(plane, placed[_SIDES[direction]].box)
            found.append(f"{direction.upper()} {np.nanmax(plane):.3g} at ({y}, {x})")
    return f"highest: {', '.join(found)}" if found else ""


def peak_pixel(values: NDArray[np.floating], box: Box) -> tuple[int, int]:
    """Return the pixel (y, x) in the middle of the highest patch.

    Parameters
    ----------
    values : array (y, x)
        NaN where there is no map.
    box : Box
        What the map lies over, in pixels of the stored image.

    Examples
    --------
    >>> peak_pixel(np.array([[0.0, 1.0], [0.0, 0.0]]), Box(0, 0, 8, 8))
    (2, 6)
    """
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    part = cell_box(box, (values.shape[0], values.shape[1]), int(row), int(column))
    return int((part.y0 + part.y1) / 2), int((part.x0 + part.x1) / 2)
