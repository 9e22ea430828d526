"""A pipeline that paints a reference object into an image, called like ``PaintByExamplePipeline``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from i2am.capture.pipelines.reference_encoder import ReferenceEncoder

__all__ = ["IMAGE_SIZE_PX", "ReferenceInpaintPipeline"]

IMAGE_SIZE_PX = 64


class ReferenceInpaintPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Paint a reference object into the masked part of an image.

    Parameters
    ----------
    vae : AutoencoderKL
    unet : UNet2DConditionModel
        Nine input channels: latent (4), masked image's latent (4), mask (1, 1 = to be painted).
    reference_encoder : ReferenceEncoder
    scheduler : DDIMScheduler
        Or any other scheduler of diffusers that knows v-prediction.
    """

    model_cpu_offload_seq = "reference_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        reference_encoder: ReferenceEncoder,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, unet=unet, reference_encoder=reference_encoder, scheduler=scheduler
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def __call__(
        self,
        example_image: torch.Tensor | Image.Image | list[Image.Image],
        image: torch.Tensor | Image.Image | list[Image.Image],
        mask_image: torch.Tensor | Image.Image | list[Image.Image],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        negative_prompt: object = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        callback_steps: int = 1,
    ) -> Any:
        """Return the painted images.

        Parameters
        ----------
        example_image, image, mask_image : PIL image, list of them, or Tensor (batch, channel, y, x)
            The reference, the image to be changed, both in [-1, 1] when tensors, and the mask,
            1 (white) where the image shall be painted. All are resized to 64 × 64.
        height, width : int, optional
            Must be 64 when given: the model was trained at that size alone.
        num_inference_steps : int
        guidance_scale : float
            At most 1 turns classifier-free guidance off. Guidance order: unconditional, conditional.
        negative_prompt : None
            Part of ``PaintByExamplePipeline``'s signature; this model reads no text.
        num_images_per_prompt : int
            Images for each input.
        eta : float
            DDIM's noise, 0 to 1.
        generator : torch.Generator or list of them, optional
        latents : Tensor (batch, 4, 16, 16), optional
            The starting noise.
        output_type : {"pil", "np", "pt", "latent"}
        return_dict : bool
        callback, callback_steps
            Called with (step, timestep, latents) every `callback_steps` steps.

        Returns
        -------
        StableDiffusionPipelineOutput
            Or a tuple (images, None) when `return_dict` is false.

        Raises
        ------
        ValueError
            If another size or a negative prompt is asked for, or the batch sizes do not agree.
        """
        if (height or IMAGE_SIZE_PX, width or IMAGE_SIZE_PX) != (IMAGE_SIZE_PX, IMAGE_SIZE_PX):
            msg = f"Expected height and width {IMAGE_SIZE_PX}, got {height} and {width}. Omit them."
            raise ValueError(msg)
        if negative_prompt is not None:
            msg = f"Expected no negative_prompt, got {negative_prompt!r}. This model reads no text."
            raise ValueError(msg)
        device, dtype = self._execution_device, self.unet.dtype
        reference = _to_tensor(example_image, "RGB").to(device, dtype)
        source = _to_tensor(image, "RGB").to(device, dtype)
        mask = (_to_tensor(mask_image, "L") > 0.5).to(device, dtype)
        if not len(reference) == len(source) == len(mask):
            msg = (
                f"Expected as many references as images and masks, got {len(reference)}, "
                f"{len(source)} and {len(mask)}. Give one of each for every image."
            )
            raise ValueError(msg)
        repeats = num_images_per_prompt
        do_classifier_free_guidance = guidance_scale > 1  # By this name capture knows it.
        tokens = self.reference_encoder(reference).repeat_interleave(repeats, dim=0)
        masked, area = self._encode_condition(source, mask)
        condition = torch.cat([masked, area], dim=1).repeat_interleave(repeats, dim=0)
        if do_classifier_free_guidance:
            nothing = self.reference_encoder.unconditional.expand(len(tokens), -1, -1)
            tokens = torch.cat([nothing.to(dtype), tokens])
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = self._start(latents, len(condition), generator, device, dtype)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            noisy = self.scheduler.scale_model_input(latents, timestep)
            model_input = torch.cat([noisy, condition], dim=1)
            model_input = (
                torch.cat([model_input] * 2) if do_classifier_free_guidance else model_input
            )
            prediction = self.unet(model_input, timestep, encoder_hidden_states=tokens).sample
            if do_classifier_free_guidance:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            latents = self._step(prediction, timestep, latents, eta, generator)
            if callback is not None and step % callback_steps == 0:
                callback(step, int(timestep), latents)
        images = self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, None
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)

    def _encode_condition(
        self, source: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masked = self.vae.encode(source * (1 - mask)).latent_dist.mean
        area = functional.interpolate(mask, masked.shape[-2:], mode="area")
        return masked * self.vae.config.scaling_factor, area

    def _start(
        self,
        latents: torch.Tensor | None,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if latents is None:
            side = IMAGE_SIZE_PX // self.vae_scale_factor
            shape = (batch, self.vae.config.latent_channels, side, side)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        scaled: torch.Tensor = latents.to(device, dtype) * self.scheduler.init_noise_sigma
        return scaled

    def _step(
        self,
        prediction: torch.Tensor,
        timestep: torch.Tensor,
        latents: torch.Tensor,
        eta: float,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> torch.Tensor:
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {k: v for k, v in {"eta": eta, "generator": generator}.items() if k in accepted}
        stepped: torch.Tensor = self.scheduler.step(
            prediction, timestep, latents, **options
        ).prev_sample
        return stepped

    def _decode(self, latents: torch.Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        images = (images / 2 + 0.5).clamp(0, 1).float()
        if output_type == "pt":
            return images
        array = images.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "np":
            return array
        return [Image.fromarray(np.round(255 * image).astype(np.uint8)) for image in array]


def _to_tensor(images: torch.Tensor | Image.Image | list[Image.Image], mode: str) -> torch.Tensor:
    """Return (batch, channel, 64, 64): RGB in [-1, 1], a mask ("L") in [0, 1]."""
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    if isinstance(images, torch.Tensor):
        tensor = images if images.ndim == 4 else images[None]
        if tensor.shape[-2:] == size:
            return tensor
        return functional.interpolate(tensor, size, mode="bilinear", antialias=True)
    listed = images if isinstance(images, list) else [images]
    resample = Image.Resampling.LANCZOS if mode == "RGB" else Image.Resampling.NEAREST
    arrays = [np.asarray(image.convert(mode).resize(size, resample)) for image in listed]
    tensor = torch.from_numpy(np.stack(arrays)).float() / 255
    if mode == "L":
        return tensor[:, None]
    return tensor.permute(0, 3, 1, 2) * 2 - 1
