"""What is known of a pipeline's call while it runs: its own variables, and the pictures it prepared."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType
from typing import Any

from i2am.capture.hooks.picture_log import ProcessedPicture

__all__ = ["RunningCall", "variables_of_caller", "variables_of_running_call"]


@dataclass(frozen=True)
class RunningCall:
    """What is known of the running call when it first reads the reference, of one sample.

    Parameters
    ----------
    target : object
        The pipeline, or the denoiser that was given to `capture` instead.
    variables : mapping of str to object
        Of the pipeline's ``__call__``, by their names; empty if none is known to run.
    pictures : tuple of ProcessedPicture
        What the pipeline's image processors have prepared for it, in this order.
    sample, samples : int
        Number of the sample among those of the call, from 0, and how many these are.
    """

    target: Any
    variables: Mapping[str, Any]
    pictures: tuple[ProcessedPicture, ...] = ()
    sample: int = 0
    samples: int = 1


def variables_of_running_call(pipeline: Any) -> Mapping[str, Any] | None:
    """Return the variables of the ``__call__`` of a pipeline that runs in this thread.

    Parameters
    ----------
    pipeline : object

    Returns
    -------
    mapping of str to object, or None
        None if no call of a pipeline of this class is running.
    """
    kind: Any = type(pipeline)
    codes = _codes_of_call(kind)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return None if frame is None else frame.f_locals


def variables_of_caller(denoiser: Any) -> Mapping[str, Any] | None:
    """Return the variables of the ``__call__`` of the pipeline that calls a denoiser in this thread.

    Parameters
    ----------
    denoiser : Module
        Of a pipeline that is not known.

    Returns
    -------
    mapping of str to object, or None
        None if no pipeline with this denoiser is running: the caller's own code calls it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            caller = frame.f_locals.get("self")
            parts = (getattr(caller, name, None) for name in ("unet", "transformer"))
            if any(part is not None and _unwrapped(part) is _unwrapped(denoiser) for part in parts):
                return frame.f_locals
        frame = frame.f_back
    return None


def _unwrapped(module: Any) -> Any:
    return getattr(module, "_orig_mod", module)


@cache
def _codes_of_call(kind: Any) -> frozenset[CodeType]:
    """Return the code of a class's ``__call__``, and of those that it may hand over to."""
    calls = (vars(ancestor).get("__call__") for ancestor in kind.__mro__)
    functions = (inspect.unwrap(call) for call in calls if call is not None)
    return frozenset(f.__code__ for f in functions if hasattr(f, "__code__"))
