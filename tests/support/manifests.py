"""Manifests of inpainting samples, with pictures of noise beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from tests.support.tiny_pipelines import models

__all__ = ["write_manifest"]


def write_manifest(folder: Path, samples: Iterable[str]) -> Path:
    """Write one row for each sample, all with the same pictures; return the manifest's path."""
    images = models.noise_images(64)
    images["example_image"].save(folder / "reference.png")
    images["image"].save(folder / "source.png")
    images["mask_image"].save(folder / "mask.png")
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "source", "mask", "reference"])
        rows.writerows([name, "source.png", "mask.png", "reference.png"] for name in samples)
    return path
