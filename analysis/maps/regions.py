"""SRAM requests: regions of an image, and the layers that have SRAM."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid, largest_grid
from i2am.analysis.stores.layers import SelectedLayer, check_one_reference
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.dims import HEAD, LAYER, STEP

__all__ = [
    "REGION",
    "Region",
    "Regions",
    "ResolvedRegions",
    "SramRequest",
    "check_one_side",
    "check_request",
    "kept_dims",
    "resolve_regions",
]

REGION: Final = "region"
# Of an image: a pixel (y, x), or a boolean mask of the image's size.
Region = tuple[int, int] | NDArray[np.bool_] | xr.DataArray
# One region, several, or a stack of masks whose leading dimension is the region.
Regions = Region | Sequence[Region]


@dataclass(frozen=True)
class ResolvedRegions:
    """Regions as pixels of a stored image.

    Parameters
    ----------
    pixels : tuple of array (pixel, 2), int
        y and x of the pixels of each region.
    labels : tuple or None
        Of the regions; None if a single one was given as such.
    size : (height, width)
        Of the image.
    """

    pixels: tuple[NDArray[np.intp], ...]
    labels: tuple[Any, ...] | None
    size: tuple[int, int]

    def patches(self, grid: Grid) -> list[NDArray[np.intp]]:
        """Return the patches of a grid that hold each region's pixels, as row-major indices."""
        height, width = grid
        found = []
        for pixels in self.pixels:
            rows = pixels[:, 0] * height // self.size[0]
            columns = pixels[:, 1] * width // self.size[1]
            held = np.bincount(rows * width + columns, minlength=height * width)
            found.append(np.flatnonzero(held))
        return found


def resolve_regions(sample: xr.DataTree, regions: Any, name: str) -> ResolvedRegions:
    """Return the pixels of one region or of several in a stored image.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    regions : Regions
    name : str
        Of the stored image.

    Raises
    ------
    AnalysisError
        If the sample has no such image, there is no region, or one is not in the image.
    """
    image = sample["images"].get(name) if "images" in sample.children else None
    if image is None:
        msg = (
            f"Expected the {name} image that the region is in, got none, "
            f"at {sample.name or 'sample'}. Capture it with recording.add_images()."
        )
        raise AnalysisError(msg)
    size = (int(image.shape[0]), int(image.shape[1]))
    if not _is_many(regions):
        return ResolvedRegions((_pixels(regions, size, name, f"{name}="),), None, size)
    labels: Sequence[Any] = range(len(regions))
    if isinstance(regions, xr.DataArray) and REGION in regions.dims:
        regions = regions.transpose(REGION, ...)
        labels = regions[REGION].values.tolist()
    found = tuple(
        _pixels(region, size, name, f"{name}[{number}]") for number, region in enumerate(regions)
    )
    if not found:
        msg = f"Expected at least one region, got none, at {name}=. Give a pixel or a mask."
        raise AnalysisError(msg)
    return ResolvedRegions(found, tuple(labels), size)


def _is_many(regions: Any) -> bool:
    if isinstance(regions, tuple | list):
        return not _is_pixel(regions)
    return np.ndim(regions) == 3


def _is_pixel(region: Any) -> bool:
    return (
        isinstance(region, tuple | list)
        and len(region) == 2
        and all(np.ndim(value) == 0 for value in region)
    )


def _pixels(region: Any, size: tuple[int, int], name: str, where: str) -> NDArray[np.intp]:
    """Return a region's pixels (n, 2)."""
    if _is_pixel(region):
        y, x = (operator.index(value) for value in region)
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            msg = (
                f"Expected a pixel (y, x) within {size}, got {(y, x)}, at {where}. "
                f"Give a pixel of the stored {name} image."
            )
            raise AnalysisError(msg)
        return np.array([[y, x]])
    mask = np.asarray(region)
    if mask.shape != size or mask.dtype != bool or not mask.any():
        got = f"{mask.dtype} {mask.shape}" if mask.any() else "an empty mask"
        msg = (
            f"Expected a pixel (y, x) or a boolean mask of {size} with a True in it, got {got}, "
            f"at {where}. Give a mask of the stored {name} image."
        )
        raise AnalysisError(msg)
    return np.argwhere(mask)


@dataclass(frozen=True)
class SramRequest:
    """A checked request for SRAM.

    Parameters
    ----------
    layers : list of SelectedLayer
        Those that have SRAM.
    regions : ResolvedRegions
    from_reference : bool
        The regions are of the reference, the maps of the generated image.
    reference_image : str
        The stored image that the layers look at.
    """

    layers: list[SelectedLayer]
    regions: ResolvedRegions
    from_reference: bool
    reference_image: str

    @property
    def grid(self) -> Grid:
        """The common grid of the maps: on the reference, or with `from_reference` on the generated image."""
        return largest_grid(
            own_grid(one, from_reference=not self.from_reference) for one in self.layers
        )

    def query_rows(self, layer: SelectedLayer) -> list[NDArray[np.intp]]:
        """Return the indices of a layer's patches (or tokens) that hold each region's pixels."""
        patches = self.regions.patches(own_grid(layer, from_reference=self.from_reference))
        special = layer.attributes.special_tokens if self.from_reference else 0
        return [region + special for region in patches]

    def label(self, maps: xr.DataArray) -> xr.DataArray:
        """Return maps (region, …) with the regions' labels, or without `region` if there are none."""
        if self.regions.labels is None:
            maps = maps.isel({REGION: 0})
        else:
            maps = maps.assign_coords({REGION: list(self.regions.labels)})
        return maps.rename("sram").assign_attrs(reference_image=self.reference_image)


def check_one_side(generated: Regions | None, reference: Regions | None) -> None:
    """Raise an AnalysisError unless regions of exactly one of the two images are given."""
    if (generated is None) == (reference is None):
        got = "neither" if generated is None else "both"
        msg = f"Expected generated= or reference=, got {got}, at sram. Give one of the two."
        raise AnalysisError(msg)


def check_request(
    sample: xr.DataTree,
    selected: list[SelectedLayer],
    named: str | Iterable[str] | None,
    generated: Regions | None,
    reference: Regions | None,
) -> SramRequest:
    """Return the request to the selected layers, without those that have no SRAM.

    Parameters
    ----------
    sample : DataTree
    selected : list of SelectedLayer
    named : str or iterable of str, optional
        How they were selected: a layer whose full name is given must have SRAM.
    generated, reference : Regions
        As in `sram`; one of the two is None.

    Raises
    ------
    AnalysisError
        As `sram`, of layers and regions.
    """
    layers = _layers_with_sram(sample, selected, named)
    from_reference = reference is not None
    reference_image = layers[0].attributes.reference_image()
    regions, image = (reference, reference_image) if from_reference else (generated, "generated")
    return SramRequest(
        layers, resolve_regions(sample, regions, image), from_reference, reference_image
    )


def kept_dims(keep: Iterable[str]) -> set[str]:
    """Return the dimensions that are not averaged over, checked."""
    known = (LAYER, STEP, HEAD)
    kept = {keep} if isinstance(keep, str) else set(keep)
    for dim in sorted(kept.difference(known)):
        msg = f"Expected a dimension to keep, got {dim!r}, at keep. {did_you_mean(dim, known)}"
        raise AnalysisError(msg)
    return kept


def _layers_with_sram(
    sample: xr.DataTree, selected: list[SelectedLayer], named: str | Iterable[str] | None
) -> list[SelectedLayer]:
    """Return the layers that have SRAM: a reference grid, and no reduction to maps at capture."""
    with_grid = [layer for layer in selected if layer.has_g2r]
    if not with_grid:
        why = (
            "one token each"
            if all(layer.tokens == 1 for layer in selected)
            else "no reference grid"
        )
        msg = (
            f"Expected layers with a reference grid, got {why}, at {sample.name or 'sample'}. "
            "SRAM does not exist here; R2G does, see analyze()."
        )
        raise AnalysisError(msg)
    check_one_reference(with_grid)
    reduced = [layer.name for layer in with_grid if not layer.has_logits]
    in_full = {named} if isinstance(named, str) else set(named or ())
    refused = [name for name in reduced if name in in_full or len(reduced) == len(with_grid)]
    if refused:
        msg = (
            "Expected a layer with its logits, got one that was reduced to maps at capture, "
            f"at {refused[0]} of {sample.name or 'sample'}. Capture with representation 'auto', "
            "'factors' or 'logits' for SRAM."
        )
        raise AnalysisError(msg)
    return [layer for layer in with_grid if layer.has_logits]


def own_grid(layer: SelectedLayer, *, from_reference: bool) -> Grid:
    """Return a layer's grid on the generated image or on the reference; the layer has both."""
    grid = layer.attributes.reference_grid if from_reference else layer.attributes.generated_grid
    return grid or (1, 1)
