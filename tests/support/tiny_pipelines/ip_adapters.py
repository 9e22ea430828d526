"""IP-Adapter checkpoints with random weights, as the published ones are laid out."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterFullImageProjection,
    IPAdapterPlusImageProjection,
)

__all__ = ["checkpoint"]

# How a published "plus" checkpoint calls what diffusers calls otherwise.
_PLUS_NAMES = {
    ".ln0.": ".0.norm1.",
    ".ln1.": ".0.norm2.",
    ".attn.to_q.": ".0.to_q.",
    ".attn.to_out.0.": ".0.to_out.",
    ".ff.0.": ".1.0.",
    ".ff.1.net.0.proj.": ".1.1.",
    ".ff.1.net.2.": ".1.3.",
}


def checkpoint(unet: Any, kind: str, image_width: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return an adapter for a UNet: "plain" (4 tokens), "plus" (16) or "full" (CLIP's own)."""
    width = unet.config.cross_attention_dim
    weights = {}
    for index, name in enumerate(unet.attn_processors):
        if not name.endswith("attn2.processor"):
            continue
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            weights[f"{index}.to_{part}_ip.weight"] = 0.5 * torch.randn(attention.inner_dim, width)
    return {"image_proj": _PROJECTIONS[kind](image_width, width), "ip_adapter": weights}


def _plain(image_width: int, width: int) -> dict[str, torch.Tensor]:
    module = ImageProjection(image_width, width, num_image_text_embeds=4)
    names = {"image_embeds": "proj"}
    return {_renamed(key, names): value for key, value in module.state_dict().items()}


def _full(image_width: int, width: int) -> dict[str, torch.Tensor]:
    module = IPAdapterFullImageProjection(image_width, width)
    names = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "proj.3"}
    return {_renamed(key, names): value for key, value in module.state_dict().items()}


def _plus(image_width: int, width: int) -> dict[str, torch.Tensor]:
    module = IPAdapterPlusImageProjection(
        image_width, width, hidden_dims=64, depth=4, dim_head=64, heads=1, num_queries=16
    )
    state = module.state_dict()
    found = {}
    for key, value in state.items():
        if ".attn.to_v." in key:
            continue
        if ".attn.to_k." in key:
            both = torch.cat([value, state[key.replace("to_k", "to_v")]])
            found[key.replace(".attn.to_k.", ".0.to_kv.")] = both
        else:
            found[_renamed(key, _PLUS_NAMES)] = value
    return found


def _renamed(key: str, names: dict[str, str]) -> str:
    for ours, published in names.items():
        key = key.replace(ours, published)
    return key


_PROJECTIONS = {"plain": _plain, "plus": _plus, "full": _full}
