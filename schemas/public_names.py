"""Public names that load on first use, so that importing a package costs next to nothing.

A package imports its public names below ``if TYPE_CHECKING``, where type checkers, editors and ruff read
them; when the program runs, the same lines are read here. So each name is written once, with its home.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

__all__ = ["public_names"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def public_names(
    package: str, old: Mapping[str, str] = _NONE
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return a package's ``__getattr__``, ``__dir__`` and ``__all__``.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    old : mapping of str to str
        Names of the release before, and what each is now: they warn, and go with the next release.

    Returns
    -------
    callable (str) -> object
        Imports a public name from its home, or a sub-package; each is then an ordinary attribute.
    callable () -> list of str
    list of str
        The public names, sorted.
    """
    module = sys.modules[package]
    homes = dict(_iter_homes(inspect.getsource(module)))

    def load(name: str) -> Any:
        if name in old:
            msg = f"{package}.{name} is now {package}.{old[name]}; the old name goes with the next release."
            warnings.warn(msg, DeprecationWarning, stacklevel=2)
            return getattr(module, old[name])
        if name in homes:
            found = getattr(importlib.import_module(homes[name]), name)
            setattr(module, name, found)
            return found
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    def names() -> list[str]:
        return sorted({*vars(module), *homes})

    return load, names, sorted(homes)


def _iter_homes(source: str) -> Iterator[tuple[str, str]]:
    r"""Yield each name that is imported below ``if TYPE_CHECKING``, and the module that it is from.

    Examples
    --------
    >>> list(_iter_homes("if TYPE_CHECKING:\n    from json import dumps as dumps"))
    [('dumps', 'json')]
    """
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for own in statement.body:
                if isinstance(own, ast.ImportFrom) and own.module:
                    yield from ((alias.name, own.module) for alias in own.names)
