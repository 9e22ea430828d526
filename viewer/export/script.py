"""The Python that makes the map in view: what a window shows can be had again without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from i2am.analysis.stores.layers import token_count
from i2am.analysis.stores.reader import open_maps
from i2am.schemas.dims import HEAD, LAYER, LAYER_WEIGHT, STEP
from i2am.schemas.directions import DirectionName
from i2am.schemas.errors import AnalysisError
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, SliderPosition, level_name
from i2am.viewer.picking.pick import Pick, seen_part

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView

__all__ = ["map_script", "sram_script"]

# TLAM is not among them: a store has it by groups of steps, the slider has each step.
_STORED: Final = {"ULAM": (), "HLAM": (HEAD,), "LLAM": (LAYER,)}


def map_script(
    view: SampleView,
    direction: DirectionName,
    position: SliderPosition,
    averaged_dims: frozenset[str],
) -> str:
    """Return a script whose ``attention`` is the map in view, before any display option.

    Parameters
    ----------
    view : SampleView
    direction : "r2g" or "g2r"
    position : SliderPosition
        Indices of layer, step and head.
    averaged_dims : frozenset of str
        Of "layer", "step" and "head": what is averaged over.

    Raises
    ------
    AnalysisError
        If there is no such map.
    """
    _check_there(view, direction, position, averaged_dims)
    labels = _labels(view, position, averaged_dims)
    words = ", ".join(f"{dim} {label!r}" for dim, label in labels.items())
    over = " and ".join(f"{dim}s" for dim in AVERAGEABLE_DIMS if dim in averaged_dims)
    title = ", ".join(filter(None, (words, f"mean over {over}" if over else "")))
    head = f'"""{direction.upper()} of sample {view.source.sample!r}: {title}."""'
    selection = _selection(view, direction, labels, averaged_dims)
    needed = ["import xarray as xr", ""] if any("xr." in line for line in selection) else []
    return "\n".join([head, "", *needed, *_opening(view), *selection]) + "\n"


def sram_script(view: SampleView, pick: Pick) -> str:
    """Return a script whose ``attention`` is the SRAM of a picked region.

    Parameters
    ----------
    view : SampleView
        The sample that the pick is in.
    pick : Pick
        Pixels that the model never saw are left out.

    Raises
    ------
    AnalysisError
        If the model never saw any of it.
    """
    seen = seen_part(pick, view)
    if seen is None:
        msg = (
            f"Expected a place that the model saw, got {pick.area}, at the {pick.side} image of "
            f"{pick.sample}. Pick one within {tuple(view.boxes[pick.side])}."
        )
        raise AnalysisError(msg)
    selection = {
        name: labels
        for name, labels in pick.selection(view).items()
        # Stored maps may be of fewer steps than were captured: then they are all named.
        if getattr(pick, name)
        or view.stored is not None
        or (name == "layers" and not _is_of_first(view))
    }
    top, left, bottom, right = seen.area
    size = view.images[pick.side].shape[:2]
    lines = [
        f'"""SRAM of sample {view.source.sample!r}: {pick.title()}."""',
        "",
        *([] if seen.is_point else ["import numpy as np", ""]),
        "from i2am.analysis import open_run, sram",
        "",
        _open_sample(view),
    ]
    if not seen.is_point:
        lines += [f"region = np.zeros({size}, bool)"]
        lines += [f"region[{top}:{bottom}, {left}:{right}] = True"]
    lines += [
        "attention = sram(",
        "    sample,",
        f"    {pick.side}={(top, left) if seen.is_point else 'region'},",
        *(f"    {name}={labels!r}," for name, labels in selection.items()),
        f"    guidance={view.source.guidance!r},",
        f"    normalisation={view.source.normalisation!r},",
        ").compute()",
    ]
    return "\n".join(lines) + "\n"


def _check_there(
    view: SampleView, direction: str, position: SliderPosition, averaged_dims: frozenset[str]
) -> None:
    volume = view.volumes.get(direction)
    layers = slice(None) if LAYER in averaged_dims else position.layer
    heads = slice(None) if HEAD in averaged_dims else position.head
    if volume is None or not volume.loaded.present[layers, heads].any():
        msg = (
            f"Expected a map, got none of {direction.upper()}, at {view.axes.layers[position.layer]}. "
            "Move the sliders, or choose the other direction."
        )
        raise AnalysisError(msg)


def _labels(
    view: SampleView, position: SliderPosition, averaged_dims: frozenset[str]
) -> dict[str, str | int]:
    """Return the labels of what is not averaged over."""
    axes = view.axes
    labels: dict[str, str | int] = {
        LAYER: axes.layers[position.layer],
        STEP: axes.steps[position.step],
        HEAD: axes.heads[position.head],
    }
    return {dim: label for dim, label in labels.items() if dim not in averaged_dims}


def _opening(view: SampleView) -> list[str]:
    """Return the lines that give ``maps``."""
    own = view.source
    if view.stored is not None and own.maps is not None:
        return [
            "from i2am.analysis import open_maps",
            "",
            f"maps = open_maps({_address(own.maps)!r})[{own.sample!r}]",
        ]
    return [
        "from i2am.analysis import analyze, open_run",
        "",
        _open_sample(view),
        "maps = analyze(",
        "    sample,",
        f"    guidance={own.guidance!r},",
        f"    normalisation={own.normalisation!r},",
        *([] if own.within == "image" else [f"    within={own.within!r},"]),
        *([] if _is_of_first(view) else [f"    layers={list(view.axes.layers)!r},"]),
        ")",
    ]


def _is_of_first(view: SampleView) -> bool:
    """Return whether the maps are of the first reference, as they are by default."""
    return view.source.reference in ("", view.references[0])


def _open_sample(view: SampleView) -> str:
    return f"sample = open_run({_address(view.source.run)!r})[{view.source.sample!r}]"


def _address(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _selection(
    view: SampleView,
    direction: DirectionName,
    labels: dict[str, str | int],
    averaged_dims: frozenset[str],
) -> list[str]:
    """Return the lines that pick ``attention`` from ``maps``."""
    factor = _factor(view, direction, labels)
    level = _stored_level(view, direction, averaged_dims)
    if level and not factor:
        chosen = _picked(view, direction, labels)
        return [f'attention = maps["{direction}"]["{level}"]{chosen}.compute()']
    lines = [f'volume = maps["{direction}"]["volume"]{_picked(view, direction, labels)}', *factor]
    if not averaged_dims:
        return [*lines, "attention = volume.compute()"]
    over = [dim for dim in AVERAGEABLE_DIMS if dim in averaged_dims]
    # Added up in float64, as everything of ours is.
    return [*lines, f'attention = volume.mean({over}, dtype="float64").astype("float32").compute()']


def _picked(view: SampleView, direction: str, labels: dict[str, str | int]) -> str:
    """Return the selection by labels; of steps by position where the store has no labels."""
    by_label = dict(labels)
    text = ""
    if STEP in labels and view.stored is not None and STEP not in view.stored[direction].coords:
        text = f".isel(step={view.axes.steps.index(int(by_label.pop(STEP)))})"
    if by_label:
        chosen = ", ".join(f"{dim}={label!r}" for dim, label in by_label.items())
        text += f".sel({chosen})"
    return text


def _stored_level(view: SampleView, direction: str, averaged_dims: frozenset[str]) -> str:
    """Return which stored level is in view; empty where it is none, or not over all there is."""
    name = level_name(averaged_dims)
    if view.stored is None or name not in _STORED:
        return ""
    node = view.stored[direction].dataset
    if LAYER_WEIGHT in node.coords and LAYER in averaged_dims:
        return ""  # In view all layers count alike.
    full = {LAYER: list(view.axes.layers), HEAD: list(view.axes.heads)}
    is_full = all(node[dim].values.tolist() == full[dim] for dim in _STORED[name])
    return name.lower() if is_full and name.lower() in node else ""


def _factor(view: SampleView, direction: DirectionName, labels: dict[str, str | int]) -> list[str]:
    """Return the line that takes stored maps to the normalisation in view, where that is another."""
    if view.stored is None or view.source.maps is None:
        return []
    if open_maps(view.source.maps).attributes["normalisation"] == view.source.normalisation:
        return []
    own, nodes = view.layers, view.capture["layers"].children
    names = [str(name) for name in view.stored[direction].dataset[LAYER].values]
    positions = {
        name: own[name].generated_tokens()
        if direction == "r2g"
        else token_count(nodes[name].dataset)
        for name in names
    }
    sign = "*" if view.source.normalisation == "density" else "/"
    if LAYER in labels:
        return [f"volume = volume {sign} {positions[str(labels[LAYER])]}  # positions of the layer"]
    counts = list(positions.values())
    return [
        f"positions = xr.DataArray({counts}, dims={LAYER!r})",
        f"volume = volume {sign} positions",
    ]
