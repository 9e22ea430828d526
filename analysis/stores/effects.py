"""Open measured effects: how much the picture changed when parts of the reference were cut.

The capture stage measures them and writes them beside the run; here they are labelled arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from i2am.analysis.stores.checked import check_sample, describe_nodes
from i2am.analysis.stores.chunks import in_chunks
from i2am.analysis.stores.reader import Run, StoredSamples, StoreLike
from i2am.analysis.stores.stored_array import StoredArray
from i2am.schemas import AnalysisError, StoreError, did_you_mean
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import (
    COUNT,
    CUT_BOX,
    EDGE,
    EDGE_NAME,
    EFFECT_COORDINATES,
    GENERATED_PLANE,
    LAYER,
    LAYER_NAME,
    ORDER,
    ORDER_CUT,
    ORDER_NAME,
)
from i2am.storage.guard.guarded_store import check_read_whole
from i2am.storage.inventory import without_inventory
from i2am.storage.sample_state import SampleState

__all__ = [
    "NO_EFFECT_SHARE",
    "Effects",
    "are_of_capture",
    "causal_weights",
    "check_same_capture",
    "effect_share",
    "effect_size",
    "open_effects",
    "own_effects",
    "weights_of_layers",
]

# Below it cutting a layer's whole reference changes next to nothing: its map tells of no cause.
NO_EFFECT_SHARE: Final = 0.02
# A variable of xarray must not have the name of a dimension.
_RENAMED: Final = {
    LAYER: "layer_effect",
    EDGE: "edge_effect",
    LAYER_NAME: LAYER,
    EDGE_NAME: EDGE,
    ORDER_NAME: ORDER,
}
_KEPT: Final = ("units",)


def open_effects(path: StoreLike) -> Effects:
    """Open a store of measured effects.

    Parameters
    ----------
    path : str, Path or zarr Store
        As for `open_run`.

    Returns
    -------
    Effects
        Mapping of sample name to Dataset.

    Raises
    ------
    StoreError
        If it is missing, no store of i2am, a run, or maps.

    Examples
    --------
    ::

        effects = open_effects("effects.zarr")["shirt-001"]
        effects["region"].sel(cut=0)  # (y, x): what changed when the first region was cut
    """
    return Effects(path)


class Effects(StoredSamples[xr.Dataset]):
    """Measured effects: sample name -> Dataset, dims (…, y, x), float32, lazy.

    The variables are those of the store: region (cut, y, x), floor and ceiling (y, x) and so on; that of
    the layers is named ``layer_effect``, that of the edges ``edge_effect``. Coordinates: y and x in pixels
    of the generated image, cut_box (cut, corner) in pixels of the reference, and the names of layers,
    edges and orders.

    Examples
    --------
    ::

        effects = open_effects("effects.zarr")
        list(effects), effects["shirt-001"]["ceiling"].dims
    """

    kind = "effects"
    other_kind_hint = "Give the store that 'i2am causal' wrote."
    next_calls = (
        "effects[{!r}] opens a sample",
        "score_effects(run) holds maps against them",
    )

    def _open(self, group: zarr.Group, name: str, state: SampleState) -> xr.Dataset:
        nodes = dict(group.members(max_depth=None))
        arrays = {path: node for path, node in nodes.items() if isinstance(node, zarr.Array)}
        known = {path: node for path, node in arrays.items() if path in EFFECT_COORDINATES}
        check_read_whole(known.values(), str(group.store_path))
        values = {path: _plain(StoredArray(node, state)[:]) for path, node in known.items()}
        check_sample(self.kind, name, describe_nodes(group, nodes, values), self.path)
        _check_values(values, f"{self.path}/{name}")
        variables = {
            _RENAMED.get(path, path): _variable(node, values.get(path), state)
            for path, node in sorted(arrays.items())
        }
        own: Any = group.attrs[ATTRIBUTE_KEY]
        found = xr.Dataset(variables, attrs={ATTRIBUTE_KEY: without_inventory(own)})
        return found.set_coords([CUT_BOX] if CUT_BOX in values else [])


def _variable(
    array: zarr.Array[Any], values: NDArray[Any] | None, state: SampleState
) -> xr.Variable:
    dims = tuple(str(dim) for dim in getattr(array.metadata, "dimension_names", ()))
    found = in_chunks(array, dims, state) if values is None else xr.Variable(dims, values)
    found.attrs = {key: array.attrs[key] for key in _KEPT if key in array.attrs}
    return found


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return text as fixed-width unicode, which every tool's index takes."""
    return np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values


def _check_values(values: Mapping[str, NDArray[Any]], place: str) -> None:
    """Raise a StoreError if boxes have no area, or an order does not take each region once."""
    if (boxes := values.get(CUT_BOX)) is not None:
        wrong = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1))
        if wrong.any():
            came = boxes[wrong][0].tolist()
            msg = (
                f"Expected boxes with y0 < y1 and x0 < x1, got {came}, at {place}/{CUT_BOX}. "
                "Measure the sample again."
            )
            raise StoreError(msg)
    if (orders := values.get(ORDER_CUT)) is not None:
        every = np.arange(orders.shape[1])
        for name, order in zip(values[ORDER_NAME].tolist(), orders, strict=True):
            if not np.array_equal(np.sort(order), every):
                msg = (
                    f"Expected an order that takes each of {orders.shape[1]} regions once, got another, "
                    f"at {name!r} of {place}/{ORDER_CUT}. Measure the sample again."
                )
                raise StoreError(msg)
        if (counts := values.get(COUNT)) is not None and counts.max() > orders.shape[1]:
            msg = (
                f"Expected counts of at most {orders.shape[1]} regions, got {counts.max()}, "
                f"at {place}/{COUNT}. Measure the sample again."
            )
            raise StoreError(msg)


def are_of_capture(effects: Effects, run: Run, sample: str) -> bool:
    """Return whether a sample's effects were measured on the capture that the run holds by now."""
    measured, captured = effects.attributes_of(sample), run.attributes_of(sample)
    own = measured.get("source_created"), measured.get("source_contents")
    return own == (captured.get("created"), captured.get("contents"))


def check_same_capture(effects: Effects, run: Run, sample: str) -> None:
    """Check that a sample's effects were measured on the capture that the run holds by now.

    Raises
    ------
    StoreError
        If the sample is in one of the two alone, or was captured again since.

    Examples
    --------
    ::

        check_same_capture(open_effects("effects.zarr"), open_run("run.zarr"), "shirt-001")
    """
    if not are_of_capture(effects, run, sample):
        created = effects.attributes_of(sample).get("source_created")
        msg = (
            f"Expected the effects of this capture, got those of one of {created}, at {sample!r} of "
            f"{effects.path}. Measure the sample again: it was captured since."
        )
        raise StoreError(msg)


def own_effects(
    effects: Mapping[str, xr.Dataset] | None, name: str, sample: xr.DataTree
) -> xr.Dataset | None:
    """Return the effects of a sample; None where it was not measured, or was captured again since.

    Parameters
    ----------
    effects : Mapping of str to Dataset, optional
        As `open_effects` gives it.
    name : str
    sample : DataTree
        As `open_run` gives it.
    """
    if effects is None or name not in effects:
        return None
    found = effects[name]
    created = sample.attrs.get(ATTRIBUTE_KEY, {}).get("created")
    measured = found.attrs.get(ATTRIBUTE_KEY, {}).get("source_created")
    return found if measured == created else None


def effect_size(effect: xr.DataArray) -> xr.DataArray:
    """Return effects in one number each: the root of the mean square over all patches.

    Parameters
    ----------
    effect : DataArray, dims (…, y, x)

    Returns
    -------
    DataArray
        Without y and x, float64.

    Examples
    --------
    >>> float(effect_size(xr.DataArray([[3.0, 4.0]], dims=("y", "x"))).round(3))
    3.536
    """
    size: xr.DataArray = (effect.astype(np.float64) ** 2).mean(GENERATED_PLANE) ** 0.5
    return size


def effect_share(effect: xr.DataArray, ceiling: xr.DataArray) -> xr.DataArray:
    """Return the size of effects as shares of the effect of cutting the whole reference.

    Parameters
    ----------
    effect : DataArray, dims (…, y, x)
    ceiling : DataArray, dims (y, x)

    Returns
    -------
    DataArray
        Without y and x, float64. They need not sum to 1: what two cuts do may overlap.

    Raises
    ------
    AnalysisError
        If cutting everything has no effect at all.

    Examples
    --------
    >>> half = xr.DataArray(np.full((1, 2, 2), 0.5), dims=("layer", "y", "x"))
    >>> effect_share(half, xr.DataArray(np.ones((2, 2)), dims=("y", "x"))).values.tolist()
    [0.5]
    """
    whole = float(effect_size(ceiling))
    if not whole > 0:
        msg = (
            f"Expected a reference whose cut changes the picture, got a ceiling of {whole:g}, at "
            "effects. Nothing can be told of its parts: the model does not use the reference here."
        )
        raise AnalysisError(msg)
    return effect_size(effect) / whole


def causal_weights(effects: xr.Dataset) -> dict[str, float]:
    """Return the weight of each layer: the size of the effect of cutting it alone.

    Parameters
    ----------
    effects : Dataset
        One sample of `open_effects`.

    Returns
    -------
    dict of str to float
        By layer; total effects, in units of the latent.

    Raises
    ------
    AnalysisError
        If the layers were not measured.

    Examples
    --------
    >>> effect = ("layer", "y", "x"), np.stack([np.full((2, 2), 0.5), np.zeros((2, 2))])
    >>> causal_weights(xr.Dataset({"layer_effect": effect}, coords={"layer": ["up", "mid"]}))
    {'up': 0.5, 'mid': 0.0}
    """
    if _RENAMED[LAYER] not in effects:
        msg = (
            "Expected effects of single layers, got none, at effects. Measure them: "
            "'i2am causal RUN.zarr --cut-layers', or leave the weights out."
        )
        raise AnalysisError(msg)
    sizes = effect_size(effects[_RENAMED[LAYER]]).to_numpy()
    names = (str(name) for name in effects[LAYER].values)
    return dict(zip(names, map(float, sizes), strict=True))


def weights_of_layers(weights: Mapping[str, float], layers: Iterable[str]) -> NDArray[np.float64]:
    """Return the weights of layers in their order, checked.

    Raises
    ------
    AnalysisError
        If a layer has none, one is negative or not finite, or all are 0.

    Examples
    --------
    >>> weights_of_layers({"up": 0.5, "mid": 0.0}, ["up"]).tolist()
    [0.5]
    """
    names = list(layers)
    for name in names:
        if name not in weights:
            msg = (
                f"Expected a measured effect of each layer, got none, at layer {name!r}. Measure it, or "
                f"name the layers that have one. {did_you_mean(name, weights)}"
            )
            raise AnalysisError(msg)
    found = np.array([weights[name] for name in names], np.float64)
    if not (np.isfinite(found).all() and (found >= 0).all() and found.sum() > 0):
        msg = (
            f"Expected weights from 0 on, at least one above, got {found.tolist()}, at weights. "
            "Without any effect there is nothing to weigh by: take the plain mean."
        )
        raise AnalysisError(msg)
    return found
