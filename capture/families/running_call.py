"""What is known of a pipeline's call while it runs: its own variables, and the pictures it prepared."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

from i2am.capture.hooks.picture_log import ProcessedPicture

__all__ = ["RunningCall", "variables_of_running_call"]


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
    frame = sys._getframe(1)
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else frame.f_locals


@cache
def _codes_of_call(kind: Any) -> frozenset[CodeType]:
    """Return the code of a class's ``__call__``, and of those that it may hand over to."""
    calls = (vars(ancestor).get("__call__") for ancestor in kind.__mro__)
    functions = (inspect.unwrap(call) for call in calls if call is not None)
    return frozenset(f.__code__ for f in functions if hasattr(f, "__code__"))
