"""Watching a method of one object: what it is given is seen first, and nothing of it changes."""

from __future__ import annotations

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
    original = getattr(instance, name)
    own = vars(instance).get(name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(instance, name, method)
    stack.callback(_restore, instance, name, own)


def _restore(instance: Any, name: str, own: Any) -> None:
    if own is None:
        delattr(instance, name)
    else:
        setattr(instance, name, own)
