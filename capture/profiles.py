"""Profiles: where a family of models keeps its reference tokens, and how they are laid out.

A profile is found from the class names of the pipeline or denoiser, so that no model's code is
imported to recognise it. Each family has a module of its own that registers its profiles; a user's
own profile is one `Profile` handed to ``capture(profile=…)`` or to `register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2am.schemas import CaptureError, did_you_mean
from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from i2am.capture.taps import LayerTap

__all__ = [
    "GenerationSettings",
    "Pictures",
    "Profile",
    "ReferenceLayout",
    "find_denoiser",
    "find_profile",
    "register",
    "square_layout",
]


@dataclass(frozen=True)
class ReferenceLayout:
    """How reference tokens are laid out: leading special tokens, then a row-major grid."""

    special_tokens: int
    grid: tuple[int, int] | None


def square_layout(tokens: int) -> ReferenceLayout:
    """Return the layout of a vision transformer's tokens: a square, maybe after one class token.

    Examples
    --------
    >>> square_layout(257)
    ReferenceLayout(special_tokens=1, grid=(16, 16))
    >>> square_layout(1)
    ReferenceLayout(special_tokens=0, grid=None)
    """
    for special in (1, 0):
        side = math.isqrt(tokens - special)
        if side > 1 and side * side == tokens - special:
            return ReferenceLayout(special, (side, side))
    return ReferenceLayout(0, None)


@dataclass(frozen=True)
class Pictures:
    """The input of one sample. Source and mask have one size, reference and its mask another."""

    source: Image.Image
    mask: Image.Image  # white where the source shall be painted
    reference: Image.Image
    reference_mask: Image.Image | None = None


@dataclass(frozen=True)
class GenerationSettings:
    """How a sample is generated. None leaves it to the pipeline."""

    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Profile:
    """What capture must know of a model family.

    Parameters
    ----------
    name : str
        As stored with every sample.
    classes : tuple of str
        Class names of pipelines or bare denoisers that it serves; subclasses are served too.
    find_taps : callable (denoiser) -> iterator of LayerTap
        The layers in which reference and generated tokens meet.
    layout : callable (number of reference tokens) -> ReferenceLayout
    guidance : tuple of str
        Labels of the halves of a guided batch, in the batch's order.
    generate : callable (pipeline, pictures, settings) -> PIL image, optional
        Runs the pipeline on a manifest's row; without it the profile serves ``capture`` alone.
    """

    name: str
    classes: tuple[str, ...]
    find_taps: Callable[[nn.Module], Iterator[LayerTap]]
    layout: Callable[[int], ReferenceLayout] = square_layout
    guidance: tuple[str, ...] = (UNCONDITIONAL, CONDITIONAL)
    generate: Callable[[Any, Pictures, GenerationSettings], Image.Image] | None = None


_profiles: dict[str, Profile] = {}


def register(profile: Profile) -> Profile:
    """Make a profile findable by its name and classes, and return it."""
    _profiles[profile.name] = profile
    return profile


def find_profile(target: Any, wanted: str | Profile | None = None) -> Profile:
    """Return the profile for a pipeline or denoiser.

    Parameters
    ----------
    target : object
        The pipeline or the denoiser module.
    wanted : str or Profile, optional
        A registered profile's name, or a profile; None finds one by the target's class.

    Raises
    ------
    CaptureError
        If there is no such profile, or none that serves the target's class.
    """
    if isinstance(wanted, Profile):
        return wanted
    if wanted is not None:
        if wanted in _profiles:
            return _profiles[wanted]
        msg = f"Expected a known profile, got {wanted!r}. {did_you_mean(wanted, _profiles)}"
        raise CaptureError(msg)
    for ancestor in type(target).__mro__:
        for profile in _profiles.values():
            if ancestor.__name__ in profile.classes:
                return profile
    served = ", ".join(sorted(name for p in _profiles.values() for name in p.classes))
    msg = (
        f"Expected a model that a profile serves ({served}), got {type(target).__name__}. "
        f"Give profile= one of {sorted(_profiles)}, or a Profile of your own."
    )
    raise CaptureError(msg)


def find_denoiser(target: Any) -> nn.Module:
    """Return the module that a pipeline calls at every step; a bare denoiser is its own.

    Raises
    ------
    CaptureError
        If `target` is neither.
    """
    from torch import nn

    for part in ("unet", "transformer"):
        if isinstance(found := getattr(target, part, None), nn.Module):
            return found
    if isinstance(target, nn.Module):
        return target
    msg = (
        f"Expected a pipeline with a unet or transformer, or the denoiser itself, got "
        f"{type(target).__name__}. Pass the module that is called at every step."
    )
    raise CaptureError(msg)
