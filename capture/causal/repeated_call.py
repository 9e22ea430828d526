"""One call of a pipeline that paints the same image several times, all from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from i2am.capture.pipelines.call import call_arguments, image_arguments, supports_batches
from i2am.schemas import CaptureError

__all__ = ["PaintingCall", "RepeatedCall"]

# Several videos in one call most pipelines take and cannot make.
_COUNT = "num_images_per_prompt"
_TEXTS = ("prompt", "negative_prompt")
_MOST = 1024


class PaintingCall(Protocol):
    """Paints an image some number of times."""

    @property
    def most(self) -> int:
        """How many images one call can paint."""

    @property
    def most_references(self) -> int:
        """How many images one call can paint that each have a reference of their own; 0 if none can."""

    def __call__(self, count: int, references: Sequence[Image.Image | None] | None = None) -> Any:
        """Paint `count` images, with other references where some are given, and return the output."""


class RepeatedCall:
    """A pipeline's call, by the arguments with which it paints one image.

    Parameters
    ----------
    pipeline : diffusers pipeline
    arguments : mapping of str to object
        A ``generator`` tells the seed alone.
    seed : int, optional
        Of the noise, which is drawn on the processor; None takes that of the generator, or 0.

    Examples
    --------
    ::

        call = RepeatedCall(pipe, {"image": person, "mask_image": mask, "example_image": garment})
        images = call(4).images  # four times the same one
    """

    def __init__(
        self, pipeline: Any, arguments: Mapping[str, Any], seed: int | None = None
    ) -> None:
        self._pipeline = pipeline
        self._accepted = call_arguments(pipeline)
        self._arguments = {k: v for k, v in arguments.items() if k not in ("generator", _COUNT)}
        self._seed = _seed_of(arguments.get("generator")) if seed is None else seed
        self._is_list = False
        self._images: Mapping[str, str] = {}
        try:
            self._images = image_arguments(pipeline)
            self._is_list = supports_batches(pipeline)
        except CaptureError:  # One that is called by its own arguments alone.
            pass

    @property
    def most(self) -> int:
        """See `PaintingCall`."""
        return _MOST if self._is_list or _COUNT in self._accepted else 1

    @property
    def most_references(self) -> int:
        """See `PaintingCall`."""
        if "reference" not in self._images.values():
            return 0
        return _MOST if self._is_list else 1

    @property
    def reference(self) -> Image.Image | None:
        """The first reference, where it is an argument of the call."""
        name = next((name for name, own in self._images.items() if own == "reference"), "")
        value = self._arguments.get(name)
        first = value[0] if isinstance(value, list) and value else value
        return first if isinstance(first, Image.Image) else None

    def __call__(self, count: int, references: Sequence[Image.Image | None] | None = None) -> Any:
        """See `PaintingCall`."""
        given = dict(self._arguments)
        if count > 1:
            given = self._repeated(given, count)
        if references is not None:
            given |= self._with_references(given, references)
        # A modular pipeline's call names none of its inputs.
        if "generator" in self._accepted or hasattr(self._pipeline, "blocks"):
            # On the CPU, so that a seed means the same noise on every device.
            noise = [torch.Generator("cpu").manual_seed(self._seed) for _ in range(count)]
            given["generator"] = noise if count > 1 else noise[0]
        # Some pipelines encode their pictures with noise of their own.
        with torch.random.fork_rng(_accelerators(self._pipeline)):
            torch.manual_seed(self._seed)
            return self._pipeline(**given)

    def _repeated(self, given: dict[str, Any], count: int) -> dict[str, Any]:
        latents = given.get("latents")
        if isinstance(latents, torch.Tensor) and len(latents) == 1:
            given["latents"] = latents.expand(count, *latents.shape[1:])
        if not self._is_list:
            return given | {_COUNT: count}
        listed = [name for name in (*self._images, *_TEXTS) if given.get(name) is not None]
        return given | {name: [given[name]] * count for name in listed}

    def _with_references(
        self, given: Mapping[str, Any], references: Sequence[Image.Image | None]
    ) -> dict[str, Any]:
        name = next(name for name, own in self._images.items() if own == "reference")
        value = given[name]
        if len(references) > 1:
            return {name: [a or b for a, b in zip(references, value, strict=True)]}
        (reference,) = references
        if reference is None:
            return {}
        return {name: [reference, *value[1:]] if isinstance(value, list) else reference}


def _accelerators(pipeline: Any) -> list[torch.device]:
    """Return the GPUs that have a random state of their own."""
    device = getattr(pipeline, "device", None)
    is_gpu = isinstance(device, torch.device) and device.type == "cuda"
    return [device] if is_gpu and device is not None else []


def _seed_of(generator: Any) -> int:
    first = generator[0] if isinstance(generator, list | tuple) and generator else generator
    return int(first.initial_seed()) if isinstance(first, torch.Generator) else 0
