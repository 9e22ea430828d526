"""Analysis stores with hand-made maps, written with plain Zarr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.support.synthetic_run import LAYERS

Array = np.ndarray[Any, np.dtype[np.float32]]

NAMES = tuple(layer.name for layer in LAYERS)
HOT = 1.0
COLD = 0.0


def write_maps(
    path: Path,
    samples: dict[str, dict[str, Array]],
    *,
    source: str = "run.zarr",
    layers: Sequence[str] = NAMES,
) -> Path:
    """Write an analysis store; `samples` holds the volume of each direction by sample."""
    attributes = {
        "kind": "maps",
        "schema": 1,
        "convention": "i2am",
        "normalisation": "mass",
        "source": source,
    }
    root = zarr.create_group(path, attributes={"i2am": attributes})
    for sample, directions in samples.items():
        group = root.create_group(sample, attributes={"i2am": {"status": "complete"}})
        for direction, volume in directions.items():
            plane = ("y", "x") if direction == "r2g" else ("reference_y", "reference_x")
            own = group.create_group(direction)
            _put(own, "volume", volume, ("layer", "step", "head", *plane))
            _put(own, "ulam", np.nanmean(volume, axis=(0, 1, 2)), plane)
            # Each step is a time group of its own.
            steps = np.arange(volume.shape[1])
            for level, left_out in (("tlam", (0, 2)), ("hlam", (0, 1)), ("llam", (1, 2))):
                dim = {"tlam": "time", "hlam": "head", "llam": "layer"}[level]
                mean: Any = np.nanmean(volume, axis=left_out, dtype=np.float32)
                _put(own, level, mean, (dim, *plane))
            for name in ("first_step", "last_step"):
                _put(own, name, steps, ("time",))
            names = np.array(layers[: len(volume)], dtype=np.dtypes.StringDType())
            _put(own, "layer", names, ("layer",))
            _put(own, "step", steps, ("step",))
            _put(own, "head", np.arange(volume.shape[2]), ("head",))
    return path


def spot_volume(
    layers: int = 3, steps: int = 4, heads: int = 2, grid: tuple[int, int] = (8, 8)
) -> Array:
    """Return a volume whose only hot patch is (layer + step, head): every slice is another."""
    volume = np.full((layers, steps, heads, *grid), COLD, np.float32)
    for layer, step, head in np.ndindex(layers, steps, heads):
        volume[layer, step, head, layer + step, head] = HOT
    return volume


def _put(group: zarr.Group, name: str, values: np.ndarray[Any, Any], dims: Sequence[str]) -> None:
    group.create_array(name, data=values, dimension_names=list(dims))
