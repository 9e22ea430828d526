"""Values for a pipeline's call, checked against its signature before a sample is generated.

What comes from a command line may be a text where a number was meant. Only plain values are checked
(numbers, texts, lists, objects, none), and only where the signature says in plain types what it takes.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from i2am.schemas import CaptureError

__all__ = ["check_call_values"]

_PLAIN = (bool, int, float, str, list, tuple, dict, types.NoneType)
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    types.NoneType: "null",
}
# How many images a call makes of each prompt, by the names that pipelines have for it.
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_images")


def check_call_values(pipeline: Any, values: Mapping[str, Any]) -> None:
    """Check values for arguments that a pipeline's call has.

    Parameters
    ----------
    pipeline : diffusers pipeline
    values : mapping of str to object

    Raises
    ------
    CaptureError
        If a plain value is of another type than the signature asks for, or a row of the manifest
        would become several images.
    """
    call = type(pipeline).__call__
    parameters = inspect.signature(call).parameters
    for name, value in values.items():
        kinds = _plain_kinds(parameters[name], inspect.unwrap(call))
        if kinds and type(value) in _PLAIN and not any(_is_of(value, kind) for kind in kinds):
            wanted = " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds))
            msg = (
                f"Expected {wanted} for {type(pipeline).__name__}'s {name!r}, got {value!r}. "
                f"{_hint(name, value, kinds)}"
            )
            raise CaptureError(msg)
        if name in _COUNTS and value not in (None, 1):
            msg = (
                f"Expected one image for each row of the manifest, got {name}={value}: {value} images "
                f"× 1 row, and 1 sample name. Leave it out, and give the manifest {value} rows, each "
                "with a seed of its own."
            )
            raise CaptureError(msg)


def _hint(name: str, value: object, kinds: list[type]) -> str:
    if str in kinds and not isinstance(value, str):
        return f"Put it in quotes: --argument '{name}=\"{value}\"'."
    return "Give such a value."


def _plain_kinds(parameter: inspect.Parameter, call: Any) -> list[type]:
    """Return the plain types that a parameter takes; none where it does not say so in such types."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(inspect.getmodule(call)))
        except Exception:  # noqa: BLE001 - a name for type checkers alone: then nothing is known
            annotation = parameter.empty
    default = parameter.default
    if annotation is parameter.empty:
        known = default is not parameter.empty and default is not None
        return [type(default)] if known and type(default) in _PLAIN else []
    kinds = _members(annotation)
    if any(kind not in _PLAIN for kind in kinds):  # Such as Sequence, which a list is, too.
        return []
    return [*kinds, types.NoneType] if default is None else kinds


def _members(annotation: Any) -> list[Any]:
    """Return the types of a union, without what stands in their brackets."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return [m for part in typing.get_args(annotation) for m in _members(part)]
    if origin is typing.Literal:
        return list({type(value) for value in typing.get_args(annotation)})
    return [origin or annotation]


def _is_of(value: object, kind: type) -> bool:
    """Return whether a plain value is of a type; whole numbers are numbers, lists are tuples."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, kind)
