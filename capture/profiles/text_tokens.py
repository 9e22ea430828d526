"""Text must not pass for a reference: what a text encoder's tokens are known by.

A bare denoiser does not say what its context is. CLIP's text encoders, of Stable Diffusion and SDXL
alike, always give 77 tokens, or several times as many for long prompts; the original IP-Adapters
append their 4, 16 or 257. No square of patches has as many as the former, and of the latter only 81
could be one, of 9 × 9: then nobody can tell. Other numbers say nothing and are taken for the
reference's, as whoever passes a bare denoiser says they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["may_be_text", "without_text"]

_Read = Callable[[ProjectionOutputs], Iterable[AttentionInputs]]

_CLIP_TEXT_TOKENS: Final = 77
_APPENDED_TOKENS: Final = (4, 16, 257)


def may_be_text(tokens: int) -> bool:
    """Return whether a context of so many tokens is, or may be, a text encoder's.

    Examples
    --------
    >>> [tokens for tokens in (1, 16, 77, 81, 154, 256, 257, 729) if may_be_text(tokens)]
    [77, 81, 154]
    """
    return tokens % _CLIP_TEXT_TOKENS == 0 or tokens - _CLIP_TEXT_TOKENS in _APPENDED_TOKENS


def without_text(
    profile: str, find_taps: Callable[[nn.Module], Iterable[LayerTap]], denoiser: nn.Module
) -> Iterator[LayerTap]:
    """Yield a profile's taps; those of a layer that reads a context refuse one that may be text.

    Parameters
    ----------
    profile : str
        Its name, which those who know better can give.
    find_taps : callable (denoiser) -> iterable of LayerTap
    denoiser : Module

    Raises
    ------
    CaptureError
        From within the model's call, if a text encoder gives as many tokens as a layer reads.
    """
    for tap in find_taps(denoiser):
        # StableVITON's warp blocks read a feature map, of any number of places.
        if isinstance(tap, ProjectionTap) and tap.block != "warp":
            yield replace(tap, read=partial(_read_no_text, profile, tap.name, tap.read))
        else:
            yield tap


def _read_no_text(
    profile: str, layer: str, read: _Read, outputs: ProjectionOutputs
) -> Iterator[AttentionInputs]:
    for inputs in read(outputs):
        tokens = inputs.key.shape[2]
        if may_be_text(tokens):
            raise CaptureError(_refusal(profile, layer, tokens))
        yield inputs


def _refusal(profile: str, layer: str, tokens: int) -> str:
    came = f"{tokens} as of CLIP's text encoder"
    if (appended := tokens - _CLIP_TEXT_TOKENS) in _APPENDED_TOKENS:
        came = f"{tokens} as of CLIP's text encoder with {appended} of an IP-Adapter"
    return (
        f"Expected reference tokens, got {came}, at layer {layer!r}. Capture the pipeline, give "
        f"profile={profile!r} if they are the reference's alone, or your own Profile "
        "(docs/how-to/own-models.md)."
    )
