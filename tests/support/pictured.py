"""A sample that looks like the real thing: photographs, and attention whose answer is known.

The reference, a cat, stands in the middle of the astronaut's picture; each painted patch looks at
the place of the reference that it shows, more sharply the later the step. So a person can judge a
figure of it, and a test knows where every map's peak lies. Maps come from float64 NumPy here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from skimage import data, transform

from tests.support.synthetic_run import PROVENANCE

STEPS = 6
HEADS = 4
TIMESTEPS = np.array([981, 801, 621, 441, 261, 81])
GROUPS = ((0, 1), (2, 3), (4, 5))
BOX = (16, 24, 32, 24)  # top, left, height, width of the mask, in pixels
SIZE_PX = 64
GRID = 16
LAYERS = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2": "down",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2": "up",
}


@dataclass(frozen=True)
class Pictured:
    """One sample of a run, and its maps."""

    sample: xr.DataTree
    maps: xr.DataTree

    @property
    def both(self) -> tuple[xr.DataTree, xr.DataTree]:
        return self.sample, self.maps


def pictured(
    *,
    tokens: str = "grid",
    mask: bool = True,
    source: bool = True,
    dark: bool = False,
    wide: bool = False,
) -> Pictured:
    """Return a sample with a grid of reference tokens, or with ``tokens="one"``.

    In a ``dark`` one the pictures are black, so that all light in a figure is heat. In a ``wide`` one
    the reference is three times as wide, and the model saw the middle of it.
    """
    logits = _logits() if tokens == "grid" else _logits().mean(axis=-1, keepdims=True)
    groups = {
        "/": xr.Dataset(
            coords={"step": np.arange(STEPS), "timestep": ("step", TIMESTEPS)},
            attrs={"i2am": {**PROVENANCE, "steps": STEPS}},
        ),
        "/images": _images(mask, source) * np.uint8(not dark),
    }
    if wide:
        groups["/images"] = _widened(groups["/images"])
    for order, (name, block) in enumerate(LAYERS.items()):
        attributes = {
            "scale": 1.0,
            "generated_grid": [GRID, GRID],
            "reference_grid": [GRID, GRID] if tokens == "grid" else None,
            "special_tokens": 0,
            "order": order,
            "block": block,
            "representation": "logits",
            "causal": tokens == "grid",
        }
        variables = {"logits": (("step", "head", "generated", "reference"), logits * (1 + order))}
        groups[f"/layers/{name}"] = xr.Dataset(variables, attrs={"i2am": attributes})
    maps = {"r2g": _levels(logits, -2, ("y", "x"))}
    if tokens == "grid":
        maps["g2r"] = _levels(logits, -1, ("reference_y", "reference_x"))
    return Pictured(xr.DataTree.from_dict(groups), xr.DataTree.from_dict(maps))


def _images(mask: bool, source: bool) -> xr.Dataset:
    top, left, height, width = BOX
    scene = _photograph(data.astronaut()[:400, 60:460], (SIZE_PX, SIZE_PX))
    reference = _photograph(data.cat()[:300, 60:360], (SIZE_PX, SIZE_PX))
    generated = scene.copy()
    generated[top : top + height, left : left + width] = _photograph(reference, (height, width))
    painted = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    painted[top : top + height, left : left + width] = 255
    images: dict[str, Any] = {
        "generated": (("y", "x", "rgb"), generated),
        "reference": (("reference_y", "reference_x", "rgb"), reference),
    }
    if source:
        images["source"] = (("y", "x", "rgb"), scene)
    if mask:
        images["inpainting_mask"] = (("y", "x"), painted)
    return xr.Dataset(images)


def _widened(images: xr.Dataset) -> xr.Dataset:
    """Return images whose reference has its own mirror image on either side."""
    own = images["reference"].to_numpy()
    wider = np.concatenate([own[:, ::-1], own, own[:, ::-1]], axis=1)
    box = {"box": [0, SIZE_PX, SIZE_PX, 2 * SIZE_PX]}
    return images.drop_vars("reference").assign(
        reference=(("reference_y", "reference_x", "rgb"), wider, {"i2am": box})
    )


def _photograph(picture: np.ndarray[Any, Any], shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    smaller = transform.resize(picture, shape, preserve_range=True, anti_aliasing=True)
    rounded: np.ndarray[Any, Any] = np.rint(smaller).astype(np.uint8)
    return rounded


def _logits() -> np.ndarray[Any, Any]:
    """Return logits (step, head, generated, reference) that peak where a patch's content is from."""
    top, left, height, width = (edge * GRID / SIZE_PX for edge in BOX)
    centres = np.arange(GRID) + 0.5
    y, x = (a.ravel() for a in np.meshgrid(centres, centres, indexing="ij"))
    wanted_y, wanted_x = (y - top) / height * GRID, (x - left) / width * GRID
    inside = (wanted_y > 0) & (wanted_y < GRID) & (wanted_x > 0) & (wanted_x < GRID)
    distance = (wanted_y[:, None] - y) ** 2 + (wanted_x[:, None] - x) ** 2
    object_of_reference = np.exp(-((y - 8) ** 2 + (x - 8) ** 2) / 50)
    logits = np.empty((STEPS, HEADS, GRID**2, GRID**2), np.float32)
    for step in range(STEPS):
        for head in range(HEADS):
            reach = 2 * (6 - step * 0.7 + head) ** 2
            look = 4 * np.exp(-distance / reach) + 2 * object_of_reference
            logits[step, head] = np.where(inside[:, None], look + 0.2 * step, 0.0)
    return logits


def _levels(logits: np.ndarray[Any, Any], axis: int, plane: tuple[str, str]) -> xr.Dataset:
    volumes = []
    for sharpness in range(1, len(LAYERS) + 1):
        sharper = logits.astype(np.float64) * sharpness
        weights = np.exp(sharper - sharper.max(axis=axis, keepdims=True))
        weights /= weights.sum(axis=axis, keepdims=True)
        volumes.append(weights.mean(axis=-1 if axis == -2 else -2))
    volume = np.stack(volumes).reshape(len(LAYERS), STEPS, HEADS, GRID, GRID)
    groups = np.stack([volume[:, a : b + 1].mean(axis=(0, 1, 2)) for a, b in GROUPS])
    values = {
        "volume": (("layer", "step", "head", *plane), volume),
        "ulam": (plane, volume.mean(axis=(0, 1, 2))),
        "tlam": (("time", *plane), groups),
        "hlam": (("head", *plane), volume.mean(axis=(0, 1))),
        "llam": (("layer", *plane), volume.mean(axis=(1, 2))),
    }
    coords = {
        "layer": list(LAYERS),
        "head": np.arange(HEADS),
        "step": np.arange(STEPS),
        "first_step": ("time", [a for a, _ in GROUPS]),
        "last_step": ("time", [b for _, b in GROUPS]),
    }
    return xr.Dataset(values, coords=coords).astype(np.float32)
