"""The one door for optional packages: says which one is missing, what for, and how to get it."""

from __future__ import annotations

import importlib
from typing import Any

from i2am.schemas.errors import MissingExtra

__all__ = ["require"]


def require(package: str, purpose: str, extra: str) -> Any:
    """Import `package` and return it.

    Parameters
    ----------
    package : str
        Name to import, for instance ``"zarr"``.
    purpose : str
        What it is needed for, as in "to read a capture store".
    extra : str
        The extra of i2am that installs it.

    Raises
    ------
    MissingExtra
        If the package is not installed.

    Examples
    --------
    >>> require("no_such_package", "to show this", "viewer")
    Traceback (most recent call last):
    ...
    i2am.schemas.errors.MissingExtra: The no_such_package package is needed to show this; \
install with pip install 'i2am[viewer]'.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as e:
        if e.name != package.split(".", maxsplit=1)[0]:
            raise
        msg = f"The {e.name} package is needed {purpose}; install with pip install 'i2am[{extra}]'."
        raise MissingExtra(msg, name=e.name) from e
