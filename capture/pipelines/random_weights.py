"""A model with its weights drawn anew: what its maps still show, they do not show because it has learned.

The baseline of Adebayo et al., "Sanity checks for saliency maps" (2018). Each tensor keeps its mean and
its deviation, so that activations keep their size.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["randomize_weights"]


@torch.no_grad()
def randomize_weights(module: nn.Module, seed: int) -> None:
    """Draw every parameter anew, from a normal distribution of its own mean and standard deviation.

    Parameters
    ----------
    module : Module
        Changed in place. Buffers, and parameters that are no floating-point numbers, stay.
    seed : int
        The same one gives the same weights on every device.

    Examples
    --------
    >>> layer = nn.Linear(400, 400)
    >>> before = layer.weight.clone()
    >>> randomize_weights(layer, seed=1)
    >>> bool((layer.weight - before).abs().mean() > 0.5 * before.abs().mean())
    True
    >>> torch.allclose(layer.weight.std(), before.std(), rtol=0.05)
    True
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.is_floating_point():
            continue
        own = parameter.float()
        mean, deviation = own.mean(), own.std(correction=0)
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.copy_(mean + deviation * drawn)
