"""Frames into a GIF or an MP4, one after the other; the file appears when all are there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from i2am.schemas.errors import AnalysisError, StoreError
from i2am.schemas.optional import require
from i2am.viewer.export import Pixels, check_new_file

__all__ = ["SUFFIXES", "check_animation_file", "write_animation"]

SUFFIXES: Final = (".gif", ".mp4")
_QUALITY: Final = 8  # of 10


def check_animation_file(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return where an animation can be written.

    Raises
    ------
    AnalysisError
        If the file's name ends in neither ``.gif`` nor ``.mp4``.
    StoreError
        If it exists and `overwrite` is false, or its folder does not.
    MissingExtra
        If it is an MP4 and what writes them is not installed.
    """
    path = check_new_file(path, SUFFIXES, overwrite=overwrite)
    if path.suffix.lower() == ".mp4":
        require("imageio_ffmpeg", "to write an MP4", "viewer")
    return path


def write_animation(
    frames: Iterable[Pixels],
    path: str | Path,
    *,
    frames_per_second: float = 4,
    overwrite: bool = False,
) -> Path:
    """Write frames one after the other.

    Parameters
    ----------
    frames : iterable of array (y, x, rgb), uint8
        All of one size, at least one.
    path : str or Path
        Ends in ``.gif`` or ``.mp4``. An MP4's sizes are even: an odd one grows by a pixel.
    frames_per_second : float
    overwrite : bool
        Whether the file may exist.

    Raises
    ------
    AnalysisError, StoreError, MissingExtra
        As `check_animation_file`; also if there are no frames, or it cannot be written.
    """
    path = check_animation_file(path, overwrite=overwrite)
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    pending = iter(frames)
    first = next(pending, None)
    if first is None:
        msg = f"Expected at least one frame, got none, at {path}. Give some steps."
        raise AnalysisError(msg)
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    try:
        write(first, pending, unfinished, frames_per_second)
        unfinished.replace(path)
    except (OSError, RuntimeError) as e:
        msg = f"Expected to write an animation, got '{e}', at {path}. Choose another place or kind."
        raise StoreError(msg) from e
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _write_gif(first: Pixels, rest: Iterator[Pixels], path: Path, frames_per_second: float) -> None:
    from PIL import Image

    pictures = (Image.fromarray(frame).quantize() for frame in chain([first], rest))
    next(pictures).save(
        path,
        save_all=True,
        append_images=pictures,
        duration=round(1000 / frames_per_second),
        loop=0,
    )


def _write_mp4(first: Pixels, rest: Iterator[Pixels], path: Path, frames_per_second: float) -> None:
    import imageio_ffmpeg

    even = _even(first)
    writer = imageio_ffmpeg.write_frames(
        path,
        (even.shape[1], even.shape[0]),
        fps=frames_per_second,
        quality=_QUALITY,
        macro_block_size=2,
    )
    with contextlib.closing(writer):
        writer.send(None)
        for frame in chain([first], rest):
            writer.send(_even(frame))


def _even(frame: Pixels) -> Pixels:
    """Return a frame whose sizes are even, as the video's half-size colours need them."""
    height, width = frame.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
