"""Models to measure with: the shipped one, and the sizes that the field uses with random weights.

Weights are made on the device. There is no text encoder, and next to no autoencoder: what is measured
is the denoising loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from PIL import Image

from i2am.capture import DEMO_MANIFEST, SHIPPED_MODEL, load_pipeline
from i2am.capture.batch.sample_images import SampleImages
from i2am.schemas import read_manifest

__all__ = ["Kind", "Model", "build_model"]

Kind = Literal["tiny", "sd15", "sdxl", "flux"]
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

    @property
    def denoiser(self) -> Any:
        """The pipeline's UNet or transformer."""
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer


def build_model(kind: Kind, device: str, *, quick: bool = False) -> Model:
    """Return a model, in float32 on a CPU; elsewhere in float16, FLUX in bfloat16, as people run it.

    Parameters
    ----------
    kind : {"tiny", "sd15", "sdxl", "flux"}
        The shipped model with the first of its demo images. A UNet of Stable Diffusion 1.5's size
        with nine input channels, and one of SDXL's, for 512 and 1024 pixels, with 257 reference
        tokens and guidance. Six blocks of FLUX.1's size (two with text of their own, four of the
        single stream), in Kontext's pipeline at 1024 pixels: 512 tokens of text, 4096 of the
        generated picture and 4096 of the reference.
    device : str
    quick : bool
        Whether the last three are made small instead, with the same layers but fewer of SDXL's.
    """
    dtype = torch.float32
    if torch.device(device).type != "cpu":
        dtype = torch.bfloat16 if kind == "flux" else torch.float16
    if kind == "tiny":
        return _build_tiny(device, dtype)
    torch.manual_seed(0)
    if kind == "flux":
        return _build_flux(device, dtype, quick=quick)
    size_px = 128 if quick else {"sd15": 512, "sdxl": 1024}[kind]
    settings = _sd15(quick=quick) if kind == "sd15" else _sdxl(quick=quick)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=size_px // 8, in_channels=9, **settings)
    # Not diffusers' own to(), which warns of layers to keep in float32, though it names none.
    torch.nn.Module.to(unet, dtype).eval()
    pipeline = GuidedUNetPipeline(unet, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    # There is no autoencoder: an image of the right size takes the place of its output.
    image = np.zeros((size_px, size_px, 3), np.uint8)

    def generate(steps: int) -> Any:
        pipeline(steps)
        return image

    name = _name({"sd15": "SD-1.5", "sdxl": "SDXL"}[kind], quick=quick)
    return Model(name, pipeline, generate, image, "unet")


def _name(size: str, *, quick: bool) -> str:
    return f"{size} layers, narrow (--quick)" if quick else f"{size} size, random weights"


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


def _sd15(*, quick: bool) -> dict[str, Any]:
    return {
        "block_out_channels": (32, 64, 128, 128) if quick else (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,  # the number of heads: diffusers' historical name
    }


def _sdxl(*, quick: bool) -> dict[str, Any]:
    return {
        "block_out_channels": (32, 64, 128) if quick else (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3) if quick else (1, 2, 10),
        "attention_head_dim": (2, 4, 8) if quick else (5, 10, 20),
        "cross_attention_dim": 128 if quick else 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": _POOLED + 6 * 256,
    }


_POOLED = 1280  # width of SDXL's pooled text


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
        size, added = self.unet.config.sample_size, None
        noise = torch.Generator("cpu").manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=noise).to(self.unet.device, self.unet.dtype)

        latents, condition = draw(1, 4, size, size), draw(1, 5, size, size)
        tokens = draw(2, _SPECIAL_AND_GRID, self.unet.config.cross_attention_dim)
        if self.unet.config.addition_embed_type == "text_time":
            added = {"text_embeds": draw(2, _POOLED), "time_ids": draw(2, 6)}
        self.scheduler.set_timesteps(steps, device=self.unet.device)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            model_input = torch.cat([torch.cat([latents, condition], dim=1)] * 2)
            prediction = self.unet(
                model_input, timestep, encoder_hidden_states=tokens, added_cond_kwargs=added
            ).sample
            unconditional, conditional = prediction.chunk(2)
            guided = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(guided, timestep, latents).prev_sample
        return latents


def _build_flux(device: str, dtype: torch.dtype, *, quick: bool) -> Model:
    text, pooled = (32, 32) if quick else (4096, 768)
    with torch.device(device):
        transformer = diffusers.FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=16 if quick else 128,
            num_attention_heads=2 if quick else 24,
            joint_attention_dim=text,
            pooled_projection_dim=pooled,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6) if quick else (16, 56, 56),
        )
        vae = diffusers.AutoencoderKL(  # Narrow, but with as many pixels to a latent.
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0,
            scaling_factor=1.0,
        )
    pipeline = diffusers.FluxKontextPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=torch.nn.Module.to(vae, dtype).eval(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=torch.nn.Module.to(transformer, dtype).eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    size_px = 64 if quick else 1024
    reference = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    )
    noise = torch.Generator("cpu").manual_seed(0)
    embeds, pooled_embeds = (
        torch.randn(shape, generator=noise).to(device, dtype)
        for shape in ((1, 6 if quick else 512, text), (1, pooled))
    )
    image = np.zeros((size_px, size_px, 3), np.uint8)

    def generate(steps: int) -> Any:
        pipeline(
            image=reference,
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled_embeds,
            num_inference_steps=steps,
            height=size_px,
            width=size_px,
            max_area=size_px**2,
            _auto_resize=False,
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="latent",
        )
        return image

    name = "FLUX's blocks, narrow (--quick)" if quick else "six blocks of FLUX's size"
    return Model(name, pipeline, generate, reference, "flux")
