"""Timesteps as the third axis: a volume of how attention forms over the denoising steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from i2am.viewer.data.axes import PLANE
from i2am.viewer.data.volume import AXES

__all__ = ["STEP_AXIS", "displayed_axes", "follow_turn", "is_stretched", "show_volume"]

STEP_AXIS: Final = AXES.index("timestep")
# Seen from above at a slant: the images lie at the first, noisiest step.
_ANGLES: Final = (-20.0, 35.0, -55.0)
_ROOM: Final = 0.75  # the view was fitted to the images as they lie flat
_FLAT: Final = (0.0, 0.0, 0.0)


def show_volume(viewer: Any, views: Sequence[Mapping[str, Any]], *, on: bool) -> None:
    """Switch between timesteps as an axis in space and as a slider.

    Parameters
    ----------
    viewer : napari.Viewer
    views : sequence of mapping
        The layers of each sample in view, by role.
    on : bool
    """
    dims = viewer.dims
    first = dims.ndim - len(AXES)
    at = [dims.point[first + i] / scale for i, scale in enumerate(_scales(views))]
    for layers in views:
        for role in ("r2g", "g2r"):
            if role in layers:
                _stretch(layers[role], on=on)
        if "captions" in layers:
            layers["captions"].visible = not on  # text cannot be drawn in space
    own = [first + i for i in range(len(AXES)) if i != STEP_AXIS]
    # The last three are those that are seen: timestep, y and x.
    in_space = (*range(first), *own[:-2], first + STEP_AXIS, *own[-2:])
    dims.order = in_space if on else tuple(range(dims.ndim))
    dims.ndisplay = 3 if on else 2
    points = [where * scale for where, scale in zip(at, _scales(views), strict=True)]
    dims.set_point(range(first, first + len(points)), points)
    viewer.reset_view()
    viewer.scene.camera.angles = _ANGLES if on else _FLAT
    if on:
        viewer.scene.camera.zoom *= _ROOM


def _scales(views: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return how far the positions of the sliders lie apart in the scene."""
    return (
        [float(scale) for scale in views[0]["r2g"].scale[:-2]]
        if views and "r2g" in views[0]
        else []
    )


def _stretch(layer: Any, *, on: bool) -> None:
    """Give the steps together the length of the map's height."""
    scale = layer.scale.copy()
    height = scale[-2] * layer.data.shape[-2]
    scale[STEP_AXIS] = height / max(1, layer.data.shape[STEP_AXIS]) if on else 1.0
    layer.scale = scale


def is_stretched(views: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the steps have a length in the scene, as `show_volume` gives them."""
    return any(scale != 1 for scale in _scales(views))


def displayed_axes(viewer: Any) -> tuple[str, ...]:
    """Return the names of the axes that are seen; y and x where there are no maps."""
    first = viewer.dims.ndim - len(AXES)
    return tuple(AXES[axis - first] for axis in viewer.dims.displayed) if first >= 0 else PLANE


def follow_turn(viewer: Any, views: Sequence[Mapping[str, Any]]) -> None:
    """Bring layers in step with axes that a user turned: steps without a length, captions or none."""
    displayed = displayed_axes(viewer)
    is_volume = displayed == (AXES[STEP_AXIS], *PLANE)
    for layers in views:
        for role in ("r2g", "g2r"):
            if role in layers and not is_volume and layers[role].scale[STEP_AXIS] != 1:
                _stretch(layers[role], on=False)
        if "captions" in layers:  # They belong above upright pictures.
            layers["captions"].visible = displayed == PLANE
