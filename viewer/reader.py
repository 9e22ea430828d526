"""The napari reader, and the demo run as sample data."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.errors import I2AMError

if TYPE_CHECKING:
    from i2am.viewer.scene.layers import LayerData

__all__ = ["get_reader", "kind_of", "open_demo_run", "read_layers"]

PathOrPaths = str | PathLike[str] | Sequence[str | PathLike[str]]


_BUCKET: Final = re.compile(r"(s3|gs|az)://")
_MAX_METADATA_BYTES: Final = 2**20  # Of a root, which says little.


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Return a function that reads `path` into layers, or None if `path` is no store of ours.

    Parameters
    ----------
    path : str, path, or a sequence of them
        A run, a maps store, or the URL of one. A sequence comes when files are opened as a stack;
        runs do not stack, so only a sequence of one is ours.
    """
    one = _only(path)
    return read_layers if one is not None and kind_of(one) else None


def kind_of(path: str) -> str | None:
    """Return "run" or "maps", judged by the root's attributes alone; None for what is not ours."""
    try:
        if _BUCKET.match(path):
            from i2am.analysis.stores.reader import open_root
            from i2am.storage.addresses import own_attributes

            return str(own_attributes(open_root(path))["kind"])
        metadata = Path(path) / "zarr.json"
        own = metadata.stat()
        if not stat.S_ISREG(own.st_mode) or own.st_size > _MAX_METADATA_BYTES:
            return None  # A pipe would keep the window waiting.
        root = json.loads(metadata.read_bytes())
        own = root["attributes"][ATTRIBUTE_KEY]
        is_root = own["kind"] in ("run", "maps") and "status" not in own
        return str(own["kind"]) if is_root else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, I2AMError):
        return None


def read_layers(path: PathOrPaths) -> list[LayerData]:
    """Return the layers of a run's first sample, or of the first that a maps store holds.

    Raises
    ------
    StoreError
        If the store, or the run that maps were made from, cannot be read.
    """
    from i2am.viewer.data.open_sample import open_store
    from i2am.viewer.scene.layers import sample_layers
    from i2am.viewer.scene.placement import place_images

    one = _only(path)
    if one is None:
        return []
    view = open_store(one)
    loader = view.loader()
    for volume in view.volumes.values():
        volume.request = loader.read_blocking
    _take_over()
    return sample_layers(view, place_images(view))


def _take_over() -> None:
    """Have the window's session serve the layers as soon as they are there, if there is one."""
    import napari

    viewer = napari.current_viewer()
    if viewer is not None:
        from qtpy.QtCore import QTimer

        from i2am.viewer.window import serve

        QTimer.singleShot(0, lambda: serve(viewer))


def _only(path: PathOrPaths) -> str | None:
    paths = [path] if isinstance(path, str | PathLike) else list(path)
    return str(paths[0]) if len(paths) == 1 else None


def open_demo_run() -> list[LayerData]:
    """Return the demo run's layers."""
    from i2am.viewer.reader import read_layers

    return read_layers(str(Path(__file__).parent / "demo.zarr"))  # `i2am.DEMO_RUN`
