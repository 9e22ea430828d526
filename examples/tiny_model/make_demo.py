"""Write the three held-out examples that ``i2am demo`` runs on into ``capture/demo``.

python examples/tiny_model/make_demo.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from compositions import Compositions, read_objects
from PIL import Image

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "capture" / "demo"
# Held-out object, and the composition (place, size, photograph) that it is put into.
EXAMPLES = {"doughnut": ("1f369.png", 4), "frog": ("1f438.png", 3), "truck": ("1f69a.png", 14)}
COLUMNS = ("sample", "source", "mask", "reference", "reference_mask", "box")


def main() -> None:
    pairs = Compositions(read_objects(HERE / "held-out.zip", held_out=True), seed=7)
    OUT.mkdir(exist_ok=True)
    with (OUT / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for name, (picture, index) in EXAMPLES.items():
            batch = pairs.batch(index, index + 1, [pairs.names.index(picture)])
            # The model must not see what it shall paint.
            source = batch.composite * (1 - batch.mask)
            pictures = {
                "source": to_picture(source),
                "mask": to_mask(batch.mask),
                "reference": to_picture(batch.reference),
                "reference_mask": to_mask(batch.reference_alpha),
            }
            for column, image in pictures.items():
                image.save(OUT / f"{name}-{column}.png", optimize=True)
            top, left, side = batch.box[0].tolist()
            files = [f"{name}-{column}.png" for column in pictures]
            rows.writerow([name, *files, f"{left} {top} {side} {side}"])


def to_picture(batch: torch.Tensor) -> Image.Image:
    """Return the first picture of (N, 3, y, x) in [-1, 1]."""
    values = (batch[0].permute(1, 2, 0).numpy() + 1) * 127.5
    return Image.fromarray(np.round(values).clip(0, 255).astype(np.uint8))


def to_mask(batch: torch.Tensor) -> Image.Image:
    """Return the first mask of (N, 1, y, x) in [0, 1], black and white."""
    return Image.fromarray(np.where(batch[0, 0].numpy() > 0.5, 255, 0).astype(np.uint8))


if __name__ == "__main__":
    main()
