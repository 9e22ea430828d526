"""Pictures of what is in view, and files of them that overwrite nothing unasked.

Taking a picture needs the window's thread and is quick; writing one may be left to another thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.files import check_new_file, written_whole
from i2am.schemas.errors import AnalysisError, StoreError

__all__ = [
    "SUFFIXES",
    "Pixels",
    "canvas_picture",
    "check_export_file",
    "window_picture",
    "write_picture",
]

Pixels = NDArray[np.uint8]

# Of the many kinds that Pillow knows, those that take a picture of any size and all its colours.
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")

_NO_ALPHA: Final = {".jpg", ".jpeg"}


def window_picture(viewer: Any) -> Pixels:
    """Return the whole window as it is on the screen, (y, x, rgba)."""
    return np.asarray(viewer.screenshot(canvas_only=False, flash=False))


def canvas_picture(viewer: Any) -> Pixels:
    """Return the canvas as it is on the screen, (y, x, rgba)."""
    return np.asarray(viewer.screenshot(canvas_only=True, flash=False))


def write_picture(picture: Pixels, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a picture (y, x, rgb or rgba) as what the file's name ends in, and return its path.

    Raises
    ------
    AnalysisError
        If no picture format has that ending.
    StoreError
        If the file exists and `overwrite` is false, or it cannot be written.
    """
    from PIL import Image

    path = check_export_file(path, SUFFIXES, overwrite=overwrite)
    channels = 3 if path.suffix.lower() in _NO_ALPHA else picture.shape[2]
    image = Image.fromarray(np.ascontiguousarray(picture[..., :channels]))
    try:
        with written_whole(path) as unfinished:
            image.save(unfinished)
    except (OSError, ValueError) as e:  # ValueError: more pixels a side than WebP or JPEG takes
        msg = f"Expected to write a picture, got '{e}', at {path}. Choose another place, or .png."
        raise StoreError(msg) from e
    return path


def check_export_file(path: str | Path, suffixes: Iterable[str], *, overwrite: bool) -> Path:
    """Return where a file can be written.

    Raises
    ------
    AnalysisError
        If its name has none of the endings.
    StoreError
        If it exists and `overwrite` is false, or its folder does not.
    """
    path, known = Path(path), list(suffixes)
    if path.suffix.lower() not in known:
        some = ", ".join(known[:4])
        msg = (
            f"Expected a file name that ends in one of {some}, got {path.name}, at {path.parent}. "
        )
        raise AnalysisError(msg + f"Call it {path.stem or 'picture'}{known[0]}.")
    if not path.parent.is_dir():
        msg = f"Expected a folder, got none, at {path.parent}. Create it, or choose another."
        raise StoreError(msg)
    return check_new_file(path, overwrite=overwrite)
