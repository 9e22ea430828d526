"""A small reference-only pipeline: the mechanism of the community's, on a real UNet.

Diffusers does not ship that pipeline, so its mechanism is written here anew: every self-attention
stores its input in a bank while the UNet runs on the noised reference, and attends to the bank behind
its own tokens while it runs on the image. With style fidelity, the unconditional branch attends to
itself alone a second time.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

__all__ = ["StableDiffusionReferencePipeline"]


class StableDiffusionReferencePipeline:
    """Named as the community's, which is how a capture finds its profile."""

    def __init__(self, unet: UNet2DConditionModel, scheduler: DDIMScheduler) -> None:
        self.unet, self.scheduler = unet, scheduler

    @torch.no_grad()
    def __call__(
        self,
        reference_latents: torch.Tensor,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor,
        style_fidelity: float,
        num_inference_steps: int,
        generator: torch.Generator,
        output_type: str = "latent",
    ) -> tuple[torch.Tensor]:
        bank = _Bank(self.unet, style_fidelity)
        embeds = torch.cat([negative_prompt_embeds, prompt_embeds])
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(reference_latents.shape, generator=generator)
        try:
            for timestep in self.scheduler.timesteps:
                noise = torch.randn(reference_latents.shape, generator=generator)
                noised = self.scheduler.add_noise(reference_latents, noise, timestep)
                bank.is_writing = True
                self._denoise(noised, timestep, embeds)
                bank.is_writing = False
                unconditional, conditional = self._denoise(latents, timestep, embeds).chunk(2)
                guided = unconditional + 2 * (conditional - unconditional)
                latents = self.scheduler.step(guided, timestep, latents).prev_sample
        finally:
            bank.remove()
        return (latents,)

    def _denoise(
        self, latents: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor
    ) -> torch.Tensor:
        doubled = torch.cat([latents] * 2)
        found: torch.Tensor = self.unet(doubled, timestep, encoder_hidden_states=embeds).sample
        return found


class _Bank:
    """What the self-attentions of all transformer blocks are given by the reference's run."""

    def __init__(self, unet: nn.Module, style_fidelity: float) -> None:
        self.is_writing = True
        self._fidelity = style_fidelity
        self._blocks: list[Any] = [
            block for block in unet.modules() if type(block).__name__ == "BasicTransformerBlock"
        ]
        self._tokens: dict[int, torch.Tensor] = {}
        for index, block in enumerate(self._blocks):
            block.forward = self._forward_of(index, block)

    def remove(self) -> None:
        for block in self._blocks:
            del block.forward

    def _forward_of(self, index: int, block: Any) -> Any:
        def forward(
            hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_options: Any
        ) -> torch.Tensor:
            states = hidden_states + self._attend(index, block.attn1, block.norm1(hidden_states))
            states = states + block.attn2(
                block.norm2(states), encoder_hidden_states=encoder_hidden_states
            )
            fed: torch.Tensor = states + block.ff(block.norm3(states))
            return fed

        return forward

    def _attend(self, index: int, attention: Any, states: torch.Tensor) -> torch.Tensor:
        if self.is_writing:
            self._tokens[index] = states.clone()
            own: torch.Tensor = attention(states)
            return own
        keys = torch.cat([states, self._tokens.pop(index)], dim=1)
        read: torch.Tensor = attention(states, encoder_hidden_states=keys)
        faithful = read.clone()
        unconditional = slice(0, len(states) // 2)
        own = states[unconditional]
        faithful[unconditional] = attention(own, encoder_hidden_states=own)
        return self._fidelity * faithful + (1 - self._fidelity) * read
