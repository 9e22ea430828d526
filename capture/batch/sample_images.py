"""The images of a manifest's row, resized to what a pipeline takes or has generated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from PIL import Image, UnidentifiedImageError

from i2am.schemas import ManifestRow, SchemaError

__all__ = ["SampleImages"]


@dataclass(frozen=True)
class SampleImages:
    """The images of a row, as they are on disk.

    Parameters
    ----------
    source, reference : PIL image, RGB
    mask : PIL image, L
        White where the source shall be painted.
    reference_mask : PIL image, L, optional
        At the reference's size.
    box : tuple of float, optional
        x, y, width, height in the source's pixels.
    """

    source: Image.Image
    mask: Image.Image
    reference: Image.Image
    reference_mask: Image.Image | None = None
    box: tuple[float, float, float, float] | None = None

    @classmethod
    def open(cls, row: ManifestRow) -> Self:
        """Read a row's images.

        Raises
        ------
        SchemaError
            If one of the files is no image.
        """
        source, reference = _open(row.source, "RGB"), _open(row.reference, "RGB")
        reference_mask = None
        if row.reference_mask is not None:
            reference_mask = _open(row.reference_mask, "L")
            reference_mask = reference_mask.resize(reference.size, Image.Resampling.NEAREST)
        return cls(source, _open(row.mask, "L"), reference, reference_mask, row.box)

    def source_at(self, size: tuple[int, int]) -> Image.Image:
        """Return the source, resized to (width, height) pixels."""
        return self.source.resize(size, Image.Resampling.LANCZOS)

    def mask_at(self, size: tuple[int, int]) -> Image.Image:
        """Return the mask, resized to (width, height) pixels."""
        return self.mask.resize(size, Image.Resampling.NEAREST)

    def box_at(self, size: tuple[int, int]) -> list[float] | None:
        """Return the box in pixels of a source of (width, height)."""
        if self.box is None:
            return None
        factors = [new / old for new, old in zip(size, self.source.size, strict=True)] * 2
        return [value * factor for value, factor in zip(self.box, factors, strict=True)]


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (UnidentifiedImageError, OSError) as e:
        msg = f"Expected an image, got something else at {path} ({e}). Convert it to PNG."
        raise SchemaError(msg) from e
