"""Watching a method of one object: what it is given is seen first, and nothing of it changes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

__all__ = ["call_before"]


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
    own = vars(instance).get(name)
    setattr(instance, name, _WatchedMethod(instance, getattr(instance, name), before))
    stack.callback(_restore, instance, name, own)


class _WatchedMethod:
    """Calls a function, then the method that it stands for.

    A deep copy of the object has the method alone, of its own: pipelines copy their scheduler, and the
    copy's steps are another scheduler's. A copy of what the object holds, to be given back to it, has
    this method.
    """

    def __init__(
        self, instance: Any, original: Callable[..., Any], before: Callable[..., None]
    ) -> None:
        functools.update_wrapper(self, original)
        self._instance, self._original, self._before = instance, original, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._before(*args, **kwargs)
        return self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._original, memo) if id(self._instance) in memo else self


def _restore(instance: Any, name: str, own: Any) -> None:
    if own is None:
        delattr(instance, name)
    else:
        setattr(instance, name, own)
