"""Text must not pass for a reference: what a text encoder's tokens are known by.

A bare denoiser does not say what its context is. CLIP's text encoders, of Stable Diffusion and SDXL
alike, always give 77 tokens, or several times as many for long prompts; the original IP-Adapters
append their 4, 16 or 257. No square of patches has as many as the former, and of the latter only 81
could be one, of 9 × 9: then nobody can tell. Other numbers say nothing and are taken for the
reference's, as whoever passes a bare denoiser says they are.
"""

from __future__ import annotations

from typing import Final

from i2am.schemas import CaptureError

__all__ = ["check_no_text", "may_be_text"]

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


def check_no_text(profile: str, layer: str, tokens: int) -> None:
    """Check that a layer's context is not a text encoder's.

    Parameters
    ----------
    profile : str
        To be named by those who know better.
    layer : str
    tokens : int
        Length of the layer's context.

    Raises
    ------
    CaptureError
        If a text encoder gives as many tokens.
    """
    if not may_be_text(tokens):
        return
    came = f"{tokens} as of CLIP's text encoder"
    if (appended := tokens - _CLIP_TEXT_TOKENS) in _APPENDED_TOKENS:
        came = f"{tokens} as of CLIP's text encoder with {appended} of an IP-Adapter"
    msg = (
        f"Expected reference tokens, got {came}, at layer {layer!r}. Capture the pipeline, give "
        f"profile={profile!r} if they are the reference's alone, or a Profile of your own "
        "(docs/own-models.md)."
    )
    raise CaptureError(msg)
