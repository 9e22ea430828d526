"""Layers in the manner of CompVis' code, small, with the names and call signatures of the real ones.

Every cross-attention keeps its own scores, computed in the open in float64, as a witness: `scores`
is a list over calls of Tensor (batch, head, generated, reference), before any softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

EMBEDDING_WIDTH = 16


class _Projections(nn.Module):
    def __init__(self, query_dim: int, context_dim: int | None, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, query_dim), nn.Dropout(0.0))
        self.scores: list[torch.Tensor] = []

    def project(self, x: torch.Tensor, context: torch.Tensor | None) -> list[torch.Tensor]:
        tokens = x if context is None else context
        projected = (self.to_q(x), self.to_k(tokens), self.to_v(tokens))
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projected)
        if context is not None:
            scale = query.shape[-1] ** -0.5
            self.scores.append(query.double() @ key.double().transpose(-1, -2) * scale)
        return [query, key, value]

    def join(self, mixed: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class CrossAttention(_Projections):
    def __init__(self, query_dim: int, context_dim: int | None, heads: int, dim_head: int) -> None:
        super().__init__(query_dim, context_dim, heads, dim_head)
        self.scale = dim_head**-0.5

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        query, key, value = self.project(x, context)
        scores = query @ key.transpose(-1, -2) * self.scale
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.finfo(scores.dtype).max)
        return self.join(scores.softmax(-1) @ value)


class MemoryEfficientCrossAttention(_Projections):
    def __init__(self, query_dim: int, context_dim: int | None, heads: int, dim_head: int) -> None:
        super().__init__(query_dim, context_dim, heads, dim_head)
        self.dim_head = dim_head

    def forward(
        self, x: torch.Tensor, context: torch.Tensor | None = None, **_options: Any
    ) -> torch.Tensor:
        query, key, value = self.project(x, context)
        return self.join(functional.scaled_dot_product_attention(query, key, value))


@dataclass(frozen=True)
class Build:
    """What the variants of the code differ in."""

    in_channels: int = 9
    model_channels: int = 8
    heads: int = 2
    attention: type[_Projections] = CrossAttention
    has_custom_warp: bool = True
    is_checkpointed: bool = False


class _Checkpoint(torch.autograd.Function):
    """Forward alone: enough to sample with gradients switched on."""

    @staticmethod
    def forward(_ctx: Any, run: Callable[..., torch.Tensor], *inputs: Any) -> torch.Tensor:
        with torch.no_grad():
            return run(*inputs)


def checkpoint(run: Callable[..., torch.Tensor], inputs: tuple[Any, ...], flag: bool) -> Any:
    return _Checkpoint.apply(run, *inputs) if flag else run(*inputs)  # type: ignore[no-untyped-call]


class BasicTransformerBlock(nn.Module):
    def __init__(self, width: int, context_dim: int, build: Build) -> None:
        super().__init__()
        dim_head = width // build.heads
        self.attn1 = build.attention(width, None, build.heads, dim_head)
        self.attn2 = build.attention(width, context_dim, build.heads, dim_head)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.checkpoint = build.is_checkpointed

    def forward(self, x: torch.Tensor, context: Any = None, hint: Any = None) -> torch.Tensor:
        inputs = (x, context) if hint is None else (x, context, hint)
        mixed: torch.Tensor = checkpoint(self._forward, inputs, self.checkpoint)
        return mixed

    def _forward(self, x: torch.Tensor, context: Any = None, hint: Any = None) -> torch.Tensor:
        x = self.attn1(self.norm1(x), context=None) + x
        x = self.attn2(self.norm2(x), context=context) + x
        fed: torch.Tensor = self.ff(self.norm3(x)) + x
        return fed


class CustomBasicTransformerBlock(BasicTransformerBlock):
    """The warp blocks' own: it is not run through a checkpoint."""

    def forward(self, x: torch.Tensor, context: Any = None, mask: Any = None) -> torch.Tensor:
        return self._forward(x, context)


class _Transformer(nn.Module):
    block: type[BasicTransformerBlock]

    def __init__(self, width: int, context_dim: int, build: Build) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([self.block(width, context_dim, build)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def mix(self, x: torch.Tensor, context: torch.Tensor | None, **options: Any) -> torch.Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2).contiguous()
        for block in self.transformer_blocks:
            tokens = block(tokens, context=context, **options)
        mixed: torch.Tensor = self.proj_out(tokens.transpose(1, 2).reshape(x.shape)) + x
        return mixed


class SpatialTransformer(_Transformer):
    block = BasicTransformerBlock

    def forward(self, x: torch.Tensor, context: Any = None, hint: Any = None) -> torch.Tensor:
        return self.mix(x, context, hint=hint)


class CustomSpatialTransformer(_Transformer):
    block = CustomBasicTransformerBlock

    def forward(self, x: torch.Tensor, context: Any = None, mask: Any = None) -> torch.Tensor:
        return self.mix(x, context, mask=mask)


class ResBlock(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1)
        )
        self.emb_layers = nn.Linear(EMBEDDING_WIDTH, out)
        self.skip_connection = nn.Conv2d(width, out, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        moved = self.layers(x) + self.emb_layers(emb)[..., None, None]
        out: torch.Tensor = self.skip_connection(x) + moved
        return out


class Downsample(nn.Conv2d):
    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        larger: torch.Tensor = super().forward(functional.interpolate(x, scale_factor=2.0))
        return larger


class TimestepEmbedSequential(nn.Sequential):
    def forward(  # type: ignore[override] # as the real one
        self, x: torch.Tensor, emb: torch.Tensor, context: Any = None
    ) -> torch.Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x
