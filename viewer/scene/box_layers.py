"""The layer of a box: what the model did not see of an image is dimmed, and what it saw outlined.

There is none where the model saw the image as it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.boxes import Box
from i2am.schemas.dims import X, Y
from i2am.viewer.scene.placement import PlacedImage

__all__ = [
    "BOX_ROLES",
    "IMAGE_ROLES",
    "VEIL",
    "box_options",
    "box_surface",
    "hide_without_image",
    "show_with_image",
]

# The layer of each image's box, and the layers that it belongs to.
BOX_ROLES: Final = {"generated": "generated_box", "reference": "reference_box"}
IMAGE_ROLES: Final = {"generated": ("generated", "source"), "reference": ("reference",)}
VEIL: Final = (0.0, 0.0, 0.0, 0.6)
_OUTLINE_COLOR: Final = (1.0, 1.0, 1.0, 0.9)
_OUTLINE: Final = 1 / 200  # of the image's height
# Two triangles for each side of the ring between an outer rectangle (0 to 3) and an inner one.
_RING: Final = np.array(
    [
        corners
        for side in range(4)
        for after in ((side + 1) % 4,)
        for corners in ((side, after, 4 + after), (side, 4 + after, 4 + side))
    ]
)

Surface = tuple[NDArray[np.float64], NDArray[np.int_], NDArray[np.float64]]


def box_surface(placed: PlacedImage) -> Surface:
    """Return the veil over the part of an image outside its box, and the box's outline.

    Parameters
    ----------
    placed : PlacedImage

    Returns
    -------
    vertices : array (16, (y, x)), float64, world coordinates
    faces : array (16, 3), int
        Triangles: eight of the veil, eight of the outline, which lies within the box's edge.
    values : array (16,), float64
        Of the vertices: 0 in the veil, 1 in the outline.
    """
    height, width = placed.size
    box = placed.box
    ys, xs = np.clip((box.y0, box.y1), 0, height), np.clip((box.x0, box.x1), 0, width)
    seen = Box(ys[0], xs[0], ys[1], xs[1])
    thick = min(_OUTLINE * height, box.height / 4, box.width / 4)
    inner = Box(box.y0 + thick, box.x0 + thick, box.y1 - thick, box.x1 - thick)
    corners = [
        placed.to_world(y, x)
        for part in (Box.whole(height, width), seen, box, inner)
        for y, x in ((part.y0, part.x0), (part.y0, part.x1), (part.y1, part.x1), (part.y1, part.x0))
    ]
    return np.array(corners), np.concatenate([_RING, 8 + _RING]), np.repeat([0.0, 1.0], 8)


def box_options(side: str) -> dict[str, Any]:
    """Return the options of a box's surface layer."""
    from napari.utils.colormaps import Colormap

    return {
        "name": f"{side} box",
        "metadata": {"role": BOX_ROLES[side]},
        "axis_labels": (Y, X),
        "colormap": Colormap((VEIL, _OUTLINE_COLOR), name="veil and outline"),
        "contrast_limits": (0, 1),
        "shading": "none",
        "blending": "translucent_no_depth",  # It lies in the plane of the images.
    }


def hide_without_image(layers: Mapping[str, Any]) -> None:
    """Hide the boxes of a sample none of whose images is seen.

    Parameters
    ----------
    layers : mapping of role to napari layer
    """
    for box, is_seen in _boxes(layers):
        if box.visible and not is_seen:
            box.visible = False


def show_with_image(layers: Mapping[str, Any]) -> None:
    """Show each box of a sample where one of its images is seen, and hide the others."""
    for box, is_seen in _boxes(layers):
        box.visible = is_seen


def _boxes(layers: Mapping[str, Any]) -> list[tuple[Any, bool]]:
    return [
        (layers[role], any(layers[name].visible for name in IMAGE_ROLES[side] if name in layers))
        for side, role in BOX_ROLES.items()
        if role in layers
    ]
