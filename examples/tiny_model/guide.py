"""A hint for attention, early in training: look where the object came from.

We paste, so we know the source of every patch. Left alone, attention begins to find it too, but
late; the hint saves hours on a CPU. It is switched off before training ends, so that what remains
is what the denoiser itself has use for.
"""

from __future__ import annotations

from typing import Any

import torch
from compositions import SIZE_PX
from torch import nn

REACH = 1.5  # reference tokens


class Guide:
    """Reads Q and K of some layers, and scores how much attention goes to the true source.

    Parameters
    ----------
    unet : UNet2DConditionModel
    block : str
        The layers ``BLOCK.attentions.*.attn2`` are guided; all others are left alone.
    """

    def __init__(self, unet: nn.Module, block: str = "up_blocks") -> None:
        self._layers = [
            module
            for name, module in unet.named_modules()
            if name.startswith(f"{block}.") and name.endswith(".attn2")
        ]
        self._factors: dict[tuple[int, str], torch.Tensor] = {}
        for index, layer in enumerate(self._layers):
            for part in ("to_q", "to_k"):
                getattr(layer, part).register_forward_hook(self._keep(index, part))

    def _keep(self, index: int, part: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            self._factors[index, part] = output

        return hook

    def loss(self, boxes: torch.Tensor, is_dropped: torch.Tensor) -> torch.Tensor:
        """Return the mean of -log(attention to the true neighbourhood) over the masked patches.

        Parameters
        ----------
        boxes : Tensor (batch, 3)
            Top, left and side in pixels.
        is_dropped : Tensor (batch,), bool
            Samples without a reference, which count for nothing.
        """
        losses = []
        for index, layer in enumerate(self._layers):
            query, key = (
                self._factors[index, part]
                .unflatten(-1, (layer.heads, -1))  # type: ignore[no-untyped-call]
                .transpose(1, 2)
                for part in ("to_q", "to_k")
            )
            attention = (layer.scale * query @ key.transpose(-1, -2)).softmax(-1).mean(1)[..., 1:]
            patches, tokens = (int(n**0.5) for n in attention.shape[1:])
            near_y, in_y = _neighbours(boxes[:, 0], boxes[:, 2], patches, tokens)
            near_x, in_x = _neighbours(boxes[:, 1], boxes[:, 2], patches, tokens)
            attention = attention.view(-1, patches, patches, tokens, tokens)
            found = torch.einsum("bijkl,bik,bjl->bij", attention, near_y, near_x)
            weight = in_y[:, :, None] * in_x[:, None, :] * (~is_dropped)[:, None, None]
            losses.append(-(weight * (found + 1e-6).log()).sum() / weight.sum().clamp(min=1))
        self._factors.clear()
        return torch.stack(losses).mean()


def _neighbours(
    start: torch.Tensor, side: torch.Tensor, patches: int, tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tokens are near a patch's source, and which patches lie in the box; one axis.

    Dims (batch, patch, token) and (batch, patch).
    """
    centre = (torch.arange(patches, device=start.device) + 0.5) * SIZE_PX / patches
    share = (centre[None] - start[:, None]) / side[:, None]
    source = share * tokens - 0.5
    distance = (torch.arange(tokens, device=start.device) - source[..., None]).abs()
    return (distance <= REACH).float(), ((share >= 0) & (share <= 1)).float()
