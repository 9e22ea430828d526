"""What the panels tell of the map in view, in numbers and in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2am.analysis import ScoredMap, ScoreValue
from i2am.analysis.figures.captions import absence
from i2am.analysis.scores import registry
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.viewer.data.axes import Place
from i2am.viewer.data.sample import Row

__all__ = [
    "mask_name",
    "score_map",
    "score_row",
    "short_names",
    "shown_values",
    "why_no_curves",
]


def score_map(
    plane: NDArray[Any], mask: NDArray[Any] | None, direction: DirectionName = "r2g"
) -> dict[str, float]:
    """Return what is told of one map; what needs a mask only where there is one.

    Parameters
    ----------
    plane : array (y, x)
        A map, at least 0.
    mask : array (image y, image x), 0..1, or None
        Neither empty nor whole.
    direction : "r2g" or "g2r"

    Examples
    --------
    >>> corner = np.zeros((4, 4))
    >>> corner[0, 0] = 1
    >>> scores = score_map(corner, corner)
    >>> scores["IMACS"], scores["inside the mask"], scores["by chance"]
    (1.0, 1.0, 0.0625)
    """
    found = registry.score_map(ScoredMap(direction, plane, mask))
    return {v.label: found[v.name] for v in shown_values(direction) if v.name in found}


def shown_values(direction: DirectionName) -> list[ScoreValue]:
    """Return the score values of a direction that have a label beside the map in view."""
    return [v for v in registry.score_values() if v.label and v.direction == direction]


def score_row(
    row: Row, place: Place, means: frozenset[str]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return what is told of a sample's maps in view, and why something cannot be told.

    Parameters
    ----------
    row : Row
    place : Place
        Where the sliders stand.
    means : frozenset of str
        What is averaged over.

    Returns
    -------
    scores : dict of direction to dict of measure to float
    notes : list of str
        Sentences.
    """
    scores: dict[str, dict[str, float]] = {}
    notes = []
    for direction in DIRECTIONS:
        if direction not in row.volumes:
            notes.append(absence(row.capture, direction))
            continue
        volume = row.volumes[direction]
        mask = volume.mask
        own = volume.own_place(place, means)
        plane = None if own is None else volume.plane(own, means)
        if plane is None and own is not None:
            notes.append(f"{direction.upper()}: not loaded yet.")
        elif plane is None or not np.isfinite(plane).all():
            notes.append(f"No {direction.upper()} map of this layer and head.")
        else:
            scores[direction] = score_map(plane, mask, direction)
            if mask is None:
                notes.append(f"No IMACS of {direction.upper()}: {_why_no_mask(direction)}.")
    return scores, notes


def mask_name(direction: DirectionName) -> str:
    """Return the name of a direction's mask, in words."""
    return DIRECTIONS[direction].mask.replace("_", " ")


def short_names(layers: Sequence[str]) -> list[str]:
    """Return what tells layers apart and fits beside an axis; a name in full where it does not.

    Examples
    --------
    >>> short_names(["down_blocks.0.attentions.1.attn2", "mid_block.attentions.0.attn2"])
    ['down 0.1', 'mid 0']
    >>> short_names(["down.0.attn1", "down.0.attn2"])
    ['down.0.attn1', 'down.0.attn2']
    """
    short = []
    for layer in layers:
        numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", layer)
        short.append(" ".join(filter(None, (re.split(r"[_.]", layer)[0], ".".join(numbers)))))
    count = Counter(short)
    return [own if count[own] == 1 else full for own, full in zip(short, layers, strict=True)]


def why_no_curves(row: Row | None, direction: DirectionName, place: Place | None) -> str:
    """Return a sentence that says why there are no curves over the timesteps; empty where they are."""
    if row is None:
        return "Open a run: drop it on the window."
    if direction not in row.volumes:
        return absence(row.capture, direction)
    if place is None:
        return "This sample has no such layer, step or head."
    if row.volumes[direction].mask is None:
        return f"No curves: {_why_no_mask(direction)}."
    return ""


def _why_no_mask(direction: DirectionName) -> str:
    return f"the sample has no {mask_name(direction)} that is neither empty nor whole"
