"""Specific-reference maps: what one place of the generated image read, and the mirror question.

Only the query rows (for the mirror: the keys) of the place that is asked about are read and
multiplied, so a question costs a hundredth of the volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.grid import Grid, largest_grid
from i2am.analysis.levels import mean_over, stack_layers
from i2am.analysis.maps import Normalisation, check_options
from i2am.analysis.places import REGION, Place, Places, Regions, find_regions
from i2am.analysis.rows import layer_rows
from i2am.analysis.selection import SelectedLayer, check_one_reference, select_layers
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.dims import CONDITIONAL, HEAD, LAYER, STEP

__all__ = ["Place", "Places", "Question", "check_one_side", "check_question", "sram"]

# Regions that are asked about together: beyond it a block's maps would fill the memory.
_TOGETHER: Final = 128


def sram(
    sample: xr.DataTree,
    *,
    generated: Places | None = None,
    reference: Places | None = None,
    layers: str | Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    keep: Iterable[str] = (),
    guidance: str = CONDITIONAL,
    normalisation: Normalisation = "mass",
) -> xr.DataArray:
    """Return where on the reference a place of the generated image read from, or the mirror.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    generated : (y, x) or bool array (y, x), optional
        A pixel of the stored generated image: each layer takes the patch that holds it. Or a mask
        of that image's size: each layer takes the mean over the patches that hold its pixels. Or
        many at once: a list of pixels and masks, or one bool array (region, y, x), whose
        ``region`` coordinate, if it has one, names them.
    reference : (y, x) or bool array (reference_y, reference_x), optional
        The same of the stored reference image (for layers of a further reference, of that one):
        where on the generated image that place went. Give one of the two.
    layers, steps, heads, guidance, normalisation
        As in `analyze`.
    keep : iterable of str
        Of "layer", "step" and "head": the dimensions that are not averaged over.

    Returns
    -------
    DataArray
        Dims ([region,] kept dims, reference_y, reference_x), for the mirror ([region,] kept dims,
        y, x), on the largest grid of the selected layers; ``region`` where many places were given,
        numbered or named; float32, at least 0, lazy. Layers without a reference grid or with one
        token have no part in it, nor have those that were reduced to maps at capture. The attribute
        ``reference_image`` names the stored picture that the layers look at.

    Raises
    ------
    AnalysisError
        If no selected layer, or one that is named in full, has no such map; the named layers look
        at different reference images; a place is not in the image; neither or both places are
        given; or a label is asked for that was not captured.

    Notes
    -----
    ``softmax_R(S)[p, :]``, for the mirror ``softmax_P(S)[:, r]``; resized and clamped at 0 before
    the means over layers, steps and heads. Of many places each patch is read once, and all share
    the exponential, so that they cost little more than one.
    """
    check_one_side(generated, reference)
    kept = _kept_dims(keep)
    check_options("i2am", normalisation)
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    selected = select_layers(sample, named, steps, heads, guidance)
    question = check_question(sample, selected, named, generated, reference)
    labels = sample[STEP].to_numpy() if steps is None else sorted(set(steps))
    averaged = [dim for dim in (LAYER, STEP, HEAD) if dim not in kept]
    volumes = _volumes(question, density=normalisation == "density")
    parts = [mean_over(one.assign_coords({STEP: labels}), averaged) for one in volumes]
    return question.label(xr.concat(parts, REGION).transpose(REGION, ...))


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
        return largest_grid(_grid(one, of_reference=not self.of_reference) for one in self.layers)

    def rows(self, layer: SelectedLayer) -> list[NDArray[np.intp]]:
        """Return the patches of a layer, or its tokens, that hold each region's pixels."""
        patches = self.regions.patches(_grid(layer, of_reference=self.of_reference))
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
    askable = _askable(sample, selected, named)
    of_reference = reference is not None
    looked_at = askable[0].attributes.reference_image()
    places, image = (reference, looked_at) if of_reference else (generated, "generated")
    return Question(askable, find_regions(sample, places, image), of_reference, looked_at)


def _kept_dims(keep: Iterable[str]) -> set[str]:
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
    reduced = [layer.name for layer in spatial if not layer.has_scores]
    in_full = {named} if isinstance(named, str) else set(named or ())
    refused = [name for name in reduced if name in in_full or len(reduced) == len(spatial)]
    if refused:
        msg = (
            "Expected a layer with its scores, got one that was reduced to maps at capture, "
            f"at {refused[0]} of {sample.name or 'sample'}. Capture with representation 'auto', "
            "'factors' or 'logits' to ask single places."
        )
        raise AnalysisError(msg)
    return [layer for layer in spatial if layer.has_scores]


def _volumes(question: Question, *, density: bool) -> Iterator[xr.DataArray]:
    """Yield maps (layer, step, head, region, plane), of some regions after the others."""
    grid = question.grid
    rows = {layer.name: question.rows(layer) for layer in question.layers}
    for first in range(0, len(question.regions.pixels), _TOGETHER):
        maps = []
        for layer in question.layers:
            some = rows[layer.name][first : first + _TOGETHER]
            asked = layer_rows(
                layer, some, grid, of_reference=question.of_reference, density=density
            )
            maps.append((layer, asked))
        yield stack_layers(maps)


def _grid(layer: SelectedLayer, *, of_reference: bool) -> Grid:
    """Return the grid of one side of a layer that has both."""
    grid = layer.attributes.reference_grid if of_reference else layer.attributes.generated_grid
    return grid or (1, 1)
