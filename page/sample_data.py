"""One sample of a run as data for the page: its pictures, axes, words and effects.

What the page shows it as text, so names and values from a store are plain strings here, with what
cannot be seen written as escapes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from i2am.analysis.figures import existing_kinds
from i2am.analysis.figures.captions import absence, register_note, seen_notes, similarity_note
from i2am.analysis.figures.effect_words import belief_sentences
from i2am.analysis.stores.boxes import image_box
from i2am.page.stacks import fit_stack, grid_within
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import CUT_BOX, STEP, TIMESTEP
from i2am.schemas.directions import DIRECTIONS
from i2am.schemas.text import safe_text

__all__ = [
    "all_layers",
    "describe_sample",
    "effects_data",
    "encode_webp",
    "provenance",
    "sample_notes",
    "step_groups",
    "thumbnail",
    "to_json_numbers",
    "webp_uri",
]

# The longer sides of pictures in a page, in pixels: those that heat lies over, all others, and those of
# the table.
_PICTURE_PX: Final = 384
_FURTHER_PX: Final = 192
_THUMBNAIL_PX: Final = 72
_QUALITY: Final = 78
# What effects may take in a page, in bytes.
_EFFECT_BYTES: Final = 12_000


def describe_sample(
    name: str, sample: xr.DataTree, maps: xr.DataTree, groups: Sequence[slice] | None = None
) -> dict[str, Any]:
    """Return what a page says of a sample without its maps.

    Parameters
    ----------
    name : str
    sample : DataTree
        As `open_run` gives it.
    maps : DataTree
        Of the sample, as `analyze` gives them; their values are not computed.
    groups : sequence of slice, optional
        Of the steps, where the page shows means over groups of them.

    Returns
    -------
    dict
        name, notes, provenance, images and axes.
    """
    return {
        "name": name,
        "notes": sample_notes(sample, maps),
        "provenance": [[label, value] for label, value in provenance(sample.attrs[ATTRIBUTE_KEY])],
        "images": _images(sample),
        "axes": _axes(sample, maps, groups),
    }


def sample_notes(sample: xr.DataTree, maps: xr.DataTree) -> list[str]:
    """Return what has to be known before a sample's maps are read, as sentences."""
    notes = []
    if note := similarity_note(sample, maps):
        notes.append(f"R2G: {note}.")
    notes.append(register_note(sample, maps) or absence(sample, "g2r"))
    return [*notes, *seen_notes(sample, maps)]


def provenance(own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each fact of a sample's own attributes, nested ones with dotted names."""
    for label, value in _flat(own):
        yield safe_text(label), safe_text(value)


def thumbnail(sample: xr.DataTree, image: str) -> str | None:
    """Return a stored image as a small picture in a data URI; None where it is not stored."""
    stored = sample["images"].get(image)
    return None if stored is None else webp_uri(stored.to_numpy(), _THUMBNAIL_PX)


def webp_uri(pixels: NDArray[np.uint8], longest_px: int | None = None) -> str:
    """Return a picture as a data URI, made smaller where its longer side is longer than that.

    Parameters
    ----------
    pixels : array (y, x, rgb) or (y, x), uint8
    longest_px : int, optional
    """
    with Image.fromarray(pixels) as picture:
        shown = picture
        if longest_px is not None and max(picture.size) > longest_px:
            height, width = grid_within((picture.height, picture.width), longest_px)
            shown = picture.resize((width, height), Image.Resampling.LANCZOS)
        return encode_webp(shown, _QUALITY)


def encode_webp(picture: Image.Image, quality: int) -> str:
    """Return a picture as a data URI; a WebP has a tenth of a PNG's size, which fifty samples notice."""
    encoded = BytesIO()
    picture.save(encoded, "webp", quality=quality, method=6)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def step_groups(count: int, most: int) -> list[slice]:
    """Return runs of steps of about one length, at most so many.

    Examples
    --------
    >>> step_groups(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    parts = np.array_split(np.arange(count), min(count, most))
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]


def effects_data(sample: xr.DataTree, effects: xr.Dataset | None) -> dict[str, Any] | None:
    """Return what cutting regions of the reference changed, and whether the maps say the same.

    Parameters
    ----------
    sample : DataTree
    effects : Dataset, optional
        This sample of `open_effects`.
    """
    if effects is None or not existing_kinds(sample, ["effects"], effects):
        return None
    regions = effects["region"].to_numpy()
    return {
        "sentences": belief_sentences(sample, effects),
        "boxes": effects[CUT_BOX].to_numpy().astype(float).round(2).tolist(),
        "stack": fit_stack(regions, ["cell"], _EFFECT_BYTES),
    }


def to_json_numbers(values: NDArray[Any]) -> list[Any]:
    """Return numbers as nested lists with None for NaN, which JSON has not.

    Examples
    --------
    >>> to_json_numbers(np.array([[0.25, np.nan]]))
    [[0.25, None]]
    """
    if values.ndim > 1:
        return [to_json_numbers(own) for own in values]
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values.tolist()]


def _images(sample: xr.DataTree) -> dict[str, Any]:
    """Return every stored image: as a picture, with its own size, and the part that the model saw."""
    found = {}
    for key, stored in sample["images"].dataset.data_vars.items():
        name = str(key)
        under_heat = name == "generated" or (name.startswith("reference") and stored.ndim == 3)
        box = image_box(sample, name)
        found[name] = {
            "url": webp_uri(stored.to_numpy(), _PICTURE_PX if under_heat else _FURTHER_PX),
            "size": [int(length) for length in stored.shape[:2]],
            "box": [float(end) for end in box],
        }
    return found


def _axes(
    sample: xr.DataTree, maps: xr.DataTree, groups: Sequence[slice] | None
) -> dict[str, list[Any]]:
    """Return the labels of layers, steps and heads: those of both directions together."""
    levels = [maps.children[d].dataset for d in DIRECTIONS if d in maps.children]
    steps = levels[0][STEP].to_numpy().tolist()
    timesteps = sample.dataset[TIMESTEP].sel({STEP: steps}).to_numpy().tolist()
    groups = groups or step_groups(len(steps), len(steps))
    heads = sorted({head for own in levels for head in own["head"].values.tolist()})
    return {
        "layers": all_layers(maps),
        "timesteps": [float(timesteps[group.start]) for group in groups],
        "steps": [_group_label(steps[group]) for group in groups],
        "heads": [str(head) for head in heads],
    }


def all_layers(maps: xr.DataTree) -> list[str]:
    """Return the layers of both directions, in the order in which they are executed."""
    names = [
        [str(name) for name in maps.children[d].dataset["layer"].values]
        for d in DIRECTIONS
        if d in maps.children
    ]
    # The direction with more layers has the order; the other's are among them but for odd stores.
    return list(dict.fromkeys(name for own in sorted(names, key=len, reverse=True) for name in own))


def _group_label(steps: list[int]) -> str:
    return str(steps[0]) if len(steps) == 1 else f"{steps[0]}–{steps[-1]}"


def _flat(attributes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested attributes with dotted names."""
    for name, value in attributes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
