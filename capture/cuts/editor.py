"""From the cuts of each image to the keys of each attention call that are taken out."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i2am.capture.cuts.placing import (
    PicturePlaces,
    Region,
    cells_of_region,
    checked_region,
    reference_name,
)
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    Tokens,
    layer_attributes,
)
from i2am.capture.hooks.attention_cut import AttentionCut, KeyCut
from i2am.capture.hooks.denoiser import LayerCall
from i2am.capture.hooks.kernel_watch import CallShape
from i2am.capture.recording.options import CaptureOptions, StepsOption
from i2am.schemas import CaptureError, SchemaError
from i2am.schemas.choices import EDGE_NAMES, EdgeName, check_choice

__all__ = ["Cut", "CutEditor"]

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Cut:
    """One intervention: reference tokens that are taken out of the attention, or get another weight.

    Parameters
    ----------
    edges : sequence of str
        Of "reference->generated", "reference->text" and "text->generated": which tokens are no longer
        read, and who no longer reads them. Of the last one it is the text, all of it.
    region : (y0, x0, y1, x1) or mask (y, x), optional
        Of the stored reference picture, in its pixels; None for all tokens. Tokens that are no places
        of the picture belong to no region.
    generated : (y0, x0, y1, x1) or mask (y, x), optional
        Of the stored generated picture: the patches that lose them; None for all.
    layers : str or sequence of str, optional
        Patterns of their paths; None for all.
    steps : int, slice, range or list of int, optional
        As in `capture`.
    heads : sequence of int, optional
        None for all; a layer without one of them is left as it is there.
    reference : int, optional
        Number of the reference; None for all, with a region for the first one.
    scale : float
        What the tokens' share of attention is multiplied by, before all shares are made to sum to 1
        again: 0 cuts them out, 1 changes nothing.
    reorder : bool
        Instead put the keys into another order. That cannot matter: what changes is rounding.

    Raises
    ------
    SchemaError
        If a value is not valid.

    Examples
    --------
    >>> Cut(layers="up_blocks*", region=(0, 0, 32, 32)).edges
    ('reference->generated',)
    """

    edges: Sequence[EdgeName] = ("reference->generated",)
    region: Any = None
    generated: Any = None
    layers: str | Sequence[str] | None = None
    steps: StepsOption = None
    heads: Sequence[int] | None = None
    reference: int | None = None
    scale: float = 0.0
    reorder: bool = False
    _keeps: CaptureOptions = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check what needs no model."""
        if isinstance(self.edges, str) or not self.edges:
            msg = (
                f"Expected edges as a list, got {self.edges!r}, at edges. Give ['{EDGE_NAMES[0]}']."
            )
            raise SchemaError(msg)
        for edge in self.edges:
            check_choice("edge", edge, EDGE_NAMES, SchemaError)
        if not (isinstance(self.scale, int | float) and 0 <= self.scale < float("inf")):
            msg = f"Expected scale as a number from 0 on, got {self.scale!r}, at scale. 0 cuts."
            raise SchemaError(msg)
        object.__setattr__(self, "region", checked_region(self.region, "region"))
        object.__setattr__(self, "generated", checked_region(self.generated, "generated"))
        object.__setattr__(self, "_keeps", CaptureOptions(steps=self.steps, heads=self.heads))

    def is_at(self, layer: str, step: int) -> bool:
        """Return whether it is made in a layer at a step."""
        return self.is_in(layer) and self._keeps.keeps_step(step)

    def is_in(self, layer: str) -> bool:
        """Return whether it is made in a layer at any step."""
        if self.layers is None:
            return True
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        return any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)

    @property
    def is_change(self) -> bool:
        """Whether anything can change."""
        return self.scale != 1 and not self.reorder

    def is_of(self, reference: ReferenceKeys) -> bool:
        """Return whether a reference is meant."""
        wanted = 0 if self.reference is None and self.region is not None else self.reference
        return wanted is None or reference.index == wanted


class CutEditor:
    """Says of each attention call what is taken out of it; see `LayerEditor`.

    Parameters
    ----------
    cuts : sequence of Cut or None
        Of each image that a call generates.
    places : PicturePlaces
        Of the pictures that the regions are of.

    Attributes
    ----------
    made : set of int
        The images of which anything was changed.
    """

    def __init__(self, cuts: Sequence[Cut | None], places: PicturePlaces) -> None:
        self._cuts, self._places = cuts, places
        self.made: set[int] = set()
        # What is the same at all steps is worked out once.
        self._of_call: dict[tuple[Any, ...], tuple[AttentionCut, frozenset[int]]] = {}

    def is_edited(self, layer: str) -> bool:
        """See `LayerEditor`."""
        return any(cut is not None and cut.is_in(layer) for cut in self._cuts)

    def edit(self, call: LayerCall, step: int, shape: CallShape) -> AttentionCut | None:
        """See `LayerEditor`."""
        name = call.tap.name
        own = {i: cut for i, cut in enumerate(self._cuts) if cut and cut.is_at(name, step)}
        if not own:
            return None
        tokens = tuple(_signature(inputs) for inputs in call.inputs)
        key = name, shape, call.branches, tuple(own), tokens
        if key not in self._of_call:
            found = AttentionCut(list(self._key_cuts(call, shape, own)), *shape)
            fold = _Rows(call.inputs[0], shape, name).fold
            rows = {row // fold for row in found.changed_rows}
            images = (i for i in own if any(first + i in rows for _, first in call.branches))
            self._of_call[key] = found, frozenset(images)
        found, changed = self._of_call[key]
        if not changed:
            return None
        self.made |= changed
        return found

    def _key_cuts(self, call: LayerCall, shape: CallShape, own: dict[int, Cut]) -> Iterator[KeyCut]:
        for image, cut in own.items():
            heads = None
            if cut.heads is not None:
                heads = tuple(head for head in cut.heads if head < shape.heads)
            for _, first in call.branches:
                for inputs in call.inputs:
                    rows = _Rows(inputs, shape, call.tap.name)
                    for one in self._of_inputs(call, inputs, cut, rows, first + image):
                        if len(one.keys) and (one.queries is None or len(one.queries)):
                            yield KeyCut(
                                one.keys,
                                one.rows,
                                one.queries,
                                heads,
                                weight=cut.scale,
                                is_reordered=cut.reorder,
                            )

    def _of_inputs(
        self, call: LayerCall, inputs: AttentionInputs, cut: Cut, rows: _Rows, row: int
    ) -> Iterator[KeyCut]:
        """Yield the keys of one softmax that one image loses, and by which queries."""
        name = call.tap.name
        patches = None
        if cut.generated is not None:
            patches = self._patches(call, inputs, cut.generated)
        references = [one for one in inputs.references if cut.is_of(one)]
        keys = [self._keys(call, inputs, one, cut.region) for one in references]
        of_reference = np.concatenate(keys) if keys else np.zeros(0, np.intp)
        text = inputs.text
        for edge in cut.edges:
            if edge == "reference->generated":
                yield from rows.generated(of_reference, row, patches)
            elif text is None:
                continue  # `cutting` refuses a model of which no layer has text.
            elif edge == "text->generated":
                of_text = _indices(text.tokens, inputs.key.shape[2])
                yield from rows.generated(of_text, row, patches)
            elif text.query_tokens is not None:
                of_text = _indices(text.query_tokens, rows.shape.queries)
                yield from rows.others(of_reference, row, of_text, name)

    def _keys(
        self, call: LayerCall, inputs: AttentionInputs, own: ReferenceKeys, region: Region | None
    ) -> Indices:
        tokens = _indices(own.tokens, inputs.key.shape[2])
        if region is None:
            return tokens
        layout = own.layout
        if layout.grid is None:
            return tokens[:0]
        box = self._places.box(
            reference_name(own.index), region, layer_attributes(inputs, own, call.tap.block)
        )
        cells = cells_of_region(region, box, layout.grid)
        return tokens[layout.special_tokens :][cells.ravel()]

    def _patches(self, call: LayerCall, inputs: AttentionInputs, region: Region) -> Indices:
        own = inputs.references[0]
        box = self._places.box("generated", region, layer_attributes(inputs, own, call.tap.block))
        return np.flatnonzero(cells_of_region(region, box, inputs.grid))


@dataclass(frozen=True)
class _Rows:
    """Where the rows and patches that were read lie in an attention call."""

    inputs: AttentionInputs
    shape: CallShape
    layer: str

    @property
    def fold(self) -> int:
        """How many rows of the call each row of the denoiser's batch has."""
        fold, rest = divmod(self.shape.batch, len(self.inputs.query))
        if rest or not fold or (fold > 1 and self.inputs.folded is None):
            msg = (
                f"Expected attention over a batch of {len(self.inputs.query)}, got one of "
                f"{self.shape.batch}, at layer {self.layer!r}. Turn attention slicing off, or leave the "
                "layer out with layers=."
            )
            raise CaptureError(msg)
        return fold

    def generated(self, keys: Indices, row: int, patches: Indices | None) -> Iterator[KeyCut]:
        """Yield the cut of keys that some generated patches lose; None for all of them."""
        fold, queries = self.fold, self.shape.queries
        count = self.inputs.grid[0] * self.inputs.grid[1]
        if fold > 1:
            yield from self._folded(keys, row, patches, count)
            return
        own = self.inputs.query_tokens
        where = np.arange(queries) if own is None else _indices(own, queries)
        if len(where) != count:
            msg = (
                f"Expected {count} queries of generated patches, got {len(where)}, at layer "
                f"{self.layer!r}. Leave it out with layers=."
            )
            raise CaptureError(msg)
        if patches is not None:
            where = where[patches]
        elif len(where) == queries:
            yield KeyCut(keys, (row,))
            return
        yield KeyCut(keys, (row,), where)

    def _folded(
        self, keys: Indices, row: int, patches: Indices | None, count: int
    ) -> Iterator[KeyCut]:
        """Yield the cuts of a layer that folds frames, or positions, into its batch."""
        fold, first = self.fold, row * self.fold
        if patches is None:
            yield KeyCut(keys, tuple(range(first, first + fold)))
            return
        is_cut = np.zeros(count, bool)
        is_cut[patches] = True
        frames = self.inputs.frames
        of_row = is_cut.reshape(frames, -1)
        if self.inputs.folded == "position":
            of_row = of_row.T
        for number, own in enumerate(of_row):
            yield KeyCut(keys, (first + number,), np.flatnonzero(own))

    def others(self, keys: Indices, row: int, queries: Indices, layer: str) -> Iterator[KeyCut]:
        """Yield the cut of keys that other queries lose."""
        if self.fold > 1:
            msg = f"Expected text in the rows of the batch, got frames, at layer {layer!r}. Leave it out."
            raise CaptureError(msg)
        yield KeyCut(keys, (row,), queries)


def _indices(tokens: Tokens, count: int) -> Indices:
    if isinstance(tokens, slice):
        return np.arange(count)[tokens]
    found: Indices = tokens.cpu().numpy().astype(np.intp)
    return found


def _signature(inputs: AttentionInputs) -> tuple[Any, ...]:
    """Return what the cut of a softmax depends on, beside its shape."""
    text = inputs.text
    return (
        inputs.grid,
        len(inputs.query),
        inputs.folded,
        _told(inputs.query_tokens),
        *((_told(own.tokens), own.layout, own.index) for own in inputs.references),
        None if text is None else (_told(text.tokens), _told(text.query_tokens)),
    )


def _told(tokens: Tokens | None) -> Any:
    if isinstance(tokens, torch.Tensor):
        return tokens.cpu().numpy().tobytes()
    return None if tokens is None else (tokens.start, tokens.stop, tokens.step)
