"""The Python that makes the map in view: what a window shows can be had again without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from i2am.analysis.stores.layers import token_count
from i2am.analysis.stores.reader import open_maps
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.directions import DirectionName
from i2am.schemas.errors import AnalysisError
from i2am.viewer.data.axes import MEANS, Place, level_name

if TYPE_CHECKING:
    from i2am.viewer.data.sample import Row
    from i2am.viewer.picking.pick import Pick

__all__ = ["recipe", "sram_recipe"]

# TLAM is not among them: a store has it by groups of steps, the slider has each step.
_STORED: Final = {"ULAM": (), "HLAM": (HEAD,), "LLAM": (LAYER,)}


def recipe(row: Row, direction: DirectionName, place: Place, means: frozenset[str]) -> str:
    """Return a script whose ``attention`` is the map in view, before any display option.

    Parameters
    ----------
    row : Row
    direction : "r2g" or "g2r"
    place : Place
        Indices of layer, step and head.
    means : frozenset of str
        Of "layer", "step" and "head": what is averaged over.

    Raises
    ------
    AnalysisError
        If there is no such map.
    """
    _check_there(row, direction, place, means)
    labels = _labels(row, place, means)
    words = ", ".join(f"{dim} {label!r}" for dim, label in labels.items())
    over = " and ".join(f"{dim}s" for dim in MEANS if dim in means)
    title = ", ".join(filter(None, (words, f"mean over {over}" if over else "")))
    head = f'"""{direction.upper()} of sample {row.origin.sample!r}: {title}."""'
    selection = _selection(row, direction, labels, means)
    needed = ["import xarray as xr", ""] if any("xr." in line for line in selection) else []
    return "\n".join([head, "", *needed, *_opening(row), *selection]) + "\n"


def sram_recipe(row: Row, pick: Pick) -> str:
    """Return a script whose ``attention`` is what a picked place read on the other picture.

    Parameters
    ----------
    row : Row
        The sample that the pick is in.
    pick : Pick
    """
    asked = {
        name: labels
        for name, labels in pick.asked(row).items()
        # Stored maps may be of fewer steps than were captured: then they are all named.
        if getattr(pick, name) or row.stored is not None
    }
    top, left, bottom, right = pick.area
    size = row.images[pick.side].shape[:2]
    lines = [
        f'"""SRAM of sample {row.origin.sample!r}: {pick.title()}."""',
        "",
        *([] if pick.is_point else ["import numpy as np", ""]),
        "from i2am.analysis import open_run, sram",
        "",
        _open_sample(row),
    ]
    if not pick.is_point:
        lines += [f"region = np.zeros({size}, bool)"]
        lines += [f"region[{top}:{bottom}, {left}:{right}] = True"]
    lines += [
        "attention = sram(",
        "    sample,",
        f"    {pick.side}={(top, left) if pick.is_point else 'region'},",
        *(f"    {name}={labels!r}," for name, labels in asked.items()),
        f"    guidance={row.origin.guidance!r},",
        f"    normalisation={row.origin.normalisation!r},",
        ").compute()",
    ]
    return "\n".join(lines) + "\n"


def _check_there(row: Row, direction: str, place: Place, means: frozenset[str]) -> None:
    volume = row.volumes.get(direction)
    layers = slice(None) if LAYER in means else place.layer
    heads = slice(None) if HEAD in means else place.head
    if volume is None or not volume.present[layers, heads].any():
        msg = (
            f"Expected a map, got none of {direction.upper()}, at {row.names.layers[place.layer]}. "
            "Move the sliders, or choose the other direction."
        )
        raise AnalysisError(msg)


def _labels(row: Row, place: Place, means: frozenset[str]) -> dict[str, str | int]:
    """Return the labels of what is not averaged over."""
    names = row.names
    labels: dict[str, str | int] = {
        LAYER: names.layers[place.layer],
        STEP: names.steps[place.step],
        HEAD: names.heads[place.head],
    }
    return {dim: label for dim, label in labels.items() if dim not in means}


def _opening(row: Row) -> list[str]:
    """Return the lines that give ``maps``."""
    own = row.origin
    if row.stored is not None and own.maps is not None:
        return [
            "from i2am.analysis import open_maps",
            "",
            f"maps = open_maps({_address(own.maps)!r})[{own.sample!r}]",
        ]
    return [
        "from i2am.analysis import analyze, open_run",
        "",
        _open_sample(row),
        f"maps = analyze(sample, guidance={own.guidance!r}, normalisation={own.normalisation!r})",
    ]


def _open_sample(row: Row) -> str:
    return f"sample = open_run({_address(row.origin.run)!r})[{row.origin.sample!r}]"


def _address(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _selection(
    row: Row, direction: DirectionName, labels: dict[str, str | int], means: frozenset[str]
) -> list[str]:
    """Return the lines that pick ``attention`` from ``maps``."""
    factor = _factor(row, direction, labels)
    level = _stored_level(row, direction, means)
    if level and not factor:
        chosen = _picked(row, direction, labels)
        return [f'attention = maps["{direction}"]["{level}"]{chosen}.compute()']
    lines = [f'volume = maps["{direction}"]["volume"]{_picked(row, direction, labels)}', *factor]
    if not means:
        return [*lines, "attention = volume.compute()"]
    over = [dim for dim in MEANS if dim in means]
    # Added up in float64, as everything of ours is.
    return [*lines, f'attention = volume.mean({over}, dtype="float64").astype("float32").compute()']


def _picked(row: Row, direction: str, labels: dict[str, str | int]) -> str:
    """Return the selection by labels; of steps by position where the store has no labels."""
    by_label = dict(labels)
    text = ""
    if STEP in labels and row.stored is not None and STEP not in row.stored[direction].coords:
        text = f".isel(step={row.names.steps.index(int(by_label.pop(STEP)))})"
    if by_label:
        chosen = ", ".join(f"{dim}={label!r}" for dim, label in by_label.items())
        text += f".sel({chosen})"
    return text


def _stored_level(row: Row, direction: str, means: frozenset[str]) -> str:
    """Return which stored level is in view; empty where it is none, or not over all there is."""
    name = level_name(means)
    if row.stored is None or name not in _STORED:
        return ""
    node = row.stored[direction].dataset
    full = {LAYER: list(row.names.layers), HEAD: list(row.names.heads)}
    is_full = all(node[dim].values.tolist() == full[dim] for dim in _STORED[name])
    return name.lower() if is_full and name.lower() in node else ""


def _factor(row: Row, direction: DirectionName, labels: dict[str, str | int]) -> list[str]:
    """Return the line that takes stored maps to the normalisation in view, where that is another."""
    if row.stored is None or row.origin.maps is None:
        return []
    if open_maps(row.origin.maps).attributes["normalisation"] == row.origin.normalisation:
        return []
    own, nodes = row.layers, row.capture["layers"].children
    names = [str(name) for name in row.stored[direction].dataset[LAYER].values]
    positions = {
        name: own[name].generated_tokens()
        if direction == "r2g"
        else token_count(nodes[name].dataset)
        for name in names
    }
    sign = "*" if row.origin.normalisation == "density" else "/"
    if LAYER in labels:
        return [f"volume = volume {sign} {positions[str(labels[LAYER])]}  # positions of the layer"]
    counts = list(positions.values())
    return [
        f"positions = xr.DataArray({counts}, dims={LAYER!r})",
        f"volume = volume {sign} positions",
    ]
