"""Super-resolution: PASD and PASD-light, SeeSR, SUPIR."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import nn

from tests.support.compvis.layers import (
    Build,
    MemoryEfficientCrossAttention,
    Upsample,
)
from tests.support.compvis.models import CONTEXT_WIDTH, DiffusionWrapper, UNetModel, level_widths
from tests.support.research.models import Layer, Reference, Research, doubled, noise
from tests.support.research.unets import (
    GRIDS,
    LATENTS,
    Block,
    blocks,
    named_as,
    narrow_unet,
    run,
    run_blocks,
)
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["SUPER_RESOLUTION", "pasd", "pasd_light", "seesr", "supir"]

TEXT = 7
# What the way down leaves for each layer of the way up, the last one first: channels and grid.
SKIPS = ((16, (8, 12)), (16, (8, 12)), (16, (4, 6)), (32, (4, 6)))


class _ControlNet(nn.Module):
    """Makes features of the picture and the noisy latents, for each layer of the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(8, width, 3, stride=LATENTS[0] // height, padding=1)
            for width, (height, _) in SKIPS
        )

    def forward(self, latents: torch.Tensor, picture: torch.Tensor) -> list[torch.Tensor]:
        both = torch.cat([latents, picture.expand_as(latents)], dim=1)
        return [convolution(both) for convolution in self.convolutions]


class StableDiffusionControlNetPipeline:
    """PASD's and SeeSR's, which have the name of diffusers'; large latents are painted in tiles."""

    def __init__(self, unet: Any, tokens: torch.Tensor | None = None) -> None:
        self.unet, self.scheduler, self.tokens = unet, parts.ddim(), tokens
        self.controlnet = _ControlNet().requires_grad_(False)
        self.garment = noise(1, 4, *LATENTS, seed=1)  # the low-resolution picture
        self.latent_tiled_size = 16

    def sample(self, steps: int, guided: bool = True) -> torch.Tensor:
        return self(steps, guidance_scale=7.5 if guided else 1.0)

    @torch.no_grad()
    def __call__(self, steps: int, guidance_scale: float) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        latents = noise(1, 4, *LATENTS)
        do_classifier_free_guidance = guidance_scale > 1.0
        text = noise(1, TEXT, WIDTH)
        text = doubled(do_classifier_free_guidance, text, -text)
        size = self.latent_tiled_size
        for timestep in self.scheduler.timesteps:
            states = doubled(do_classifier_free_guidance, latents)
            estimate = torch.zeros_like(states)
            for x in range(0, LATENTS[1], size):
                columns = slice(x, x + size)
                tile = states[..., columns]
                features = self.controlnet(tile, self.garment[..., columns])
                estimate[..., columns] = self._estimate(tile, timestep, text, features)
            if do_classifier_free_guidance:
                unconditional, conditional = estimate.chunk(2)
                estimate = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(estimate, timestep, latents).prev_sample
        return latents

    def _estimate(self, tile: Any, timestep: Any, text: Any, features: Any) -> Any:
        options: dict[str, Any] = {"down_block_additional_residuals": features}
        if self.tokens is not None:
            options["image_encoder_hidden_states"] = self.tokens.expand(len(tile), -1, -1)
        return self.unet(tile, timestep, text, **options)


StableDiffusionControlNetPipeline.__module__ = "pasd.pipelines.pipeline_pasd"


def _keeps_features(
    self: Any,
    sample: Any,
    timestep: Any,
    encoder_hidden_states: Any,
    down_block_additional_residuals: Any = None,
) -> torch.Tensor:
    self.features = list(down_block_additional_residuals)
    return run(self, sample, timestep, encoder_hidden_states)


def _transformer(width: int, context_width: int) -> Transformer2DModel:
    return Transformer2DModel(
        2, width // 2, width, cross_attention_dim=context_width, norm_num_groups=8
    ).requires_grad_(False)


def _then(module: Any, attend: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let a ResNet or a transformer of a UNet be followed by another one."""
    of_class = type(module).forward

    def forward(*arguments: Any, **options: Any) -> Any:
        found = of_class(module, *arguments, **options)
        return (attend(found[0]),) if isinstance(found, tuple) else attend(found)

    module.forward = forward


def _grid_layer(grid: tuple[int, int]) -> Layer:
    patches = range(grid[0] * grid[1])
    return Layer(patches, grid, (Reference(patches, grid),))


def pasd() -> Research:
    """Its coarsest block of the way up has no attention to text, and yet to the picture."""
    torch.manual_seed(0)
    unet = narrow_unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    layers: dict[str, Layer] = {}
    skips = list(SKIPS)
    for number, block in enumerate(unet.up_blocks):
        block.pixel_attentions = nn.ModuleList()
        followed = getattr(block, "attentions", block.resnets)
        for index, before in enumerate(followed):
            width, grid = block.resnets[index].out_channels, skips.pop()
            pixel = _transformer(width, grid[0])
            block.pixel_attentions.append(pixel)
            _then(before, partial(_read_feature, unet, pixel))
            name = f"up_blocks.{number}.pixel_attentions.{index}.transformer_blocks.0.attn2"
            layers[name] = _grid_layer(grid[1])
    named_as(unet, "UNet2DConditionModel", "pasd.models.pasd.unet_2d_condition", _keeps_features)
    pipeline = StableDiffusionControlNetPipeline(unet)
    return Research(pipeline, unet, pipeline.sample, "pasd", layers)


def _read_feature(unet: Any, pixel: Any, states: torch.Tensor) -> torch.Tensor:
    tokens = unet.features.pop().flatten(2).mT
    found: torch.Tensor = pixel(states, encoder_hidden_states=tokens, return_dict=False)[0]
    return found


def pasd_light() -> Research:
    torch.manual_seed(0)
    unet = narrow_unet()
    layers: dict[str, Layer] = {}
    skips = list(SKIPS)
    for name, block in blocks(unet):
        if name.startswith("up_blocks"):
            width = block.norm1.normalized_shape[0]
            context_width, grid = skips.pop()
            block.norm2_plus = nn.LayerNorm(width)
            block.attn2_plus = Attention(width, context_width, heads=2, dim_head=width // 2)
            block.attn2_plus.requires_grad_(False)
            layers[f"{name}.attn2_plus"] = _grid_layer(grid)

    def of(_index: int, block: Any) -> Block:
        def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
            states = states + block.attn1(block.norm1(states))
            states = states + block.attn2(block.norm2(states), encoder_hidden_states)
            if hasattr(block, "attn2_plus"):
                tokens = unet.features.pop().flatten(2).mT
                states = states + block.attn2_plus(
                    block.norm2_plus(states), encoder_hidden_states=tokens, attention_mask=None
                )
            return states + block.ff(block.norm3(states))

        return forward

    run_blocks(unet, of)
    module = "pasd.models.pasd_light.unet_2d_condition"
    named_as(unet, "UNet2DConditionModel", module, _keeps_features)
    pipeline = StableDiffusionControlNetPipeline(unet)
    return Research(pipeline, unet, pipeline.sample, "pasd-light", layers)


RAM_WIDTH, RAM_GRID = 8, (4, 4)


def seesr() -> Research:
    """Beside each transformer one that reads RAM's tokens: one for the class, then a square."""
    torch.manual_seed(0)
    unet = narrow_unet()
    layers: dict[str, Layer] = {}
    tokens = 1 + RAM_GRID[0] * RAM_GRID[1]
    for path, grid in GRIDS.items():
        parent = unet.get_submodule(path.rpartition(".attentions.")[0])
        transformer: Any = unet.get_submodule(path)
        image = _transformer(transformer.in_channels, RAM_WIDTH)
        if not hasattr(parent, "image_attentions"):
            parent.image_attentions = nn.ModuleList()
        parent.image_attentions.append(image)
        _then(transformer, partial(_read_tokens, unet, image))
        place = path.replace(".attentions.", ".image_attentions.")
        layers[f"{place}.transformer_blocks.0.attn2"] = Layer(
            range(grid[0] * grid[1]), grid, (Reference(range(tokens), RAM_GRID, special=1),)
        )

    def forward(
        self: Any,
        sample: Any,
        timestep: Any,
        encoder_hidden_states: Any,
        down_block_additional_residuals: Any = None,
        image_encoder_hidden_states: Any = None,
    ) -> torch.Tensor:
        self.tokens = image_encoder_hidden_states
        return run(self, sample, timestep, encoder_hidden_states)

    named_as(unet, "UNet2DConditionModel", "models.unet_2d_condition", forward)
    pipeline = StableDiffusionControlNetPipeline(unet, noise(1, tokens, RAM_WIDTH))
    return Research(
        pipeline,
        unet,
        pipeline.sample,
        "seesr",
        layers,
        picture_of_reference=(16, 16),
        cells=RAM_GRID,
        move=_move_token,
    )


def _read_tokens(unet: Any, image: Any, states: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = image(states, encoder_hidden_states=unet.tokens, return_dict=False)[0]
    return found


def _move_token(pipeline: Any, place: tuple[int, int]) -> None:
    pipeline.tokens = pipeline.tokens.clone()
    pipeline.tokens[:, 1 + place[0] * RAM_GRID[1] + place[1]] += 8


class ZeroSFT(nn.Module):
    """SUPIR's: convolutions of the features, without attention."""

    def __init__(self, control_width: int, width: int) -> None:
        super().__init__()
        self.zero_conv = nn.Conv2d(control_width, width, 1)

    def forward(self, context: Any, x: Any, control_scale: float = 1) -> torch.Tensor:
        found: torch.Tensor = x + self.zero_conv(context) * control_scale
        return found


class ZeroCrossAttn(nn.Module):
    """SUPIR's: the same by attention, on the grid of the features."""

    def __init__(self, control_width: int, width: int, build: Build) -> None:
        super().__init__()
        heads = build.heads
        self.attn = build.attention(width, control_width, heads, width // heads)
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, control_width)

    def forward(self, context: Any, x: Any, control_scale: float = 1) -> torch.Tensor:
        tokens = self.norm1(x).flatten(2).mT.contiguous()
        read = self.attn(tokens, self.norm2(context).flatten(2).mT.contiguous())
        found: torch.Tensor = x + read.mT.reshape(x.shape) * control_scale
        return found


class LightGLVUNet(UNetModel):
    """SUPIR's UNet: one project module at each output block, and attention before each upsampling."""

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        widths = list(reversed(level_widths(build)))
        self.project_modules = nn.ModuleList()
        for width in widths:
            self.project_modules += [ZeroSFT(width, width) for _ in range(3)]
            if width is not widths[-1]:
                self.project_modules.append(ZeroCrossAttn(width, width, build))

    def forward(
        self,
        x: Any,
        timesteps: Any = None,
        context: Any = None,
        y: Any = None,
        control: Any = None,
        control_scale: float = 1,
        **_: Any,
    ) -> torch.Tensor:
        emb = self.embed(timesteps)
        *skips, h = self.descend(x, emb, context)
        modules, features = list(self.project_modules), list(control)
        blocks: Any = self.output_blocks
        for block in blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            layers = list(block)
            is_followed = isinstance(layers[-1], Upsample)
            for layer in layers[:-1] if is_followed else layers:
                h = layer(h, emb) if hasattr(layer, "emb_layers") else layer(h, context)
            feature = features.pop()
            h = modules.pop(0)(feature, h, control_scale=control_scale)
            if is_followed:
                h = modules.pop(0)(feature, h, control_scale=control_scale)
                h = layers[-1](h)
        out: torch.Tensor = self.out(h)
        return out


LightGLVUNet.__module__ = "SUPIR.modules.SUPIR_v0"


class SUPIRModel(nn.Module):
    """SUPIR's, with a sampler of its own and a scale of the control that grows from step to step."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.model = DiffusionWrapper(LightGLVUNet(build))
        widths = level_widths(build)
        self.control = nn.ModuleList(
            nn.Conv2d(4, width, 3, stride=2**level, padding=1)
            for level, width in enumerate(widths)
            for _ in range(3)
        )
        self.garment = noise(1, 4, 16, 24, seed=1)

    @torch.no_grad()
    def sample(self, steps: int, guided: bool = True) -> torch.Tensor:
        latents, unet = noise(1, 4, 16, 24), self.model.diffusion_model
        for index, time in enumerate(range(900, 900 - 100 * steps, -100)):
            rows = 2 if guided else 1
            states = torch.cat([latents] * rows)
            control = [
                convolution(self.garment.expand(rows, -1, -1, -1)) for convolution in self.control
            ]
            estimate = unet(
                states,
                timesteps=torch.full((rows,), time),
                context=noise(rows, TEXT, CONTEXT_WIDTH),
                control=control,
                control_scale=0.5 + 0.25 * index,
            )
            if guided:
                unconditional, conditional = estimate.chunk(2)
                estimate = unconditional + 4 * (conditional - unconditional)
            latents = latents - 0.1 * estimate
        return latents


SUPIRModel.__module__ = "SUPIR.models.SUPIR_model"


def supir() -> Research:
    torch.manual_seed(0)
    build = Build(in_channels=4, attention=MemoryEfficientCrossAttention)
    model = SUPIRModel(build).requires_grad_(False).eval()
    grids = ((2, 3), (4, 6), (8, 12))
    layers = {
        f"project_modules.{3 + 4 * index}.attn": _grid_layer(grid)
        for index, grid in enumerate(grids)
    }
    return Research(
        model,
        model.model.diffusion_model,
        model.sample,
        "supir",
        layers,
        picture=(16, 24),
        cells=(16, 24),
        weights=(0.5, 0.75),
    )


SUPER_RESOLUTION: dict[str, Callable[[], Research]] = {
    "PASD": pasd,
    "PASD-light": pasd_light,
    "SeeSR": seesr,
    "SUPIR": supir,
}
