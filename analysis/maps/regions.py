"""What is asked of a sample: places of an image, and the layers that can answer."""

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
    "Place",
    "Places",
    "Question",
    "Regions",
    "check_one_side",
    "check_question",
    "find_regions",
    "kept_dims",
]

REGION: Final = "region"


# A pixel (y, x), or a boolean mask of the image's size.
Place = tuple[int, int] | NDArray[np.bool_] | xr.DataArray


# One of them, several, or a stack of masks whose leading dimension is the region.
Places = Place | Sequence[Place]


@dataclass(frozen=True)
class Regions:
    """What is asked about, in pixels of a stored image."""

    pixels: tuple[NDArray[np.intp], ...]  # of each region (n, 2): y and x
    labels: tuple[Any, ...] | None  # None where a single place was given as such
    size: tuple[int, int]  # of the image

    def patches(self, grid: Grid) -> list[NDArray[np.intp]]:
        """Return each region's patches on a grid, row-major: those that hold its pixels."""
        height, width = grid
        found = []
        for pixels in self.pixels:
            rows = pixels[:, 0] * height // self.size[0]
            columns = pixels[:, 1] * width // self.size[1]
            held = np.bincount(rows * width + columns, minlength=height * width)
            found.append(np.flatnonzero(held))
        return found


def find_regions(sample: xr.DataTree, places: Any, name: str) -> Regions:
    """Return the pixels of one place or of many in a stored image.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    places : Places
    name : str
        Of the stored image.

    Raises
    ------
    AnalysisError
        If the sample has no such image, there is no place, or one is not in the image.
    """
    image = sample["images"].get(name) if "images" in sample.children else None
    if image is None:
        msg = (
            f"Expected the {name} image that the place is in, got none, "
            f"at {sample.name or 'sample'}. Capture it with recording.add_images()."
        )
        raise AnalysisError(msg)
    size = (int(image.shape[0]), int(image.shape[1]))
    if not _is_many(places):
        return Regions((_pixels(places, size, name, f"{name}="),), None, size)
    labels: Sequence[Any] = range(len(places))
    if isinstance(places, xr.DataArray) and REGION in places.dims:
        places = places.transpose(REGION, ...)
        labels = places[REGION].values.tolist()
    found = tuple(
        _pixels(place, size, name, f"{name}[{number}]") for number, place in enumerate(places)
    )
    if not found:
        msg = f"Expected at least one place, got none, at {name}=. Give a pixel or a mask."
        raise AnalysisError(msg)
    return Regions(found, tuple(labels), size)


def _is_many(places: Any) -> bool:
    if isinstance(places, tuple | list):
        return not _is_pixel(places)
    return np.ndim(places) == 3


def _is_pixel(place: Any) -> bool:
    return (
        isinstance(place, tuple | list)
        and len(place) == 2
        and all(np.ndim(value) == 0 for value in place)
    )


def _pixels(place: Any, size: tuple[int, int], name: str, where: str) -> NDArray[np.intp]:
    """Return a place's pixels (n, 2)."""
    if _is_pixel(place):
        y, x = (operator.index(value) for value in place)
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            msg = (
                f"Expected a pixel (y, x) within {size}, got {(y, x)}, at {where}. "
                f"Give a pixel of the stored {name} image."
            )
            raise AnalysisError(msg)
        return np.array([[y, x]])
    mask = np.asarray(place)
    if mask.shape != size or mask.dtype != bool or not mask.any():
        got = f"{mask.dtype} {mask.shape}" if mask.any() else "an empty mask"
        msg = (
            f"Expected a pixel (y, x) or a boolean mask of {size} with a True in it, got {got}, "
            f"at {where}. Give a mask of the stored {name} image."
        )
        raise AnalysisError(msg)
    return np.argwhere(mask)


@dataclass(frozen=True)
class Question:
    """What is asked of a sample, checked: layers that can answer, and the places."""

    layers: list[SelectedLayer]
    regions: Regions
    of_reference: bool  # the mirror question
    reference_image: str  # the stored picture that the layers look at

    @property
    def grid(self) -> Grid:
        """The common grid, on the side that answers."""
        return largest_grid(
            common_grid_of(one, of_reference=not self.of_reference) for one in self.layers
        )

    def rows(self, layer: SelectedLayer) -> list[NDArray[np.intp]]:
        """Return the patches of a layer, or its tokens, that hold each region's pixels."""
        patches = self.regions.patches(common_grid_of(layer, of_reference=self.of_reference))
        special = layer.attributes.special_tokens if self.of_reference else 0
        return [region + special for region in patches]

    def label(self, answer: xr.DataArray) -> xr.DataArray:
        """Return the maps (region, …) by the regions' names, or the only one as such."""
        if self.regions.labels is None:
            answer = answer.isel({REGION: 0})
        else:
            answer = answer.assign_coords({REGION: list(self.regions.labels)})
        return answer.rename("sram").assign_attrs(reference_image=self.reference_image)


def check_one_side(generated: Places | None, reference: Places | None) -> None:
    """Raise an AnalysisError unless places of one of the two pictures are given."""
    if (generated is None) == (reference is None):
        got = "neither" if generated is None else "both"
        msg = f"Expected generated= or reference=, got {got}, at sram. Give one of the two."
        raise AnalysisError(msg)


def check_question(
    sample: xr.DataTree,
    selected: list[SelectedLayer],
    named: str | Iterable[str] | None,
    generated: Places | None,
    reference: Places | None,
) -> Question:
    """Return what is asked of the selected layers, those that cannot answer left out.

    Parameters
    ----------
    sample : DataTree
    selected : list of SelectedLayer
    named : str or iterable of str, optional
        What they were selected by: one that is named in full must be able to answer.
    generated, reference : Places
        As in `sram`; one of the two is None.

    Raises
    ------
    AnalysisError
        As `sram`, of layers and places.
    """
    answering = _askable(sample, selected, named)
    of_reference = reference is not None
    looked_at = answering[0].attributes.reference_image()
    places, image = (reference, looked_at) if of_reference else (generated, "generated")
    return Question(answering, find_regions(sample, places, image), of_reference, looked_at)


def kept_dims(keep: Iterable[str]) -> set[str]:
    """Return the dimensions that are not averaged over, checked."""
    known = (LAYER, STEP, HEAD)
    kept = {keep} if isinstance(keep, str) else set(keep)
    for dim in sorted(kept.difference(known)):
        msg = f"Expected a dimension to keep, got {dim!r}, at keep. {did_you_mean(dim, known)}"
        raise AnalysisError(msg)
    return kept


def _askable(
    sample: xr.DataTree, selected: list[SelectedLayer], named: str | Iterable[str] | None
) -> list[SelectedLayer]:
    """Return the layers that can answer: a reference grid, and scores of single patches."""
    spatial = [layer for layer in selected if layer.has_g2r]
    if not spatial:
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
    check_one_reference(spatial)
    reduced = [layer.name for layer in spatial if not layer.has_logits]
    in_full = {named} if isinstance(named, str) else set(named or ())
    refused = [name for name in reduced if name in in_full or len(reduced) == len(spatial)]
    if refused:
        msg = (
            "Expected a layer with its scores, got one that was reduced to maps at capture, "
            f"at {refused[0]} of {sample.name or 'sample'}. Capture with representation 'auto', "
            "'factors' or 'logits' to ask single places."
        )
        raise AnalysisError(msg)
    return [layer for layer in spatial if layer.has_logits]


def common_grid_of(layer: SelectedLayer, *, of_reference: bool) -> Grid:
    """Return the grid of one side of a layer that has both."""
    grid = layer.attributes.reference_grid if of_reference else layer.attributes.generated_grid
    return grid or (1, 1)
