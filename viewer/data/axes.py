"""What the positions of the sliders mean: napari's own axes can only count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from i2am.schemas.attributes import ATTRIBUTE_KEY, LayerAttributes
from i2am.schemas.dims import HEAD, LAYER, STEP, TIMESTEP, X, Y

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

__all__ = [
    "AVERAGEABLE_DIMS",
    "LEVELS",
    "PLANE",
    "MapAxes",
    "SliderPosition",
    "describe_map",
    "describe_turned",
    "level_name",
    "read_axes",
]

# What may be averaged over, in the order of the sliders.
AVERAGEABLE_DIMS: Final = (LAYER, STEP, HEAD)
# The maps that the method has a name for, by what they are means over.
LEVELS: Final = {
    frozenset(AVERAGEABLE_DIMS): "ULAM",
    frozenset({LAYER, HEAD}): "TLAM",
    frozenset({LAYER, STEP}): "HLAM",
    frozenset({STEP, HEAD}): "LLAM",
}


# The axes of a picture.
PLANE: Final = (Y, X)


class SliderPosition(NamedTuple):
    """Positions of the sliders: indices of layer, step and head."""

    layer: int
    step: int
    head: int


@dataclass(frozen=True)
class MapAxes:
    """The layers, steps and heads that a sample's volumes run over.

    Parameters
    ----------
    layers : tuple of str
        In execution order.
    grids : tuple of (height, width)
        Each layer's own grid of generated patches.
    causal : tuple of bool
        False where the layer's output cannot depend on the attention to the reference.
    steps : tuple of int
        Labels, 0 the noisiest.
    timesteps : tuple of float
        The scheduler's own.
    heads : tuple of int
        Labels.
    """

    layers: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]
    causal: tuple[bool, ...]
    steps: tuple[int, ...]
    timesteps: tuple[float, ...]
    heads: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of layers, steps and heads."""
        return len(self.layers), len(self.steps), len(self.heads)

    def clipped(self, position: Sequence[float]) -> SliderPosition:
        """Return the slider position nearest to fractional indices."""
        nearest = zip(position, self.shape, strict=True)
        return SliderPosition(*(min(max(round(float(at)), 0), size - 1) for at, size in nearest))


def read_axes(
    capture: xr.DataTree, layers: Sequence[str], steps: Sequence[int], heads: Sequence[int]
) -> MapAxes:
    """Return the axes of a sample's maps; the layers are put into execution order."""
    from i2am.analysis.stores.layers import is_noncausal

    nodes = capture["layers"].children
    own = {
        name: LayerAttributes.model_validate(nodes[name].attrs[ATTRIBUTE_KEY]) for name in layers
    }
    ordered = sorted(layers, key=lambda name: own[name].order)
    timesteps = capture.coords[TIMESTEP].sel({STEP: list(steps)}).to_numpy()
    return MapAxes(
        tuple(ordered),
        tuple((own[name].generated_grid[0], own[name].generated_grid[1]) for name in ordered),
        tuple(not is_noncausal(nodes[name]) for name in ordered),
        tuple(steps),
        tuple(timesteps.tolist()),
        tuple(sorted(heads)),
    )


def level_name(averaged_dims: frozenset[str]) -> str:
    """Return the method's name of maps that are means over some dimensions; empty without one.

    Examples
    --------
    >>> level_name(frozenset({"layer", "head"})), level_name(frozenset({"head"}))
    ('TLAM', '')
    """
    return LEVELS.get(averaged_dims, "")


def describe_map(
    position: SliderPosition,
    averaged_dims: frozenset[str],
    axes: MapAxes,
    present: Mapping[str, NDArray[np.bool_]],
    *,
    displayed: Sequence[str] = PLANE,
) -> str:
    """Say in words which map is in view, and what a reader must know of it.

    Parameters
    ----------
    position : SliderPosition
    averaged_dims : frozenset of str
        What is averaged over.
    axes : MapAxes
    present : mapping of "r2g" and, where it exists, "g2r" to bool array (layer, head)
        Which layers and heads have maps.
    displayed : sequence of str
        Names of the axes that are seen, as napari has them: y and x, in a volume a third one before.

    Examples
    --------
    >>> axes = MapAxes(("mid.attn2",), ((4, 4),), (True,), (0, 1), (981.0, 1.0), (0, 1))
    >>> print(describe_map(SliderPosition(0, 1, 0), frozenset({"head"}), axes, {}))
    mid.attn2
    4×4 patches · step 1: timestep 1 · mean over heads
    """
    height, width = axes.grids[position.layer]
    parts = {
        LAYER: f"{height}×{width} patches",
        STEP: f"step {axes.steps[position.step]}: timestep {axes.timesteps[position.step]:g}",
        HEAD: f"head {axes.heads[position.head]}",
    }
    parts.update(_in_space(displayed, averaged_dims, axes))
    words = [parts[dim] for dim in AVERAGEABLE_DIMS if dim not in averaged_dims]
    if averaged_dims:
        *others, final = (f"{dim}s" for dim in AVERAGEABLE_DIMS if dim in averaged_dims)
        words.append("mean over " + " and ".join(filter(None, (", ".join(others), final))))
    lines = [" · ".join(words)]
    if level := level_name(averaged_dims):
        lines[0] = f"{level} · {lines[0]}"
    if LAYER not in averaged_dims and "layer" not in displayed:
        lines.insert(0, axes.layers[position.layer])
        lines += [
            f"no {role.upper()} map {why}"
            for role, why in _absent(position, averaged_dims, present)
        ]
        if not axes.causal[position.layer]:
            lines.append("one reference token: R2G is a similarity, not a cause")
    return "\n".join(lines)


def describe_turned(displayed: Sequence[str]) -> str:
    """Say in words that no picture is seen as it lies, and how it comes back; empty where it is.

    Examples
    --------
    >>> print(describe_turned(("head", "y")))
    turned: what is seen is head and y, not a picture
    roll the dimensions on until y and x are seen, or switch the third axis on and off
    >>> describe_turned(("timestep", "y", "x"))
    ''
    """
    if tuple(displayed[-2:]) == PLANE:
        return ""
    if tuple(displayed[-2:]) == PLANE[::-1]:
        return "transposed: x runs down and y to the right\ntranspose again to turn it back"
    return (
        f"turned: what is seen is {' and '.join(displayed)}, not a picture\n"
        "roll the dimensions on until y and x are seen, or switch the third axis on and off"
    )


def _in_space(
    displayed: Sequence[str], averaged_dims: frozenset[str], axes: MapAxes
) -> dict[str, str]:
    """Return what to say of the third axis, if there is one, and it is not averaged over."""
    first, last = axes.timesteps[0], axes.timesteps[-1]
    known = {
        "layer": (LAYER, f"layers {axes.layers[0]} (at the pictures) to {axes.layers[-1]}"),
        "timestep": (STEP, f"timesteps {first:g} (at the pictures) to {last:g}"),
        "head": (HEAD, f"heads {axes.heads[0]} (at the pictures) to {axes.heads[-1]}"),
    }
    spoken = [known[name] for name in displayed[:-2] if name in known]
    return {dim: words for dim, words in spoken if dim not in averaged_dims}


def _absent(
    position: SliderPosition,
    averaged_dims: frozenset[str],
    present: Mapping[str, NDArray[np.bool_]],
) -> list[tuple[str, str]]:
    found = []
    for role, where in present.items():
        if not where[position.layer].any():
            found.append((role, "of this layer"))
        elif HEAD not in averaged_dims and not where[position.layer, position.head]:
            found.append((role, "of this layer and head"))
    return found
