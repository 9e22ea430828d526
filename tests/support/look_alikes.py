"""Research models that look like others, as small modules with the names and places of the real ones.

No research code is here: only what a profile could take them for, and what they are known by.
"""

from __future__ import annotations

from typing import Any

import diffusers
from torch import nn

from tests.support.tiny_pipelines import parts

__all__ = [
    "TEXT",
    "add_attention",
    "adopted",
    "foreign_class",
    "foreign_unet",
    "with_own_forward",
]

TEXT = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))


def foreign_class(name: str, module: str, base: type = object, **members: Any) -> type:
    """Return a class of a module that is not there to be imported."""
    return type(name, (base,), {"__module__": module, **members})


def adopted(name: str, module: str, **held: Any) -> Any:
    """Return a pipeline of a class of its own, which holds these parts."""
    pipeline = foreign_class(name, module)()
    vars(pipeline).update(held)
    return pipeline


def foreign_unet(module: str, *, name: str = "UNet2DConditionModel") -> nn.Module:
    """Return a UNet that copies diffusers' class, with attention to text.

    Parameters
    ----------
    module : str
        Where its class says that it comes from.
    name : str
        Of the class.
    """

    def forward(
        _self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, **_options: Any
    ) -> Any:
        return sample

    unet: nn.Module = foreign_class(name, module, nn.Module, forward=forward)()
    for path in TEXT:
        add_attention(unet, path)
    return unet


def add_attention(root: nn.Module, path: str) -> None:
    """Put an attention module at a path, with all that lies on the way."""
    *way, last = path.split(".")
    for part in way:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(last, _Attention())


def with_own_forward() -> Any:
    """Return a UNet that derives from diffusers', and is called in another way."""

    class TryOnUNet(diffusers.UNet2DConditionModel):  # type: ignore[misc]
        def forward(self, sample: Any, timestep: Any, states: Any, **options: Any) -> Any:
            return super().forward(sample, timestep, states, **options)

    unet = parts.unet()
    unet.__class__ = TryOnUNet
    return unet
