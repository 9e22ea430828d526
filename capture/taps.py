"""Taps: forward hooks on a layer's projections that read Q and K and change nothing.

The model keeps its own attention kernel; hooks return None, so its output stays bit-identical.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2am.schemas import CaptureError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["LayerTap", "TappedFactors", "attach", "select_taps"]


@dataclass(frozen=True)
class LayerTap:
    """Where one attention layer's factors are read.

    Parameters
    ----------
    name : str
        The attention module's path in the denoiser.
    query, key : Module
        Their outputs are Q and K, dims (batch, token, head · channel).
    grid_source : Module
        Its first input, dims (batch, channel, y, x), has the spatial size of the queries.
    heads : int
    scale : float
        Factor of Q·K before the softmax.
    block : str
        "down", "mid", "up", or another part of the denoiser.
    """

    name: str
    query: nn.Module
    key: nn.Module
    grid_source: nn.Module
    heads: int
    scale: float
    block: str


@dataclass(frozen=True)
class TappedFactors:
    """Q and K of one layer in one call of the denoiser, on the model's device."""

    query: torch.Tensor  # (batch, head, generated, channel)
    key: torch.Tensor  # (batch, head, reference, channel)
    grid: tuple[int, int]


def attach(
    tap: LayerTap, receive: Callable[[LayerTap, TappedFactors], None], stack: ExitStack
) -> None:
    """Register hooks on a layer until `stack` closes; `receive` gets its factors in each call.

    Raises
    ------
    CaptureError
        From within the model's forward: if the queries do not fill the layer's grid.
    """
    seen: dict[str, Any] = {}

    def on_grid(_module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        states = arguments[0] if arguments else options["hidden_states"]
        seen["grid"] = tuple(int(size) for size in states.shape[-2:])

    def on_query(_module: nn.Module, _arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        seen["query"] = _split_heads(output, tap.heads)

    def on_key(_module: nn.Module, _arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        query, grid = seen.pop("query"), seen.pop("grid")
        if grid[0] * grid[1] != query.shape[2]:
            msg = (
                f"Expected {grid[0]}×{grid[1]} queries, got {query.shape[2]}, at layer "
                f"{tap.name!r}. Its profile names the wrong module for the grid."
            )
            raise CaptureError(msg)
        receive(tap, TappedFactors(query, _split_heads(output, tap.heads), grid))

    handles = (
        tap.grid_source.register_forward_pre_hook(on_grid, with_kwargs=True),
        tap.query.register_forward_hook(on_query),
        tap.key.register_forward_hook(on_key),
    )
    for handle in handles:
        stack.callback(handle.remove)
    # An exception between the hooks would leave a query behind, and with it device memory.
    stack.callback(seen.clear)


def select_taps(
    taps: list[LayerTap], layers: str | Sequence[str] | None, denoiser: str
) -> list[LayerTap]:
    """Return the taps whose layer matches any of the shell-style patterns; None takes all.

    Raises
    ------
    CaptureError
        If there are no taps, or a pattern matches none.
    """
    patterns = ["*"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    if not taps:
        msg = f"Expected cross-attention layers, got none in {denoiser}. Pass another profile."
        raise CaptureError(msg)
    for pattern in patterns:
        if not fnmatch.filter((tap.name for tap in taps), pattern):
            hint = did_you_mean(pattern, (tap.name for tap in taps))
            msg = f"Expected layers that match {pattern!r}, got none in {denoiser}. {hint}"
            raise CaptureError(msg)
    return [tap for tap in taps if any(fnmatch.fnmatchcase(tap.name, p) for p in patterns)]


def _split_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, token, head · channel) -> (batch, head, token, channel), without a copy."""
    batch, tokens, width = projected.shape
    return projected.detach().view(batch, tokens, heads, width // heads).transpose(1, 2)
