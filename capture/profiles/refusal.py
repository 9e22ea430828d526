"""What to say of a model that no profile serves: what it is, the nearest profile, how to go on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from i2am.capture.profiles.recognition import (
    DIFFUSERS,
    class_names,
    find_unserved,
    is_diffusers_unet,
    is_target_itself,
    keeps_forward,
    package_of,
    stray_attention,
    text_setting,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OWN_PROFILE", "no_denoiser", "no_profile", "no_such_denoiser"]

OWN_PROFILE = "your own Profile (docs/how-to/own-models.md)"
_SIMILAR = 0.8  # of two class names, as difflib measures it


def no_profile(target: Any, denoiser: nn.Module, served: Mapping[str, tuple[str, ...]]) -> str:
    """Return the refusal of a target, of at most three lines.

    Parameters
    ----------
    target : pipeline or Module
    denoiser : Module
    served : mapping of str to tuple of str
        The classes that each registered profile serves, by its name.
    """
    found = f"Expected a model that a profile serves, got {_described(target, denoiser)}"
    unserved = find_unserved(target, denoiser)
    if unserved is not None:
        return (
            f"{found} ({unserved.name}), which may read the reference in {unserved.road}. Give "
            f"profile={unserved.nearest!r} if {unserved.condition}, or {OWN_PROFILE}."
        )
    if is_diffusers_unet(denoiser) and not is_target_itself(target, denoiser):
        return (
            f"{found}, which may read text alone. Load an IP-Adapter first (nearest profile: "
            "'ip-adapter'), give profile='unet' if its cross-attention reads the reference, or "
            f"{OWN_PROFILE}."
        )
    nearest = _nearest(target, denoiser, served)
    if nearest is None:
        return f"{found}, which is near to none. Give profile= {OWN_PROFILE}."
    return (
        f"{found}{_difference(denoiser)}. Nearest profile: {nearest!r}. Give profile={nearest!r} if "
        f"that reads the reference and no text, or {OWN_PROFILE}."
    )


def no_denoiser(target: Any) -> str:
    """Return the refusal of a target in which there is no denoiser."""
    held = _held_modules(target)
    way_out = "Pass the module that is called at every step"
    if isinstance(target, str):
        way_out = "Load the model first, as i2am.capture.load_pipeline does"
    elif held:
        way_out = f"Name the one that is called at every step, as denoiser='unet_vton', with {OWN_PROFILE}"
    return (
        "Expected a pipeline with a unet or transformer, or the denoiser itself, got "
        f"{type(target).__name__}{held}. {way_out}."
    )


def no_such_denoiser(target: Any, path: str, found: Any) -> str:
    """Return the refusal of a target that has no module at a path."""
    came = "nothing" if found is None else type(found).__name__
    return (
        f"Expected the denoiser of {_named(target)} at {path!r}, got {came}, at denoiser=. Give the path "
        f"of the module that is called at every step{_held_modules(target)}."
    )


def _held_modules(target: Any) -> str:
    """Return the names of a pipeline's parts, as " with unet_garm, vae"; empty without any."""
    from torch import nn

    members: Mapping[str, Any] = getattr(target, "__dict__", {})
    parts = sorted(name for name, part in members.items() if isinstance(part, nn.Module))
    return f" with {', '.join(parts[:8])}" if parts else ""


def _described(target: Any, denoiser: nn.Module) -> str:
    if is_target_itself(target, denoiser):
        return _named(denoiser)
    return f"{_named(target)} with {_named(denoiser)}"


def _named(value: Any) -> str:
    """Return a class's name, with its package where it is not diffusers' own."""
    kind = type(value)
    package = package_of(kind)
    return kind.__name__ if package == DIFFUSERS else f"{kind.__name__} of {package!r}"


def _difference(denoiser: nn.Module) -> str:
    """Return in what a UNet differs from those that are served unasked."""
    if not is_diffusers_unet(denoiser):
        is_namesake = "UNet2DConditionModel" in class_names(denoiser)
        return ", which is not diffusers' own class" if is_namesake else ""
    if (path := stray_attention(denoiser)) is not None:
        return f", with attention that diffusers' has not, at {path!r}"
    if (setting := text_setting(denoiser)) is not None:
        return f", whose configuration says that it reads text ({setting})"
    return "" if keeps_forward(denoiser) else ", which has a forward of its own"


def _nearest(target: Any, denoiser: nn.Module, served: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the profile for classes of these names, or else of the most similar name."""
    for value in (denoiser, target):
        for name in reversed(list(served)):
            if not class_names(value).isdisjoint(served[name]):
                return name
    homes = {known: name for name, classes in served.items() for known in classes}
    for value in (target, denoiser):
        if close := difflib.get_close_matches(type(value).__name__, homes, n=1, cutoff=_SIMILAR):
            return homes[close[0]]
    return None
