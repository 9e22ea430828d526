"""The captured layers of a sample: facts about them, and selection by label."""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.stores.chunks import in_blocks
from i2am.schemas import AnalysisError, LayerAttributes, did_you_mean, dims
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import (
    CONDITIONAL,
    GUIDANCE,
    HEAD,
    REFERENCE,
    REGION,
    REPRESENTATIONS,
    STEP,
    WEIGHT,
)
from i2am.schemas.directions import DIRECTIONS, DirectionName

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Labels",
    "SelectedLayer",
    "check_one_reference",
    "check_sample",
    "format_labels",
    "head_labels",
    "image_under",
    "is_causal",
    "is_noncausal",
    "is_one_token",
    "layer_attributes",
    "layers_with_reference_grid",
    "mapped_layers",
    "reference_image",
    "select_layers",
    "sram_layers",
    "step_labels",
    "token_count",
]

# Of steps or heads: one label, several, or a range of them; None for all.
Labels = int | slice | Iterable[int] | None


@dataclass(frozen=True)
class SelectedLayer:
    """One layer's lazy arrays, cut to the selected steps and heads.

    Parameters
    ----------
    name : str
    attributes : LayerAttributes
    stored : Dataset
        All of its arrays, as `schemas.dims.REPRESENTATIONS` names them.
    picked : mapping of str to int or list of int
        What of their dimensions is selected.
    heads : tuple of int
        The labels of its heads.
    region : array (generated,), float32, 0..1, or None
        By what the layer multiplies what the reference contributes to each patch, where the model was
        given a mask. None of a layer that was reduced to maps: they have it in them.
    steps : tuple of int
        The labels of its steps, for messages.
    sample : str
        The sample's name, for messages.
    patches : array (generated,) of int, or None
        The indices of the generated patches that are picked, and that region holds; None holds all.

    Attributes
    ----------
    arrays : Dataset
        The selection, in the store's own chunks.
    blocks : Dataset
        The same in blocks of a few steps, for a pass over all of them.
    """

    name: str
    attributes: LayerAttributes
    stored: xr.Dataset
    picked: Mapping[str, Any]
    heads: tuple[int, ...]
    region: NDArray[np.float32] | None = None
    steps: tuple[int, ...] = ()
    sample: str = ""
    patches: NDArray[np.intp] | None = None

    @cached_property
    def arrays(self) -> xr.Dataset:  # noqa: D102 - in the class's own words
        return self.stored.chunk({}).isel(self.picked, missing_dims="ignore")

    @cached_property
    def blocks(self) -> xr.Dataset:  # noqa: D102 - in the class's own words
        return self.stored.chunk({}).map(in_blocks).isel(self.picked, missing_dims="ignore")

    @property
    def tokens(self) -> int:
        """Number of reference tokens, special ones included."""
        return token_count(self.stored)

    @property
    def has_g2r(self) -> bool:
        """Whether maps on the reference exist: a grid, and more than one token."""
        return self.attributes.reference_grid is not None and self.tokens > 1

    @property
    def has_mass(self) -> bool:
        """Whether other keys share the softmax."""
        return _has_mass(self.stored)

    @property
    def has_logits(self) -> bool:
        """Whether SRAM exists: the layer was not reduced to maps at capture."""
        return self.attributes.representation != "maps"

    @property
    def is_causal(self) -> bool:
        """Whether the layer's output can depend on its attention: no softmax over one token."""
        return is_causal(self.attributes, self.tokens, self.stored)


def token_count(arrays: xr.Dataset) -> int:
    """Return the number of a layer's reference tokens, special ones included."""
    return arrays.sizes.get(REFERENCE, 1)  # Reduced from one token, it holds R2G alone.


def is_causal(attributes: LayerAttributes, tokens: int, arrays: Container[object]) -> bool:
    """Return whether a layer's output can depend on its attention.

    A softmax over one token is 1 whatever query and key are, unless other keys share it.

    Parameters
    ----------
    attributes : LayerAttributes
    tokens : int
        Its reference tokens.
    arrays : container of str
        The names of its arrays.
    """
    return attributes.causal and (tokens > 1 or _has_mass(arrays))


def _has_mass(arrays: Container[object]) -> bool:
    return "logsumexp" in arrays or "mass" in arrays


def select_layers(
    sample: xr.DataTree,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
) -> list[SelectedLayer]:
    """Return the layers of a captured sample in execution order, cut to the selection.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    layers : str or iterable of str, optional
        Names or glob patterns; by default all layers, of the first reference image.
    steps, heads : int, slice or iterable of int, optional
        Labels, one or several; a slice takes those of its numbers that were captured. By default all.
    guidance : str
        The label of the branch of classifier-free guidance.

    Returns
    -------
    list of SelectedLayer
        Lazy, also when `sample` is in memory.

    Raises
    ------
    AnalysisError
        If a label was not captured, or `sample` is not a sample but a run.
    """
    kept_steps = step_labels(sample, steps)
    names = _layer_names(sample, layers)
    kept_heads = _heads_of(sample, names, heads)
    return [
        _select(sample, name, kept_steps, kept_heads, guidance)
        for name in names
        if not set(kept_heads).isdisjoint(_head_labels(sample, name))
    ]


def step_labels(sample: xr.DataTree, steps: Labels = None) -> list[int]:
    """Return the labels of the selected steps in the order in which they were captured.

    Raises
    ------
    AnalysisError
        If one was not captured, there is none, or `sample` is not a sample but a run.
    """
    check_sample(sample)
    return _labels_in_order(steps, sample[STEP].to_numpy().tolist(), STEP, sample)


def head_labels(
    sample: xr.DataTree, layers: str | Iterable[str] | None = None, heads: Labels = None
) -> list[int]:
    """Return the labels of the selected heads that the selected layers have, ascending.

    Raises
    ------
    AnalysisError
        If one was not captured, there is none, or `sample` is not a sample but a run.
    """
    check_sample(sample)
    return _heads_of(sample, _layer_names(sample, layers), heads)


def _heads_of(sample: xr.DataTree, names: Sequence[str], heads: Labels) -> list[int]:
    every_head = {head for name in names for head in _head_labels(sample, name)}
    return _labels_in_order(heads, sorted(every_head), HEAD, sample)


def check_sample(sample: object) -> None:
    """Raise an AnalysisError unless this is one captured sample: a run holds many, a path is not open."""
    import xarray as xr

    if isinstance(sample, xr.DataTree):
        if "layers" in sample.children and sample["layers"].children:
            return
        msg = (
            f"Expected a captured sample with layers, got none, at {sample.name or 'sample'}. "
            "Give a sample of open_run()."
        )
    elif isinstance(sample, Mapping):
        name = next(iter(sample), "NAME")
        msg = (
            f"Expected one sample of a run, got all of it, at {getattr(sample, 'path', 'sample')}. "
            f"Name one, as in analyze(run[{name!r}])."
        )
    else:
        msg = (
            f"Expected a sample of open_run(), got {type(sample).__name__}, at sample. "
            "Open it first: open_run('run.zarr')['NAME']."
        )
    raise AnalysisError(msg)


def check_one_reference(layers: Iterable[SelectedLayer]) -> None:
    """Check that all layers with G2R look at one reference: a mean over two would show neither.

    Raises
    ------
    AnalysisError
        If layers with a reference grid look at different reference images.
    """
    found = {layer.attributes.reference_index: layer.name for layer in layers if layer.has_g2r}
    if len(found) > 1:
        msg = (
            f"Expected layers of one reference image, got those of {len(found)}, at "
            f"{' and '.join(found[index] for index in sorted(found))}. For the first let the "
            "pattern end with the attention's own name, for the next with '.reference_1'."
        )
        raise AnalysisError(msg)


def format_labels(labels: Sequence[int]) -> str:
    """Return labels as text: a range, or a list if some are left out.

    Examples
    --------
    >>> format_labels([0, 1, 2, 3]), format_labels([0, 5, 10]), format_labels([7])
    ('0 to 3', '0, 5, 10', '7')
    """
    if len(labels) > 2 and list(labels) == list(range(labels[0], labels[-1] + 1)):
        return f"{labels[0]} to {labels[-1]}"
    return ", ".join(map(str, labels))


def _layer_names(sample: xr.DataTree, wanted: str | Iterable[str] | None) -> list[str]:
    attributes = {name: _attributes(sample, name) for name in sample.children["layers"].children}
    known = sorted(
        attributes, key=lambda name: (attributes[name].order, attributes[name].reference_index)
    )
    if wanted is None:
        first = min(own.reference_index for own in attributes.values())
        return [name for name in known if attributes[name].reference_index == first]
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    for pattern in patterns:
        if pattern not in known and not fnmatch.filter(known, pattern):
            msg = (
                f"Expected a layer's name or pattern, got {pattern!r}, at {sample.name or 'sample'}. "
                f"{did_you_mean(pattern, known)}"
            )
            raise AnalysisError(msg)
    chosen = [n for n in known if any(n == p or fnmatch.fnmatch(n, p) for p in patterns)]
    if not chosen:
        msg = f"Expected at least one layer, got none, at {sample.name or 'sample'}. Name one."
        raise AnalysisError(msg)
    return chosen


def _node(sample: xr.DataTree, name: str) -> xr.DataTree:
    return sample.children["layers"].children[name]  # Many times as fast as by its path.


def _attributes(sample: xr.DataTree, name: str) -> LayerAttributes:
    return LayerAttributes.model_validate(_node(sample, name).attrs[ATTRIBUTE_KEY])


def _head_labels(sample: xr.DataTree, name: str) -> Sequence[int]:
    kept = _attributes(sample, name).heads
    return range(_node(sample, name).sizes[HEAD]) if kept is None else kept


def _labels_in_order(
    wanted: Labels, known: Sequence[int], what: str, sample: xr.DataTree
) -> list[int]:
    """Return the wanted labels in the order of the known ones."""
    if wanted is None:
        return list(known)
    try:
        chosen = _chosen(wanted, known)
    except TypeError as e:
        msg = (
            f"Expected {what}s as a whole number, a list of them or a slice, got {wanted!r}, "
            f"at {what}s=. Give labels such as 3, [0, 5] or slice(0, 10)."
        )
        raise AnalysisError(msg) from e
    if unknown := sorted(chosen.difference(known)):
        msg = (
            f"Expected {what}s from {format_labels(known)}, got {unknown[0]}, "
            f"at {sample.name or 'sample'}. Ask for a {what} that was captured."
        )
        raise AnalysisError(msg)
    if not chosen:
        msg = f"Expected at least one {what}, got none, at {sample.name or 'sample'}. Name one."
        raise AnalysisError(msg)
    return [label for label in known if label in chosen]


def _chosen(wanted: int | slice | Iterable[int], known: Sequence[int]) -> set[int]:
    """Return labels as a set; of a slice those that are known."""
    if isinstance(wanted, slice):
        return set(range(*wanted.indices(max(known) + 1))).intersection(known)
    labels = wanted if isinstance(wanted, Iterable) else [wanted]
    return {operator.index(label) for label in labels}


def _select(
    sample: xr.DataTree, name: str, steps: list[int], heads: list[int], guidance: str
) -> SelectedLayer:
    arrays = _node(sample, name).to_dataset()
    labels_of_heads = list(_head_labels(sample, name))
    own_heads = tuple(head for head in heads if head in labels_of_heads)
    branches = sample.coords.get(GUIDANCE)
    labels = [CONDITIONAL] if branches is None else branches.to_numpy().tolist()
    if guidance not in labels:
        msg = (
            f"Expected a guidance branch that was captured, got {guidance!r}, "
            f"at {sample.name or 'sample'}. {did_you_mean(guidance, labels)}"
        )
        raise AnalysisError(msg)
    picked: dict[str, Any] = {}
    if list(own_heads) != labels_of_heads:
        picked[HEAD] = [labels_of_heads.index(head) for head in own_heads]
    if len(steps) < sample.sizes[STEP]:
        known = sample[STEP].to_numpy().tolist()
        picked[STEP] = [known.index(step) for step in steps]
    if GUIDANCE in arrays.dims:
        picked[GUIDANCE] = labels.index(guidance)
    region = arrays[REGION].to_numpy() if REGION in arrays.variables else None
    factors = {name for name in (REGION, WEIGHT) if name in arrays.variables}
    arrays = arrays.drop_vars({*arrays.coords, *factors})
    attributes = _attributes(sample, name)
    for array in REPRESENTATIONS[attributes.representation][0]:
        arrays[array]  # A KeyError now, and not in the middle of the computation.
    return SelectedLayer(
        name,
        attributes,
        arrays,
        picked,
        own_heads,
        region,
        tuple(steps),
        sample.name or "",
    )


def layer_attributes(sample: xr.DataTree) -> dict[str, LayerAttributes]:
    """Return each captured layer's attributes, in the order in which the layers run."""
    found = {
        name: LayerAttributes.model_validate(node.attrs[ATTRIBUTE_KEY])
        for name, node in sample.children["layers"].children.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def is_noncausal(layer: xr.DataTree) -> bool:
    """Return whether R2G of a captured layer shows similarity alone: its output cannot depend on it."""
    attributes = LayerAttributes.model_validate(layer.attrs[ATTRIBUTE_KEY])
    return not is_causal(attributes, token_count(layer.dataset), layer.dataset)


def layers_with_reference_grid(sample: xr.DataTree) -> dict[str, LayerAttributes]:
    """Return the layers that have G2R: a reference grid of more than one token."""
    return {
        name: attributes
        for name, attributes in layer_attributes(sample).items()
        if attributes.reference_grid and not is_one_token(sample.children["layers"].children[name])
    }


def sram_layers(sample: xr.DataTree, image: str = "") -> dict[str, LayerAttributes]:
    """Return the layers that have SRAM on a reference and were not reduced to maps.

    Parameters
    ----------
    sample : DataTree
    image : str
        The stored image of the reference; by default the first one, as `sram` takes it.
    """
    every = layer_attributes(sample).values()
    first = min(every, key=lambda own: own.reference_index).reference_image() if every else ""
    return {
        name: own
        for name, own in layers_with_reference_grid(sample).items()
        if own.reference_image() == (image or first) and own.representation != "maps"
    }


def reference_image(sample: xr.DataTree, maps: xr.DataTree) -> str:
    """Return the name of the image that the maps' layers look at, stored or not.

    G2R is always of one reference; for R2G of several references it is the first.
    """
    known = layer_attributes(sample)
    direction: DirectionName = "g2r" if "g2r" in maps.children else "r2g"
    names = [node.name for node in mapped_layers(sample, maps, direction)]
    indices = [known[str(name)].reference_index for name in names]
    return f"reference_{indices[0]}" if indices and min(indices) > 0 else "reference"


def image_under(sample: xr.DataTree, maps: xr.DataTree, direction: DirectionName) -> str:
    """Return the name of the stored image that a direction's maps lie over."""
    own = DIRECTIONS[direction].image
    return reference_image(sample, maps) if own == "reference" else own


def mapped_layers(
    sample: xr.DataTree, maps: xr.DataTree, direction: DirectionName
) -> list[xr.DataTree]:
    """Return the captured layers that the maps of a direction were made from."""
    if direction not in maps.children:
        return []
    layers = sample.children["layers"].children
    names = maps.children[direction].dataset[dims.LAYER].values
    return [layers[name] for name in names if name in layers]


def is_one_token(layer: xr.DataTree) -> bool:
    """Return whether a captured layer has one reference token."""
    return token_count(layer.dataset) == 1
