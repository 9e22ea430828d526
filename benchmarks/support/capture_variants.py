"""What `capture_overhead.py` compares: two models to generate with, and six ways to do so.

Every variant runs the same generation on the same pipeline; they differ in what is kept of its
cross-attention and where. Each leaves the pipeline as it found it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel

from i2am.capture import DEMO_MANIFEST, SHIPPED_MODEL, capture, load_pipeline
from i2am.capture.batch.sample_images import SampleImages
from i2am.schemas import read_manifest

__all__ = ["PEER", "VARIANTS", "AttentionSums", "Model", "build_model", "is_available"]

PEER = "attention_map_diffusers"
_SPECIAL_AND_GRID = 257  # tokens: one special and 16 × 16


@dataclass(frozen=True)
class Model:
    """A pipeline and one call of it.

    Parameters
    ----------
    name : str
    pipeline : diffusers pipeline
    generate : callable (number of steps) -> image
        PIL image or array (y, x, 3) uint8; the same one whenever the steps are the same.
    reference : PIL image, or array (y, x, 3) uint8
    profile : str
        What `capture` takes; see there.
    """

    name: str
    pipeline: Any
    generate: Callable[[int], Any]
    reference: Any
    profile: str


def build_model(kind: Literal["tiny", "sd15"], device: str, *, quick: bool = False) -> Model:
    """Return a model, in float16 on a GPU and in float32 elsewhere.

    Parameters
    ----------
    kind : {"tiny", "sd15"}
        The shipped model with the first of its demo images, or a UNet of Stable Diffusion
        1.5's size with nine input channels, random weights and 257 reference tokens.
    device : str
    quick : bool
        Whether the second one is made small instead, with the same layers.
    """
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return _build_tiny(device, dtype) if kind == "tiny" else _build_sd15(device, dtype, quick=quick)


def _build_tiny(device: str, dtype: torch.dtype) -> Model:
    name: Any = str(dtype).removeprefix("torch.")
    pipeline = load_pipeline(SHIPPED_MODEL, device=device, dtype=name)
    images = SampleImages.open(read_manifest(DEMO_MANIFEST)[0])
    reference = images.reference.to_pil()
    source, mask = (None if i is None else i.to_pil() for i in (images.source, images.mask))

    def generate(steps: int) -> Any:
        return pipeline(
            example_image=reference,
            image=source,
            mask_image=mask,
            num_inference_steps=steps,
            generator=torch.Generator("cpu").manual_seed(0),
        ).images[0]

    return Model(SHIPPED_MODEL, pipeline, generate, reference, "i2am-tiny")


def _build_sd15(device: str, dtype: torch.dtype, *, quick: bool) -> Model:
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=16 if quick else 64,
            in_channels=9,
            block_out_channels=(32, 64, 128, 128) if quick else (320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,  # the number of heads: diffusers' historical name
        )
    # Not diffusers' own to(), which warns of layers to keep in float32, though it names none.
    torch.nn.Module.to(unet, dtype).eval()
    pipeline = GuidedUNetPipeline(unet, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    # There is no autoencoder: an image of the right size takes the place of its output.
    image = np.zeros((8 * unet.config.sample_size,) * 2 + (3,), np.uint8)

    def generate(steps: int) -> Any:
        pipeline(steps)
        return image

    name = "SD-1.5 layers, narrow (--quick)" if quick else "SD-1.5 size, random weights"
    return Model(name, pipeline, generate, image, "unet")


class GuidedUNetPipeline(DiffusionPipeline):  # type: ignore[misc]
    """The denoising loop of a reference-conditioned inpainting model, without what surrounds it.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Nine input channels: latent (4), masked image's latent (4), mask (1).
    scheduler : DDIMScheduler
    """

    def __init__(self, unet: UNet2DConditionModel, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, steps: int, guidance_scale: float = 5.0) -> torch.Tensor:
        """Return latents (1, 4, y, x), denoised with guidance: [unconditional, conditional]."""
        size = self.unet.config.sample_size
        noise = torch.Generator("cpu").manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=noise).to(self.unet.device, self.unet.dtype)

        latents, condition = draw(1, 4, size, size), draw(1, 5, size, size)
        tokens = draw(2, _SPECIAL_AND_GRID, self.unet.config.cross_attention_dim)
        self.scheduler.set_timesteps(steps, device=self.unet.device)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            model_input = torch.cat([torch.cat([latents, condition], dim=1)] * 2)
            prediction = self.unet(model_input, timestep, encoder_hidden_states=tokens).sample
            unconditional, conditional = prediction.chunk(2)
            guided = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(guided, timestep, latents).prev_sample
        return latents


# (model, steps, run to write into, memory in bytes) -> what the variant keeps
Variant = Callable[[Model, int, Path, int], Any]


def _generate_alone(model: Model, steps: int, _run: Path, _memory_bytes: int) -> Any:
    return model.generate(steps)


def _capture_to_disk(
    model: Model,
    steps: int,
    run: Path,
    memory_bytes: int,
    *,
    representation: Any,
    durable: bool = True,
) -> None:
    with capture(
        model.pipeline,
        run,
        sample="sample",
        representation=representation,
        profile=model.profile,
        memory_bytes=memory_bytes,
        durable=durable,
    ) as recording:
        generated = model.generate(steps)
        recording.add_images(generated=generated, reference=model.reference)


def _keep_with_peer(model: Model, steps: int, _run: Path, _memory_bytes: int) -> Any:
    """Let attention-map-diffusers keep Q and K of every step in memory, as it does."""
    peer: Any = importlib.import_module(PEER)
    with peer.AttentionCapture(
        model.pipeline, mode="fast", layers="all", timesteps="all", max_capture_bytes=None
    ) as kept:
        model.generate(steps)
    layers = {record.layer_id for record in kept.records}
    names = dict(model.pipeline.unet.named_modules())
    expected = {f"unet.{name}" for name in names if name.endswith(".attn2")}
    if layers != expected or len(kept.records) != steps * len(expected):
        msg = (
            f"Expected {steps} records of each of {len(expected)} layers, got "
            f"{len(kept.records)} of {len(layers)}, from {PEER}. Compare its version."
        )
        raise RuntimeError(msg)
    return kept.records


def _recompute_in_hooks(model: Model, steps: int, _run: Path, _memory_bytes: int) -> Any:
    with AttentionSums(model.pipeline.unet) as sums:
        model.generate(steps)
    return sums.sums


VARIANTS: dict[str, Variant] = {
    "generation alone": _generate_alone,
    "capture(), auto": partial(_capture_to_disk, representation="auto"),
    "capture(), auto, no fsync": partial(_capture_to_disk, representation="auto", durable=False),
    "capture(), maps": partial(_capture_to_disk, representation="maps"),
    "attention-map-diffusers": _keep_with_peer,
    "block hook": _recompute_in_hooks,
}


def is_available(variant: str) -> bool:
    """Return whether what a variant needs is installed."""
    return VARIANTS[variant] is not _keep_with_peer or importlib.util.find_spec(PEER) is not None


class AttentionSums:
    """Attention recomputed in a hook on every transformer, as the method's first code does it.

    The hook gets what the transformer was given, and repeats norm, projection and the block's
    self-attention to arrive at Q and K again; the softmax over the generated patches is added to
    running sums.

    Parameters
    ----------
    unet : UNet2DConditionModel

    Attributes
    ----------
    sums : dict of str to Tensor (head, generated, reference), float32
        By layer, summed over the steps; of the last batch index, which is conditional.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        self._unet = unet
        self._hooks = ExitStack()
        self.sums: dict[str, torch.Tensor] = {}

    def __enter__(self) -> AttentionSums:
        """Put a hook on each transformer."""
        for name, module in self._unet.named_modules():
            if type(module).__name__ == "Transformer2DModel":
                hook = partial(self._add, name)
                handle = module.register_forward_hook(hook, with_kwargs=True)
                self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        """Take them off."""
        self._hooks.close()

    def _add(self, name: str, transformer: Any, args: Any, kwargs: Any, _output: Any) -> None:
        (block,) = transformer.transformer_blocks
        states = transformer.proj_in(transformer.norm(args[0][-1:])).flatten(2).transpose(1, 2)
        states = block.attn1(block.norm1(states)) + states
        attention, tokens = block.attn2, kwargs["encoder_hidden_states"][-1:]
        query, key = (
            projected[0].unflatten(-1, (attention.heads, -1)).transpose(0, 1)
            for projected in (attention.to_q(block.norm2(states)), attention.to_k(tokens))
        )
        weights = (query @ key.transpose(-1, -2) * attention.scale).float().softmax(dim=-2)
        layer = f"{name}.transformer_blocks.0.attn2"
        known = self.sums.get(layer)
        self.sums[layer] = weights if known is None else known.add_(weights)
