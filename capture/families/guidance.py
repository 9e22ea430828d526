"""Which guidance branches lie in a denoiser's batch, as the pipeline that calls it says itself.

The number of rows alone does not tell: two rows are two images, or the two branches of one, or the
conditional and the perturbed branch of one. Pipelines know, in a property or in a variable of the
call that is running.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import cache
from types import CodeType, FrameType
from typing import Any

from i2am.capture.families.profile import class_names
from i2am.schemas.dims import CONDITIONAL, IMAGE, PERTURBED, UNCONDITIONAL

__all__ = ["batch_branches", "has_running_call", "makes_side_calls"]

_IS_GUIDED = "do_classifier_free_guidance"
# Their guided batches have a third branch: guided by the picture alone.
_IMAGE_GUIDED = {
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
}
# Their second call in a step looks at blurred latents, to guide; its attention is not the image's.
_WITH_SIDE_CALLS = {"StableDiffusionSAGPipeline"}


def batch_branches(pipeline: Any, guided: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the guidance branches of the running call's batches, in the batch's order.

    Parameters
    ----------
    pipeline : object
        Whose ``__call__`` is running in this thread.
    guided : tuple of str
        The order of a guided batch in this family; see `Profile.guidance`.

    Returns
    -------
    tuple of str or None
        Of the step at which it is asked: guidance may be switched off on the way. None if no call of
        the pipeline is running, or it does not say.
    """
    variables = _variables_of_running_call(pipeline)
    if variables is None:
        return None
    # The variable first: where a call has one, some classes' property of this name says nothing.
    is_guided = variables.get(_IS_GUIDED, getattr(pipeline, _IS_GUIDED, None))
    if is_guided is None:
        return None
    if is_guided and class_names(pipeline) & _IMAGE_GUIDED:
        guided = (CONDITIONAL, IMAGE, UNCONDITIONAL)
    branches = guided if is_guided else (CONDITIONAL,)
    if getattr(pipeline, "do_perturbed_attention_guidance", False):
        branches = (*branches, PERTURBED)
    return branches


def makes_side_calls(pipeline: Any) -> bool:
    """Return whether the pipeline calls its denoiser again in a step, not to paint but to guide."""
    return not class_names(pipeline).isdisjoint(_WITH_SIDE_CALLS)


def has_running_call(pipeline: Any) -> bool:
    """Return whether a call of the pipeline itself is running in this thread."""
    kind: Any = type(pipeline)
    codes = _codes_of_call(kind)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is pipeline:
            return True
        frame = frame.f_back
    return False


def _variables_of_running_call(pipeline: Any) -> Mapping[str, Any] | None:
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
