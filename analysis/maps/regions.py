"""SRAM requests: regions of an image, and the layers that have SRAM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid, largest_grid
from i2am.analysis.maps.levels import UNITS
from i2am.analysis.stores.boxes import describe_box, image_box, pixel_coordinates
from i2am.analysis.stores.layers import SelectedLayer, check_one_reference
from i2am.schemas import AnalysisError, Box, did_you_mean
from i2am.schemas.choices import Normalisation
from i2am.schemas.dims import GENERATED_PLANE, HEAD, LAYER, REFERENCE_PLANE, STEP

__all__ = [
    "REGION",
    "Region",
    "Regions",
    "ResolvedRegions",
    "SramRequest",
    "check_one_side",
    "check_request",
    "kept_dims",
    "layers_with_sram",
    "own_grid",
    "resolve_regions",
]

REGION: Final = "region"
# Of an image: a place (y, x) in pixels, or a mask of the image's size.
Region = tuple[float, float] | NDArray[Any] | xr.DataArray
# One region, several, or a stack of masks whose leading dimension is the region.
Regions = Region | Sequence[Region]
# What marks the inside of a mask that is not boolean; 0 is the outside.
_INSIDE: Final = (1, 255)
_SHOWN_VALUES: Final = 3


@dataclass(frozen=True)
class ResolvedRegions:
    """Regions as places of a stored image that the model saw.

    Parameters
    ----------
    places : tuple of array (place, 2), float64
        y and x of the places of each region, in pixels of the image, all within the box.
    labels : tuple or None
        Of the regions; None if a single one was given as such.
    box : Box
        The part of the image over which the layers' grids lie.
    """

    places: tuple[NDArray[np.float64], ...]
    labels: tuple[Any, ...] | None
    box: Box

    def patches(self, grid: Grid) -> list[NDArray[np.intp]]:
        """Return the patches of a grid over the box that hold each region's places, row-major."""
        height, width = grid
        found = []
        for places in self.places:
            rows = _cells(places[:, 0] - self.box.y0, self.box.height, height)
            columns = _cells(places[:, 1] - self.box.x0, self.box.width, width)
            held = np.bincount(rows * width + columns, minlength=height * width)
            found.append(np.flatnonzero(held))
        return found


def _cells(offsets: NDArray[np.float64], length: float, count: int) -> NDArray[np.intp]:
    """Return the cells that hold offsets from the box's edge, 0 to less than its length."""
    cells: NDArray[np.intp] = np.floor(offsets * count / length).astype(np.intp)
    # The last place before the edge may round up to it.
    return np.minimum(cells, count - 1)


def resolve_regions(sample: xr.DataTree, regions: Any, name: str) -> ResolvedRegions:
    """Return the places of one region or of several in a stored image.

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
        If the sample has no such image, there is no region, one is not in the image, or the model
        never saw it.
    """
    image = sample["images"].get(name) if "images" in sample.children else None
    if image is None:
        msg = (
            f"Expected the {name} image that the region is in, got none, "
            f"at {sample.name or 'sample'}. Capture it with recording.add_images()."
        )
        raise AnalysisError(msg)
    seen = _SeenImage(
        name,
        (int(image.shape[0]), int(image.shape[1])),
        (str(image.dims[0]), str(image.dims[1])),
        image_box(sample, name),
    )
    if not _is_many(regions):
        return ResolvedRegions((seen.places(regions, f"{name}="),), None, seen.box)
    labels: Sequence[Any] = range(len(regions))
    if isinstance(regions, xr.DataArray) and REGION in regions.dims:
        regions = regions.transpose(REGION, ...)
        labels = regions[REGION].values.tolist()
    found = tuple(seen.places(region, f"{name}[{number}]") for number, region in enumerate(regions))
    if not found:
        msg = f"Expected at least one region, got none, at {name}=. Give a pixel or a mask."
        raise AnalysisError(msg)
    return ResolvedRegions(found, tuple(labels), seen.box)


def _is_many(regions: Any) -> bool:
    if isinstance(regions, tuple | list):
        return not _is_place(regions)
    return np.ndim(regions) == 3


def _is_place(region: Any) -> bool:
    return (
        isinstance(region, tuple | list)
        and len(region) == 2
        and all(np.ndim(value) == 0 for value in region)
    )


@dataclass(frozen=True)
class _SeenImage:
    """A stored image, and the part of it that the model saw."""

    name: str
    size: tuple[int, int]
    dims: tuple[str, str]
    box: Box

    def places(self, region: Any, where: str) -> NDArray[np.float64]:
        """Return a region's places (n, 2) within the box."""
        if _is_place(region):
            return self._place(region, where)
        pixels = np.argwhere(self._mask(region, where)).astype(np.float64)
        seen = np.ones(len(pixels), bool)
        for axis, (low, high) in enumerate(self._ends()):
            # A pixel covers one position to the next; what of it lies in the box counts.
            seen &= (pixels[:, axis] + 1 > low) & (pixels[:, axis] < high)
            pixels[:, axis] = np.maximum(pixels[:, axis], low)
        if not seen.any():
            raise AnalysisError(self._unseen("a mask whose pixels all lie elsewhere", where))
        return pixels[seen]

    def _place(self, region: Any, where: str) -> NDArray[np.float64]:
        found = []
        shown = f"({', '.join(f'{value}' for value in region)})"
        for value, length in zip(map(np.asarray, region), self.size, strict=True):
            # Negative positions are refused, not counted from the end; NaN is in no image.
            if value.dtype.kind not in "iuf" or not 0 <= value < length:
                msg = (
                    f"Expected a pixel (y, x) within {self.size}, got {shown}, at {where}. "
                    f"Give a pixel of the stored {self.name} image."
                )
                raise AnalysisError(msg)
        for value, (low, high) in zip(map(np.asarray, region), self._ends(), strict=True):
            is_whole_pixel = value.dtype.kind in "iu"
            begin = float(value)
            if begin >= high or (begin + 1 <= low if is_whole_pixel else begin < low):
                raise AnalysisError(self._unseen(shown, where))
            found.append(max(begin, low))
        return np.array([found])

    def _mask(self, region: Any, where: str) -> NDArray[np.bool_]:
        if isinstance(region, xr.DataArray) and set(region.dims) == set(self.dims):
            region = region.transpose(*self.dims)
        mask = np.asarray(region)
        known = mask if mask.dtype == bool else _as_bool(mask)
        if mask.shape == self.size and known is not None and known.any():
            return known
        got = f"{mask.dtype} {mask.shape}" if mask.any() else "an empty mask"
        msg = (
            f"Expected a pixel (y, x) or a boolean mask of {self.size} with a True in it, got {got}, "
            f"at {where}. Give a mask of the stored {self.name} image"
        )
        if mask.shape == self.size and mask.any():
            msg += f" with 0 and 1 or 0 and 255; the values are {_some_values(mask)}"
        msg += "."
        raise AnalysisError(msg)

    def _ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (self.box.y0, self.box.y1), (self.box.x0, self.box.x1)

    def _unseen(self, got: str, where: str) -> str:
        return (
            f"Expected a place that the model saw, got {got}, at {where}. Of the stored "
            f"{self.name} image it saw {describe_box(self.box)}: ask for a place in there, or crop "
            "the picture yourself before the capture."
        )


def _as_bool(mask: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return a mask of 0 and 1, or of 0 and 255, as bool; None for any other values."""
    if mask.dtype.kind not in "iuf":
        return None
    values = np.unique(mask)
    if len(values) != 2 or values[0] != 0 or values[1] not in _INSIDE:
        return None
    found: NDArray[np.bool_] = mask != 0
    return found


def _some_values(mask: NDArray[Any]) -> str:
    values = np.unique(mask)
    shown = ", ".join(map(str, values[:_SHOWN_VALUES].tolist()))
    return shown + (f", … {values[-1]}" if len(values) > _SHOWN_VALUES else "")


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
    sample : DataTree
    """

    layers: list[SelectedLayer]
    regions: ResolvedRegions
    from_reference: bool
    reference_image: str
    sample: xr.DataTree

    @property
    def grid(self) -> Grid:
        """The common grid of the maps: on the reference, or with `from_reference` on the generated image."""
        return largest_grid(
            own_grid(one, from_reference=not self.from_reference) for one in self.layers
        )

    def query_rows(self, layer: SelectedLayer) -> list[NDArray[np.intp]]:
        """Return the indices of a layer's patches (or tokens) that hold each region's places."""
        patches = self.regions.patches(own_grid(layer, from_reference=self.from_reference))
        special = layer.attributes.special_tokens if self.from_reference else 0
        return [region + special for region in patches]

    def label(
        self, maps: xr.DataArray, averaged: Sequence[str], normalisation: Normalisation
    ) -> xr.DataArray:
        """Return maps (region, …) with the regions' labels, their cells' coordinates in pixels, and names.

        Without `region` if a single one was asked for.

        Parameters
        ----------
        maps : DataArray
        averaged : sequence of str
            The dimensions that the maps are means over.
        normalisation : "mass" or "density"
        """
        if self.regions.labels is None:
            maps = maps.isel({REGION: 0})
        else:
            maps = maps.assign_coords({REGION: list(self.regions.labels)})
        maps = maps.assign_coords(self._pixels)
        names = [f"{dim}s" for dim in averaged]
        over = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
        return maps.rename("sram").assign_attrs(
            reference_image=self.reference_image,
            long_name=f"SRAM, mean over {over}" if over else "SRAM",
            units=UNITS[normalisation],
        )

    @property
    def plane(self) -> tuple[str, str]:
        """The dimensions of the maps' plane."""
        return GENERATED_PLANE if self.from_reference else REFERENCE_PLANE

    @cached_property
    def _pixels(self) -> dict[str, xr.Variable]:
        # Once, as each of many estimates is labelled.
        image = "generated" if self.from_reference else self.reference_image
        return pixel_coordinates(self.sample, image, self.plane, self.grid)


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
    layers = layers_with_sram(sample, selected, named)
    from_reference = reference is not None
    reference_image = layers[0].attributes.reference_image()
    regions, image = (reference, reference_image) if from_reference else (generated, "generated")
    return SramRequest(
        layers, resolve_regions(sample, regions, image), from_reference, reference_image, sample
    )


def kept_dims(keep: Iterable[str]) -> set[str]:
    """Return the dimensions that are not averaged over, checked."""
    known = (LAYER, STEP, HEAD)
    kept = {keep} if isinstance(keep, str) else set(keep)
    for dim in sorted(kept.difference(known)):
        msg = f"Expected a dimension to keep, got {dim!r}, at keep. {did_you_mean(dim, known)}"
        raise AnalysisError(msg)
    return kept


def layers_with_sram(
    sample: xr.DataTree, selected: list[SelectedLayer], named: str | Iterable[str] | None
) -> list[SelectedLayer]:
    """Return the layers that have SRAM: a reference grid, and no reduction to maps at capture.

    Parameters
    ----------
    sample, selected, named
        As in `check_request`.

    Raises
    ------
    AnalysisError
        If none has, or one whose full name is given has none.
    """
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
