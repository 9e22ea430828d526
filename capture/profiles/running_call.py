"""What is known of a pipeline's call while it runs: its own variables, and the pictures it prepared.

A modular pipeline of diffusers keeps its variables in a state that its blocks hand on. Its guider has the
denoiser called once for each branch, and says in the batch that it hands over which branch that is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple

from torch import nn

from i2am.capture.hooks.picture_log import ProcessedPicture
from i2am.capture.profiles.denoisers import pipeline_parts

__all__ = [
    "CallInProgress",
    "GuidedPrediction",
    "RunningCall",
    "call_in_progress",
    "guided_prediction",
]

# In the running block of a modular pipeline: what its guider hands over, and what that is for.
_GUIDER_BATCH = "guider_state_batch"
_IDENTIFIER = "__guidance_identifier__"


@dataclass(frozen=True)
class RunningCall:
    """What is known of one sample's call when it first reads the reference.

    Parameters
    ----------
    target : object
        The pipeline, or the denoiser that was given to `capture` instead.
    variables : mapping of str to object
        Of the pipeline's ``__call__``, or of a modular pipeline's state, by their names; empty if none
        is known to run.
    pictures : tuple of ProcessedPicture
        What the pipeline's image processors have prepared for it, in this order.
    sample, samples : int
        Number of the sample among those of the call, from 0, and how many these are.
    grid : (height, width), optional
        Of the generated patches, in the layer that is read first.

    Examples
    --------
    >>> call = RunningCall(None, {"height": 512, "width": 384}, grid=(64, 48))
    >>> call.variables["width"] // call.grid[1]
    8
    """

    target: Any
    variables: Mapping[str, Any]
    pictures: tuple[ProcessedPicture, ...] = ()
    sample: int = 0
    samples: int = 1
    grid: tuple[int, int] | None = None


class CallInProgress(NamedTuple):
    """A pipeline whose ``__call__`` runs in this thread, and the variables of that call, or its state."""

    pipeline: Any
    variables: Mapping[str, Any]


def call_in_progress(target: Any, denoiser: nn.Module) -> CallInProgress | None:
    """Return the running call of a pipeline.

    Parameters
    ----------
    target : pipeline or Module
        What is captured. Of a denoiser the pipeline is the one that calls it.
    denoiser : Module
        Of the target, or the target itself.

    Returns
    -------
    CallInProgress or None
        None if no call of such a pipeline is running in this thread.
    """
    frame: FrameType | None = sys._getframe(1)
    if not isinstance(target, nn.Module):
        kind: Any = type(target)
        codes = _codes_of_call(kind)
        while frame is not None:
            # Another pipeline of the same class may be running, too.
            if frame.f_code in codes and frame.f_locals.get("self", target) is target:
                return CallInProgress(target, _variables(frame.f_locals))
            frame = frame.f_back
        return None
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            variables = frame.f_locals
            caller = variables.get("self")
            if any(part is denoiser for part in pipeline_parts(caller)):
                return CallInProgress(caller, _variables(variables))
        frame = frame.f_back
    return None


class GuidedPrediction(NamedTuple):
    """For what a guider has the denoiser called, as "pred_cond", and the guider, where it is known."""

    name: str
    guider: Any


def guided_prediction() -> GuidedPrediction | None:
    """Return for what a guider has the running denoiser called; None if no guider has."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # To look at a frame's variables keeps all of them alive until its function returns.
        code = frame.f_code
        if _GUIDER_BATCH in (*code.co_varnames, *code.co_cellvars):
            identifier = getattr(frame.f_locals.get(_GUIDER_BATCH), _IDENTIFIER, None)
            if isinstance(identifier, str):
                components = frame.f_locals.get("components")
                return GuidedPrediction(identifier, getattr(components, "guider", None))
        frame = frame.f_back
    return None


def _variables(of_call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the variables of a call; of a modular pipeline's those in its state, which it hands on."""
    state: Any = of_call.get("state")
    if not hasattr(of_call.get("self"), "blocks") or not hasattr(state, "values"):
        return of_call
    found = dict(state.values)
    found |= found.get("mask_overlay_kwargs") or {}  # as pipelines that are not modular name it
    if found.get("crops_coords") is not None:
        original: Any = found.get("original_image", found.get("image"))
        is_only_one = isinstance(original, list) and len(original) == 1
        found["original_image"] = original[0] if is_only_one else original
        found.setdefault("init_image", found.get("processed_image"))
    return found


@cache
def _codes_of_call(kind: Any) -> frozenset[CodeType]:
    """Return the code of a class's ``__call__``, and of those that it may hand over to."""
    calls = (vars(ancestor).get("__call__") for ancestor in kind.__mro__)
    functions = (inspect.unwrap(call) for call in calls if call is not None)
    return frozenset(f.__code__ for f in functions if hasattr(f, "__code__"))
