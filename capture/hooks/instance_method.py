"""A method of one object that is watched, or stood in for, until an ExitStack closes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

__all__ = ["call_before", "call_instead"]


def call_before(instance: Any, name: str, before: Callable[..., None], stack: ExitStack) -> None:
    """Have an object call a function before one of its methods, until `stack` closes.

    Parameters
    ----------
    instance : object
        Others of its class are left as they are.
    name : str
        Of the method.
    before : callable
        Given the method's arguments.
    stack : ExitStack
        Restores the object.

    Examples
    --------
    >>> class Greeter:
    ...     def greet(self, name: str) -> str:
    ...         return f"Hello {name}"
    >>> greeter, seen = Greeter(), []
    >>> with ExitStack() as stack:
    ...     call_before(greeter, "greet", seen.append, stack)
    ...     greeter.greet("Ada")
    'Hello Ada'
    >>> seen, vars(greeter)
    (['Ada'], {})
    """

    def watched(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return original(*args, **kwargs)

    call_instead(instance, name, watched, stack)


def call_instead(
    instance: Any, name: str, replacement: Callable[..., Any], stack: ExitStack
) -> None:
    """Have an object call a function instead of one of its methods, until `stack` closes.

    Parameters
    ----------
    instance, name, stack
        See `call_before`.
    replacement : callable (method, *args, **kwargs) -> object
        Given the method that it stands for, and its arguments.

    Examples
    --------
    >>> with ExitStack() as stack:
    ...     values = type("Values", (), {"first": lambda self: 1})()
    ...     call_instead(values, "first", lambda method: 10 * method(), stack)
    ...     values.first()
    10
    """
    own = vars(instance).get(name)
    setattr(instance, name, _Replacement(instance, getattr(instance, name), replacement))
    stack.callback(_restore, instance, name, own)


class _Replacement:
    """Calls a function with the method that it stands for.

    A deep copy of the object has the method alone, of its own: pipelines copy their scheduler, and the
    copy's steps are another scheduler's. A copy of what the object holds, to be given back to it, has
    this method.
    """

    def __init__(
        self, instance: Any, original: Callable[..., Any], replacement: Callable[..., Any]
    ) -> None:
        functools.update_wrapper(self, original)
        self._instance, self._original, self._replacement = instance, original, replacement

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._replacement(self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._original, memo) if id(self._instance) in memo else self


def _restore(instance: Any, name: str, own: Any) -> None:
    if own is None:
        delattr(instance, name)
    else:
        setattr(instance, name, own)
