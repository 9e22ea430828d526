"""Which tokens of which layers are what, of a loaded pipeline: `describe_tokens`.

A profile alone tells the layers, and in words what their tokens are. How many there are, and where,
depends on the call: that is read from the first step of a run, by the same hooks as a capture's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from i2am.capture.hooks.denoiser import LayerCall
from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.inspection.layer_tokens import (
    LayerTokens,
    ReferenceTokens,
    SoftmaxTokens,
    group_layers,
    read_softmax,
)
from i2am.capture.profiles.denoisers import find_denoisers
from i2am.capture.profiles.preparation import (
    CentreCrop,
    Fitted,
    Preparation,
    SeenPart,
    Stretched,
)
from i2am.capture.profiles.profile import Profile
from i2am.capture.recording.hooked_target import HookedTarget, hook_target
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.placement import CallPictures, Placement
from i2am.schemas import CaptureError

__all__ = ["TokenReport", "describe_tokens"]

_HEADER = ["layers", "heads", "queries", "reference", "at keys", "text", "others"]
_LEGEND = (
    "heads × channels; frames × rows × columns; places among all keys of the softmax, from 0; others are the "
    "generated image's own keys."
)


def describe_tokens(
    target: Any,
    *,
    samples: int = 1,
    profile: str | Profile | None = None,
    denoiser: str | None = None,
) -> TokenReport:
    """Return what is known of a model's tokens: which layers read the reference, and how.

    Parameters
    ----------
    target : diffusers pipeline, CompVis-style model, or denoiser module
    samples : int
        Number of images that a call generates.
    profile, denoiser
        As in `i2am.capture.capture`.

    Returns
    -------
    TokenReport
        Its text is a table. Entered, and the pipeline called inside, it also knows the numbers.

    Raises
    ------
    CaptureError
        If no profile serves the target.

    Examples
    --------
    ::

        print(describe_tokens(pipe))  # what the profile tells

        with describe_tokens(pipe) as report:  # what one step tells
            pipe(image=image, prompt="…", num_inference_steps=1)
        print(report)
    """
    options = CaptureOptions(guidance="both", steps=[0], profile=profile, denoiser=denoiser)
    return TokenReport(target, options, samples)


class TokenReport:
    """The tokens of a model's layers; `describe_tokens` returns it.

    Parameters
    ----------
    target : object
    options : CaptureOptions
    samples : int

    Attributes
    ----------
    profile : str
    notes : ModelNotes or None
        What the profile tells in words.
    layers : tuple of LayerTokens
        In the order in which the first step read them.
    calls : list of tuple of str
        The guidance branches of each call of the denoiser in the first step; empty without a run.

    Raises
    ------
    CaptureError
        If no profile serves the target. When left, if the model did not run.

    Examples
    --------
    ::

        with describe_tokens(pipe) as report:
            pipe(image=person, mask_image=mask, example_image=garment)
        print(report)
    """

    def __init__(self, target: Any, options: CaptureOptions, samples: int) -> None:
        hooked = hook_target(target, options, samples)
        self.profile, self.notes = hooked.profile.name, hooked.profile.notes
        self.calls: list[tuple[str, ...]] = []
        self._is_called_in_turn = not hooked.profile.is_batched
        self._target = type(target).__name__
        kinds = [type(module).__name__ for module in find_denoisers(target, options.denoiser)]
        self._denoisers = [kind for kind in kinds if kind != self._target]
        self._layers = {
            tap.name: LayerTokens(
                tap.name, tap.block, "kernel" if isinstance(tap, KernelTap) else "projections"
            )
            for tap in hooked.hooks.taps
        }
        self._read: list[str] = []
        self._placement: Placement | None = None
        self._batch = 0
        self._pictures = CallPictures(target, hooked.denoiser, hooked.profile)
        self._hooked: HookedTarget | None = hooked  # holds the model: None afterwards
        self._is_in_call = False
        self._stack = ExitStack()

    @property
    def layers(self) -> tuple[LayerTokens, ...]:
        """The layers that read the reference; those that did in the first step come first."""
        order = dict.fromkeys([*self._read, *self._layers])
        return tuple(self._layers[name] for name in order)

    @property
    def has_run(self) -> bool:
        """Whether the numbers are known, from a run's first step."""
        return bool(self.calls)

    def __enter__(self) -> Self:
        """Attach hooks to the model."""
        if self._hooked is None:
            msg = "Expected a new report, got one that was entered before. Call describe_tokens again."
            raise CaptureError(msg)
        with self._stack:
            self._hooked.hooks.attach(self._stack, self)
            self._pictures.watch(self._stack)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the hooks."""
        self._stack.close()
        self._hooked = None
        if error is None and not self.has_run:
            msg = (
                "Expected the model to read a reference inside the with block, got no call that did. "
                "Call the pipeline there, with its reference switched on."
            )
            raise CaptureError(msg)

    def receive(self, call: LayerCall) -> None:
        """Take what a layer's tokens are; called by the hooks."""
        if not self._is_in_call:
            self._is_in_call = True
            self.calls.append(tuple(branch for branch, _ in call.branches))
        name = call.tap.name
        if name in self._read:  # In an earlier call of the step.
            return
        if not self._read:
            (self._placement, *_) = self._pictures.read(1, call.inputs[0].grid)
            self._batch = len(call.inputs[0].query)
        self._read.append(name)
        row = call.branches[0][1]
        softmaxes = tuple(read_softmax(inputs, row) for inputs in call.inputs)
        self._layers[name] = replace(self._layers[name], softmaxes=softmaxes)

    def call_ended(self) -> None:
        """Take note that a call of the denoiser has ended; called by the hooks."""
        self._is_in_call = False

    def last_step(self) -> None:
        """Take note of the last step; called by the hooks."""

    def __str__(self) -> str:
        """Return the report as a table and some lines of text."""
        return "\n".join([*self._head(), "", *_table(self._rows()), "", *self._notes()]).rstrip()

    def _head(self) -> list[str]:
        kinds, several = dict.fromkeys(self._denoisers), len(self._denoisers) > 1
        of = f" with {' and '.join(kinds)}{', two of them in turn' if several else ''}"
        known = f"{self._target}{of if kinds else ''}: profile {self.profile!r}"
        layers = f"{len(self._layers)} layers read the reference"
        if not self.has_run:
            return [f"{known}.", f"{layers}. How many tokens there are, a run of one step tells."]
        rows = f"{self._batch} row{'s' if self._batch > 1 else ''}"
        branches = "; ".join(" and ".join(call) for call in self.calls)
        calls = f"{len(self.calls)} calls of {rows}" if self.calls[1:] else f"one call of {rows}"
        return [f"{known}.", f"{layers}. In its first step: {calls} ({branches})."]

    def _rows(self) -> list[list[str]]:
        if not self.has_run:
            layers = group_layers(self.layers)
            return [[*_HEADER[:1], "read at"], *([name, own.read_at] for name, own in layers)]
        rows = [_HEADER]
        for name, layer in group_layers(self.layers):
            if not layer.softmaxes:
                rows.append([name, "–", "–", "none is read", "–", "–", "–"])
            for softmax in layer.softmaxes:
                for number, reference in enumerate(softmax.references):
                    own = f"  .reference_{reference.index}" if reference.index else name
                    heads, queries, *others = [""] * 4 if number else _shared_cells(softmax)
                    rows.append([own, heads, queries, *_own_cells(reference, softmax), *others])
        return rows

    def _notes(self) -> list[str]:
        told: dict[str, str] = {}
        if self.notes is not None:
            if not self.has_run:
                told = {"Reference tokens": self.notes.tokens, "Grid": self.notes.grid}
                told["Shares the softmax"] = self.notes.shares
            told |= {"Prepared": self.notes.prepared, "Not seen": self.notes.unseen}
        found = [f"{name}: {text}." for name, text in told.items() if text not in ("", "–")]
        if self.has_run:
            found += [f"In this call {words}." for words in _placement_words(self._placement)]
            found.append(_LEGEND)
            softmaxes = [softmax for layer in self.layers for softmax in layer.softmaxes]
            if any(softmax.text for softmax in softmaxes):
                reads = any(softmax.text_reads for softmax in softmaxes)
                edges = ["text->generated", *(["reference->text"] if reads else [])]
                found.append(f"The roads through the text can be kept: edges={edges}.")
        return found


def _shared_cells(softmax: SoftmaxTokens) -> list[str]:
    height, width = softmax.grid
    grid = f"{height}×{width}"
    if softmax.frames > 1:
        grid = f"{softmax.frames} × {height // softmax.frames}×{width}"
    text = str(softmax.text or "–")
    if softmax.hidden_text:
        text += f" (+{softmax.hidden_text} hidden)"
    heads = f"{softmax.heads}×{softmax.channels}"
    if not math.isclose(softmax.scale, softmax.channels**-0.5, rel_tol=1e-4):
        heads += f", scale {softmax.scale:.4g}"
    return [heads, grid, text, str(softmax.others or "–")]


def _own_cells(reference: ReferenceTokens, softmax: SoftmaxTokens) -> list[str]:
    if reference.grid is None:
        tokens = f"{reference.count}, no grid"
    else:
        special = f"{reference.special_tokens} + " if reference.special_tokens else ""
        tokens = f"{special}{reference.grid[0]}×{reference.grid[1]}"
    if reference.weight != 1:
        tokens += f", weight {reference.weight:g}"
    if reference.has_region:
        tokens += ", masked"
    return [tokens, f"{reference.places} of {softmax.keys}"]


def _placement_words(placement: Placement | None) -> list[str]:
    """Return what is known of how each reference was prepared, one line each."""
    references = None if placement is None else placement.references
    several = references if isinstance(references, Sequence) else [references]
    names = ["the reference", *(f"reference_{number}" for number in range(1, len(several)))]
    return [f"{name} {_words(own)}" for name, own in zip(names, several, strict=False)]


def _words(preparation: Preparation | None) -> str:
    """Return in words how a picture was prepared."""
    match preparation:
        case None:
            return "is prepared in a way that nothing tells: give its box where its shape is not the grid's"
        case Stretched():
            return "is seen whole, whatever its shape"
        case CentreCrop():
            return f"is resized to {preparation.resize} and cropped to {preparation.crop} in the middle"
        case Fitted():
            how = "covers" if preparation.covers else "is fitted into"
            return f"{how} {preparation.height}×{preparation.width} px, in its own shape"
        case SeenPart():
            y0, x0, y1, x1 = (round(side, 1) for side in preparation.seen)
            return (
                f"of {preparation.height}×{preparation.width} px is seen from ({y0:g}, {x0:g}) to "
                f"({y1:g}, {x1:g})"
            )
    return f"is prepared by {preparation}"


def _table(rows: list[list[str]]) -> list[str]:
    """Return lines of columns that are as wide as their widest cell."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
