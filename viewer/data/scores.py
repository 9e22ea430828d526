"""Scores of a sample's maps: of each map as it is loaded, and of the map in view, in words as well."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis import ScoredMap, ScoreValue, spread
from i2am.analysis.figures.captions import absence
from i2am.analysis.scores import registry
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.viewer.data.axes import SliderPosition

if TYPE_CHECKING:
    from i2am.viewer.data.volume import MapVolume

__all__ = [
    "MapSpread",
    "mask_name",
    "score_map",
    "score_maps_in_view",
    "short_names",
    "shown_values",
    "why_no_curves",
]


class MapSpread:
    """How the attention of each map of a direction is spread, for the maps that are loaded.

    Parameters
    ----------
    shape : (int, int, int)
        Numbers of layers, steps and heads.
    mask : array (image y, image x), 0..1, or None
        Where attention may belong; neither empty nor whole.

    Attributes
    ----------
    inside, concentration : array (layer, step, head), float32
        As `i2am.analysis.spread` gives them; NaN where there is no map, or not yet.
    chance : float
        The mask's share of the area; NaN until it is known.
    """

    def __init__(self, shape: tuple[int, int, int], mask: NDArray[Any] | None = None) -> None:
        self.mask = mask
        self.inside = np.full(shape, np.nan, np.float32)
        self.concentration = np.full(shape, np.nan, np.float32)
        self.chance = float("nan")

    def add(self, layer: int, steps: Sequence[int], maps: NDArray[np.float32]) -> None:
        """Score new maps (step, head, y, x) of a layer."""
        found = spread(xr.DataArray(maps, dims=("step", "head", "y", "x")), self.mask)
        self.concentration[layer, steps] = found["concentration"]
        if "inside" in found:
            self.inside[layer, steps] = found["inside"]
            self.chance = float(found["chance"])


def score_map(
    plane: NDArray[Any], mask: NDArray[Any] | None, direction: DirectionName = "r2g"
) -> dict[str, float]:
    """Return the scores of one map; those that need a mask only where there is one.

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


def score_maps_in_view(
    capture: xr.DataTree,
    volumes: Mapping[str, MapVolume],
    spreads: Mapping[str, MapSpread],
    position: SliderPosition,
    averaged_dims: frozenset[str],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the scores of a sample's maps in view, and why there are none of something.

    Parameters
    ----------
    capture : DataTree
        As `i2am.analysis.open_run` gives it.
    volumes, spreads : mapping of direction to MapVolume and to MapSpread
    position : SliderPosition
        Positions of the sliders.
    averaged_dims : frozenset of str
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
        if direction not in volumes:
            notes.append(absence(capture, direction))
            continue
        volume, mask = volumes[direction], spreads[direction].mask
        own = volume.to_own_position(position, averaged_dims)
        plane = None if own is None else volume.loaded.plane(own, averaged_dims)
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
    """Return names that tell layers apart and fit beside an axis; the full name where none does.

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


def why_no_curves(
    capture: xr.DataTree,
    spreads: Mapping[str, MapSpread],
    direction: DirectionName,
    position: SliderPosition | None,
) -> str:
    """Return why a sample has no curves over the timesteps; empty if it has.

    Parameters
    ----------
    position : SliderPosition or None
        The sample's own indices of the slider position; None where it has none.
    """
    if direction not in spreads:
        return absence(capture, direction)
    if position is None:
        return "This sample has no such layer, step or head."
    if spreads[direction].mask is None:
        return f"No curves: {_why_no_mask(direction)}."
    return ""


def _why_no_mask(direction: DirectionName) -> str:
    return f"the sample has no {mask_name(direction)} that is neither empty nor whole"
