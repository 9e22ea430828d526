"""Taps on the attention kernel, for layers that rotate or concatenate their tokens first.

Joint-attention transformers concatenate text, target and reference, normalise and rotate them, and
call one fused kernel. Its arguments are read: those of PyTorch's scaled dot-product attention, and
in diffusers' dispatch those of every other backend (flex, flash, sage, xformers …).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, TextTokens, Tokens
from i2am.capture.hooks.attention_cut import AttentionCut
from i2am.capture.hooks.kernel_watch import KernelArguments, watch_kernel
from i2am.capture.hooks.taps import DenoiserCall, Edit, LayerTap, Receive

__all__ = ["KernelCall", "KernelTap"]


@dataclass(frozen=True)
class KernelCall:
    """The arguments of one call of the attention kernel.

    Parameters
    ----------
    query, key : Tensor, dims (batch, head, token, channel)
        On the model's device and in its dtype.
    scale : float
        Factor of Q·K before the softmax.
    mask : Tensor or None
        As the kernel takes it; broadcasts to (batch, head, query token, key token).
    source : DenoiserCall
        The running call of the denoiser.

    Examples
    --------
    ::

        def read(call: KernelCall) -> Iterator[AttentionInputs]:
            reference = ReferenceKeys(slice(64, 128), ReferenceLayout(0, (8, 8)))
            yield call.attention_inputs(slice(0, 64), (8, 8), (reference,))
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    mask: torch.Tensor | None
    source: DenoiserCall

    def attention_inputs(
        self,
        generated: Tokens,
        grid: tuple[int, int],
        references: tuple[ReferenceKeys, ...],
        frames: int = 1,
        text: Tokens | None = None,
        text_queries: Tokens | None = None,
    ) -> AttentionInputs:
        """Return the inputs of the generated patches' softmax.

        Parameters
        ----------
        generated : slice, or Tensor (patch,) of int
            Indices of the generated patches among the queries, row-major over `grid`.
        grid, references, frames
            See `AttentionInputs`.
        text : slice, or Tensor (token,) of int, optional
            Indices of the text among the keys, where that is known.
        text_queries : slice, or Tensor (token,) of int, optional
            Indices of the same tokens among the queries; None where they read nothing in this call.
        """
        query, mask = self._of_queries(generated)
        of_text = None
        if text is not None:
            own = (None, None) if text_queries is None else self._of_queries(text_queries)
            of_text = TextTokens(text, own[0], own[1], text_queries)
        return AttentionInputs(
            query, self.key, self.scale, grid, references, mask, frames, of_text, generated
        )

    def _of_queries(self, some: Tokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return some of the queries, and their mask."""
        mask = self.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., some, :]
        return self.query[:, :, some], mask

    def softmax(
        self,
        generated: Tokens,
        grid: tuple[int, int],
        references: tuple[ReferenceKeys, ...],
        frames: int = 1,
    ) -> AttentionInputs:
        """Old name of `attention_inputs`."""
        msg = (
            "KernelCall.softmax is now KernelCall.attention_inputs; the old name goes with the next "
            "release."
        )
        warnings.warn(msg, DeprecationWarning, stacklevel=2)
        return self.attention_inputs(generated, grid, references, frames)


@dataclass(frozen=True)
class KernelTap(LayerTap):
    """Reads the attention kernel's arguments while the layer's forward runs.

    Parameters
    ----------
    name, attention, block
        See `LayerTap`.
    read : callable (KernelCall) -> iterable of AttentionInputs
        Says which tokens are the reference's. Yields nothing for a call without reference tokens.

    Examples
    --------
    ::

        KernelTap("transformer_blocks.0.attn", block.attn, "transformer_blocks", read=read)
    """

    read: Callable[[KernelCall], Iterable[AttentionInputs]] = field(repr=False)

    def attach(
        self,
        receive: Receive,
        current_call: Callable[[], DenoiserCall | None],
        stack: ExitStack,
        edit: Edit | None = None,
    ) -> None:
        """See `LayerTap`."""
        reader = _KernelCallReader(self, receive, current_call, edit)
        watch_kernel(self.attention, reader, stack)


class _KernelCallReader:
    """Reads one layer's kernel calls, from the start to the end of its forward."""

    def __init__(
        self,
        tap: KernelTap,
        receive: Receive,
        current_call: Callable[[], DenoiserCall | None],
        edit: Edit | None,
    ) -> None:
        self._tap, self._receive, self._current_call = tap, receive, current_call
        self._edit = edit
        self._layer_inputs: list[AttentionInputs] = []

    def on_start(self) -> bool:
        """See `KernelWatcher`."""
        self._layer_inputs = []
        return self._current_call() is not None

    def on_end(self, *, has_failed: bool) -> None:
        """See `KernelWatcher`."""
        found, self._layer_inputs = self._layer_inputs, []
        if found:
            self._receive(self._tap, found)

    def on_kernel(self, arguments: KernelArguments) -> AttentionCut | None:
        """See `KernelWatcher`."""
        source = self._current_call()
        if source is None:
            return None
        call = KernelCall(
            arguments.query.detach(),
            arguments.key.detach(),
            arguments.scale,
            arguments.mask,
            source,
        )
        found = list(self._tap.read(call))
        self._layer_inputs += found
        if self._edit is None or not found:
            return None
        return self._edit(self._tap, found, arguments.shape)

    def on_softmax(self, _logits: torch.Tensor) -> None:
        """See `KernelWatcher`."""
