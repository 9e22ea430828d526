"""A sample's layers in a viewer: found by what their metadata says, exchanged in place.

Exchanging keeps what a user has set (visibility, colormap, opacity, sliders, zoom).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from i2am.schemas.attributes import ATTRIBUTE_KEY

if TYPE_CHECKING:
    from i2am.viewer.layers import LayerData

__all__ = ["own_layers", "own_metadata", "show_layers"]


def own_metadata(layer: Any) -> dict[str, Any] | None:
    """Return what we wrote into a layer's metadata; None if it is not one of ours."""
    own: dict[str, Any] | None = layer.metadata.get(ATTRIBUTE_KEY)
    return own


def own_layers(viewer: Any, number: int = 0) -> dict[str, Any]:
    """Return our layers of a row by role; of the run that was added last."""
    ours = [(own, layer) for layer in viewer.layers if (own := own_metadata(layer))]
    ours = [(own, layer) for own, layer in ours if own.get("row", 0) == number]
    return {own["role"]: layer for own, layer in ours if own["run"] == ours[-1][0]["run"]}


def show_layers(
    viewer: Any, layers: Sequence[LayerData], *, number: int = 0, is_new: bool = False
) -> None:
    """Put a sample's layers into the viewer, in place of those that are in its row.

    Parameters
    ----------
    viewer : napari.Viewer
    layers : sequence of (data, keyword arguments, kind)
        As `i2am.viewer.layers.sample_layers` gives them.
    number : int
        The row.
    is_new : bool
        Exchange nothing, add them all.
    """
    from napari.layers import Layer

    there = {} if is_new else own_layers(viewer, number)
    extent = viewer.layers.extent.world[:, -2:]
    below = -1 if not number else len(viewer.layers) - 1
    for values, options, kind in layers:
        layer = there.pop(options["metadata"][ATTRIBUTE_KEY]["role"], None)
        if layer is None:
            below += 1
            viewer.layers.insert(below, Layer.create(values, options, kind))
        else:
            _exchange(layer, values, options)
            below = viewer.layers.index(layer)
    for layer in there.values():
        viewer.layers.remove(layer)
    if not np.array_equal(extent, viewer.layers.extent.world[:, -2:]):
        viewer.reset_view()


def _exchange(layer: Any, values: Any, options: dict[str, Any]) -> None:
    visible = layer.visible
    layer.visible = False  # nothing is sliced, so nothing computed, until all is in place
    layer.data = values
    for name in ("scale", "translate", "metadata", "features"):
        if name in options:
            setattr(layer, name, options[name])
    layer.visible = visible
