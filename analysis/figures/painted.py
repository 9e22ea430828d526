"""What the painted part of a picture read: G2R of the patches inside the inpainting mask, for the overview."""

from __future__ import annotations

import xarray as xr

from i2am.analysis.figures.captions import map_options
from i2am.analysis.maps.levels import mean_of_layers
from i2am.analysis.maps.sram import sram
from i2am.analysis.maps.within import painted_mask
from i2am.analysis.scores.masks import is_within_mask, masks_of
from i2am.analysis.stores.layers import mapped_layers
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import CONDITIONAL, HEAD, LAYER, LAYER_WEIGHT, STEP
from i2am.schemas.directions import G2R, R2G

__all__ = ["painted_g2r"]


def painted_g2r(sample: xr.DataTree, maps: xr.DataTree) -> xr.DataArray | None:
    """Return G2R of the painted patches, of what the maps are of: their layers, steps, heads and branch.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run, and its maps.

    Returns
    -------
    DataArray or None
        Dims (reference_y, reference_x), float32, lazy. None where the maps have no G2R or are of these
        patches already, no mask divides the image, a layer was reduced to maps at capture, or the
        convention is the authors'; or the sample does not hold all layers of the maps.
    """
    options = map_options(maps)
    if G2R.name not in maps.children or is_within_mask(maps):
        return None
    if R2G.name not in masks_of(sample, maps) or options.get("convention", "i2am") != "i2am":
        return None
    volume = maps.children[G2R.name].dataset["volume"]
    names = [str(name) for name in volume[LAYER].values]
    layers = mapped_layers(sample, maps, G2R.name)
    reduced = [one for one in layers if one.attrs[ATTRIBUTE_KEY]["representation"] == "maps"]
    if reduced or len(layers) < len(names):
        return None
    weights = volume.coords.get(LAYER_WEIGHT)
    found = sram(
        sample,
        generated=painted_mask(sample),
        layers=names,
        steps=volume[STEP].to_numpy().tolist(),
        heads=volume[HEAD].to_numpy().tolist(),
        keep=() if weights is None else (LAYER,),
        guidance=options.get("guidance", CONDITIONAL),
        normalisation=options.get("normalisation", "mass"),
    )
    return found if weights is None else mean_of_layers(found, [LAYER], weights.to_numpy())
