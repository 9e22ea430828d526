"""Models that no profile reads yet, known by what they hold: a refusal says where their reference is.

Research code often keeps the class names of diffusers, so these would be taken for something else:
PASD's UNet has two cross-attentions, one of which reads text. Nothing of that code is imported. A
model that gets a profile leaves this list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2am.capture.profiles.recognition import (
    DIFFUSERS,
    class_names,
    forward_parameters,
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
        The profile whose reference tokens lie most like its own.
    has_sign : callable (target, denoiser) -> bool
        Whether a target is such a model.
    """

    name: str
    road: str
    nearest: str
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
        and find_unserved(target, denoiser) is None
    )


def _holds(*parts: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether a module of one of these names is part of the denoiser."""

    def has_sign(_target: Any, denoiser: nn.Module) -> bool:
        return any(not set(parts).isdisjoint(n.split(".")) for n, _ in denoiser.named_modules())

    return has_sign


def _takes(*arguments: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether the denoiser's ``forward`` has one of these arguments."""
    return lambda _target, denoiser: not forward_parameters(denoiser).isdisjoint(arguments)


def _has_parts(*attributes: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether the pipeline has one of these parts."""
    return lambda target, _denoiser: any(
        getattr(target, name, None) is not None for name in attributes
    )


def _is_ootdiffusion(target: Any, denoiser: nn.Module) -> bool:
    return "UNetVton2DConditionModel" in class_names(denoiser) or _has_parts("unet_vton")(
        target, denoiser
    )


def _is_class(name: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether the denoiser is of a class of diffusers."""
    return lambda _target, denoiser: name in class_names(denoiser, DIFFUSERS)


def _skips_attention(_target: Any, denoiser: nn.Module) -> bool:
    processors = (getattr(module, "processor", None) for module in denoiser.modules())
    return any("SkipAttnProcessor" in class_names(processor) for processor in processors)


_GARMENT_ROAD = "self-attention (attn1)"

# The first whose sign is there is told: the general ones come last.
_MODELS = (
    UnservedModel("PASD", "pixel_attentions", "stableviton", _holds("pixel_attentions")),
    UnservedModel("PASD-light", "attn2_plus", "stableviton", _holds("attn2_plus")),
    UnservedModel("SeeSR", "image_attentions", "unet", _holds("image_attentions")),
    UnservedModel(
        "Wan-Animate",
        "its first latent frame, in several samplings of one call",
        "wan-first-frame",
        _is_class("WanAnimateTransformer3DModel"),
    ),
    UnservedModel("SUPIR", "project_modules", "stableviton", _holds("project_modules")),
    UnservedModel("IDM-VTON", _GARMENT_ROAD, "reference-only", _takes("garment_features")),
    UnservedModel("Leffa", _GARMENT_ROAD, "reference-only", _takes("reference_features")),
    UnservedModel("OOTDiffusion", _GARMENT_ROAD, "reference-only", _is_ootdiffusion),
    UnservedModel("FitDiT", "its joint attention", "flux", _has_parts("transformer_vton")),
    UnservedModel(
        "CatVTON",
        "self-attention (attn1), on one canvas",
        "reference-only",
        _skips_attention,
    ),
    UnservedModel(
        "with a reference network",
        _GARMENT_ROAD,
        "reference-only",
        _has_parts(
            *("referencenet", "reference_net", "reference_unet", "unet_encoder", "unet_garm"),
            "transformer_garm",
        ),
    ),
)
