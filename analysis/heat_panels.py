"""Panels of a sample's pictures and maps: what figures are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr

from i2am.analysis.overlay import Pixels, Style, limits_of, overlay
from i2am.analysis.panels import Key, Panel

__all__ = [
    "computed",
    "heat_panel",
    "heat_panels",
    "mask_of",
    "picture_of",
    "plain_panel",
    "size_of",
]


def picture_of(sample: xr.DataTree, name: str) -> Pixels:
    """Return a stored picture, dims (y, x, rgb), or a mask, dims (y, x); uint8, in memory."""
    return np.asarray(sample.children["images"].dataset[name].values, np.uint8)


def mask_of(sample: xr.DataTree) -> Pixels | None:
    """Return the inpainting mask, dims (y, x), uint8; None if none is stored."""
    if "inpainting_mask" not in sample.children["images"].dataset:
        return None
    return picture_of(sample, "inpainting_mask")


def size_of(picture: Pixels) -> tuple[int, int]:
    """Return a picture's height and width."""
    return picture.shape[0], picture.shape[1]


def computed(maps: Sequence[xr.DataArray]) -> list[npt.NDArray[Any]]:
    """Return the values of lazy maps, all computed in one go so that they share their reading."""
    return [np.asarray(values) for values in dask.compute(*(values.data for values in maps))]


def plain_panel(
    sample: xr.DataTree, name: str, title: str = "", outline: Pixels | None = None
) -> Panel:
    """Return a panel of a stored picture."""
    picture = picture_of(sample, name)
    return Panel(title or name, size_of(picture), picture, outline=outline)


def heat_panels(
    picture: Pixels, maps: Sequence[Any], titles: Sequence[str], style: Style, label: str
) -> tuple[tuple[Panel, ...], Key | None]:
    """Return a panel per map, and the colour bar that they share, if they share one."""
    if style.contrast == "shared":
        shared = Key(limits_of(maps), style, label)
        return tuple(
            heat_panel(picture, values, title, shared, own_key=False)
            for values, title in zip(maps, titles, strict=True)
        ), shared
    return tuple(
        heat_panel(picture, values, title, Key(limits_of([values]), style, label))
        for values, title in zip(maps, titles, strict=True)
    ), None


def heat_panel(
    picture: Pixels,
    values: Any,
    title: str,
    key: Key,
    outline: Pixels | None = None,
    *,
    own_key: bool = True,
) -> Panel:
    """Return a panel of one map over a picture, on the scale of `key`, with a scale of its own."""
    pixels = overlay(picture, values, key.limits, key.style)
    shown = key if own_key else None
    return Panel(title, size_of(picture), pixels, outline=outline, key=shown)
