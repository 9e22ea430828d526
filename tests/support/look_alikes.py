"""Research models that look like others, as small modules with the names and places of the real ones.

No research code is here: only what a profile could take them for, and what they are known by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
from torch import nn

from tests.support.tiny_pipelines import parts

__all__ = [
    "TEXT",
    "SkipAttnProcessor",
    "add_attention",
    "adopted",
    "catvton_unet",
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


def foreign_unet(
    module: str,
    layers: Sequence[str] = (),
    *,
    name: str = "UNet2DConditionModel",
    argument: str | None = None,
    base: type[nn.Module] = nn.Module,
) -> nn.Module:
    """Return a UNet that copies diffusers' class, with attention to text and `layers` of its own.

    Parameters
    ----------
    module : str
        Where its class says that it comes from.
    layers : sequence of str
        Paths of further attention modules.
    name : str
        Of the class.
    argument : str, optional
        Of ``forward``, beside those of diffusers.
    base : type
    """
    extra = "" if argument is None else f", {argument}=None"
    scope: dict[str, Any] = {}
    exec(
        f"def forward(self, sample, timestep, encoder_hidden_states{extra}, **options):\n"
        "    return sample",
        scope,
    )
    unet: nn.Module = foreign_class(name, module, base, forward=scope["forward"])()
    for path in (*TEXT, *layers):
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


class SkipAttnProcessor:
    """CatVTON's: the layer gives back what it is given."""

    def __call__(self, _attention: Any, hidden_states: Any, *_: Any, **__: Any) -> Any:
        return hidden_states


def catvton_unet() -> Any:
    """Return diffusers' own UNet with cross-attention that does nothing."""
    unet = parts.unet()
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(SkipAttnProcessor())
    return unet


def with_own_forward() -> Any:
    """Return a UNet that derives from diffusers', and is called in another way."""

    class TryOnUNet(diffusers.UNet2DConditionModel):  # type: ignore[misc]
        def forward(self, sample: Any, timestep: Any, states: Any, **options: Any) -> Any:
            return super().forward(sample, timestep, states, **options)

    unet = parts.unet()
    unet.__class__ = TryOnUNet
    return unet
