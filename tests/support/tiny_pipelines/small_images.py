"""Small references for pipelines that bring every picture to a megapixel, whatever they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

__all__ = ["small_images"]

# Where a pipeline finds the function that says to what size.
_MODULES = {
    "calculate_dimensions": (
        "pipelines.qwenimage.pipeline_qwenimage_edit",
        "pipelines.qwenimage.pipeline_qwenimage_edit_inpaint",
        "pipelines.qwenimage.pipeline_qwenimage_edit_plus",
        "pipelines.qwenimage.pipeline_qwenimage_layered",
        "pipelines.longcat_image.pipeline_longcat_image_edit",
        "modular_pipelines.qwenimage.encoders",
    ),
}


@contextmanager
def small_images() -> Iterator[None]:
    """Have pipelines bring a square to 32 × 32 pixels, other pictures to 48 × 16 or 16 × 48."""
    with ExitStack() as stack:
        for function, modules in _MODULES.items():
            for name in modules:
                module: Any = import_module(f"diffusers.{name}")
                original = getattr(module, function)
                stack.callback(setattr, module, function, original)
                setattr(module, function, _small(len(original(1024, 1.0))))
        yield


def _small(length: int) -> Callable[[int, float], tuple[int | None, ...]]:
    def calculate(_area: int, ratio: float) -> tuple[int | None, ...]:
        width, height = (32, 32) if ratio == 1 else (48, 16) if ratio > 1 else (16, 48)
        return (width, height, None)[:length]

    return calculate
