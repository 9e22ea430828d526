"""A joint-attention model whose attention is laid down: which tokens read which, and how much.

Queries tell of each token what it is; keys hold the logarithm of how much each kind of token reads them.
So the softmax of a row is what was laid down, to the last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from i2am.capture import KernelCall, KernelTap, Profile, ReferenceKeys, ReferenceLayout

__all__ = ["GRID", "REFERENCES", "TEXT", "JointToy", "toy_profile"]

TEXT, GRID, REFERENCES = 3, (2, 4), ((3, 2), (2, 2))
_KINDS = ("text", "generated", "reference")
_NEVER = -30.0  # as a logit


class _Layer(nn.Module):
    """One softmax of text, patches and references, in this order."""

    def __init__(self, reads: Mapping[tuple[str, str], Sequence[float]]) -> None:
        super().__init__()
        sizes = {"text": TEXT, "generated": GRID[0] * GRID[1]}
        sizes |= {f"reference_{i}": h * w for i, (h, w) in enumerate(REFERENCES)}
        kinds = [kind for kind, size in sizes.items() for _ in range(size)]
        query = torch.zeros(len(kinds), len(_KINDS))
        for token, kind in enumerate(kinds):
            query[token, _KINDS.index(kind.partition("_")[0])] = 1
        key = torch.full((len(kinds), len(_KINDS)), _NEVER)
        starts = {kind: kinds.index(kind) for kind in sizes}
        for (reader, source), shares in reads.items():
            for offset, share in enumerate(shares):
                if share:
                    logit = torch.tensor(share).log()
                    key[starts[source] + offset, _KINDS.index(reader)] = logit
        self.register_buffer("query", query)
        self.register_buffer("key", key)

    query: torch.Tensor
    key: torch.Tensor

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key = (part.expand(len(tokens), 1, -1, -1) for part in (self.query, self.key))
        mixed = functional.scaled_dot_product_attention(query, key, tokens[:, None], scale=1.0)
        found: torch.Tensor = mixed[:, 0]
        return found


class JointToy(nn.Module):
    """Layers one after the other.

    Parameters
    ----------
    layers : sequence of mapping of (reader, source) to shares
        How much each token of a kind ("text", "generated", "reference") reads each token of a source
        ("text", "generated", "reference_0", "reference_1"); those of a reader sum to 1.
    """

    def __init__(self, layers: Sequence[Mapping[tuple[str, str], Sequence[float]]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Layer(reads) for reads in layers)

    def forward(self, latents: torch.Tensor, timestep: Any) -> torch.Tensor:
        for block in self.blocks:
            latents = block(latents)
        return latents

    @staticmethod
    def latents() -> torch.Tensor:
        tokens = TEXT + GRID[0] * GRID[1] + sum(h * w for h, w in REFERENCES)
        return torch.randn(1, tokens, 2, generator=torch.Generator().manual_seed(0))


def toy_profile(*, has_text: bool = True) -> Profile:
    """Return the profile of a `JointToy`."""

    def read(call: KernelCall) -> Iterator[Any]:
        patches = slice(TEXT, TEXT + GRID[0] * GRID[1])
        references, start = [], patches.stop
        for index, (height, width) in enumerate(REFERENCES):
            keys = slice(start, start + height * width)
            references.append(ReferenceKeys(keys, ReferenceLayout(0, (height, width)), index))
            start = keys.stop
        text = slice(0, TEXT) if has_text else None
        yield call.attention_inputs(patches, GRID, tuple(references), text=text, text_queries=text)

    def find_taps(denoiser: nn.Module) -> Iterator[KernelTap]:
        for name, module in denoiser.named_modules():
            if isinstance(module, _Layer):
                yield KernelTap(name, module, "blocks", read)

    return Profile("joint-toy", ("JointToy",), find_taps)
