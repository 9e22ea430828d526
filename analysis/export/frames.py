"""Frames as a GIF or an MP4. Pillow and ffmpeg alone: a window that is recorded needs no Matplotlib."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from i2am.files import check_new_file, written_whole
from i2am.schemas import AnalysisError, StoreError, require

__all__ = ["SUFFIXES", "Pixels", "check_encoder", "check_frames_file", "write_frames"]

Pixels = NDArray[np.uint8]

SUFFIXES: Final = (".gif", ".mp4")
_QUALITY: Final = 8  # of 10


def check_frames_file(path: str | Path, *, overwrite: bool) -> Path:
    """Return where frames can be written.

    Raises
    ------
    AnalysisError
        If the file's name ends in neither ``.gif`` nor ``.mp4``.
    StoreError
        If it exists and `overwrite` is false, or cannot be written.
    MissingExtra
        If it is an MP4 and what writes them is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        msg = f"Expected a .gif or .mp4 file, got {path.name}, at out. Rename it."
        raise AnalysisError(msg)
    check_encoder(path)
    return check_new_file(path, overwrite=overwrite)


def check_encoder(path: Path) -> None:
    """Raise a MissingExtra if what writes such a file is not installed."""
    if path.suffix.lower() == ".mp4":
        require("imageio_ffmpeg", "to write an MP4", "export")


def write_frames(frames: Iterable[Pixels], path: Path, *, frames_per_second: float = 4) -> Path:
    """Write frames one after the other, over what is at `path`.

    Parameters
    ----------
    frames : iterable of array (y, x, rgb), uint8
        All of one size, at least one.
    path : Path
        Ends in ``.gif`` or ``.mp4``. An MP4's sizes are even: an odd one grows by a pixel.
    frames_per_second : float

    Raises
    ------
    AnalysisError
        If there are no frames.
    StoreError
        If it cannot be written.
    """
    pending = iter(frames)
    first = next(pending, None)
    if first is None:
        msg = f"Expected at least one frame, got none, at {path}. Give some steps."
        raise AnalysisError(msg)
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    try:
        with written_whole(path) as unfinished:
            write(first, pending, unfinished, frames_per_second)
    except (OSError, RuntimeError) as e:
        msg = f"Expected to write an animation, got '{e}', at {path}. Choose another place or kind."
        raise StoreError(msg) from e
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
    count = 0
    with contextlib.closing(writer):
        writer.send(None)
        for frame in chain([first], rest):
            writer.send(_even(frame))
            count += 1
    _check_has_frames(path, count)


def _check_has_frames(path: Path, count: int) -> None:
    """Check that an MP4 is whole: what writes it ends without a word on a full disk."""
    import imageio_ffmpeg

    try:
        found, _ = imageio_ffmpeg.count_frames_and_secs(path)
    except RuntimeError:
        found = 0
    if found != count:
        msg = f"{found} of {count} frames; the disk may be full"
        raise OSError(msg)


def _even(frame: Pixels) -> Pixels:
    """Return a frame whose sizes are even, as the video's half-size colours need them."""
    height, width = frame.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
