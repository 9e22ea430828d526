"""One block of attention in memory, and the ways to make both its maps."""

from __future__ import annotations

import numpy as np
import torch

from i2am.analysis.kernel.arithmetic import Choice, use_arithmetic
from i2am.analysis.kernel.logits import FactoredLogits
from i2am.analysis.kernel.softmax import directional_means
from support.synthetic_run import HEADS

__all__ = ["Block"]


class Block:
    """FactoredLogits of 8 heads in float16, noise with the statistics of queries and keys."""

    def __init__(self, patches: int, tokens: int, channels: int) -> None:
        rng = np.random.default_rng(0)
        self.query, self.key = (
            rng.standard_normal((HEADS, count, channels)).astype(np.float16)
            for count in (patches, tokens)
        )
        self.scale = channels**-0.5
        # For the product alone: float32 already, and memory that was touched before.
        self._queries, self._keys = (one.astype(np.float32) for one in (self.query, self.key))
        self._result = self._queries[0] @ self._keys[0].T

    def ours(self, arithmetic: Choice) -> None:
        """Make both maps by our kernel."""
        with use_arithmetic(arithmetic):
            directional_means(FactoredLogits(self.query, self.key, self.scale))

    def numpy(self) -> None:
        """Make both maps by two softmaxes in NumPy."""
        query, key = self.query.astype(np.float32), self.key.astype(np.float32)
        scores = np.matmul(query, key.swapaxes(1, 2)) * np.float32(self.scale)
        for axis in (1, 2):
            exponential = np.exp(scores - scores.max(axis, keepdims=True))
            exponential /= exponential.sum(axis, keepdims=True)
            exponential.mean(3 - axis)

    def torch(self) -> None:
        """Make both maps by two softmaxes in PyTorch."""
        query, key = torch.from_numpy(self.query).float(), torch.from_numpy(self.key).float()
        scores = query @ key.transpose(1, 2) * self.scale
        for dim in (1, 2):
            scores.softmax(dim).mean(3 - dim)

    def product(self) -> None:
        """Multiply queries and keys, head by head."""
        for query, key in zip(self._queries, self._keys, strict=True):
            np.matmul(query, key.T, out=self._result)
