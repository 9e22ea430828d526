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
    "find_best_bucket": ("pipelines.joyimage.image_processor",),
}


@contextmanager
def small_images() -> Iterator[None]:
    """Have pipelines bring a square to 32 × 32 pixels, other pictures to 48 × 16 or 16 × 48.

    Those that choose among sizes bring them to twice these.
    """
    with ExitStack() as stack:
        for function, modules in _MODULES.items():
            for name in modules:
                module: Any = import_module(f"diffusers.{name}")
                original = getattr(module, function)
                stack.callback(setattr, module, function, original)
                is_choice = function == "find_best_bucket"
                small = _bucket if is_choice else _small(len(original(1024, 1.0)))
                setattr(module, function, small)
        yield


def _small(length: int) -> Callable[[int, float], tuple[int | None, ...]]:
    def calculate(_area: int, ratio: float) -> tuple[int | None, ...]:
        return (*_sides(ratio), None)[:length]

    return calculate


def _bucket(height: int, width: int, _area: int) -> tuple[int, int]:
    columns, rows = _sides(width / height)
    return 2 * rows, 2 * columns


def _sides(ratio: float) -> tuple[int, int]:
    return (32, 32) if ratio == 1 else (48, 16) if ratio > 1 else (16, 48)
