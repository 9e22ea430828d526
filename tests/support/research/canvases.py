"""Models that paint one canvas: CatVTON, HiDream-E1, diptychs on FLUX, Stable Diffusion 3, VisualCloze."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from i2am.capture import Profile
from i2am.capture.families.canvas import canvas
from i2am.schemas.dims import CONDITIONAL, IMAGE, UNCONDITIONAL
from tests.support.research.models import Layer, Reference, Research, noise, tokens_of, whiten
from tests.support.research.unets import GRIDS, narrow_unet
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.families import noise_image
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["CANVASES", "catvton", "diptych", "hidream_e1", "stable_diffusion_3", "visualcloze"]

TEXT = 6


def part(
    grid: tuple[int, int],
    target: tuple[int, int, int, int],
    *references: tuple[int, int, int, int],
    start: int = 0,
    text: Sequence[int] = (),
) -> Layer:
    """Return a layer over a canvas, whose parts are given in tokens (y0, x0, y1, x1)."""

    def size(box: tuple[int, int, int, int]) -> tuple[int, int]:
        return box[2] - box[0], box[3] - box[1]

    return Layer(
        tokens_of(grid, target, start),
        size(target),
        tuple(Reference(tokens_of(grid, box, start), size(box)) for box in references),
        text=text,
    )


class SkipAttnProcessor(torch.nn.Module):
    """CatVTON's: the layer gives back what it is given."""

    def __call__(self, _attention: Any, hidden_states: Any, *_: Any, **__: Any) -> Any:
        return hidden_states


class CatVTONPipeline:
    """CatVTON's: the person above the garment, and a garment of zeros in the unconditional rows."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.noise_scheduler = unet, parts.ddim()
        self.garment = noise(1, 4, 8, 12, seed=1)

    def sample(self, steps: int, guided: bool = True) -> torch.Tensor:
        return self(steps, guidance_scale=2.5 if guided else 1.0)

    @torch.no_grad()
    def __call__(self, steps: int, guidance_scale: float) -> torch.Tensor:
        self.noise_scheduler.set_timesteps(steps)
        person = noise(1, 4, 8, 12, seed=2)
        given = torch.cat([person, self.garment], dim=-2)
        latents = noise(*given.shape)
        if do_classifier_free_guidance := (guidance_scale > 1.0):
            without = torch.cat([person, torch.zeros_like(self.garment)], dim=-2)
            given = torch.cat([without, given])
        mask = torch.ones(len(given), 1, *given.shape[-2:])
        for timestep in self.noise_scheduler.timesteps:
            own = torch.cat([latents] * 2) if do_classifier_free_guidance else latents
            states = torch.cat([own, mask, given], dim=1)
            estimate = self.unet(states, timestep, encoder_hidden_states=None, return_dict=False)[0]
            if do_classifier_free_guidance:
                unconditional, conditional = estimate.chunk(2)
                estimate = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.noise_scheduler.step(estimate, timestep, latents).prev_sample
        return latents[..., : latents.shape[-2] // 2, :]


CatVTONPipeline.__module__ = "model.pipeline"


def catvton() -> Research:
    torch.manual_seed(0)
    unet = narrow_unet(in_channels=9, out_channels=4)
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(SkipAttnProcessor())
    pipeline = CatVTONPipeline(unet)
    layers = {
        f"{path}.transformer_blocks.0.attn1": part(
            (2 * height, width), (0, 0, height, width), (height, 0, 2 * height, width)
        )
        for path, (height, width) in GRIDS.items()
    }
    return Research(pipeline, unet, pipeline.sample, "catvton", layers)


class HiDreamImageEditingPipeline:
    """HiDream-E1's: the picture on the right of the latents, and guidance by picture and text."""

    def __init__(self, transformer: Any) -> None:
        self.transformer, self.scheduler = transformer, diffusers.FlowMatchEulerDiscreteScheduler()
        self.garment = noise(1, 4, 8, 12, seed=1)
        self.is_guided = True

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self.is_guided

    def sample(self, steps: int, guided: bool = True, refined: int = 0) -> torch.Tensor:
        self.is_guided = guided
        return self(steps, refined)

    @torch.no_grad()
    def __call__(self, steps: int, refined: int = 0) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        latents, picture = noise(1, 4, 8, 12), self.garment
        if self.is_guided:
            picture = torch.cat([torch.zeros_like(picture), picture, picture])
        for index, timestep in enumerate(self.scheduler.timesteps):
            refine_stage = index >= steps - refined
            rows = (2 if refine_stage else 3) if self.is_guided else 1
            own = torch.cat([latents] * rows)
            states = own if refine_stage else torch.cat([own, picture], dim=-1)
            estimate = self.transformer(
                hidden_states=states,
                timesteps=timestep.expand(rows),
                encoder_hidden_states_t5=noise(rows, TEXT, WIDTH),
                encoder_hidden_states_llama3=noise(2, rows, TEXT, WIDTH),
                pooled_embeds=noise(rows, WIDTH),
                return_dict=False,
            )[0]
            estimate = -estimate[..., : latents.shape[-1]]
            if self.is_guided:
                unconditional, *others, conditional = estimate.chunk(rows)
                estimate = unconditional + 2 * (conditional - (others or [unconditional])[0])
            latents = self.scheduler.step(estimate, timestep, latents, return_dict=False)[0]
        return latents


HiDreamImageEditingPipeline.__module__ = "pipeline_hidream_image_editing"


def hidream_e1() -> Research:
    torch.manual_seed(0)
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=WIDTH,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(16, 16),
        llama_layers=[0, 1],
    ).requires_grad_(False)
    transformer.eval()
    pipeline = HiDreamImageEditingPipeline(transformer)
    # 48 tokens of the canvas, then 16 of padding, since it is no square; then three texts.
    text = range(64, 64 + 3 * TEXT)
    layer = part((4, 12), (0, 0, 4, 6), (0, 6, 4, 12), text=text)
    layers = {f"{kind}_stream_blocks.0.block.attn1": layer for kind in ("double", "single")}
    order = (UNCONDITIONAL, IMAGE, CONDITIONAL)
    return Research(pipeline, transformer, pipeline.sample, "hidream-e1", layers, order)


def _flux(in_channels: int) -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    ).requires_grad_(False)


def _flux_pipeline(kind: Any, transformer: Any, **options: Any) -> Any:
    vae = parts.vae(
        latent_channels=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
        **options,
    )
    return parts.quiet(pipeline)


FLUX_LAYERS = ("transformer_blocks.0.attn", "single_transformer_blocks.0.attn")
# What FLUX Fill gets: latents, those of the masked canvas, and the mask, each packed.
FILLED = 4 + 4 + 16


def diptych(kind: Any, profile: str) -> Research:
    """A diptych of two pictures 32 × 24 on FLUX, the reference on the left."""
    torch.manual_seed(0)
    is_filled = kind is diffusers.FluxFillPipeline
    pipeline = _flux_pipeline(kind, _flux(FILLED if is_filled else 4))
    pipeline.garment = noise_image(32, 1, width=24)

    def sample(steps: int, guided: bool = True, output_type: str = "latent") -> Any:
        call: dict[str, Any] = {"prompt_embeds": noise(1, TEXT, WIDTH)}
        call["pooled_prompt_embeds"] = noise(1, WIDTH)
        if is_filled:
            whole = Image.new("RGB", (48, 32))
            whole.paste(pipeline.garment, (0, 0))
            right = np.zeros((32, 48), np.uint8)
            right[:, 24:] = 255
            call |= {"image": whole, "mask_image": Image.fromarray(right)}
        return pipeline(
            **call,
            height=32,
            width=48,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            output_type=output_type,
            return_dict=False,
        )[0]

    # A token for 4 × 4 pixels, behind the text.
    layer = part((8, 12), (0, 6, 8, 12), (0, 0, 8, 6), start=TEXT, text=range(TEXT))
    return Research(
        pipeline,
        pipeline.transformer,
        sample,
        profile,
        dict.fromkeys(FLUX_LAYERS, layer),
        (CONDITIONAL,),
        {"profile": profile},
        picture=(32, 24),
        cells=(8, 6),
        move=_move_picture if is_filled else None,
    )


def _move_picture(pipeline: Any, place: tuple[int, int]) -> None:
    pipeline.garment = whiten(pipeline.garment, place, 4)


# Two references: the upper and the lower left quarter of a canvas, whose right half is painted.
QUARTERS = partial(canvas, target=(0, 0.5, 1, 1), reference=[(0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5)])


def stable_diffusion_3() -> Research:
    """A profile of one's own, on SD3.5's transformer, whose first block attends twice."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    ).requires_grad_(False)

    @torch.no_grad()
    def sample(steps: int, guided: bool = True) -> torch.Tensor:
        latents = noise(1, 4, 8, 24)
        for time in range(900, 900 - 100 * steps, -100):
            rows = 2 if guided else 1
            latents = latents - 0.1 * transformer(
                torch.cat([latents] * rows),
                noise(rows, TEXT, WIDTH),
                noise(rows, WIDTH),
                torch.full((rows,), time),
                return_dict=False,
            )[0].mean(0, keepdim=True)
        return latents

    layer = part((4, 12), (0, 6, 4, 12), (0, 0, 2, 6), (2, 0, 4, 6), text=range(48, 48 + TEXT))
    names = [f"transformer_blocks.{name}" for name in ("0.attn", "0.attn2", "1.attn")]
    return Research(
        transformer,
        transformer,
        sample,
        "quarters",
        dict.fromkeys(names, layer),
        options={"profile": Profile("quarters", (), QUARTERS)},
        picture_of_reference=(4, 12),
        move=None,
    )


def visualcloze(kind: Any = diffusers.VisualClozeGenerationPipeline) -> Research:
    """One example and a query, of three pictures each; the last row's second one is generated."""
    torch.manual_seed(0)
    pipeline = _flux_pipeline(kind, _flux(FILLED), resolution=24)
    inner = getattr(pipeline, "generation_pipe", pipeline)
    parts.quiet(inner)
    told = noise(1, TEXT, WIDTH), noise(1, WIDTH), torch.zeros(TEXT, 3)
    inner.encode_prompt = lambda **_: told
    example = [noise_image(16, seed, width=36) for seed in range(3)]  # → 16 × 36, rounded down
    # The second given one is cropped in the middle to the shape of the first, 28 × 20.
    query = [noise_image(28, 3, width=20), noise_image(28, 4, width=40)]
    pipeline.rows = [example, [query[0], None, query[1]]]
    given = [*example, *query]

    def sample(steps: int, guided: bool = True) -> Any:
        options = {} if inner is pipeline else {"upsampling_strength": 0}
        found = pipeline(
            task_prompt="",
            content_prompt="",
            image=pipeline.rows,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
            **options,
        )[0]
        return getattr(found, "images", found)

    upper, lower = (4, 27), (7, 15)
    start = TEXT + upper[0] * upper[1]
    references = [(tokens_of(upper, (0, x, 4, x + 9), TEXT), (4, 9)) for x in (0, 9, 18)]
    references += [(tokens_of(lower, (0, x, 7, x + 5), start), (7, 5)) for x in (0, 10)]
    layer = Layer(
        tokens_of(lower, (0, 5, 7, 10), start),
        (7, 5),
        tuple(Reference(tokens, grid) for tokens, grid in references),
        text=range(TEXT),
    )
    return Research(
        pipeline,
        pipeline.transformer,
        sample,
        "visualcloze",
        dict.fromkeys(FLUX_LAYERS, layer),
        (CONDITIONAL,),
        picture=(28, 20),
        cells=(4, 9),
        move=_move_example,
        given=given,
        boxes={"reference_4": [0, 10, 28, 30]},
    )


def _move_example(pipeline: Any, place: tuple[int, int]) -> None:
    pipeline.rows[0][0] = whiten(pipeline.rows[0][0], place, 4)


CANVASES: dict[str, Callable[[], Research]] = {
    "CatVTON": catvton,
    "HiDream-E1": hidream_e1,
    "ICEdit": lambda: diptych(diffusers.FluxFillPipeline, "icedit"),
    "in-context LoRA": lambda: diptych(diffusers.FluxPipeline, "in-context-lora"),
    "two references on SD3": stable_diffusion_3,
    "VisualCloze": visualcloze,
    "VisualCloze, both stages": lambda: visualcloze(diffusers.VisualClozePipeline),
}
