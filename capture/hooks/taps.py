"""A tap: one attention layer, and how its queries and keys are read while the model runs.

Hooks and wrappers read and return nothing, so the model's output stays bit-identical, unless something
is to be cut. A `ProjectionTap` serves attention that uses the outputs of its projections unchanged.
Attention that rotates or concatenates its tokens first is read at the attention kernel, by a `KernelTap`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.attention_cut import AttentionCut
from i2am.capture.hooks.kernel_watch import CallShape

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DenoiserCall", "Edit", "LayerTap", "Receive"]

Receive = Callable[["LayerTap", list[AttentionInputs]], None]
# What is taken out of one attention call, from the inputs that were read of it and its sizes.
Edit = Callable[["LayerTap", list[AttentionInputs], CallShape], AttentionCut | None]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class DenoiserCall:
    """The call of the denoiser that is running.

    Parameters
    ----------
    arguments : mapping of str to object
        By the parameter names of the denoiser's ``forward``.
    batch : int
        Length of the denoiser's batch: samples × guidance branches.
    rows : tuple of int
        The batch indices of it that are kept. What the others hold need not be known.
    """

    arguments: Mapping[str, Any]
    batch: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class LayerTap(ABC):
    """One attention layer, and how its queries and keys are read.

    `ProjectionTap` and `KernelTap` are the two kinds.

    Parameters
    ----------
    name : str
        The attention module's path in the denoiser.
    attention : Module
        One call of it is one use of the layer.
    block : str
        "down", "mid", "up", or the name of another part of the denoiser.
    is_dormant : callable () -> bool
        Whether the layer read no reference in the latest kept call, because what reads it is switched
        off; before the first one, whether it is. Nothing need be received from it then.

    Examples
    --------
    ::

        taps = [tap.name for tap in cross_attention(pipe.unet)]
    """

    name: str
    attention: nn.Module = field(repr=False)
    block: str
    is_dormant: Callable[[], bool] = field(default=_never, kw_only=True, repr=False)

    @abstractmethod
    def attach(
        self,
        receive: Receive,
        current_call: Callable[[], DenoiserCall | None],
        stack: ExitStack,
        edit: Edit | None = None,
    ) -> None:
        """Attach hooks to the layer, until `stack` closes.

        Parameters
        ----------
        receive : callable (tap, list of AttentionInputs)
            Called each time the layer has run, with the inputs of each of its softmaxes.
        current_call : callable () -> DenoiserCall or None
            The running call of the denoiser; None while none is running that is kept.
        stack : ExitStack
            Removes the hooks.
        edit : callable (tap, list of AttentionInputs, CallShape) -> AttentionCut or None, optional
            Asked at each attention call what shall be taken out of it; without it the model computes
            what it would.
        """
