"""A sample's layers: made, placed, found by what their metadata says, and exchanged in place.

Exchanging keeps what a user has set (visibility, colormap, opacity, sliders, zoom).
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import X, Y
from i2am.viewer.data.sample import SampleView
from i2am.viewer.data.volume import AXES
from i2am.viewer.scene.box_layers import box_options, box_surface
from i2am.viewer.scene.contrast import heat_colormap
from i2am.viewer.scene.placement import PlacedImage, Transform

__all__ = [
    "LayerData",
    "caption_texts",
    "measure_again",
    "own_layers",
    "own_metadata",
    "remove_layers",
    "sample_layers",
    "set_aside",
    "show_layers",
    "size_captions",
    "view_of",
    "write_captions",
]

LayerData = tuple[Any, dict[str, Any], str]
# Of the generated image's height: where a caption begins above an image, and the room that it has.
_CAPTION_RISE: Final = 1 / 100
_CAPTION_ROOM: Final = 1 / 12
_CAPTION_SIZE: Final = 9.0
_LEAST_SIZE: Final = 5.0
_LETTER: Final = 0.92  # width of a letter in pixels, of one of size 1
_MOST_LETTERS: Final = 28  # of a sample's name in a caption: the other image's begins beside it
_VIEW_KEY: Final = f"{ATTRIBUTE_KEY}.view"  # of a layer's metadata: the sample that it belongs to
_MASK_COLORS: Final = ((0.0, 0.0, 0.0, 0.0), (0.0, 0.9, 0.9, 0.45))


def sample_layers(
    view: SampleView, placed: Mapping[str, PlacedImage], view_index: int = 0
) -> list[LayerData]:
    """Return the layers of one sample, lowest first.

    Parameters
    ----------
    view : SampleView
    placed : mapping of "generated" and "reference" to PlacedImage
    view_index : int
        0, or 1 for the sample that another is compared with; it is kept in every layer's metadata,
        with the sample's source.

    Returns
    -------
    list of (data, keyword arguments, kind)
        Roles, in order: captions, generated, source, inpainting_mask, generated_box, r2g, reference,
        reference_mask, reference_box, g2r; those that the sample has, a box where it is not all of
        its image. Volumes have the axes (sample, layer, timestep, head, y, x).
    """
    layers = [_captions(view, placed)]
    for side, direction, names, mask in (
        ("generated", "r2g", ("generated", "source"), "inpainting_mask"),
        ("reference", "g2r", ("reference",), "reference_mask"),
    ):
        own_place = placed[side]
        layers += [
            _image_layer(name, view.images[name], own_place)
            for name in names
            if name in view.images
        ]
        if mask in view.images:
            layers.append(_mask(mask, view.images[mask], own_place))
        if not own_place.is_whole:
            layers.append((box_surface(own_place), box_options(side), "surface"))
        if direction in view.volumes:
            layers.append(_volume(direction, view, own_place))
    for _, options, _ in layers:
        own = {**asdict(view.source), **options["metadata"], "view_index": view_index}
        options["metadata"] = {ATTRIBUTE_KEY: own, _VIEW_KEY: view}
        if view_index:
            options["name"] += f" ({view_index + 1})"
    return layers


def caption_texts(
    view: SampleView, shown: Mapping[str, str] | None = None, beside: SampleView | None = None
) -> list[str]:
    """Return the line above each image: the sample, the image, and what lies over it.

    Parameters
    ----------
    view : SampleView
    shown : mapping of "generated" and "reference" to str, optional
        What lies over an image in place of its maps.
    beside : SampleView, optional
        The sample that this one is compared with: what tells them apart is named, too.
    """
    words = {
        "generated": "R2G",
        "reference": "G2R" if "g2r" in view.volumes else "no G2R",
        **(shown or {}),
    }
    own, name = view.source, view.source.sample
    if len(name) > _MOST_LETTERS:
        name = f"{name[: _MOST_LETTERS // 2]}…{name[1 - _MOST_LETTERS // 2 :]}"
    if beside is not None and beside.source.run != own.run:
        name += f" of {PurePath(own.run).name}"
    if beside is not None and beside.source.guidance != own.guidance:
        name += f", {own.guidance}"
    return [f"{name}: generated · {words['generated']}", f"reference · {words['reference']}"]


def write_captions(viewer: Any, view_index: int, texts: Sequence[str]) -> None:
    """Write a line above each of the two images of a sample in view."""
    captions = own_layers(viewer, view_index).get("captions")
    if captions is not None and list(captions.features["caption"][:2]) != list(texts):
        captions.features = {"caption": [*texts, "", "", ""]}


def size_captions(viewer: Any, view_index: int, room_px: float) -> None:
    """Write as large as the lines of a sample have room above their images, each so wide."""
    captions = own_layers(viewer, view_index).get("captions")
    if captions is not None:
        longest = max(map(len, captions.features["caption"]))
        size = round(min(_CAPTION_SIZE, max(_LEAST_SIZE, room_px / (_LETTER * longest))), 1)
        if captions.text.size != size:
            captions.text.size = size


def _image_layer(name: str, values: NDArray[Any], placed: PlacedImage) -> LayerData:
    options = _options(name, name, values.shape[:2], placed.over_image(values.shape[:2]))
    return values, {**options, "rgb": True, "visible": name != "source"}, "image"


def _mask(name: str, values: NDArray[Any], placed: PlacedImage) -> LayerData:
    transform = placed.over_image(values.shape)
    options = {
        **_options(name, name.replace("_", " "), values.shape, transform),
        "colormap": np.array(_MASK_COLORS),
        "contrast_limits": (0, 255),
        "interpolation2d": "nearest",
        "visible": False,
    }
    return values, options, "image"


def _volume(direction: str, view: SampleView, placed: PlacedImage) -> LayerData:
    volume = view.volumes[direction]
    transform = placed.over_box(volume.shape[-2:])
    options = {
        **_options(direction, direction.upper(), volume.shape, transform),
        "rgb": False,
        "colormap": heat_colormap(),
        "blending": "translucent",
        "rendering": "translucent",
        "interpolation2d": "linear",
        "contrast_limits": (0, 1),
        "projection_mode": "none",
    }
    return volume, options, "image"


def _captions(view: SampleView, placed: Mapping[str, PlacedImage]) -> LayerData:
    """Return the lowest layer: a line above each image that names it and its map.

    napari fits the view to the first layer that it is given, so this one also has unseen points in
    both lower corners, and above the captions.
    """
    images = placed["generated"], placed["reference"]
    tops, lefts, bottoms, rights = zip(*(one.bounds for one in images), strict=True)
    height = images[0].height
    points = [[min(tops) - _CAPTION_RISE * height, one.left] for one in images]
    points += [[min(tops) - _CAPTION_ROOM * height, min(lefts)]]
    points += [[max(bottoms), min(lefts)], [max(bottoms), max(rights)]]
    options = {
        "name": "captions",
        "metadata": {"role": "captions"},
        "features": {"caption": [*caption_texts(view), "", "", ""]},
        "text": {
            "string": "{caption}",
            "color": "white",
            "size": _CAPTION_SIZE,
            "anchor": "upper_left",
        },
        "axis_labels": (Y, X),
        "size": 1e-3,  # napari measures the scene with it
        "face_color": "transparent",
        "border_color": "transparent",
    }
    return np.array(points), options, "points"


def _options(role: str, name: str, shape: Sequence[int], transform: Transform) -> dict[str, Any]:
    """Return what every image layer has; leading axes of `shape` are counted, not placed."""
    leading = len(shape) - 2
    scale, translate = transform
    return {
        "name": name,
        "metadata": {"role": role},
        "axis_labels": AXES[-len(shape) :],
        "scale": [1.0] * leading + scale,
        "translate": [0.0] * leading + translate,
    }


def own_metadata(layer: Any) -> dict[str, Any] | None:
    """Return what we wrote into a layer's metadata; None if it is not one of ours."""
    own: dict[str, Any] | None = layer.metadata.get(ATTRIBUTE_KEY)
    return own


def view_of(layer: Any) -> SampleView | None:
    """Return the sample that one of our layers belongs to; also of layers that napari has read."""
    view: SampleView | None = layer.metadata.get(_VIEW_KEY)
    return view


def own_layers(viewer: Any, view_index: int = 0) -> dict[str, Any]:
    """Return our layers of a sample in view by role; a user's copies of them are the user's."""
    found: dict[str, Any] = {}
    for layer in viewer.layers:
        own = own_metadata(layer)
        if own and own.get("view_index", 0) == view_index:
            found.setdefault(own["role"], layer)
    return found


def set_aside(layer: Any) -> None:
    """Hide one of our layers, and have it belong to no sample in view."""
    layer.visible = False
    own = {**(own_metadata(layer) or {}), "view_index": None}
    layer.metadata = {**layer.metadata, ATTRIBUTE_KEY: own}


def remove_layers(viewer: Any, layers: Iterable[Any]) -> None:
    """Remove layers, those that are there.

    napari collects garbage after each, among all that is in memory: a third of a second. What is
    there already is spared that. What a program has frozen by itself stays so.
    """
    is_spared = gc.get_freeze_count() > 0
    if not is_spared:
        gc.freeze()
    try:
        for layer in [one for one in layers if one in viewer.layers]:
            viewer.layers.remove(layer)
    finally:
        if not is_spared:
            gc.unfreeze()


def show_layers(viewer: Any, layers: Sequence[LayerData], *, view_index: int = 0) -> None:
    """Put a sample's layers into the viewer, in place of those of the sample that was there.

    Parameters
    ----------
    viewer : napari.Viewer
    layers : sequence of (data, keyword arguments, kind)
        As `i2am.viewer.scene.layers.sample_layers` gives them.
    view_index : int
        Which sample in view.
    """
    from napari.layers import Layer

    there = own_layers(viewer, view_index)
    below = -1 if not view_index else len(viewer.layers) - 1
    for values, options, kind in layers:
        layer = there.pop(options["metadata"][ATTRIBUTE_KEY]["role"], None)
        if layer is None:
            below += 1
            viewer.layers.insert(below, Layer.create(values, options, kind))
        else:
            _exchange(layer, values, options)
            below = viewer.layers.index(layer)
    remove_layers(viewer, there.values())


def measure_again(layer: Any) -> None:
    """Have napari see how large a hidden layer is now: it looks at data that are seen alone.

    Views and figures are fitted to all layers, hidden ones, too.
    """
    if not layer.visible:
        layer.scale = layer.scale


def _exchange(layer: Any, values: Any, options: dict[str, Any]) -> None:
    moved = {
        name: options[name]
        for name in ("scale", "translate")
        if name in options and not np.array_equal(getattr(layer, name), options[name])
    }
    visible = layer.visible
    if moved or getattr(layer.data, "shape", None) != getattr(values, "shape", None):
        layer.visible = False  # nothing is sliced, so nothing computed, until all is in place
    layer.data = values
    for name in ("metadata", "features"):
        if name in options:
            setattr(layer, name, options[name])
    for name, value in moved.items():
        setattr(layer, name, value)
    measure_again(layer)
    layer.visible = visible
