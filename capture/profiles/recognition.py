"""What a model is: where its class comes from, and which attention layers it holds.

A class's name alone does not tell. Research code copies diffusers' classes under their own names and
adds the layers that read the reference; a profile for the original would store other attention, of
text perhaps, as the reference's.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DIFFUSERS",
    "UnservedModel",
    "class_names",
    "find_unserved",
    "forward_parameters",
    "holds",
    "is_diffusers_unet",
    "is_known_unet",
    "is_target_itself",
    "keeps_forward",
    "package_of",
    "skips_cross_attention",
    "stray_attention",
    "text_setting",
]

DIFFUSERS = "diffusers"
# Where UNets of diffusers have attention. A fuser is GLIGEN's.
_PLACES = re.compile(
    r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+"
    r"(?:(?:\.transformers\.\d+)?\.(?:temporal_)?transformer_blocks\.\d+\.(?:attn[12]|fuser\.attn)"
    r"|\.attn[12])?"
)
# Settings of UNets that are given text; these kinds of it say so.
_TEXT_SETTINGS = ("addition_embed_type", "encoder_hid_dim_type")
# Adapters' own layers, which make the tokens of their images.
_BESIDE = ("encoder_hid_proj.",)


def package_of(kind: type) -> str:
    """Return the top package that a class was written in.

    Examples
    --------
    >>> package_of(re.Pattern)
    're'
    """
    return kind.__module__.partition(".")[0]


def class_names(value: Any, package: str | None = None) -> set[str]:
    """Return the names of a value's class and of its base classes.

    Parameters
    ----------
    value : object
    package : str, optional
        Only classes from this top package count; None takes all.

    Examples
    --------
    >>> sorted(class_names(True)), class_names(True, "diffusers")
    (['bool', 'int', 'object'], set())
    """
    ancestors = type(value).__mro__
    return {a.__name__ for a in ancestors if package is None or package_of(a) == package}


def is_diffusers_unet(denoiser: nn.Module) -> bool:
    """Return whether it is diffusers' own ``UNet2DConditionModel``, or derives from it."""
    return "UNet2DConditionModel" in class_names(denoiser, DIFFUSERS)


def is_target_itself(target: Any, denoiser: nn.Module) -> bool:
    """Return whether the target is the bare denoiser, maybe compiled."""
    return getattr(target, "_orig_mod", target) is denoiser


def keeps_forward(denoiser: nn.Module) -> bool:
    """Return whether a class that derives from one of diffusers runs that one's ``forward``."""
    kind = type(denoiser)
    return package_of(next(k for k in kind.__mro__ if "forward" in vars(k))) == DIFFUSERS


def forward_parameters(denoiser: nn.Module) -> set[str]:
    """Return the names of the parameters of a denoiser's ``forward``."""
    return set(inspect.signature(type(denoiser).forward).parameters)


def holds(denoiser: nn.Module, part: str) -> bool:
    """Return whether a module of this name lies in a denoiser, at any depth."""
    return any(part in name.split(".") for name, _ in denoiser.named_modules())


def skips_cross_attention(denoiser: nn.Module) -> bool:
    """Return whether a UNet's cross-attention gives back what it is given, as CatVTON's does."""
    processors = (getattr(module, "processor", None) for module in denoiser.modules())
    return any("SkipAttnProcessor" in class_names(processor) for processor in processors)


def stray_attention(denoiser: nn.Module) -> str | None:
    """Return the path of an attention layer where diffusers' UNets have none; None without one."""
    return next((n for n in _attention_paths(denoiser) if not _PLACES.fullmatch(n)), None)


def text_setting(denoiser: nn.Module) -> str | None:
    """Return the setting of a UNet's configuration that says that it reads text; None without one."""
    config = getattr(denoiser, "config", {})
    for name in _TEXT_SETTINGS:
        if str(config.get(name)).startswith("text"):
            return f"{name}={config[name]!r}"
    return None


def _attention_paths(denoiser: nn.Module) -> Iterator[str]:
    for name, module in denoiser.named_modules():
        if hasattr(module, "to_q") and hasattr(module, "to_k") and not name.startswith(_BESIDE):
            yield name


# --- Models that no profile reads, known by what they hold: a refusal says where their reference is. One
# --- that gets a profile leaves this list.


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
