"""The pictures that a pipeline's image processors prepare for an encoder, and how.

A processor of transformers resizes and crops what it is given. Which pictures those were, of which
size, and with which settings is noted when it runs: a pipeline keeps neither, and may be given an
encoder's output instead of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from i2am.capture.hooks.instance_method import call_before

__all__ = ["PictureLog", "ProcessedPicture"]

_SETTINGS = ("do_resize", "size", "do_center_crop", "crop_size", "do_pad", "backend")
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ProcessedPicture:
    """One picture, as an image processor was given it.

    Parameters
    ----------
    size : (int, int) or None
        Its height and width in pixels; None of something else than a picture.
    processor : str
        Class of the processor.
    settings : mapping of str to object
        How it was prepared: the call's own settings before the processor's.
    """

    size: tuple[int, int] | None
    processor: str
    settings: Mapping[str, Any]


class PictureLog:
    """Notes the pictures that image processors prepare.

    Parameters
    ----------
    processors : iterable of object
        Image processors of transformers.

    Examples
    --------
    >>> from transformers import CLIPImageProcessor
    >>> processor = CLIPImageProcessor()
    >>> log = PictureLog([processor])
    >>> with ExitStack() as stack:
    ...     log.watch(stack)
    ...     _ = processor(Image.new("RGB", (96, 32)))
    >>> [picture.size for picture in log.take()], log.take()
    ([(32, 96)], ())
    """

    def __init__(self, processors: Iterable[Any]) -> None:
        self._processors = tuple(processors)
        self._pictures: list[ProcessedPicture] = []

    def watch(self, stack: ExitStack) -> None:
        """Note what is prepared from now on, until `stack` closes."""
        for processor in self._processors:

            def note(images: Any, *_: Any, processor: Any = processor, **given: Any) -> None:
                settings = {
                    name: given.get(name, getattr(processor, name, None)) for name in _SETTINGS
                }
                kind = type(processor).__name__
                self._pictures += [ProcessedPicture(s, kind, settings) for s in _sizes(images)]

            call_before(processor, "preprocess", note, stack)

    def take(self) -> tuple[ProcessedPicture, ...]:
        """Return what was noted since the last time, and forget it."""
        taken, self._pictures = tuple(self._pictures), []
        return taken


def _sizes(images: Any) -> Iterator[tuple[int, int] | None]:
    """Yield (height, width) of each picture; None where that cannot be told."""
    if isinstance(images, list | tuple):
        for image in images:
            yield from _sizes(image)
    elif isinstance(images, Image.Image):
        yield images.height, images.width
    elif isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        for image in images:
            yield from _sizes(image)
    elif isinstance(images, np.ndarray | torch.Tensor) and images.ndim in (2, 3):
        yield _size_of_array(images.shape)
    else:
        yield None


def _size_of_array(shape: Iterable[int]) -> tuple[int, int] | None:
    # As transformers infers it: channels first, where both could be.
    sides = tuple(shape)
    if len(sides) == 3 and sides[0] in _CHANNELS:
        sides = sides[1:]
    elif len(sides) == 3 and sides[2] in _CHANNELS:
        sides = sides[:2]
    return (sides[0], sides[1]) if len(sides) == 2 else None
