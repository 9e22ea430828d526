"""A sample in which one generated patch reads one place of the reference, and all else is even.

Pictures are not square, and the two have other sizes: a figure that turns or stretches a map, or lays it
over the other picture, shows the hot place elsewhere.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr

from i2am.schemas import Box
from tests.support.synthetic_run import PROVENANCE

STEPS: Final = 4
HEADS: Final = 2
GENERATED_PX: Final = (384, 512)
REFERENCE_PX: Final = (480, 320)
# Rows and columns of the patches of each layer, and of its reference's tokens.
GRIDS: Final = {"down.0.attn2": ((6, 8), (6, 4)), "up.0.attn2": ((12, 16), (12, 8))}
# In the finest grids; and the patch that reads the second reference instead.
HOT_PATCH: Final = (3, 13)
HOT_TOKEN: Final = (8, 5)
OTHER_PATCH: Final = (9, 4)
SAMPLE: Final = "Überhemd-7"


def hot_box(image: str) -> Box:
    """Return the hot place in pixels of an image: a patch of the finest grid."""
    side = 0 if image == "generated" else 1
    (height, width), (row, column) = ((GENERATED_PX, HOT_PATCH), (REFERENCE_PX, HOT_TOKEN))[side]
    rows, columns = GRIDS["up.0.attn2"][side]
    y, x = height / rows, width / columns
    return Box(row * y, column * x, (row + 1) * y, (column + 1) * x)


def hot_sample() -> xr.DataTree:
    """Return the sample, with both branches of guidance, masks, and a second reference."""
    coordinates = {
        "step": np.arange(STEPS),
        "timestep": ("step", np.linspace(981.0, 1.0, STEPS)),
        "guidance": np.array(["unconditional", "conditional"]),
    }
    groups = {
        "/": xr.Dataset(coords=coordinates, attrs={"i2am": {**PROVENANCE, "steps": STEPS}}),
        "/images": _images(),
    }
    for order, (name, grids) in enumerate(GRIDS.items()):
        first, second, total = _logits(*grids)
        for index, logits in enumerate((first, second)):
            own = f"{name}.reference_1" if index else name
            groups[f"/layers/{own}"] = _layer(logits, total, order, index, grids)
    return xr.DataTree.from_dict(groups, name=SAMPLE)


def _images() -> xr.Dataset:
    rng = np.random.default_rng(0)
    box = hot_box("generated")
    painted = np.zeros(GENERATED_PX, np.uint8)
    painted[int(box.y0) - 64 : int(box.y1) + 64, int(box.x0) - 64 : int(box.x1) + 32] = 255
    place = hot_box("reference")
    of_object = np.zeros(REFERENCE_PX, np.uint8)
    of_object[int(place.y0) - 80 :, : int(place.x1) + 80] = 255
    planes = {
        "generated": ("y", "x"),
        "reference": ("reference_y", "reference_x"),
        "reference_1": ("reference_1_y", "reference_1_x"),
    }
    images: dict[str, Any] = {
        name: ((*dims, "rgb"), _picture(GENERATED_PX if name == "generated" else REFERENCE_PX, rng))
        for name, dims in planes.items()
    }
    images["inpainting_mask"] = (("y", "x"), painted)
    images["reference_mask"] = (planes["reference"], of_object)
    return xr.Dataset(images)


def _picture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return a smooth picture with colors."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    waves = [np.sin(9 * (a * y + b * x)) for a, b in rng.uniform(-1, 1, (3, 2))]
    picture: np.ndarray[Any, Any] = np.rint(127 + 110 * np.stack(waves, axis=-1)).astype(np.uint8)
    return picture


def _logits(
    generated: tuple[int, int], reference: tuple[int, int]
) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the logits of both references, and the logarithm of the sum over all keys."""
    fine = GRIDS["up.0.attn2"]
    patch = _flat(HOT_PATCH, fine[0], generated)
    token = _flat(HOT_TOKEN, fine[1], reference)
    other = _flat(OTHER_PATCH, fine[0], generated)
    shape = (2, STEPS, HEADS, np.prod(generated), np.prod(reference))
    first, second = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    first[1, ..., patch, token] = 9
    first[0, ..., patch, token] = 5  # Without the condition it is less clear.
    second[..., other, :] = 4
    own = np.zeros((*shape[:-1], 64), np.float32)  # The picture's own tokens.
    every = np.concatenate([first, second, own], axis=-1).astype(np.float64)
    return first, second, np.log(np.exp(every).sum(-1)).astype(np.float32)


def _flat(place: tuple[int, int], fine: tuple[int, int], grid: tuple[int, int]) -> int:
    row, column = (at * own // most for at, own, most in zip(place, grid, fine, strict=True))
    return row * grid[1] + column


def _layer(
    logits: np.ndarray[Any, Any],
    total: np.ndarray[Any, Any],
    order: int,
    index: int,
    grids: tuple[tuple[int, int], tuple[int, int]],
) -> xr.Dataset:
    attributes = {
        "scale": 1.0,
        "generated_grid": list(grids[0]),
        "reference_grid": list(grids[1]),
        "special_tokens": 0,
        "order": order,
        "block": "down" if order == 0 else "up",
        "representation": "logits",
        "reference_index": index,
        "causal": True,
    }
    lead = ("guidance", "step", "head", "generated")
    return xr.Dataset(
        {"logits": ((*lead, "reference"), logits), "logsumexp": (lead, total)},
        attrs={"i2am": attributes},
    )
