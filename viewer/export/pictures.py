"""Pictures of what is in view, and files of them that overwrite nothing unasked.

Taking a picture needs the window's thread and is quick; writing one may be left to another thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.files import check_new_file, written_whole
from i2am.schemas.errors import AnalysisError, StoreError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = [
    "Pixels",
    "canvas_picture",
    "check_export_file",
    "figure_picture",
    "picture_suffixes",
    "window_picture",
    "with_caption",
    "write_picture",
]

Pixels = NDArray[np.uint8]

_FIGURE_WIDTH_PX: Final = 1200
_FONT_SHARE: Final = 1 / 60  # of a picture's width
_FONT_PX: Final = (11, 40)
_LINE: Final = 1.4  # heights of the font
_NO_ALPHA: Final = {".jpg", ".jpeg"}


def window_picture(viewer: Any) -> Pixels:
    """Return the whole window as it is on the screen, (y, x, rgba)."""
    return np.asarray(viewer.screenshot(canvas_only=False, flash=False))


def canvas_picture(viewer: Any) -> Pixels:
    """Return the canvas as it is on the screen, (y, x, rgba)."""
    return np.asarray(viewer.screenshot(canvas_only=True, flash=False))


def figure_picture(viewer: Any, scale: float | None = None) -> Pixels:
    """Return all that the canvas shows, whatever the zoom, without the text on it, (y, x, rgba).

    Parameters
    ----------
    viewer : napari.Viewer
    scale : float, optional
        Pixels of the figure a pixel of the generated image; by default the whole number that makes
        it at least 1,200 wide.
    """
    if scale is None:
        low, high = viewer.layers.extent.world[:, -1]
        scale = max(1, math.ceil(_FIGURE_WIDTH_PX / max(high - low, 1)))
    text = viewer.canvas.overlays.text
    was_visible = text.visible
    text.visible = False
    try:
        return np.asarray(viewer.export_figure(scale_factor=scale, flash=False))
    finally:
        text.visible = was_visible


def with_caption(picture: Pixels, caption: str) -> Pixels:
    """Return a picture (y, x, rgb or rgba) as RGB with a caption below it.

    Raises
    ------
    AnalysisError
        If the picture has another shape.
    """
    from PIL import Image, ImageDraw

    if picture.ndim != 3 or picture.shape[2] not in {3, 4}:
        msg = (
            f"Expected a picture (y, x, rgb), got the shape {picture.shape}, at picture. "
            "Give it three or four channels."
        )
        raise AnalysisError(msg)
    height, width = picture.shape[:2]
    lines = caption.splitlines()
    font, size = _font(lines, width)
    below = math.ceil((len(lines) + 0.5) * _LINE * size)
    whole = Image.new("RGB", (width, height + below))
    whole.paste(Image.fromarray(np.ascontiguousarray(picture[..., :3])))
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        top = height + (number + 0.25) * _LINE * size
        draw.text((size // 2, round(top)), line, fill="white", font=font)
    return np.asarray(whole)


def picture_suffixes() -> list[str]:
    """Return the endings of files that Pillow writes, ``.png`` first."""
    from PIL import Image

    known = Image.registered_extensions()
    return sorted((s for s, name in known.items() if name in Image.SAVE), key=lambda s: s != ".png")


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

    path = check_export_file(path, picture_suffixes(), overwrite=overwrite)
    channels = 3 if path.suffix.lower() in _NO_ALPHA else picture.shape[2]
    image = Image.fromarray(np.ascontiguousarray(picture[..., :channels]))
    try:
        with written_whole(path) as unfinished:
            image.save(unfinished)
    except OSError as e:
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


def _font(lines: list[str], width: int) -> tuple[FreeTypeFont, int]:
    """Return a font in which all lines fit into a width, and its size."""
    size = round(min(max(width * _FONT_SHARE, _FONT_PX[0]), _FONT_PX[1]))
    longest = max((_font_of(size).getlength(line) for line in lines), default=0)
    if longest > width - size:
        size = max(4, math.floor(size * (width - size) / longest))
    return _font_of(size), size


@lru_cache(maxsize=16)
def _font_of(size: int) -> FreeTypeFont:
    """Return matplotlib's font: Pillow's own has no ×."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
