"""Stores of measured effects with hand-made values, written with plain Zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr

from tests.support.synthetic_run import LAYERS

Array = np.ndarray[Any, np.dtype[Any]]
Box = tuple[float, float, float, float]

PLANE: Final = ("y", "x")
CUT: Final = ("cut", *PLANE)
LAYER: Final = ("layer", *PLANE)
EDGE: Final = ("edge", *PLANE)
CURVE: Final = ("order", "count", *PLANE)
DIMS: Final[dict[str, tuple[str, ...]]] = {
    "y": ("y",),
    "x": ("x",),
    "cut_box": ("cut", "corner"),
    "layer_name": ("layer",),
    "edge_name": ("edge",),
    "order_name": ("order",),
    "order_cut": ("order", "cut"),
    "count": ("count",),
    "region": CUT,
    "layer": LAYER,
    "edge": EDGE,
    "floor": PLANE,
    "ceiling": PLANE,
    "region_pixels": CUT,
    "layer_pixels": LAYER,
    "edge_pixels": EDGE,
    "floor_pixels": PLANE,
    "ceiling_pixels": PLANE,
    "direct_region": CUT,
    "direct_layer": LAYER,
    "direct_edge": EDGE,
    "direct_floor": PLANE,
    "direct_ceiling": PLANE,
    "occlusion": CUT,
    "occlusion_pixels": CUT,
    "deletion": CURVE,
    "insertion": CURVE,
}
COORDINATES: Final = (
    "y",
    "x",
    "cut_box",
    "layer_name",
    "edge_name",
    "order_name",
    "order_cut",
    "count",
)
NAMES: Final = tuple(layer.name for layer in LAYERS)
OPTIONS: Final[dict[str, Any]] = {
    "grid": [2, 2],
    "adaptive": False,
    "kinds": ["total"],
    "layers": True,
    "edges": [],
    "direct_steps": None,
    "guidance": "conditional",
    "curves": [],
}


def write_effects(
    path: Path,
    samples: Mapping[str, Mapping[str, Any]],
    *,
    source: str = "run.zarr",
    options: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
) -> Path:
    """Write a store of effects; `samples` holds the arrays of each sample by their stored names.

    Floats are stored as float32, coordinates in pixels as float64, names as text. `own` adds to, or
    takes the place of, what each sample says of itself.
    """
    attributes = {
        "kind": "effects",
        "schema": 1,
        "source": source,
        "options": {**OPTIONS, **(options or {})},
    }
    root = zarr.create_group(path, attributes={"i2am": attributes})
    said = {
        "status": "complete",
        "source_created": "2026-01-01T00:00:00Z",
        "pictures": 9,
        "repaint_difference": 0.0,
        **(own or {}),
    }
    for sample, arrays in samples.items():
        group = root.create_group(sample, attributes={"i2am": said})
        for name, values in arrays.items():
            units: dict[str, Any] = {"units": "px"} if name in PLANE else {}
            group.create_array(
                name, data=_stored(name, values), dimension_names=list(DIMS[name]), attributes=units
            )
    return path


def effect_arrays(
    *,
    grid: tuple[int, int] = (8, 8),
    size_px: tuple[int, int] = (32, 32),
    cuts: tuple[int, int] = (2, 2),
    reference_px: tuple[int, int] = (32, 32),
    layers: Sequence[str] = NAMES,
    orders: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Array]:
    """Return the arrays of one sample of total effects, drawn at random, by their stored names.

    The regions are an even grid of `cuts` over the whole reference; `orders` adds deletion and
    insertion curves that rise (or fall) with the number of regions.
    """
    rng = np.random.default_rng(seed)
    count = cuts[0] * cuts[1]
    drawn: dict[str, Array] = {
        "y": centres(grid[0], size_px[0]),
        "x": centres(grid[1], size_px[1]),
        "cut_box": even_boxes(cuts, reference_px),
        "region": rng.uniform(0.1, 1, (count, *grid)),
        "layer_name": np.array(layers, dtype=np.dtypes.StringDType()),
        "layer": rng.uniform(0.1, 1, (len(layers), *grid)),
        "floor": np.full(grid, 1e-6),
        "ceiling": rng.uniform(2, 3, grid),
    }
    for name in ("region", "layer", "floor", "ceiling"):
        drawn[f"{name}_pixels"] = drawn[name] / 4
    if orders:
        shares = np.linspace(0, 1, count + 1)[:, None, None]
        powers = np.arange(1, len(orders) + 1)[:, None, None, None]
        drawn["order_name"] = np.array(orders, dtype=np.dtypes.StringDType())
        drawn["order_cut"] = np.stack([rng.permutation(count) for _ in orders])
        drawn["count"] = np.arange(count + 1)
        drawn["deletion"] = shares**powers * drawn["ceiling"]
        drawn["insertion"] = (1 - shares**powers) * drawn["ceiling"]
    return drawn


def centres(count: int, length_px: float) -> Array:
    """Return the centres of as many equal cells along a length."""
    return (np.arange(count) + 0.5) * length_px / count


def even_boxes(cuts: tuple[int, int], size_px: tuple[int, int]) -> Array:
    """Return the boxes (cut, corner) y0, x0, y1, x1 of an even grid over an image, row-major."""
    height, width = size_px[0] / cuts[0], size_px[1] / cuts[1]
    return np.array(
        [
            (row * height, column * width, (row + 1) * height, (column + 1) * width)
            for row in range(cuts[0])
            for column in range(cuts[1])
        ]
    )


def _stored(name: str, values: Any) -> Array:
    if name.endswith("_name"):
        return np.asarray(values, np.dtypes.StringDType())
    if name in ("y", "x", "cut_box"):
        return np.asarray(values, np.float64)
    return np.asarray(values, np.int64 if name in COORDINATES else np.float32)
