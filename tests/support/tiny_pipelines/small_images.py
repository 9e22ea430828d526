"""Small references for pipelines that bring every picture to a megapixel, whatever they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

__all__ = ["small_images"]

_MODULES = (
    *("qwenimage.pipeline_qwenimage_edit", "qwenimage.pipeline_qwenimage_edit_inpaint"),
    *("qwenimage.pipeline_qwenimage_edit_plus", "qwenimage.pipeline_qwenimage_layered"),
    "longcat_image.pipeline_longcat_image_edit",
)


@contextmanager
def small_images() -> Iterator[None]:
    """Have pipelines bring a square to 32 × 32 pixels, other pictures to 48 × 16 or 16 × 48."""
    with ExitStack() as stack:
        for name in _MODULES:
            module: Any = import_module(f"diffusers.pipelines.{name}")
            original = module.calculate_dimensions
            stack.callback(setattr, module, "calculate_dimensions", original)
            module.calculate_dimensions = _small(len(original(1024, 1.0)))
        yield


def _small(length: int) -> Callable[[int, float], tuple[int | None, ...]]:
    def calculate(_area: int, ratio: float) -> tuple[int | None, ...]:
        width, height = (32, 32) if ratio == 1 else (48, 16) if ratio > 1 else (16, 48)
        return (width, height, None)[:length]

    return calculate
