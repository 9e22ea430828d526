"""Research models in the manner of CompVis' code, small, with the names and shapes of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tests.support.compvis.layers import (
    EMBEDDING_WIDTH,
    Build,
    CustomSpatialTransformer,
    Downsample,
    ResBlock,
    SpatialTransformer,
    TimestepEmbedSequential,
    Upsample,
)

MULTIPLIERS = (1, 2, 4, 4)
CLIP_WIDTH, CONTEXT_WIDTH = 16, 12


def level_widths(build: Build) -> list[int]:
    return [build.model_channels * multiplier for multiplier in MULTIPLIERS]


class _Encoder(nn.Module):
    """What UNet and ControlNet have in common: the way down, and the middle."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(EMBEDDING_WIDTH, EMBEDDING_WIDTH), nn.SiLU())
        width = build.model_channels
        first = nn.Conv2d(build.in_channels, width, 3, padding=1)
        blocks = [TimestepEmbedSequential(first)]
        self.skip_widths = [width]
        for level, out in enumerate(level_widths(build)):
            for _ in range(2):
                blocks.append(self.mixing_block(level, width, out, build))
                self.skip_widths.append(width := out)
            if level < len(MULTIPLIERS) - 1:
                blocks.append(TimestepEmbedSequential(Downsample(width)))
                self.skip_widths.append(width)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = TimestepEmbedSequential(
            ResBlock(width, width),
            SpatialTransformer(width, CONTEXT_WIDTH, build),
            ResBlock(width, width),
        )

    @staticmethod
    def mixing_block(level: int, width: int, out: int, build: Build) -> TimestepEmbedSequential:
        """A ResBlock, and a transformer but for the coarsest level."""
        block = TimestepEmbedSequential(ResBlock(width, out))
        if level < len(MULTIPLIERS) - 1:
            block.append(SpatialTransformer(out, CONTEXT_WIDTH, build))
        return block

    def embed(self, timesteps: torch.Tensor) -> torch.Tensor:
        frequencies = torch.logspace(0, -3, EMBEDDING_WIDTH // 2)
        angles = timesteps[:, None].float() * frequencies
        embedded: torch.Tensor = self.time_embed(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedded

    def descend(self, x: torch.Tensor, emb: torch.Tensor, context: Any) -> Iterator[torch.Tensor]:
        """Yield what each input block gives, and then the middle."""
        for block in self.input_blocks:
            yield (x := block(x, emb, context))
        yield self.middle_block(x, emb, context)


class UNetModel(_Encoder):
    def __init__(self, build: Build) -> None:
        super().__init__(build)
        widths, skips = level_widths(build), list(self.skip_widths)
        width, blocks = widths[-1], []
        for level in reversed(range(len(MULTIPLIERS))):
            for index in range(3):
                block = self.mixing_block(level, width + skips.pop(), widths[level], build)
                width = widths[level]
                if level and index == 2:
                    block.append(Upsample(width))
                blocks.append(block)
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Conv2d(width, 4, 3, padding=1)

    def forward(
        self, x: Any, timesteps: Any = None, context: Any = None, y: Any = None, **_: Any
    ) -> torch.Tensor:
        emb = self.embed(timesteps)
        *skips, h = self.descend(x, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        out: torch.Tensor = self.out(h)
        return out


class StableVITON(UNetModel):
    def __init__(self, build: Build) -> None:
        super().__init__(build)
        kind = CustomSpatialTransformer if build.has_custom_warp else SpatialTransformer
        warped = [build.model_channels * m for m in (4, 4, 4, 4, 2, 2, 2, 1, 1)]
        hinted = [build.model_channels * m for m in (4, 4, 2, 2, 2, 1, 1, 1, 1)]
        self.warp_flow_blks = nn.ModuleList(
            [kind(width, hint, build) for width, hint in zip(warped, hinted, strict=True)]
        )
        self.warp_zero_convs = nn.ModuleList([nn.Conv2d(width, width, 1) for width in warped])

    def forward(  # type: ignore[override] # as the real one
        self,
        x: Any,
        timesteps: Any = None,
        context: Any = None,
        control: Any = None,
        only_mid_control: bool = False,
        **_: Any,
    ) -> torch.Tensor:
        emb = self.embed(timesteps)
        *skips, h = self.descend(x, emb, context)
        hints = control[:9]  # The coarsest level's and the middle's are not used.
        for index, block in enumerate(self.output_blocks):
            if index >= 3:
                hint = hints.pop().flatten(2).transpose(1, 2).contiguous()
                warped = self.warp_flow_blks[index - 3](h, hint)
                h = self.warp_zero_convs[index - 3](warped) + h
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        out: torch.Tensor = self.out(h)
        return out


class NoZeroConvControlNet(_Encoder):
    def __init__(self, build: Build) -> None:
        super().__init__(build)
        self.cond_first_block = nn.Conv2d(4, build.model_channels, 3, padding=1)

    def forward(self, x: Any, hint: Any, timesteps: Any, context: Any, **_: Any) -> Any:
        emb = self.embed(timesteps)
        x = self.input_blocks[0](x, emb, context) + self.cond_first_block(hint)
        outs = [x]
        for block in [*self.input_blocks[1:], self.middle_block]:
            outs.append(block(outs[-1], emb, context))
        return outs, None


class DiffusionWrapper(nn.Module):
    def __init__(self, unet: UNetModel) -> None:
        super().__init__()
        self.diffusion_model = unet

    def forward(self, x: Any, t: Any, c_crossattn: list[torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self.diffusion_model(x, t, context=torch.cat(c_crossattn, 1))
        return out


class LatentDiffusion(nn.Module):
    """The original Paint-by-Example: a guided batch, unconditional branch first."""

    def __init__(self, unet: UNetModel, build: Build, size: tuple[int, int] = (16, 16)) -> None:
        super().__init__()
        self.model = DiffusionWrapper(unet)
        self.proj_out = nn.Linear(CLIP_WIDTH, CONTEXT_WIDTH)
        self.learnable_vector = nn.Parameter(torch.randn(1, 1, CONTEXT_WIDTH))
        # Look-alikes: the text or image encoder and the autoencoder have attention of their own.
        self.cond_stage_model = SpatialTransformer(CLIP_WIDTH, CONTEXT_WIDTH, build)
        self.first_stage_model = SpatialTransformer(CLIP_WIDTH, CONTEXT_WIDTH, build)
        self.latent_size = size
        self.known_channels = build.in_channels - 4

    def exemplars(self, batch: int) -> torch.Tensor:
        """Return the CLIP tokens of a batch, (batch, 1, channel)."""
        noise = torch.Generator().manual_seed(1)
        embedded: torch.Tensor = self.proj_out(torch.randn(batch, 1, CLIP_WIDTH, generator=noise))
        return embedded

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        known = torch.ones(len(x), self.known_channels, *self.latent_size)
        out: torch.Tensor = self.model(torch.cat([x, known], dim=1), t, [cond])
        return out

    def guided(self, x: torch.Tensor, t: torch.Tensor, scale: float) -> torch.Tensor:
        cond = self.exemplars(len(x))
        if scale == 1:
            return self.apply_model(x, t, cond)
        context = torch.cat([self.learnable_vector.repeat(len(x), 1, 1), cond])
        branches = self.apply_model(torch.cat([x, x]), torch.cat([t, t]), context)
        unconditional, conditional = branches.chunk(2)
        return unconditional + scale * (conditional - unconditional)


class LatentTryOnDiffusion(LatentDiffusion):
    """DCI-VTON."""


class ControlLDM(LatentDiffusion):
    """StableVITON: one call for each branch, the conditional one first."""

    def __init__(self, unet: UNetModel, build: Build) -> None:
        super().__init__(unet, build, (32, 24))
        self.control_model = NoZeroConvControlNet(build)

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        unet = self.model.diffusion_model
        x = torch.cat([x, torch.ones(len(x), self.known_channels, *self.latent_size)], dim=1)
        garment = torch.linspace(-1, 1, 4 * 32 * 24).reshape(1, 4, 32, 24).repeat(len(x), 1, 1, 1)
        control, _ = self.control_model(
            x=x, hint=garment, timesteps=t, context=cond, only_mid_control=False
        )
        out: torch.Tensor = unet(
            x=x, timesteps=t, context=cond, control=control, only_mid_control=False
        )
        return out

    def guided(self, x: torch.Tensor, t: torch.Tensor, scale: float) -> torch.Tensor:
        conditional = self.apply_model(x, t, self.exemplars(len(x)))
        if scale == 1:
            return conditional
        unconditional = self.apply_model(x, t, self.learnable_vector.repeat(len(x), 1, 1))
        return unconditional + scale * (conditional - unconditional)


class DDIMSampler:
    """One evaluation at each timestep."""

    def __init__(self, model: LatentDiffusion) -> None:
        self.model = model

    def sample(self, steps: int, batch_size: int = 1, scale: float = 1.0) -> torch.Tensor:
        """Return latents, always from the same noise."""
        x = torch.randn(batch_size, 4, *self.model.latent_size, generator=torch.manual_seed(0))
        times = timesteps(steps)
        for index, time in enumerate(times):
            x = x - 0.1 * self.estimate(x, index, time, times[min(index + 1, steps - 1)], scale)
        return x

    def estimate(
        self, x: torch.Tensor, index: int, time: int, following: int, scale: float
    ) -> torch.Tensor:
        return self.model.guided(x, torch.full((len(x),), time), scale)


class PLMSSampler(DDIMSampler):
    """One evaluation more: the first step also looks at the timestep of the second."""

    def estimate(
        self, x: torch.Tensor, index: int, time: int, following: int, scale: float
    ) -> torch.Tensor:
        here = super().estimate(x, index, time, following, scale)
        if index:
            return here
        return (here + super().estimate(x - 0.1 * here, index, following, 0, scale)) / 2


def timesteps(steps: int) -> list[int]:
    return [1 + 1000 // steps * step for step in reversed(range(steps))]


def stableviton(**options: Any) -> ControlLDM:
    torch.manual_seed(0)
    build = Build(in_channels=13, **options)
    return ControlLDM(StableVITON(build), build).requires_grad_(False).eval()


def dci_vton(**options: Any) -> LatentTryOnDiffusion:
    torch.manual_seed(0)
    build = Build(**options)
    return LatentTryOnDiffusion(UNetModel(build), build).requires_grad_(False).eval()


def paint_by_example(**options: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    build = Build(**options)
    return LatentDiffusion(UNetModel(build), build).requires_grad_(False).eval()


def cross_attentions(model: LatentDiffusion) -> dict[str, Any]:
    """Return every ``attn2`` of the UNet by its path there."""
    modules = model.model.diffusion_model.named_modules()
    return {name: module for name, module in modules if name.endswith(".attn2")}


def forget(model: LatentDiffusion) -> None:
    """Empty the witnesses."""
    for module in model.modules():
        if scores := getattr(module, "scores", None):
            scores.clear()
