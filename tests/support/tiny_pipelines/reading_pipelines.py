"""Tiny pipelines in which a UNet's own layers read the reference: networks, canvases, own grids.

Their mechanisms are those of research code; prompts, images per prompt, guidance and schedulers vary as
in diffusers' pipelines, which that code's seldom let.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from tests.support.research.unets import Block, blocks, narrow_unet, run_blocks
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["FAMILIES"]

SIDES = (8, 16)  # of the latents


class ReadingPipeline:
    """Paints latents with a UNet that reads the latents of one reference.

    Parameters
    ----------
    unet : UNet2DConditionModel
    is_conditional_first : bool
        Of the two branches in a guided batch.
    """

    def __init__(self, unet: Any, *, is_conditional_first: bool = False) -> None:
        self.unet, self.scheduler = unet, parts.ddim()
        self.is_conditional_first = is_conditional_first
        self._guidance_scale = 1.0

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @torch.no_grad()
    def __call__(
        self,
        reference_latents: torch.Tensor,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor,
        height: int,
        width: int,
        generator: torch.Generator,
        num_inference_steps: int = 2,
        num_images_per_prompt: int = 1,
        guidance_scale: float = 3.0,
        output_type: str = "latent",
    ) -> tuple[torch.Tensor]:
        self._guidance_scale = guidance_scale
        texts = [prompt_embeds.repeat_interleave(num_images_per_prompt, 0)]
        if self.do_classifier_free_guidance:
            texts.append(negative_prompt_embeds.repeat_interleave(num_images_per_prompt, 0))
        if not self.is_conditional_first:
            texts.reverse()
        count = len(prompt_embeds) * num_images_per_prompt
        text = torch.cat(texts)
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(count, 4, height, width, generator=generator)
        latents = latents * self.scheduler.init_noise_sigma
        # Each image has a reference of its own.
        references = torch.cat([reference_latents.roll(n, -1) for n in range(count)] * len(texts))
        for timestep in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(torch.cat([latents] * len(texts)), timestep)
            estimate = self.estimate(scaled, timestep, text, references)
            if self.do_classifier_free_guidance:
                one, other = estimate.chunk(2)
                branches = (other, one) if self.is_conditional_first else (one, other)
                estimate = branches[0] + guidance_scale * (branches[1] - branches[0])
            latents = self.scheduler.step(estimate, timestep, latents).prev_sample
        return (latents,)

    def estimate(
        self, latents: torch.Tensor, timestep: Any, text: torch.Tensor, reference: torch.Tensor
    ) -> torch.Tensor:
        return self._run(latents, timestep, text)

    def _run(self, latents: torch.Tensor, timestep: Any, text: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.unet(latents, timestep, text, return_dict=False)[0]
        return found


class NetworkPipeline(ReadingPipeline):
    """Self-attention that reads what a second network's read, behind its own."""

    def __init__(self, unet: Any, network: Any, **options: Any) -> None:
        super().__init__(unet, **options)
        self.network, self.left = network, list[torch.Tensor]()

        def leaving(_index: int, block: Any) -> Block:
            def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
                self.left.append(block.norm1(states))
                states = states + block.attn1(self.left[-1])
                states = states + block.attn2(block.norm2(states), encoder_hidden_states)
                return states + block.ff(block.norm3(states))

            return forward

        def reading(index: int, block: Any) -> Block:
            def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
                both = torch.cat([block.norm1(states), self.left[index]], dim=1)
                states = states + block.attn1(both)[:, : states.shape[1]]
                states = states + block.attn2(block.norm2(states), encoder_hidden_states)
                return states + block.ff(block.norm3(states))

            return forward

        run_blocks(network, leaving)
        run_blocks(unet, reading)

    def estimate(
        self, latents: torch.Tensor, timestep: Any, text: torch.Tensor, reference: torch.Tensor
    ) -> torch.Tensor:
        self.left.clear()
        self.network(reference, timestep, text)
        return self._run(latents, timestep, text)


class CanvasPipeline(ReadingPipeline):
    """The reference below the picture, on one canvas."""

    def estimate(
        self, latents: torch.Tensor, timestep: Any, text: torch.Tensor, reference: torch.Tensor
    ) -> torch.Tensor:
        canvas = torch.cat([latents, reference], dim=-2)
        return self._run(canvas, timestep, text).chunk(2, dim=-2)[0]


class OwnGridPipeline(ReadingPipeline):
    """Cross-attentions of their own, which read features of the reference on their queries' grid."""

    def __init__(self, unet: Any, **options: Any) -> None:
        super().__init__(unet, **options)
        self.features: dict[int, torch.Tensor] = {}  # by their number of places
        for _, block in blocks(unet):
            width = block.norm1.normalized_shape[0]
            block.norm2_plus = torch.nn.LayerNorm(width)
            block.attn2_plus = Attention(width, 4, heads=2, dim_head=width // 2)
            block.requires_grad_(False)

        def of(_index: int, block: Any) -> Block:
            def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
                states = states + block.attn1(block.norm1(states))
                states = states + block.attn2(block.norm2(states), encoder_hidden_states)
                feature = self.features[states.shape[1]]
                states = states + block.attn2_plus(block.norm2_plus(states), feature)
                return states + block.ff(block.norm3(states))

            return forward

        run_blocks(unet, of)

    def estimate(
        self, latents: torch.Tensor, timestep: Any, text: torch.Tensor, reference: torch.Tensor
    ) -> torch.Tensor:
        pooled = (reference, torch.nn.functional.avg_pool2d(reference, 2))
        self.features = {level[0, 0].numel(): level.flatten(2).mT for level in pooled}
        return self._run(latents, timestep, text)


class SkipAttnProcessor(torch.nn.Module):
    """CatVTON's: the layer gives back what it is given."""

    def __call__(self, _attention: Any, hidden_states: Any, *_: Any, **__: Any) -> Any:
        return hidden_states


def _canvas_unet() -> Any:
    unet = narrow_unet()
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(SkipAttnProcessor())
    return unet


def _family(pipeline: ReadingPipeline, profile: str, *, other_keys: Any = None) -> Family:
    height, width = SIDES
    call = {
        "reference_latents": noise(1, 4, height, width),
        "prompt_embeds": noise(1, 7, WIDTH),
        "negative_prompt_embeds": -noise(1, 7, WIDTH),
        "height": height,
        "width": width,
    }
    other_keys = other_keys or (lambda patches: patches)
    return Family(
        pipeline,
        call,
        profile,
        7,
        ((-1, 0, None),),
        other_keys=other_keys,
        keys_before=other_keys,
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "network": lambda: _family(NetworkPipeline(narrow_unet(), narrow_unet()), "garment-network"),
    "network, conditional first": lambda: _family(
        NetworkPipeline(narrow_unet(), narrow_unet(), is_conditional_first=True), "ootdiffusion"
    ),
    "canvas": lambda: _family(CanvasPipeline(_canvas_unet()), "catvton"),
    "own grid": lambda: _family(
        OwnGridPipeline(narrow_unet()), "pasd-light", other_keys=lambda _patches: 0
    ),
}
