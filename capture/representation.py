"""Logits or their factors: whichever takes fewer bytes, and still allows both softmax directions.

Probabilities are never kept: the normaliser of each row is lost in them, and with it R2G. Maps are
what remains of a layer that was reduced while it was captured, for runs that never need SRAM.
"""

from __future__ import annotations

from typing import Literal

from i2am.schemas import SchemaError, did_you_mean

__all__ = ["Representation", "RepresentationOption", "check_representation", "choose"]

Representation = Literal["factors", "logits", "maps"]
RepresentationOption = Literal["auto", "factors", "logits", "maps"]
_OPTIONS = ("auto", "factors", "logits", "maps")


def check_representation(option: str) -> None:
    """Raise SchemaError unless `option` is one of "auto", "factors", "logits", "maps"."""
    if option not in _OPTIONS:
        msg = f"Expected a representation, got {option!r}. {did_you_mean(option, _OPTIONS)}"
        raise SchemaError(msg)


def choose(
    option: RepresentationOption, generated_tokens: int, reference_tokens: int, channels: int
) -> Representation:
    """Return how a layer is stored.

    Parameters
    ----------
    option : {"auto", "factors", "logits", "maps"}
    generated_tokens, reference_tokens, channels : int
        P, R and d: queries, keys, and the width of one head.

    Notes
    -----
    "auto" takes logits when P·R < (P + R)·d, per head and step.

    Examples
    --------
    >>> choose("auto", 4096, 1, 40)
    'logits'
    >>> choose("auto", 4096, 257, 40)
    'factors'
    """
    if option != "auto":
        return option
    products = generated_tokens * reference_tokens
    factors = (generated_tokens + reference_tokens) * channels
    return "logits" if products < factors else "factors"
