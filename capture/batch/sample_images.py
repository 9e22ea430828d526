"""The images of a manifest's row, resized to what a pipeline takes or has generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from PIL import Image

from i2am.capture.images.masks import (
    Mask,
    check_shape,
    fit_mask,
    have_one_shape,
    read_mask,
    resize_mask,
)
from i2am.capture.images.pictures import Picture, read_picture
from i2am.schemas import ManifestRow, check_painted_box

__all__ = ["SampleImages"]


@dataclass(frozen=True)
class SampleImages:
    """The images of a row, as a person sees them.

    Parameters
    ----------
    row : ManifestRow
        Their files.
    reference : Picture
    source : Picture, optional
    mask : Mask, optional
        Marks where the source shall be painted; of the source's shape, where there is one.
    reference_mask : Mask, optional
        Of the reference's size.
    other_references : mapping of str to Picture
        By their columns, ``reference_1`` first.
    """

    row: ManifestRow
    reference: Picture
    source: Picture | None = None
    mask: Mask | None = None
    reference_mask: Mask | None = None
    other_references: Mapping[str, Picture] = field(default_factory=dict)

    @classmethod
    def open(cls, row: ManifestRow) -> Self:
        """Read a row's images.

        Raises
        ------
        SchemaError
            If one of the files is no image, or a mask cannot be read without a guess, marks
            nothing, or has another shape than its image; if the box lies outside the source.
        """
        reference = read_picture(row.reference, "reference")
        source = None if row.source is None else read_picture(row.source, "source")
        if source is not None:
            check_painted_box(row.box, *_size(source), str(row.source), row.sample)
        mask = None if row.mask is None else read_mask(row.mask, "mask")
        if mask is not None and source is not None:
            check_shape(mask, _size(source), str(row.mask), str(row.source))
        reference_mask = None
        if row.reference_mask is not None:
            reference_mask = read_mask(row.reference_mask, "reference_mask")
            place, other = str(row.reference_mask), str(row.reference)
            reference_mask = fit_mask(reference_mask, _size(reference), place, other)
        others = {
            column: read_picture(path, column) for column, path in row.other_references().items()
        }
        return cls(row, reference, source, mask, reference_mask, others)

    def iter_notes(self) -> Iterator[str]:
        """Yield what the row's giver should know of its files."""
        own = (self.source, self.mask, self.reference, self.reference_mask)
        for image in (*own, *self.other_references.values()):
            if image is not None:
                yield from image.notes

    def iter_stretch_notes(self, size: tuple[int, int]) -> Iterator[str]:
        """Yield a note if (width, height) pixels have another shape than the source."""
        if self.source is None or have_one_shape(_size(self.source), size[::-1]):
            return
        height, width = _size(self.source)
        yield (
            f"The source of {width} × {height} px is stretched to {size[0]} × {size[1]} px, at "
            f"{self.row.source}. Crop it to that shape, or set --argument height=H and "
            "--argument width=W where the pipeline takes them."
        )

    def source_at(self, size: tuple[int, int]) -> Image.Image | None:
        """Return the source, resized to (width, height) pixels."""
        if self.source is None:
            return None
        return self.source.to_pil().resize(size, Image.Resampling.LANCZOS)

    def mask_at(self, size: tuple[int, int]) -> Mask | None:
        """Return the mask, resized to (width, height) pixels.

        Raises
        ------
        SchemaError
            If nothing is left of a small mask, or there is no source and the shape is another.
        """
        if self.mask is None:
            return None
        if self.source is None:
            return fit_mask(self.mask, size[::-1], str(self.row.mask), "the generated image")
        # The source's shape, and so stretched as it is.
        return resize_mask(self.mask, size[::-1], str(self.row.mask))

    def box_at(self, size: tuple[int, int]) -> list[float] | None:
        """Return the box in pixels of a source of (width, height); as it is without a source.

        Raises
        ------
        SchemaError
            If there is no source, and the box lies outside such an image.
        """
        if self.row.box is None:
            return None
        if self.source is None:
            check_painted_box(self.row.box, *size[::-1], "the generated image", self.row.sample)
            return list(self.row.box)
        height, width = _size(self.source)
        factors = [size[0] / width, size[1] / height] * 2
        return [value * factor for value, factor in zip(self.row.box, factors, strict=True)]


def _size(image: Picture | Mask) -> tuple[int, int]:
    """Return height and width."""
    height, width = image.values.shape[:2]
    return height, width
