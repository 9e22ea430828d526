"""Which layers, steps, heads and guidance half: asked for by label, checked at the door."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from i2am.schemas import AnalysisError, LayerAttributes, did_you_mean
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import CONDITIONAL, GUIDANCE, HEAD, REFERENCE, STEP

__all__ = ["SelectedLayer", "select_layers", "split_steps"]


@dataclass(frozen=True)
class SelectedLayer:
    """One layer's arrays after selection, lazy, in the blocks that they came in."""

    name: str
    attributes: LayerAttributes
    arrays: xr.Dataset  # query and key, or logits; logsumexp where the layer has it
    heads: tuple[int, ...]  # the labels of its heads

    @property
    def tokens(self) -> int:
        """Number of reference tokens, special ones included."""
        return self.arrays.sizes[REFERENCE]

    @property
    def has_g2r(self) -> bool:
        """Whether maps on the reference exist: a grid, and more than one token."""
        return self.attributes.reference_grid is not None and self.tokens > 1


def select_layers(
    sample: xr.DataTree,
    layers: str | Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    guidance: str = CONDITIONAL,
) -> list[SelectedLayer]:
    """Return the layers of a captured sample in execution order, cut to what was asked for.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    layers : str or iterable of str, optional
        Names or glob patterns; all layers by default.
    steps, heads : iterable of int, optional
        Labels; all by default.
    guidance : str
        The label of the half of classifier-free guidance.

    Returns
    -------
    list of SelectedLayer
        Lazy, also when `sample` is in memory.

    Raises
    ------
    AnalysisError
        If nothing carries a label that was asked for.
    """
    names = _layer_names(sample, layers)
    kept_steps = _known_labels(steps, sample[STEP].to_numpy().tolist(), STEP, sample)
    largest = max(sample[f"layers/{name}"].sizes[HEAD] for name in names)
    kept_heads = _known_labels(heads, range(largest), HEAD, sample)
    return [
        _select(sample, name, kept_steps, kept_heads, guidance)
        for name in names
        if sample[f"layers/{name}"].sizes[HEAD] > kept_heads[0]
    ]


def split_steps(count: int, groups: int) -> list[slice]:
    """Return equal runs of positions, noisiest first; fewer than `groups` when steps are few.

    Raises
    ------
    AnalysisError
        If `groups` is not positive.

    Examples
    --------
    >>> split_steps(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    if groups < 1:
        msg = f"Expected at least one time group, got {groups}, at time_groups. Give 1 or more."
        raise AnalysisError(msg)
    parts = np.array_split(np.arange(count), min(groups, count))
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]


def _layer_names(sample: xr.DataTree, wanted: str | Iterable[str] | None) -> list[str]:
    if "layers" not in sample.children or not sample["layers"].children:
        msg = (
            f"Expected a captured sample with layers, got none, at {sample.name or 'sample'}. "
            "Give a sample of open_run()."
        )
        raise AnalysisError(msg)
    known = sorted(sample["layers"].children, key=lambda n: _attributes(sample, n).order)
    if wanted is None:
        return known
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


def _attributes(sample: xr.DataTree, name: str) -> LayerAttributes:
    return LayerAttributes.model_validate(sample[f"layers/{name}"].attrs[ATTRIBUTE_KEY])


def _known_labels(
    wanted: Iterable[int] | None, known: Sequence[int], what: str, sample: xr.DataTree
) -> list[int]:
    """Return the wanted labels in the order of the known ones."""
    if wanted is None:
        return list(known)
    asked = {int(label) for label in wanted}
    if unknown := sorted(asked.difference(known)):
        msg = (
            f"Expected {what}s from {min(known)} to {max(known)}, got {unknown[0]}, "
            f"at {sample.name or 'sample'}. Ask for a {what} that was captured."
        )
        raise AnalysisError(msg)
    if not asked:
        msg = f"Expected at least one {what}, got none, at {sample.name or 'sample'}. Name one."
        raise AnalysisError(msg)
    return [label for label in known if label in asked]


def _select(
    sample: xr.DataTree, name: str, steps: list[int], heads: list[int], guidance: str
) -> SelectedLayer:
    arrays = sample[f"layers/{name}"].to_dataset()
    own_heads = tuple(head for head in heads if head < arrays.sizes[HEAD])
    halves = sample.coords.get(GUIDANCE)
    labels = [CONDITIONAL] if halves is None else halves.to_numpy().tolist()
    if guidance not in labels:
        msg = (
            f"Expected a guidance half that was captured, got {guidance!r}, "
            f"at {sample.name or 'sample'}. {did_you_mean(guidance, labels)}"
        )
        raise AnalysisError(msg)
    picked = {HEAD: list(own_heads)} if len(own_heads) < arrays.sizes[HEAD] else {}
    if len(steps) < sample.sizes[STEP]:
        known = sample[STEP].to_numpy().tolist()
        picked[STEP] = [known.index(step) for step in steps]
    if GUIDANCE in arrays.dims:
        arrays = arrays.isel({GUIDANCE: labels.index(guidance)})
    arrays = arrays.drop_vars(list(arrays.coords)).isel(picked).chunk({})
    return SelectedLayer(name, _attributes(sample, name), arrays, own_heads)
