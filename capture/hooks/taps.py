"""A tap: one attention layer, and how its queries and keys are read while the model runs.

Hooks and wrappers only look on: they return nothing, so the model's output stays bit-identical.
A tap on projections serves attention that uses them as they come; attention that rotates or joins
its tokens first is tapped at the attention kernel itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import Softmax

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LayerTap", "Receive", "Source"]


@dataclass(frozen=True)
class Source:
    """The running call of the denoiser.

    Parameters
    ----------
    arguments : mapping of str to object
        By the names of the denoiser's ``forward``.
    batch : int
        Rows of the denoiser's batch: samples × guidance halves.
    """

    arguments: Mapping[str, Any]
    batch: int


Receive = Callable[["LayerTap", list[Softmax]], None]


@dataclass(frozen=True)
class LayerTap(ABC):
    """One attention layer: how it is called, and how it is read.

    Parameters
    ----------
    name : str
        The attention module's path in the denoiser.
    attention : Module
        Its forward spans one use of the layer.
    block : str
        "down", "mid", "up", or another part of the denoiser.
    """

    name: str
    attention: nn.Module = field(repr=False)
    block: str

    @abstractmethod
    def attach(
        self, receive: Receive, running: Callable[[], Source | None], stack: ExitStack
    ) -> None:
        """Look on until `stack` closes; `receive` gets the layer's softmaxes in each call.

        Parameters
        ----------
        receive : callable (tap, list of Softmax)
        running : callable () -> Source or None
            The denoiser's running call; None outside of one, when the layer is left alone.
        stack : ExitStack
            Undoes everything.
        """
