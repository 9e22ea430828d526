"""What a figure is made of: images, heat over images, and their scales; `sheet` lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image

from i2am.analysis.figures.heat import Pixels, blend, dim_unseen, enlarge, frame_of, place
from i2am.analysis.figures.overlay import Limits, overlay, under_heat, value_range
from i2am.analysis.figures.style import FigureStyle
from i2am.analysis.stores.boxes import image_box, is_whole_image
from i2am.schemas import Box
from i2am.schemas.directions import R2G

__all__ = [
    "ColorBar",
    "Marker",
    "Panel",
    "PanelGroup",
    "TileGroup",
    "compute_together",
    "ground",
    "heat_panel",
    "heat_panels",
    "heat_tiles",
    "image_panel",
    "image_size",
    "inpainting_mask",
    "patches_panel",
    "placing",
    "seen_panel",
    "seen_part",
    "stored_image",
]

# The shorter side of a tile: hundreds of them stand in a figure, each smaller than a stamp.
_TILE_PX: Final = 96


@dataclass(frozen=True)
class ColorBar:
    """A color bar: the values at its two ends, and what the values are."""

    limits: Limits
    style: FigureStyle
    label: str


@dataclass(frozen=True)
class Marker:
    """A numbered box on an image, in the image's pixels."""

    label: str
    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class Panel:
    """One image with its title, or a sentence if there is no image.

    Parameters
    ----------
    title : str
    size : tuple of int
        Height and width that the axes count in: the stored image's pixels, with what is drawn beyond
        its edge.
    pixels : ndarray, dims (y, x, rgb), uint8, optional
        A whole multiple of `size`. None shows `sentence` instead.
    outline : ndarray, dims (y, x), uint8, optional
        A mask whose border is drawn, of the stored image's size.
    corner : tuple of int
        Row and column of the upper left pixel: negative where more is drawn than the image.
    seen : Box, optional
        The part of the image that the model saw; a thin line is drawn around it.
    """

    title: str
    size: tuple[int, int]
    pixels: Pixels | None = None
    sentence: str = ""
    outline: Pixels | None = None
    markers: tuple[Marker, ...] = ()
    colorbar: ColorBar | None = None
    corner: tuple[int, int] = (0, 0)
    seen: Box | None = None


@dataclass(frozen=True)
class PanelGroup:
    """Panels under one heading, in rows, all of one width; a large `main_panel` before them.

    `columns` is how many stand in a row, if the figure is wide enough; by default the fewest rows, and
    then the fewest columns.
    """

    heading: str
    panels: tuple[Panel, ...]
    colorbar: ColorBar | None = None
    note: str = ""
    main_panel: Panel | None = None
    columns: int | None = None


@dataclass(frozen=True)
class TileGroup:
    """Small maps in a table of rows and columns under one heading, with one scale.

    Parameters
    ----------
    heading : str
    tiles : tuple of tuple of ndarray, dims (y, x, rgb), uint8
        By row and column, all of one size.
    rows, columns : tuple of str
        What each row and each column is.
    column_title : str
        What the columns are together.
    colorbar : ColorBar, optional
    note : str
    """

    heading: str
    tiles: tuple[tuple[Pixels, ...], ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    column_title: str
    colorbar: ColorBar | None = None
    note: str = ""


def stored_image(sample: xr.DataTree, name: str) -> Pixels:
    """Return a stored image, dims (y, x, rgb), or a mask, dims (y, x); uint8, in memory.

    Raises
    ------
    AnalysisError
        If it is not stored.
    """
    image_box(sample, name)  # Raises then: no other picture may take its place.
    return np.asarray(sample.children["images"].dataset[name].values, np.uint8)


def inpainting_mask(sample: xr.DataTree) -> Pixels | None:
    """Return the inpainting mask, dims (y, x), uint8; None if none is stored."""
    if R2G.mask not in sample.children["images"].dataset:
        return None
    return stored_image(sample, R2G.mask)


def image_size(image: Pixels) -> tuple[int, int]:
    """Return an image's height and width."""
    return image.shape[0], image.shape[1]


def compute_together(maps: Sequence[xr.DataArray]) -> list[npt.NDArray[Any]]:
    """Return the values of lazy maps, computed together so that they share what they read."""
    return [np.asarray(values) for values in dask.compute(*(values.data for values in maps))]


def image_panel(
    sample: xr.DataTree, name: str, title: str = "", outline: Pixels | None = None
) -> Panel:
    """Return a panel of a stored image."""
    image = stored_image(sample, name)
    return Panel(title or name, image_size(image), image, outline=outline)


def seen_part(sample: xr.DataTree, name: str) -> Box | None:
    """Return the part of a stored image that the model saw; None where that is all of it."""
    return None if is_whole_image(sample, name) else image_box(sample, name)


def seen_panel(
    sample: xr.DataTree, name: str, title: str, markers: tuple[Marker, ...] = ()
) -> Panel:
    """Return a panel of a stored image with what the model did not see dimmed."""
    image, seen = stored_image(sample, name), seen_part(sample, name)
    pixels = image if seen is None else dim_unseen(image, seen)
    return Panel(title, pixels=pixels, markers=markers, **placing(image, seen))


def heat_panels(
    image: Pixels,
    maps: Sequence[Any],
    titles: Sequence[str],
    style: FigureStyle,
    label: str,
    seen: Box | None = None,
    outline: Pixels | None = None,
    limits: Limits | None = None,
) -> tuple[tuple[Panel, ...], ColorBar | None]:
    """Return a panel per map, and the color bar that they share, if they share one.

    `limits` are those of a shared bar, where other panels share it, too.
    """
    if style.contrast == "shared":
        shared = ColorBar(limits or value_range(maps), style, label)
        return tuple(
            heat_panel(image, values, title, shared, outline, own_colorbar=False, seen=seen)
            for values, title in zip(maps, titles, strict=True)
        ), shared
    return tuple(
        heat_panel(
            image, values, title, ColorBar(value_range([values]), style, label), outline, seen=seen
        )
        for values, title in zip(maps, titles, strict=True)
    ), None


def heat_panel(
    image: Pixels,
    values: Any,
    title: str,
    colorbar: ColorBar,
    outline: Pixels | None = None,
    *,
    own_colorbar: bool = True,
    seen: Box | None = None,
) -> Panel:
    """Return a panel of one map over an image, on the scale of `colorbar`, with a scale of its own.

    The map covers the part `seen`, or the whole image.
    """
    pixels = overlay(image, values, colorbar.limits, colorbar.style, seen)
    shown = colorbar if own_colorbar else None
    return Panel(title, pixels=pixels, outline=outline, colorbar=shown, **placing(image, seen))


def heat_tiles(
    image: Pixels,
    maps: npt.NDArray[Any],
    style: FigureStyle,
    limits: Limits | None,
    seen: Box | None = None,
) -> tuple[tuple[Pixels, ...], ...]:
    """Return a small picture of each map over an image, by row and column.

    Parameters
    ----------
    image : array (y, x, rgb), uint8
    maps : array (row, column, map_y, map_x)
        A map that is all NaN, as that of a head which a layer lacks, is a white tile.
    style : FigureStyle
    limits : (float, float), optional
        Of all maps; by default each has its own.
    seen : Box, optional
        The part of the image that the maps cover.

    Returns
    -------
    tuple of tuple of array (y, x, rgb), uint8
    """
    small, part = _shrunk(image, seen)
    return tuple(tuple(_tile(small, one, style, limits, part) for one in row) for row in maps)


def _tile(
    image: Pixels, values: Any, style: FigureStyle, limits: Limits | None, seen: Box | None
) -> Pixels:
    drawn = overlay(image, values, limits or value_range([values]), style, seen, _TILE_PX)
    return drawn if np.isfinite(values).any() else np.full_like(drawn, 255)


def _shrunk(image: Pixels, seen: Box | None) -> tuple[Pixels, Box | None]:
    """Return an image of no more pixels than a tile shows, and where the seen part lies on it."""
    height, width = image_size(image)
    share = min(1.0, 2 * _TILE_PX / min(height, width))
    if share == 1:
        return image, seen
    size = max(1, round(height * share)), max(1, round(width * share))
    small = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX))
    if seen is None:
        return small, None
    y, x = size[0] / height, size[1] / width
    return small, Box(seen.y0 * y, seen.x0 * x, seen.y1 * y, seen.x1 * x)


def patches_panel(
    sample: xr.DataTree,
    title: str,
    colors: npt.NDArray[np.floating],
    strength: npt.NDArray[np.floating],
    style: FigureStyle,
) -> Panel:
    """Return a panel of the generated image in which each patch has a color of its own.

    Parameters
    ----------
    sample : DataTree
    title : str
    colors : array (patch_y, patch_x, rgb), 0..255
        Over what the model saw of the image. A patch has one color up to its edge: what lies between two
        colors would say something else.
    strength : array (patch_y, patch_x), 0..1
        How strong each color is; times the style's opacity.
    style : FigureStyle
    """
    image, seen = stored_image(sample, "generated"), seen_part(sample, "generated")
    canvas, box, frame = ground(image, seen, style)
    shape = canvas.shape[0], canvas.shape[1]
    at = [
        place(np.broadcast_to(own, strength.shape), shape, frame, box)
        for own in np.ogrid[: strength.shape[0], : strength.shape[1]]
    ]
    inside = np.isfinite(at[0])
    row, column = (np.rint(np.nan_to_num(own)).astype(int) for own in at)
    opacity = np.where(inside, strength[row, column], 0.0) * style.opacity
    pixels = blend(canvas, colors[row, column], opacity)
    outline = inpainting_mask(sample)
    return Panel(title, pixels=pixels, outline=outline, **placing(image, seen))


def ground(image: Pixels, seen: Box | None, style: FigureStyle) -> tuple[Pixels, Box, Box]:
    """Return what lies under colors: an image in a style; the part that the model saw; what is drawn."""
    size = image_size(image)
    box = seen or Box.whole(*size)
    canvas = enlarge(image) if seen is None else dim_unseen(image, seen)
    return under_heat(canvas, style), box, frame_of(size, box)


def placing(image: Pixels, seen: Box | None) -> dict[str, Any]:
    """Return where a panel's pixels lie on the stored image."""
    size = image_size(image)
    if seen is None:
        return {"size": size}
    frame = frame_of(size, seen)
    return {
        "size": (int(frame.height), int(frame.width)),
        "corner": (int(frame.y0), int(frame.x0)),
        "seen": seen,
    }
