"""Where a model looks, found out by causation: pictures are changed, and what moves is what it saw.

A `View` is a pipeline that is given one picture. `record` captures it and reads back what is stored;
`whitened` changes the place of one token, or all that lies outside a box.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image

from i2am.analysis import open_run, sram
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import layer_attributes
from i2am.capture import capture
from i2am.schemas import Box, LayerAttributes
from i2am.schemas.attributes import ATTRIBUTE_KEY
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.families import Family

__all__ = ["Captured", "View", "cell", "outside", "peak", "record", "strongest", "whitened"]


@dataclass(frozen=True)
class View:
    """A pipeline with one picture whose place among the tokens is asked.

    Parameters
    ----------
    family : Family
    call : callable (picture) -> mapping
        The arguments of the pipeline's call for a picture.
    image : str
        Name under which the picture is stored.
    array : str
        "key", or "query" of a picture that is painted over.
    has_other_way : bool
        Whether the picture also reaches the output beside the tokens.
    output : str
        The pipeline's output_type; pictures are stored as the generated image.
    reach : float
        How far beyond the seen part its resize looks, in pixels.
    """

    family: Family
    call: Callable[[Image.Image], dict[str, Any]]
    image: str = "reference"
    array: str = "key"
    has_other_way: bool = False
    output: str = "latent"
    reach: float = 0.0


@dataclass(frozen=True)
class Captured:
    """What one run gave and stored.

    Parameters
    ----------
    output : Tensor or array
        Of the pipeline.
    box : Box
        Of the picture, as it is stored.
    tokens : array, dims (y, x, value), float32
        Keys, or queries, of the first layer that has a grid, at its first step.
    sram : DataArray or None
        On the picture: of some places of the other one, and of each head. None of a single token.
    """

    output: Any
    box: Box
    tokens: np.ndarray[Any, Any]
    sram: xr.DataArray | None

    def is_same_output(self, other: Captured) -> bool:
        return bool(np.array_equal(np.asarray(self.output), np.asarray(other.output)))


def record(view: View, picture: Image.Image, store: Path, sample: str) -> Captured:
    """Capture one step of a view's pipeline on a picture."""
    pipeline: Any = view.family.pipeline
    options: dict[str, Any] = {"dtype": "float32", "representation": "factors"}
    call = view.family.call | view.call(picture)
    with capture(pipeline, store, sample=sample, **options) as recording:
        torch.manual_seed(0)
        found = pipeline(
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=1,
            output_type=view.output,
            **call,
        )
        output = found[0]
        generated = output[0] if view.output == "pil" else view.family.blank()
        images = {"generated": generated, "reference": np.zeros((32, 32, 3), np.uint8)}
        if view.image != "generated":
            images[view.image] = picture
        recording.add_images(**images)
    group = models.opened(store / sample)
    stored = group[f"images/{view.image}"]
    own = stored.attrs.get(ATTRIBUTE_KEY)
    box = Box.whole(*stored.shape[:2]) if own is None else Box(*own["box"])
    if view.output == "pil":
        output = np.stack([np.asarray(image) for image in output])
    tokens = _tokens(group["layers"], view)
    has_places = tokens.shape[:2] != (1, 1)
    return Captured(
        output, box, tokens, _sram(open_run(store)[sample], view) if has_places else None
    )


def _sram(sample: xr.DataTree, view: View) -> xr.DataArray:
    """Return SRAMs of some places of the other image, of each head of the first layer.

    What a patch moves in the first layer spreads over the later ones.
    """
    index = int(view.image.partition("_")[2] or 0)
    own = layer_attributes(sample)
    layer = next(name for name, each in own.items() if each.reference_index == index)
    other = "reference" if view.image == "generated" else "generated"
    box = image_box(sample, other)
    places = [
        (box.y0 + y * box.height, box.x0 + x * box.width)
        for y, x in itertools.product((0.1, 0.4, 0.6, 0.9), repeat=2)
    ]
    inside = [place for place in places if min(place) >= 0]
    asked: dict[str, Any] = {other: inside}
    return sram(sample, layers=layer, keep=["head"], **asked).compute()


def _tokens(layers: Any, view: View) -> np.ndarray[Any, Any]:
    index = int(view.image.partition("_")[2] or 0)
    own = []
    for _, layer in layers.groups():
        attributes = LayerAttributes.model_validate(layer.attrs[ATTRIBUTE_KEY])
        if view.array == "query" or attributes.reference_index == index:
            own.append((attributes, layer))
    attributes, layer = min(own, key=lambda pair: pair[0].order)
    values = layer[view.array][...]
    values = values[0] if values.ndim == 4 else values  # the first step
    grid = attributes.reference_grid if view.array == "key" else attributes.generated_grid
    if grid is None:
        grid = (1, values.shape[1])
    special = attributes.special_tokens if view.array == "key" else 0
    found: np.ndarray[Any, Any] = values[:, special:].transpose(1, 0, 2).reshape(*grid, -1)
    return found


def peak(before: Captured, after: Captured) -> tuple[float, float]:
    """Return the place (y, x), in pixels of the picture, where the SRAM changed most.

    By its ratio, beside what the sum of 1 changes of all tokens alike; of all places and heads that
    were asked.
    """
    assert before.sram is not None
    assert after.sram is not None
    quotient = after.sram / before.sram
    ratio = quotient.copy(data=np.log(quotient.to_numpy()))
    plane = ratio.dims[-2:]
    change = ((ratio - ratio.median(plane)) ** 2).sum(ratio.dims[:-2])
    row, column = np.unravel_index(int(np.argmax(change.to_numpy())), change.shape)
    y, x = (change[dim].to_numpy() for dim in change.dims)
    return float(y[row]), float(x[column])


def cell(box: Box, grid: tuple[int, int], token: tuple[int, int]) -> Box:
    """Return the place of a token on a picture."""
    height, width = box.height / grid[0], box.width / grid[1]
    y, x = box.y0 + token[0] * height, box.x0 + token[1] * width
    return Box(y, x, y + height, x + width)


def whitened(picture: Image.Image, place: Box) -> Image.Image:
    """Return a picture that is white at a place."""
    values = np.array(picture)
    rows, columns = _inner(place.y0, place.y1), _inner(place.x0, place.x1)
    assert values[rows, columns].size, "the place lies on the picture"
    values[rows, columns] = 255
    return Image.fromarray(values)


def outside(picture: Image.Image, box: Box, margin: float) -> Image.Image:
    """Return a picture that is inverted farther than `margin` pixels outside a box."""
    values = np.array(picture)
    changed = 255 - values
    rows = slice(max(0, math.floor(box.y0 - margin)), math.ceil(box.y1 + margin))
    columns = slice(max(0, math.floor(box.x0 - margin)), math.ceil(box.x1 + margin))
    changed[rows, columns] = values[rows, columns]
    return Image.fromarray(changed)


def _inner(start: float, stop: float) -> slice:
    first = max(0, math.ceil(start - 1e-9))
    return slice(first, max(first + 1, math.floor(stop + 1e-9)))


def strongest(before: Captured, after: Captured) -> tuple[int, int]:
    """Return the token (row, column) that changed most."""
    change = np.abs(after.tokens - before.tokens).sum(-1)
    row, column = np.unravel_index(np.argmax(change), change.shape)
    return int(row), int(column)
