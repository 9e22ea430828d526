"""The latest steps of a layer in host memory, until they fill a shard.

Keys mostly stay the same from step to step. On a CPU this is seen as they come: then they are
neither copied nor compared again, and the memory of the later steps is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from i2am.capture.stream import Stream
from i2am.schemas.dims import LAYER_ARRAYS, STEP

__all__ = ["StepBlock", "may_be_constant"]


def may_be_constant(name: str) -> bool:
    """Return whether an array of a layer may be stored without steps."""
    return STEP in LAYER_ARRAYS[name][0]


@dataclass
class StepBlock:
    """Some steps of one guidance half.

    Parameters
    ----------
    start : int
        The first one.
    values : dict of str to Tensor, dims (step, head, token[, channel])
        Borrowed memory for as many as will come.
    count : int
        How many have come.
    """

    start: int
    values: dict[str, torch.Tensor]
    count: int = 0
    # Arrays whose first step stands for all so far. A GPU would have to be waited for to be asked.
    _constant: set[str] = field(default_factory=set)

    def put(self, place: int, arrays: Mapping[str, torch.Tensor], stream: Stream) -> None:
        """Take a step, the next one or the latest again.

        Parameters
        ----------
        place : int
            From 0 on.
        arrays : mapping of str to Tensor, dims (head, token[, channel])
        stream : Stream
            Who copies.
        """
        for name, tensor in arrays.items():
            if not place and may_be_constant(name) and tensor.device.type == "cpu":
                self._constant.add(name)
            if not place or not self._is_as_before(name, tensor, place):
                stream.copy(tensor, self.values[name][place])
        self.count = place + 1

    def steps_of(self, name: str) -> torch.Tensor:
        """Return the steps that have come; of stride 0 where the first stands for all."""
        if name in self._constant:
            first = self.values[name][0]
            return first.expand(self.count, *first.shape)
        return self.values[name][: self.count]

    def _is_as_before(self, name: str, tensor: torch.Tensor, place: int) -> bool:
        if name not in self._constant:
            return False
        steps = self.values[name]
        if torch.equal(tensor, steps[0]):
            return True
        steps[1:place] = steps[0]
        self._constant.remove(name)
        return False
