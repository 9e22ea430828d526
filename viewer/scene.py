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


def own_layers(viewer: Any, run: str | None = None) -> dict[str, Any]:
    """Return our layers by role; of one run, or of the run that was added last."""
    ours = [layer for layer in viewer.layers if own_metadata(layer)]
    if run is None and ours:
        run = ours[-1].metadata[ATTRIBUTE_KEY]["run"]
    found = ((own_metadata(layer), layer) for layer in ours)
    return {own["role"]: layer for own, layer in found if own and own["run"] == run}


def show_layers(viewer: Any, layers: Sequence[LayerData], run: str | None = None) -> None:
    """Put a sample's layers into the viewer, in place of those that the run has there.

    Parameters
    ----------
    viewer : napari.Viewer
    layers : sequence of (data, keyword arguments, kind)
        As `i2am.viewer.layers.sample_layers` gives them.
    run : str, optional
        Whose layers are exchanged; without it all are added.
    """
    from napari.layers import Layer

    there = own_layers(viewer, run) if run is not None else {}
    extent = viewer.layers.extent.world[:, -2:]
    below = -1
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
    for name in ("scale", "translate", "metadata", "contrast_limits", "features"):
        if name in options:
            setattr(layer, name, options[name])
    layer.visible = visible
