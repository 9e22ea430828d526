"""Whether a value may be given to an argument of a pipeline's call, told before the call.

A wrong one would fail every sample of a manifest, one after the other.
"""

from __future__ import annotations

import inspect
import types
import typing
from numbers import Integral, Real
from typing import Any

from i2am.schemas import CaptureError

__all__ = ["check_argument"]

# A manifest's row is one image.
_IMAGE_COUNTS = {
    "num_images_per_prompt",
    "num_images_per_image",
    "num_videos_per_prompt",
    "num_images",
}
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_NAMES = {**{scalar.__name__: scalar for scalar in _SCALARS}, "None": types.NoneType}


def check_argument(pipeline: str, parameter: inspect.Parameter, value: Any) -> None:
    """Check a value by the argument's name and annotation; what these do not tell is accepted.

    Parameters
    ----------
    pipeline : str
        Class name.
    parameter : inspect.Parameter
        Of the pipeline's call.
    value : object

    Raises
    ------
    CaptureError
        If a number, a text or a truth value is given and the argument takes something else; if the
        call would return several images for a row, or something other than images.

    Examples
    --------
    >>> def call(strength: float = 0.8, clip_skip: int | None = None): ...
    >>> parameters = inspect.signature(call).parameters
    >>> check_argument("Pipeline", parameters["strength"], 1)
    >>> check_argument("Pipeline", parameters["clip_skip"], 1.5)
    Traceback (most recent call last):
        ...
    i2am.schemas.errors.CaptureError: Expected a whole number for 'clip_skip' of Pipeline's call, got 1.5. Give one.
    """
    if parameter.name in _IMAGE_COUNTS and value != 1:
        msg = (
            f"Expected one image for each row, got {parameter.name}={value!r}. Give each image a row of "
            "its own, with its seed."
        )
        raise CaptureError(msg)
    if parameter.name == "return_dict" and not value:
        msg = (
            f"Expected {pipeline} to return its images by name, got return_dict={value!r}. Omit it."
        )
        raise CaptureError(msg)
    if value is None or not isinstance(value, bool | Integral | Real | str):
        return
    wanted = _members(parameter.annotation)
    if wanted is None or any(_takes(member, value) for member in wanted):
        return
    known = [told for scalar, told in _SCALARS.items() if scalar in wanted]
    what = " or ".join(known) or "neither a number nor a text"
    way_out = "Give one." if known else "Call the pipeline yourself inside i2am.capture.capture()."
    msg = f"Expected {what} for {parameter.name!r} of {pipeline}'s call, got {value!r}. {way_out}"
    raise CaptureError(msg)


def _takes(member: Any, value: Any) -> bool:
    if member is bool or isinstance(value, bool):
        return member is bool and isinstance(value, bool)
    if member is int:
        return isinstance(value, Integral)
    if member is float:
        return isinstance(value, Real)
    return member is str and isinstance(value, str)


def _members(annotation: Any) -> set[Any] | None:
    """Return the types of an annotation; None where it says too little to refuse anything."""
    if isinstance(annotation, str):  # As a module with postponed annotations has them.
        names = [name.strip() for name in annotation.split("|")]
        return {_NAMES[name] for name in names} if set(names) <= _NAMES.keys() else None
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [_members(part) for part in typing.get_args(annotation)]
        return None if None in parts else set().union(*(part for part in parts if part))
    if typing.get_origin(annotation) is not None:  # list[float], Callable[…], dict[…] …
        return {typing.get_origin(annotation)}
    says_nothing = annotation in (object, Any, inspect.Parameter.empty)
    is_class = isinstance(annotation, type) and not says_nothing
    return {annotation} if is_class else None
