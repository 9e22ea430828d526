"""Timesteps as the third axis: a volume of how attention forms over the denoising steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from i2am.viewer.data.volume import AXES

__all__ = ["show_volume"]

_STEP: Final = AXES.index("timestep")
# Seen from above at a slant: the pictures lie at the first, noisiest step.
_ANGLES: Final = (-20.0, 35.0, -55.0)
_ROOM: Final = 0.75  # the view was fitted to the pictures as they lie flat
_FLAT: Final = (0.0, 0.0, 0.0)


def show_volume(viewer: Any, rows: Sequence[Mapping[str, Any]], *, on: bool) -> None:
    """Switch between timesteps as an axis in space and as a slider.

    Parameters
    ----------
    viewer : napari.Viewer
    rows : sequence of mapping
        The layers of each row by role.
    on : bool
    """
    dims = viewer.dims
    first = dims.ndim - len(AXES)
    at = [dims.point[first + i] / scale for i, scale in enumerate(_scales(rows))]
    for layers in rows:
        for role in ("r2g", "g2r"):
            if role in layers:
                _stretch(layers[role], on=on)
        if "captions" in layers:
            layers["captions"].visible = not on  # text has no place in space
    own = [first + i for i in range(len(AXES)) if i != _STEP]
    # The last three are those that are seen: timestep, y and x.
    in_space = (*range(first), *own[:-2], first + _STEP, *own[-2:])
    dims.order = in_space if on else tuple(range(dims.ndim))
    dims.ndisplay = 3 if on else 2
    places = [where * scale for where, scale in zip(at, _scales(rows), strict=True)]
    dims.set_point(range(first, first + len(places)), places)
    viewer.reset_view()
    viewer.scene.camera.angles = _ANGLES if on else _FLAT
    if on:
        viewer.scene.camera.zoom *= _ROOM


def _scales(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return how far the positions of the sliders lie apart in the scene."""
    return [float(scale) for scale in rows[0]["r2g"].scale[:-2]] if rows else []


def _stretch(layer: Any, *, on: bool) -> None:
    """Give the steps together the length of the map's height."""
    scale = layer.scale.copy()
    height = scale[-2] * layer.data.shape[-2]
    scale[_STEP] = height / max(1, layer.data.shape[_STEP]) if on else 1.0
    layer.scale = scale
