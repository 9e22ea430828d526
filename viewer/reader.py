"""What napari asks when a path is opened: is it ours, and which layers does it hold.

npe2 offers every directory to every reader that accepts directories, whatever its name, so the
first answer must be quick and must never raise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from i2am.schemas.attributes import ATTRIBUTE_KEY

if TYPE_CHECKING:
    from i2am.viewer.layers import LayerData

__all__ = ["get_reader", "is_run"]

PathOrPaths = str | PathLike[str] | Sequence[str | PathLike[str]]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Return a function that reads `path` into layers, or None if `path` is no run of ours.

    Parameters
    ----------
    path : str, path, or a sequence of them
        A sequence comes when files are opened as a stack; runs do not stack, so only a sequence
        of one is ours.
    """
    one = _only(path)
    return _read_run if one is not None and is_run(one) else None


def is_run(path: Path) -> bool:
    """Whether `path` is a local capture store, judged by its root attributes alone."""
    try:
        root = json.loads((path / "zarr.json").read_bytes())
        return bool(root["attributes"][ATTRIBUTE_KEY]["kind"] == "run")
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _read_run(path: PathOrPaths) -> list[LayerData]:
    from i2am.viewer.opening import open_layers

    one = _only(path)
    return [] if one is None else open_layers(one)


def _only(path: PathOrPaths) -> Path | None:
    paths = [path] if isinstance(path, str | PathLike) else list(path)
    return Path(paths[0]) if len(paths) == 1 else None
