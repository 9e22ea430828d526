"""Text in figures and report: titles, notes, and why a map does not exist.

One place for it, so that a figure and the page that shows it say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import xarray as xr

from i2am.analysis.kernel.resize import Grid
from i2am.analysis.maps.levels import UNITS
from i2am.analysis.stores.boxes import describe_box, image_box, is_whole_image
from i2am.analysis.stores.layers import (
    format_labels,
    image_under,
    is_noncausal,
    is_one_token,
    layer_attributes,
    layers_with_reference_grid,
    mapped_layers,
)
from i2am.schemas import dims
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import CONDITIONAL
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = [
    "UNSEEN",
    "absence",
    "figure_title",
    "layer_grids",
    "layer_titles",
    "map_options",
    "register_note",
    "seen_notes",
    "selection_words",
    "similarity_note",
    "time_titles",
    "unit",
]

# For a figure of several samples; `seen_notes` says more of one.
UNSEEN: Final = "What the models did not see is dimmed."


def figure_title(sample: xr.DataTree, shown: str, options: Mapping[str, Any] | None = None) -> str:
    """Return which sample and which map a figure shows, and what of the sample the map is made of.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    shown : str
        The map, in words.
    options : mapping, optional
        Of `analyze`; they are named where they are not the usual ones.
    """
    title = f"{sample.name}: {shown}" if sample.name else shown
    return ", ".join([title, *selection_words(options or {})])


def map_options(maps: xr.DataTree) -> dict[str, Any]:
    """Return the options that maps were made with, as far as they tell."""
    return maps.attrs.get(ATTRIBUTE_KEY) or maps.root.attrs.get(ATTRIBUTE_KEY) or {}


def selection_words(options: Mapping[str, Any]) -> list[str]:
    """Return what was selected of a sample, in words; nothing of what is usual.

    Examples
    --------
    >>> selection_words({"guidance": "unconditional", "steps": [0, 1, 2], "heads": None})
    ['unconditional branch', 'steps 0 to 2']
    """
    words = []
    if options.get("within", "image") != "image":
        words.append("of the painted part")
    if options.get("convention", "i2am") != "i2am":
        words.append(f"{options['convention']} convention")
    if (layers := options.get("layers")) is not None:
        words.append(f"layers {layers if isinstance(layers, str) else ', '.join(layers)}")
    if options.get("guidance", CONDITIONAL) != CONDITIONAL:
        words.append(f"{options['guidance']} branch")
    for what in ("steps", "heads"):
        if (labels := options.get(what)) is not None:
            known = labels if isinstance(labels, list | tuple) else [labels]
            is_one = len(known) == 1
            words.append(f"{what[:-1] if is_one else what} {format_labels(known)}")
    return words


def similarity_note(sample: xr.DataTree, maps: xr.DataTree) -> str:
    """Return the warning that goes with R2G maps of one-token layers; empty if there are none."""
    alone = [is_noncausal(node) for node in mapped_layers(sample, maps, "r2g")]
    if not any(alone):
        return ""
    if all(alone):
        return "similarity map, not causal: one reference token"
    return f"in {sum(alone)} of {len(alone)} layers a similarity, not causal: one reference token"


def register_note(sample: xr.DataTree, maps: xr.DataTree) -> str:
    """Return why empty places of a G2R map may be bright; empty where there is no such map.

    Whoever sees a map on the reference for the first time takes them for sources, or for a fault.
    """
    if "g2r" not in maps.children:
        return ""
    whole = map_options(maps).get("within", "image") == "image"
    others = (
        ", such as those outside the mask,"
        if whole and "inpainting_mask" in sample["images"]
        else ""
    )
    return (
        "Bright empty places on the reference, often its corners, may be registers: patches that need "
        f"nothing from it{others} have to put their attention somewhere."
    )


def seen_notes(sample: xr.DataTree, maps: xr.DataTree) -> list[str]:
    """Return a line for each image that maps lie over, of which the model saw a part alone."""
    lines = []
    images = sample.children["images"].dataset
    for direction in (d for d in DIRECTIONS if d in maps.children):
        name = image_under(sample, maps, direction)
        if name not in images or is_whole_image(sample, name):
            continue
        height, width = images[name].shape[:2]
        box = image_box(sample, name)
        inside = box.within(height, width)
        seen = "all" if inside.is_whole(height, width) else describe_box(inside)
        words = f"The model saw {seen} of this {name.replace('_', ' ')} picture ({height} × {width} pixels)"
        words += "" if inside == box else " and padding beyond its edge"
        lines.append(f"{words}." if seen == "all" else f"{words}; the rest is dimmed.")
    return lines


def absence(sample: xr.DataTree, direction: DirectionName) -> str:
    """Return a sentence that says why a sample has no maps of a direction."""
    layers = list(sample.children["layers"].children.values())
    if direction == "g2r" and all(map(is_one_token, layers)):
        why = ", so every patch gives it all its attention" * all(map(is_noncausal, layers))
        return f"No G2R map: the reference is one token{why}."
    if direction == "g2r" and not layers_with_reference_grid(sample):
        return "No G2R map: the reference tokens have no layout."
    return f"No {direction.upper()} map: it is not in this store."


def layer_titles(sample: xr.DataTree, names: Sequence[str], direction: DirectionName) -> list[str]:
    """Return each layer's path without the end that all share, and its grid where it is known."""
    titles = []
    grids = layer_grids(sample, names, direction)
    for grid, short in zip(grids, _without_shared_end(names), strict=True):
        titles.append(f"{short}\n{grid[0]}×{grid[1]}" if grid else short)
    return titles


def layer_grids(
    sample: xr.DataTree, names: Sequence[str], direction: DirectionName
) -> list[Grid | None]:
    """Return the grid of each layer's own maps of a direction; None where it is not known."""
    known = layer_attributes(sample)
    side = "generated_grid" if direction == "r2g" else "reference_grid"
    return [getattr(known[name], side) if name in known else None for name in names]


def time_titles(sample: xr.DataTree, tlam: xr.DataArray) -> list[str]:
    """Return each time group's steps and the scheduler's timesteps at both its ends."""
    titles = []
    timestep = sample.dataset["timestep"]
    for first, last in zip(tlam[dims.FIRST_STEP].values, tlam[dims.LAST_STEP].values, strict=True):
        begin, end = (float(timestep.sel({dims.STEP: step})) for step in (first, last))
        if first == last:
            titles.append(f"step {first}\nt = {begin:g}")
        else:
            titles.append(f"steps {first}–{last}\nt = {begin:g}–{end:g}")
    return titles


def unit(maps: xr.DataTree) -> str:
    """Return what the maps' values are, as a label of a scale."""
    label = UNITS[map_options(maps).get("normalisation", "mass")]
    weighted = any(dims.LAYER_WEIGHT in node.coords for node in maps.subtree)
    return f"{label}, layers by effect" if weighted else label


def _without_shared_end(names: Sequence[str]) -> list[str]:
    """Return dotted names without the last parts that are the same in all of them.

    Examples
    --------
    >>> _without_shared_end(["down.0.attn2", "up.1.attn2"])
    ['down.0', 'up.1']
    >>> _without_shared_end(["only.attn2"])
    ['only.attn2']
    """
    parts = [name.split(".") for name in names]
    if len(parts) < 2:
        return list(names)
    max_shared = min(map(len, parts)) - 1
    shared = 0
    while shared < max_shared and len({part[-1 - shared] for part in parts}) == 1:
        shared += 1
    return [".".join(part[: len(part) - shared]) for part in parts]
