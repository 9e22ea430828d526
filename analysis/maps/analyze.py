"""Directional volumes and their levels: where the reference went, and what of it was used.

`analyze` returns everything lazily; computing a part of it computes no more than that part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid, largest_grid
from i2am.analysis.maps.layer_maps import LayerMaps, layer_maps
from i2am.analysis.maps.levels import (
    MapsOfLayer,
    add_step_coordinates,
    compute_levels,
    describe_levels,
    mean_float32,
    mean_of_layers,
    split_time_groups,
    stack_layers,
)
from i2am.analysis.maps.official import official_levels, official_plan
from i2am.analysis.maps.within import painted_patches
from i2am.analysis.stores.boxes import pixel_coordinates
from i2am.analysis.stores.effects import causal_weights, weights_of_layers
from i2am.analysis.stores.layers import (
    Labels,
    SelectedLayer,
    check_one_reference,
    head_labels,
    select_layers,
    step_labels,
)
from i2am.analysis.stores.reader import Maps, open_maps
from i2am.schemas import SCHEMA_VERSION, AnalysisError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.choices import (
    CONVENTIONS,
    LAYER_WEIGHTS,
    NORMALISATIONS,
    WITHIN,
    Convention,
    LayerWeights,
    Normalisation,
    Within,
    check_choice,
)
from i2am.schemas.dims import CONDITIONAL, HEAD, LAYER, STEP, TIMESTEP
from i2am.schemas.directions import G2R, R2G
from i2am.schemas.text import safe_text
from i2am.storage.addresses import StoreLike

__all__ = ["Plan", "analyze", "check_options", "check_weights", "maps_of", "plan_maps"]

# A map of so many float32 takes 64 MiB, for each layer, step and head; layers have thousands.
_MOST_CELLS: Final = 2**24


def analyze(
    sample: xr.DataTree,
    *,
    convention: Convention = "i2am",
    normalisation: Normalisation = "mass",
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
    time_groups: int = 5,
    grid: Grid | None = None,
    weights: LayerWeights | None = None,
    effects: xr.Dataset | None = None,
    within: Within = "image",
) -> xr.DataTree:
    """Return every map of a captured sample, in both directions, lazily.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    convention : "i2am" or "official"
        Resize, clamp, then mean; or the authors' own order, which reproduces their numbers.
    normalisation : "mass" or "density"
        Each softmax sums to 1 over its own grid; or uniform attention is 1 on every grid.
    layers : str or iterable of str, optional
        Names or glob patterns; by default all layers, of the first reference image.
    steps, heads : int, slice or iterable of int, optional
        Labels, one or several; a slice takes those of its numbers that were captured. By default all.
    guidance : str
        The branch of classifier-free guidance, if several were captured.
    time_groups : int
        Equal groups of steps for TLAM, noisiest first; fewer when the steps are fewer.
    grid : (height, width), optional
        The common grid of both directions. By default the largest of the selected layers; under
        "official", for R2G, the generated image's size divided by 8.
    weights : "causal", optional
        Weigh each layer in ULAM, TLAM, HLAM and mass by its measured effect, so that layers which change
        nothing do not count. By default each map of the volume counts alike.
    effects : Dataset, optional
        This sample of `open_effects`, for `weights`.
    within : "image" or "mask"
        Of which patches the maps are: all, or those that hold a pixel of the stored inpainting mask. Then
        G2R is the mean over these, what the painted part read, and R2G's softmax runs over these alone.

    Returns
    -------
    DataTree
        Groups ``r2g`` and, where there is a reference grid and more than one token, ``g2r``. Each
        holds volume (layer, step, head, plane), ulam (plane), tlam (time, plane), hlam (head,
        plane), llam (layer, plane), where plane is (y, x) or (reference_y, reference_x), and
        ``r2g`` also mass (plane) where layers have it; float32, at least 0, lazy. Heads that a
        layer lacks are NaN; means skip them. Where the image is stored, the plane's coordinates
        are the centres of its cells in pixels of that image: a map fills the part that the model saw.
        Each has ``long_name`` and ``units``; the attribute ``i2am`` tells the options.
        Within the mask, r2g is 0 at the other patches.
        Weights are the coordinate ``layer_weight`` (layer).

    Raises
    ------
    AnalysisError
        If an option is unknown, a label was not captured, the named layers look at different
        reference images, or `sample` is a run; or weights are asked for and a layer has no measured
        effect, no effects are given, or convention is "official"; or within is "mask" and there is no
        mask, a layer was reduced to maps at capture, or convention is "official".

    Notes
    -----
    Park & Jang, I²AM (arXiv 2407.12331), section 3: ULAM, TLAM, HLAM and LLAM are means of the
    volume over the dimensions that each does not keep. With w_l, the size of the effect of cutting layer
    l alone, ULAM is the sum of w_l times the layer's LLAM, divided by the sum of w_l.

    Examples
    --------
    >>> import numpy as np
    >>> layer = {
    ...     "scale": 1.0, "generated_grid": [2, 2], "reference_grid": [2, 2], "special_tokens": 0,
    ...     "order": 0, "block": "down", "representation": "logits", "causal": True,
    ... }
    >>> logits = np.zeros((1, 1, 4, 4), np.float32)  # (step, head, P, R)
    >>> logits[..., 1] = 50  # all patches look at the token at the upper right
    >>> dims = ("step", "head", "generated", "reference")
    >>> sample = xr.DataTree.from_dict({
    ...     "/": xr.Dataset(coords={"step": [0], "timestep": ("step", [981.0])}),
    ...     "/layers/down": xr.Dataset({"logits": (dims, logits)}, attrs={"i2am": layer}),
    ... })
    >>> maps = analyze(sample)
    >>> maps["r2g/ulam"].values.tolist(), maps["g2r/ulam"].values.round(2).tolist()
    ([[0.25, 0.25], [0.25, 0.25]], [[0.0, 1.0], [0.0, 0.0]])
    """
    return plan_maps(
        sample,
        convention=convention,
        normalisation=normalisation,
        layers=layers,
        steps=steps,
        heads=heads,
        guidance=guidance,
        time_groups=time_groups,
        grid=grid,
        weights=weights,
        effects=effects,
        within=within,
    ).maps


class Plan(NamedTuple):
    """All maps of a sample, lazily, and what they are made of.

    Attributes
    ----------
    maps : DataTree
        What `analyze` returns.
    layers : sequence of (SelectedLayer, LayerMaps)
        Those whose volume every level is a mean of; none by the authors' convention.
    time_groups : sequence of slice
        Positions of the steps of each group.
    weights : mapping of layer to float, or None
        By which the layers are weighed.
    """

    maps: xr.DataTree
    layers: Sequence[tuple[SelectedLayer, LayerMaps]]
    time_groups: Sequence[slice]
    weights: Mapping[str, float] | None


def plan_maps(
    sample: xr.DataTree,
    *,
    convention: Convention = "i2am",
    normalisation: Normalisation = "mass",
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
    time_groups: int = 5,
    grid: Grid | None = None,
    weights: LayerWeights | None = None,
    effects: xr.Dataset | None = None,
    within: Within = "image",
) -> Plan:
    """Return what `analyze` does, and what it is made of."""
    check_options(convention, normalisation, grid, within)
    grid = None if grid is None else (grid[0], grid[1])
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    kept_steps = step_labels(sample, steps)
    selected = select_layers(sample, named, kept_steps, heads, guidance)
    check_one_reference(selected)
    if within == "mask":
        selected = painted_patches(sample, selected)
    coordinates = sample.coords.to_dataset()[[STEP, TIMESTEP]]
    if steps is not None:
        coordinates = coordinates.sel({STEP: kept_steps})
    spans = split_time_groups(coordinates.sizes[STEP], time_groups)
    density = normalisation == "density"
    of_layers = check_weights(weights, effects, convention)
    attributes: dict[str, Any] = {
        "kind": "maps",
        "schema": SCHEMA_VERSION,
        "convention": convention,
        "normalisation": normalisation,
    }
    told = {
        "layers": named,
        "steps": None if steps is None else kept_steps,
        "heads": None if heads is None else head_labels(sample, named, heads),
        "guidance": guidance,
        "weights": weights,
        "within": None if within == "image" else within,
    }
    attributes |= {name: value for name, value in told.items() if value is not None}
    maps: list[tuple[SelectedLayer, LayerMaps]] = []
    if convention == "official":
        directions = _official(sample, selected, coordinates, spans, grid)
    else:
        maps = _layer_maps(selected, *_common_grids(selected, grid), density=density)
        directions = _i2am(maps, coordinates, spans, of_layers)
    for name, levels in directions.items():
        placed = levels.assign_coords(_pixels(sample, selected, levels, name))
        directions[name] = describe_levels(placed, name, normalisation, within)
    tree: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs={ATTRIBUTE_KEY: attributes})}
    whole = xr.DataTree.from_dict(tree | directions, name=sample.name)
    return Plan(whole, maps, spans, of_layers)


def check_weights(
    weights: str | None, effects: xr.Dataset | None, convention: str = "i2am"
) -> dict[str, float] | None:
    """Return the weight of each measured layer; None where no weights are asked for.

    Raises
    ------
    AnalysisError
        If there is no such kind of weights, one of the two is missing, these are no effects of a sample,
        or the convention has no weights.
    """
    if weights is None and effects is None:
        return None
    check_choice("weights", weights, LAYER_WEIGHTS, AnalysisError)
    if convention == "official":
        msg = (
            f"Expected no weights with convention 'official', got {weights!r}, at weights. Leave one of "
            "the two at its default."
        )
        raise AnalysisError(msg)
    if not isinstance(effects, xr.Dataset):
        msg = (
            f"Expected one sample of open_effects(), got {type(effects).__name__}, at effects. Give "
            "open_effects('effects.zarr')['NAME']: the weights are what was measured."
        )
        raise AnalysisError(msg)
    return causal_weights(effects)


def check_options(
    convention: str, normalisation: str, grid: Grid | None = None, within: str = "image"
) -> None:
    """Raise an AnalysisError if an option is unknown or two options exclude each other."""
    check_choice("convention", convention, CONVENTIONS, AnalysisError)
    check_choice("normalisation", normalisation, NORMALISATIONS, AnalysisError)
    check_choice("within", within, WITHIN, AnalysisError)
    if convention == "official" and within != "image":
        msg = (
            f"Expected maps of the whole image with convention 'official', got {within!r}, at within. "
            "Leave one of the two at its default."
        )
        raise AnalysisError(msg)
    if convention == "official" and normalisation != "mass":
        msg = (
            f"Expected normalisation 'mass' with convention 'official', got {normalisation!r}, "
            "at normalisation. Leave one of the two at its default."
        )
        raise AnalysisError(msg)
    if grid is not None and (len(grid) != 2 or min(grid) < 1):
        msg = f"Expected a grid (height, width) of 1 or more, got {grid}, at grid. Give two sizes."
        raise AnalysisError(msg)
    if grid is not None and grid[0] * grid[1] > _MOST_CELLS:
        msg = (
            f"Expected a grid of at most {_MOST_CELLS:,} cells, such as 4096x4096, got "
            f"{grid[0]}x{grid[1]}. Give a smaller one: no map tells more in a grid that is finer "
            "than its layers'."
        )
        raise AnalysisError(msg)


def _i2am(
    maps: Sequence[tuple[SelectedLayer, LayerMaps]],
    coordinates: xr.Dataset,
    time_groups: list[slice],
    weights: Mapping[str, float] | None,
) -> dict[str, xr.Dataset]:
    """Return both directions: every level is a mean of the volume."""

    def levels(maps: Sequence[MapsOfLayer]) -> xr.Dataset:
        found = compute_levels(maps, time_groups, _weights_of(maps, weights))
        return add_step_coordinates(found, coordinates, time_groups)

    r2g, g2r, mass = _by_kind(maps)
    directions = {"r2g": levels(r2g)}
    if mass:
        own = _weights_of(mass, weights)
        directions["r2g"]["mass"] = mean_of_layers(stack_layers(mass), [LAYER, STEP, HEAD], own)
    if g2r:
        directions["g2r"] = levels(g2r)
    return directions


def _common_grids(selected: Sequence[SelectedLayer], grid: Grid | None) -> tuple[Grid, Grid | None]:
    """Return the grids of R2G and G2R; no reference grid, no G2R."""
    generated = grid or largest_grid(layer.attributes.generated_grid for layer in selected)
    references = [
        own for layer in selected if (own := layer.attributes.reference_grid) and layer.has_g2r
    ]
    return generated, (grid or largest_grid(references)) if references else None


def _weights_of(
    maps: Sequence[MapsOfLayer], weights: Mapping[str, float] | None
) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    return weights_of_layers(weights, [layer.name for layer, _ in maps])


def _official(
    sample: xr.DataTree,
    selected: list[SelectedLayer],
    coordinates: xr.Dataset,
    time_groups: list[slice],
    grid: Grid | None,
) -> dict[str, xr.Dataset]:
    """Return both directions as the authors' code aggregates them."""
    plan = official_plan(sample, selected, grid)
    r2g, _, mass = _by_kind(_layer_maps(plan.r2g, plan.generated, None, density=False))
    levels = official_levels(plan.r2g, plan.r2g, time_groups, plan.generated, direction="r2g")
    directions = {
        "r2g": add_step_coordinates(
            levels.assign(volume=stack_layers(r2g)), coordinates, time_groups
        )
    }
    if mass:
        directions["r2g"]["mass"] = mean_float32(stack_layers(mass), [LAYER, STEP, HEAD])
    if plan.reference is not None:
        own = _layer_maps(plan.g2r, plan.generated, plan.reference, density=False)
        _, g2r, _ = _by_kind(own)
        levels = official_levels(
            plan.g2r, plan.g2r_time, time_groups, plan.reference, direction="g2r"
        )
        directions["g2r"] = add_step_coordinates(
            levels.assign(volume=stack_layers(g2r)), coordinates, time_groups
        )
    return directions


def _pixels(
    sample: xr.DataTree, selected: Sequence[SelectedLayer], levels: xr.Dataset, direction: str
) -> dict[str, xr.Variable]:
    """Return where the cells of a direction's maps lie on the stored image that they lie over."""
    image, plane = R2G.image, R2G.plane
    if direction == G2R.name:
        image = next(one.attributes.reference_image() for one in selected if one.has_g2r)
        plane = G2R.plane
    grid = levels.sizes[plane[0]], levels.sizes[plane[1]]
    return pixel_coordinates(sample, image, plane, grid)


def _layer_maps(
    selected: Sequence[SelectedLayer], generated: Grid, reference: Grid | None, *, density: bool
) -> list[tuple[SelectedLayer, LayerMaps]]:
    return [(layer, layer_maps(layer, generated, reference, density=density)) for layer in selected]


def _by_kind(maps: Sequence[tuple[SelectedLayer, LayerMaps]]) -> tuple[list[MapsOfLayer], ...]:
    """Return R2G, G2R and mass, each of the layers that have one."""
    found: tuple[list[MapsOfLayer], ...] = ([], [], [])
    for layer, (*own, _) in maps:
        for kind, one in zip(found, own, strict=True):
            if one is not None:
                kind.append((layer, one))
    return found


def maps_of(
    run: Mapping[str, xr.DataTree], maps: StoreLike | None = None, **options: Any
) -> Mapping[str, xr.DataTree]:
    """Return the maps of every sample of a run, lazily.

    Parameters
    ----------
    run : Mapping of str to DataTree
        As `open_run` gives it.
    maps : str, Path or zarr Store, optional
        The maps store. Samples that it does not hold, or all if there is none, are analyzed when
        they are asked for.
    **options
        What `analyze` takes, for the samples that are analyzed then.

    Returns
    -------
    Mapping of str to DataTree
        By the names of the run's samples; as `analyze` returns them.

    Raises
    ------
    StoreError
        If the maps store is missing or of the wrong kind.

    Examples
    --------
    >>> import i2am
    >>> maps = maps_of(i2am.open_run(i2am.DEMO_RUN))
    >>> maps["truck"]["r2g/ulam"].dims  # made when it is asked for
    ('y', 'x')
    """
    return _MapsOnDemand(run, None if maps is None else open_maps(maps), options)


class _MapsOnDemand(Mapping[str, xr.DataTree]):
    def __init__(
        self, run: Mapping[str, xr.DataTree], stored: Maps | None, options: Mapping[str, Any]
    ) -> None:
        self._run, self._stored, self._options = run, stored, options

    def __repr__(self) -> str:
        """Return where the maps come from; no sample is opened."""
        stored = "no store" if self._stored is None else safe_text(self._stored.path)
        own = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        lines = [
            f"<i2am maps of every sample of {safe_text(getattr(self._run, 'path', 'a run'))}>",
            f"from {stored}; what it does not hold is computed when asked for",
            *([f"with {own}"] if own else []),
        ]
        return "\n    ".join(lines)

    def __getitem__(self, name: str) -> xr.DataTree:
        if self._stored is not None and self._stored.holds(name):
            return self._stored[name]
        return analyze(self._run[name], **self._options)

    def __iter__(self) -> Iterator[str]:
        return iter(self._run)

    def __len__(self) -> int:
        return len(self._run)

    def __contains__(self, name: object) -> bool:
        return name in self._run
