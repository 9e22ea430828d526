"""Say in words where the sliders stand: napari's own axes can only count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["describe_position", "slice_indices"]


def slice_indices(position: Sequence[float], volume: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (layer, step, head) indices of a position, clipped to what the volume has.

    Parameters
    ----------
    position : sequence of float, (layer, step, head, …)
        In the volume's own coordinates.
    volume : mapping
        The volume's metadata, with "layers", "steps" and "heads".
    """
    layer, step, head = (
        min(max(round(float(where)), 0), len(volume[axis]) - 1)
        for where, axis in zip(position, ("layers", "steps", "heads"), strict=False)
    )
    return layer, step, head


def describe_position(
    indices: tuple[int, int, int], volumes: Mapping[str, Mapping[str, Any]]
) -> str:
    """Name layer, step, timestep and head, and what a reader must know of these maps.

    Parameters
    ----------
    indices : tuple of int, (layer, step, head)
    volumes : mapping of role ("r2g", "g2r") to the metadata of that volume; "r2g" is there

    Examples
    --------
    >>> r2g = {"layers": ["mid.attn2"], "generated_grids": [(4, 4)], "causal": [True],
    ...        "steps": [0, 1], "timesteps": [981, 1], "heads": [0, 1], "present": [[True, False]]}
    >>> print(describe_position((0, 1, 0), {"r2g": r2g}))
    mid.attn2
    layer 0: 4x4 patches · step 1: timestep 1 · head 0
    """
    layer, step, head = indices
    r2g = volumes["r2g"]
    height, width = r2g["generated_grids"][layer]
    lines = [
        r2g["layers"][layer],
        f"layer {layer}: {height}x{width} patches"
        f" · step {r2g['steps'][step]}: timestep {r2g['timesteps'][step]:g}"
        f" · head {r2g['heads'][head]}",
    ]
    lines += [
        f"no {role.upper()} map of this layer and head"
        for role, volume in volumes.items()
        if not volume["present"][layer][head]
    ]
    if not r2g["causal"][layer]:
        lines.append("one reference token: R2G is a similarity, not a cause")
    return "\n".join(lines)
