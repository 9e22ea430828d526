"""What a tiny pipeline of a family is: how it is called, and what a capture of it must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = ["Family", "noise", "noise_image"]


@dataclass(frozen=True)
class Family:
    """A pipeline, how it is called, and what a capture of it must hold.

    Parameters
    ----------
    layers : int
    references : tuple of (tokens, special tokens, grid or None)
        Of each reference image; -1 tokens are as many as the layer has patches.
    queries_before : int
        Queries of the layer that come before the generated patches.
    keys_before : callable (layer's number of patches) -> int
        Keys of the softmax that come before the references'.
    other_keys : callable (layer's number of patches) -> int
        Keys that share the softmax with all references.
    calls : int
        How often a step runs the layer with these keys; the first time is the conditional one.
    frames : int
    is_guided : bool
    takes_both : bool
        Whether both branches can be kept.
    branches : tuple of str
        Of a guided batch, in its order.
    starts : callable (layer's number of patches) -> sequence of int, optional
        The first key of each reference, where they do not follow each other at `keys_before`.
    painted : (height, width), optional
        In pixels, where the call does not say it.
    text, text_queries : range or sequence of int
        The text that the model sees, among the keys and among the queries. The latter is empty where
        no text attends at every step.
    output : str
        The pipeline's output_type.
    variants : mapping of str to mapping
        What is different of the layers whose paths begin so.
    text_layers : str, optional
        Pattern of the layers that read text, where not all of them do.
    """

    pipeline: Any
    call: dict[str, Any]
    profile: str
    layers: int
    references: tuple[tuple[int, int, tuple[int, int] | None], ...]
    other_keys: Callable[[int], int] = field(default=lambda _patches: 0)
    keys_before: Callable[[int], int] = field(default=lambda _patches: 0)
    queries_before: int = 0
    calls: int = 1
    frames: int = 1
    is_guided: bool = True
    takes_both: bool = True
    branches: tuple[str, ...] = ("unconditional", "conditional")
    starts: Callable[[int], Sequence[int]] | None = None
    painted: tuple[int, int] | None = None
    text: Sequence[int] = ()
    text_queries: Sequence[int] = ()
    output: str = "latent"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text_layers: str | None = None

    def of(self, layer: str) -> Family:
        """Return what a capture of one layer must hold."""
        changes = (own for prefix, own in self.variants.items() if layer.startswith(prefix))
        return replace(self, **next(changes, {}))

    def key_count(self, patches: int) -> int:
        """Return the number of keys of the references' softmax in a layer."""
        return self.other_keys(patches) + sum(self._counts(patches))

    def keys_of(self, patches: int, index: int) -> slice:
        """Return which of these keys are a reference's."""
        counts = self._counts(patches)
        if self.starts is None:
            start = self.keys_before(patches) + sum(counts[:index])
        else:
            start = self.starts(patches)[index]
        return slice(start, start + counts[index])

    def _counts(self, patches: int) -> list[int]:
        return [patches if count == -1 else count for count, *_ in self.references]

    def conditional(self, rows: Any) -> Any:
        """Return the conditional ones of the rows of a batch."""
        share, rest = divmod(len(rows), len(self.branches))
        if rest:
            return rows  # The branches are called in turn, or there is one alone.
        first = share * self.branches.index("conditional")
        return rows[first : first + share]

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer

    @property
    def denoisers(self) -> tuple[Any, ...]:
        """The denoiser, and the one that takes over from it in late steps, if there is one."""
        second = getattr(self.pipeline, "transformer_2", None)
        return (self.denoiser,) if second is None else (self.denoiser, second)

    def blank(self) -> Any:
        """Return a black picture of the shape that the pipeline paints, frames above one another."""
        side = getattr(self.pipeline, "vae_scale_factor", 2) * 8
        if self.profile == "i2am-tiny":
            side = 64
        height, width = self.call.get("height", side), self.call.get("width", side)
        if self.profile == "reference-only":
            height, width = self.call["reference_latents"].shape[-2:]
        height, width = self.painted or (height, width)
        return np.zeros((self.frames * height, width, 3), np.uint8)

    def run(self, steps: int = 2, **options: Any) -> Any:
        """Run the pipeline, always from the same noise, and return its latents, or its image."""
        call = {"generator": torch.Generator().manual_seed(0)} | self.call | options
        torch.manual_seed(0)  # Some pipelines encode their pictures with noise of their own.
        found = self.pipeline(num_inference_steps=steps, output_type=self.output, **call)[0]
        return found[0] if isinstance(found, list) else found


def noise_image(height: int, seed: int = 0, width: int | None = None) -> Image.Image:
    shape = (height, width or height, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
