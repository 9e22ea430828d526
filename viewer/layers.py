"""A sample and its maps as napari layers: two pictures side by side, each under its maps.

Both pictures lie in one scene, the reference to the right and as high as the generated one. Grid
mode would also put them side by side, but only a window can switch it on, a reader cannot; and
its cells count layers, so that any layer a user adds would push the maps off their pictures.

World coordinates are pixels of the generated image: its first pixel's centre is (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from i2am.analysis.captions import is_similarity, reference_image
from i2am.schemas.attributes import ATTRIBUTE_KEY, CaptureAttributes, LayerAttributes
from i2am.schemas.dims import GENERATED_PLANE, HEAD, LAYER, REFERENCE_PLANE, STEP, TIMESTEP, X, Y
from i2am.viewer.contrast import (
    heat_colormap,
    layer_limits,
    probe_planes,
    unified_limits,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["VOLUME_AXES", "LayerData", "Origin", "sample_layers"]

LayerData = tuple[Any, dict[str, Any], str]

VOLUME_AXES: Final = (LAYER, STEP, HEAD, Y, X)
_GAP: Final = 1 / 16  # of the generated image's width
_CAPTION_RISE: Final = 1 / 40  # of the generated image's height
_MASK_COLORS: Final = ((0.0, 0.0, 0.0, 0.0), (0.0, 0.9, 0.9, 0.45))


@dataclass(frozen=True)
class Origin:
    """Where layers come from: what is needed to show another sample of the same run."""

    run: str
    sample: str
    maps: str | None  # the analysis store that was asked for or found
    computed: bool  # now, from the run: no such store, or the sample is not in it


@dataclass(frozen=True)
class _Box:
    """A picture's rectangle in world coordinates; `left` is its first column's left edge."""

    height: float
    width: float
    left: float = -0.5
    top: float = -0.5

    def place(self, grid: Sequence[int]) -> tuple[list[float], list[float]]:
        """Return scale and translate (y, x) that spread `grid` over the box."""
        scale = [self.height / grid[0], self.width / grid[1]]
        # napari puts the centre, not the corner, of the first element at `translate`.
        return scale, [self.top + scale[0] / 2, self.left + scale[1] / 2]


def sample_layers(capture: xr.DataTree, maps: xr.DataTree, origin: Origin) -> list[LayerData]:
    """Return the layers of one sample, lowest first.

    Parameters
    ----------
    capture : DataTree
        One sample of a run, as `i2am.analysis.open_run` gives it.
    maps : DataTree
        Its maps, as `i2am.analysis.analyze` or `open_maps` gives them; lazy arrays stay lazy, but
        for the few planes that set the contrast.
    origin : Origin
        Kept in every layer's metadata.

    Returns
    -------
    list of (data, keyword arguments, kind)
        Roles, in order: captions, generated, source, inpainting_mask, r2g, r2g_ulam, reference,
        reference_mask, g2r, g2r_ulam; those that the sample has. Volumes have the axes
        (layer, step, head, y, x); both directions share their layers and heads, NaN (drawn clear)
        where a direction has none.
    """
    images = _shown_images(capture, maps)
    left, right = _boxes(images, maps)
    volumes = _aligned_volumes(capture, maps)
    layers = [
        _captions(left, right, has_g2r="g2r" in volumes),
        *_pictures(images, ("generated", "source"), left),
        *_masks(images, "inpainting_mask", left),
        *_maps(capture, maps, volumes, "r2g", left),
        *_pictures(images, ("reference",), right),
        *_masks(images, "reference_mask", right),
        *_maps(capture, maps, volumes, "g2r", right),
    ]
    for _, options, _ in layers:
        own = {**vars(origin), **options["metadata"]}
        options["metadata"] = {ATTRIBUTE_KEY: own}
    return layers


def _shown_images(capture: xr.DataTree, maps: xr.DataTree) -> dict[str, xr.DataArray]:
    """Return the stored pictures; as the reference the one that the maps' layers look at."""
    if "images" not in capture.children:
        return {}
    images = {str(name): image for name, image in capture["images"].dataset.items()}
    if (name := reference_image(capture, maps)) != "reference":
        images["reference"] = images[name]
        images.pop("reference_mask", None)  # It is of the first reference.
    return images


def _boxes(images: Any, maps: xr.DataTree) -> tuple[_Box, _Box]:
    """Return the rectangles of the generated image and, as high, of the reference."""
    height, width = _plane(images, "generated", maps["r2g"].dataset["ulam"].shape)
    fallback = maps["g2r"].dataset["ulam"].shape if "g2r" in maps.children else (height, width)
    reference_height, reference_width = _plane(images, "reference", fallback)
    start = (1 + _GAP) * width - 0.5
    return _Box(height, width), _Box(height, reference_width * height / reference_height, start)


def _plane(images: Any, name: str, fallback: Sequence[int]) -> tuple[int, int]:
    height, width = images[name].shape[:2] if name in images else fallback
    return int(height), int(width)


def _aligned_volumes(capture: xr.DataTree, maps: xr.DataTree) -> dict[str, xr.DataArray]:
    """Return the volumes on the same layers and heads: they share the sliders."""
    volumes = {d: maps[d].dataset["volume"] for d in ("r2g", "g2r") if d in maps.children}
    order = {name: _attributes(capture, name).order for name in capture["layers"].children}
    layers = {str(name) for volume in volumes.values() for name in volume[LAYER].values}
    heads = {int(head) for volume in volumes.values() for head in volume[HEAD].values}
    wanted = {LAYER: sorted(layers, key=order.__getitem__), HEAD: sorted(heads)}
    planes = {"r2g": GENERATED_PLANE, "g2r": REFERENCE_PLANE}
    return {
        direction: volume.transpose(LAYER, STEP, HEAD, *planes[direction]).reindex(wanted)
        for direction, volume in volumes.items()
    }


def _attributes(capture: xr.DataTree, layer: str) -> LayerAttributes:
    return LayerAttributes.model_validate(capture["layers"][layer].attrs[ATTRIBUTE_KEY])


def _pictures(images: Any, names: Sequence[str], box: _Box) -> list[LayerData]:
    layers: list[LayerData] = []
    for name in (name for name in names if name in images):
        values = np.asarray(images[name])
        options = _options(name, name, box, values.shape[:2])
        visible = name != "source"
        layers.append((values, {**options, "rgb": True, "visible": visible}, "image"))
    return layers


def _masks(images: Any, name: str, box: _Box) -> list[LayerData]:
    if name not in images:
        return []
    values = np.asarray(images[name])
    options = {
        **_options(name, name.replace("_", " "), box, values.shape),
        "colormap": np.array(_MASK_COLORS),
        "contrast_limits": (0, 255),
        "interpolation2d": "nearest",
        "visible": False,
    }
    return [(values, options, "image")]


def _maps(
    capture: xr.DataTree,
    maps: xr.DataTree,
    volumes: dict[str, xr.DataArray],
    direction: str,
    box: _Box,
) -> list[LayerData]:
    """Return the volume of one direction and, hidden, its integrated map."""
    if direction not in volumes:
        return []
    volume, unified = volumes[direction], maps[direction].dataset["ulam"]
    (probe,) = probe_planes(volume)
    limits = layer_limits(probe)
    look = {"colormap": heat_colormap(), "blending": "translucent", "interpolation2d": "linear"}
    name = direction.upper()
    volume_options = {
        **_options(direction, name, box, volume.shape),
        **look,
        "contrast_limits": limits[0],  # where napari puts the sliders
    }
    volume_options["metadata"] |= _slice_names(capture, volume) | {
        "contrast_limits": limits,
        "present": probe.notnull().any((STEP, *probe.dims[-2:])).values.tolist(),
        "provenance": _provenance(capture),
        "note": _note(capture, volumes),
    }
    unified_options = {
        **_options(f"{direction}_ulam", f"{name} ULAM", box, unified.shape),
        **look,
        "contrast_limits": unified_limits(probe),
        "visible": False,
    }
    return [(volume.data, volume_options, "image"), (unified.data, unified_options, "image")]


def _slice_names(capture: xr.DataTree, volume: xr.DataArray) -> dict[str, Any]:
    """Return what slider positions mean: napari's own axes can only count."""
    names = [str(name) for name in volume[LAYER].values]
    steps = volume.coords.get(STEP, capture.coords[STEP]).values
    timesteps = capture.coords[TIMESTEP].sel({STEP: steps}).values
    attributes = [_attributes(capture, name) for name in names]
    return {
        "layers": names,
        "generated_grids": [layer.generated_grid for layer in attributes],
        "causal": [not is_similarity(capture["layers"].children[name]) for name in names],
        "steps": [int(step) for step in steps],
        "timesteps": timesteps.tolist(),
        "heads": [int(head) for head in volume[HEAD].values],
    }


def _provenance(capture: xr.DataTree) -> str:
    own = CaptureAttributes.model_validate(capture.attrs[ATTRIBUTE_KEY])
    settings = {"steps": own.steps, "guidance": own.guidance_scale, "seed": own.seed}
    known = [f"{name} {value}" for name, value in settings.items() if value is not None]
    return "\n".join(filter(None, (own.model, own.scheduler, ", ".join(known))))


def _note(capture: xr.DataTree, volumes: dict[str, xr.DataArray]) -> str:
    """Return why a sample has no G2R map; empty if it has one."""
    if "g2r" in volumes:
        return ""
    if all(map(is_similarity, capture["layers"].children.values())):
        return (
            "R2G only, and as a similarity, not a cause: with one reference token "
            "the attention to it is always 1."
        )
    return "R2G only: the reference tokens have no layout."


def _captions(left: _Box, right: _Box, *, has_g2r: bool) -> LayerData:
    """Return the lowest layer: a line above each picture that names it and its map.

    napari fits the view to the first layer that it is given, so this one also has an unseen point
    in each lower corner.
    """
    texts = ["generated · R2G", "reference · G2R" if has_g2r else "reference · no G2R", "", ""]
    above = left.top - _CAPTION_RISE * left.height
    below = left.top + left.height
    points = [[above, box.left + box.width / 2] for box in (left, right)]
    points += [[below, left.left], [below, right.left + right.width]]
    options = {
        "name": "captions",
        "metadata": {"role": "captions"},
        "features": {"caption": texts},
        "text": {"string": "{caption}", "color": "white", "size": 9, "anchor": "center"},
        "axis_labels": (Y, X),
        "face_color": "transparent",
        "border_color": "transparent",
    }
    return np.array(points), options, "points"


def _options(role: str, name: str, box: _Box, shape: Sequence[int]) -> dict[str, Any]:
    """Return what every image layer has; leading axes of `shape` are counted, not placed."""
    leading = len(shape) - 2
    scale, translate = box.place(shape[-2:])
    return {
        "name": name,
        "metadata": {"role": role},
        "axis_labels": VOLUME_AXES[-len(shape) :],
        "scale": [1.0] * leading + scale,
        "translate": [0.0] * leading + translate,
    }
