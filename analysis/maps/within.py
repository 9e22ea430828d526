"""Maps of what was painted: of the patches inside the inpainting mask alone.

An inpainting model paints a part of its picture. The patches outside of it attend to the reference, too,
but nothing comes of it; in a map of the whole picture they count all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import xarray as xr

from i2am.analysis.maps.regions import resolve_regions
from i2am.analysis.stores.layers import SelectedLayer
from i2am.schemas import AnalysisError
from i2am.schemas.dims import GENERATED
from i2am.schemas.directions import R2G

__all__ = ["painted_mask", "painted_patches"]


def painted_mask(sample: xr.DataTree) -> xr.DataArray:
    """Return the stored inpainting mask as a region of the generated image, dims (y, x), bool.

    Raises
    ------
    AnalysisError
        If none is stored, or it marks nothing.
    """
    images = sample.children["images"].dataset if "images" in sample.children else {}
    mask = images[R2G.mask] != 0 if R2G.mask in images else None
    if mask is None or not mask.any():
        got = "none" if mask is None else "an empty one"
        msg = (
            f"Expected an inpainting mask, got {got}, at {sample.name or 'sample'}. Capture it with "
            "recording.add_images(inpainting_mask=…), or take the maps of the whole image."
        )
        raise AnalysisError(msg)
    return mask


def painted_patches(sample: xr.DataTree, layers: Sequence[SelectedLayer]) -> list[SelectedLayer]:
    """Return the layers with the patches that hold a pixel of the inpainting mask, and no others.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    layers : sequence of SelectedLayer
        Of that sample.

    Raises
    ------
    AnalysisError
        If there is no inpainting mask, the model saw nothing of what it marks, or a layer was reduced
        to maps at capture: they are of all patches.
    """
    region = resolve_regions(sample, painted_mask(sample), R2G.image)
    reduced = [layer.name for layer in layers if not layer.has_logits]
    if reduced:
        msg = (
            "Expected layers with their logits for maps within the mask, got one that was reduced to "
            f"maps of the whole image at capture, at {reduced[0]}. Capture with representation 'auto'."
        )
        raise AnalysisError(msg)
    found = []
    for layer in layers:
        (patches,) = region.patches(layer.attributes.generated_grid)
        found.append(
            replace(
                layer,
                picked={**layer.picked, GENERATED: patches},
                region=None if layer.region is None else layer.region[patches],
                patches=patches,
            )
        )
    return found
