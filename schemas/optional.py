"""The one door for optional packages: says which one is missing, what for, and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from i2am.schemas.errors import MissingExtra

__all__ = ["EXTRA_PACKAGES", "require", "require_extras"]

_ANALYSIS: Final = ("numpy", "zarr", "xarray", "dask", "pandas", "scipy", "threadpoolctl", "tqdm")
# What none of an extra's commands can do without, by the names that are imported.
EXTRA_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "capture": ("torch", "diffusers", "transformers", "zarr", "PIL", "threadpoolctl", "tqdm"),
        "analysis": _ANALYSIS,
        "viewer": (*_ANALYSIS, "napari", "qtpy", "superqt", "pyqtgraph"),
        "notebook": (*_ANALYSIS, "anywidget"),
    }
)


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
        raise MissingExtra(_missing(e.name, purpose, extra), name=e.name) from e


def require_extras(purpose: str, *extras: str) -> None:
    """Check that the packages of some extras are installed, without importing any.

    Parameters
    ----------
    purpose : str
        What they are needed for, as in "to analyse a run".
    *extras : str
        Keys of `EXTRA_PACKAGES`.

    Raises
    ------
    MissingExtra
        Naming the first package that is missing, and each extra that lacks one.

    Examples
    --------
    >>> require_extras("to do nothing")
    """
    missing = {extra: _first_missing(extra) for extra in extras}
    lacking = {extra: package for extra, package in missing.items() if package is not None}
    if lacking:
        package = next(iter(lacking.values()))
        raise MissingExtra(_missing(package, purpose, ",".join(lacking)), name=package)


def _first_missing(extra: str) -> str | None:
    return next((package for package in EXTRA_PACKAGES[extra] if not _is_there(package)), None)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # Somebody forbids it.
        return False
    except ValueError:  # It is imported already, and does not say from where.
        return True


def _missing(package: str, purpose: str, extra: str) -> str:
    return f"The {package} package is needed {purpose}; install with pip install 'i2am[{extra}]'."
