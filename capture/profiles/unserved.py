"""Models that no profile reads yet, known by what they hold: a refusal says where their reference is.

Research code often keeps the class names of diffusers, so these would be taken for something else:
one with a reference network has self-attention that reads more than its own. Nothing of that code is
imported. A model that gets a profile leaves this list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2am.capture.profiles.recognition import (
    DIFFUSERS,
    class_names,
    skips_cross_attention,
    stray_attention,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["UnservedModel", "find_unserved", "is_known_unet"]


@dataclass(frozen=True)
class UnservedModel:
    """A model that no profile reads.

    Parameters
    ----------
    name : str
    road : str
        Where it reads the reference.
    nearest : str
        The profile that reads others of its kind.
    condition : str
        When that one reads it rightly, in words.
    has_sign : callable (target, denoiser) -> bool
        Whether a target is such a model.
    """

    name: str
    road: str
    nearest: str
    condition: str
    has_sign: Callable[[Any, nn.Module], bool]


def find_unserved(target: Any, denoiser: nn.Module) -> UnservedModel | None:
    """Return which of the models that no profile reads a target is; None if none of them."""
    return next((model for model in _MODELS if model.has_sign(target, denoiser)), None)


def is_known_unet(
    target: Any, denoiser: nn.Module, classes: Sequence[str] = ("UNet2DConditionModel",)
) -> bool:
    """Return whether a denoiser is one of diffusers' UNets, and reads nothing in ways of its own."""
    return (
        not class_names(denoiser, DIFFUSERS).isdisjoint(classes)
        and stray_attention(denoiser) is None
        and not skips_cross_attention(denoiser)
        and find_unserved(target, denoiser) is None
    )


def _has_parts(*attributes: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether the pipeline has one of these parts."""
    return lambda target, _denoiser: any(
        getattr(target, name, None) is not None for name in attributes
    )


def _is_class(name: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether the denoiser is of a class of diffusers."""
    return lambda _target, denoiser: name in class_names(denoiser, DIFFUSERS)


# The first whose sign is there is told.
_MODELS = (
    UnservedModel(
        "Wan-Animate",
        "its first latent frame, in several samplings of one call",
        "wan-first-frame",
        "the video is one segment, sampled once",
        _is_class("WanAnimateTransformer3DModel"),
    ),
    UnservedModel(
        "with a reference network",
        "self-attention (attn1)",
        "garment-network",
        "its keys are [own, reference]",
        _has_parts(
            *("referencenet", "reference_net", "reference_unet", "unet_encoder", "unet_garm"),
            "transformer_garm",
        ),
    ),
)
