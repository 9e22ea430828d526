"""Which profile serves a pipeline or denoiser.

It lies in this folder because importing anything here registers every family first: none is missing when
a profile is looked up, and none takes the place of one that a user has registered under its name.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from i2am.capture.profiles.denoisers import find_denoiser
from i2am.capture.profiles.profile import Profile, register, registered_profiles
from i2am.capture.profiles.refusal import no_profile
from i2am.schemas import CaptureError, did_you_mean
from i2am.schemas.published import iter_published

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ENTRY_POINTS", "find_profile", "known_profiles", "named_profile", "register"]

ENTRY_POINTS = "i2am.profiles"


def known_profiles() -> tuple[Profile, ...]:
    """Return all registered profiles, in the order in which they were registered.

    Examples
    --------
    >>> "unet" in [profile.name for profile in known_profiles()]
    True
    """
    _load_published()
    return tuple(registered_profiles().values())


def find_profile(
    target: Any, wanted: str | Profile | None = None, denoiser: nn.Module | None = None
) -> Profile:
    """Return the profile for a pipeline or denoiser.

    Parameters
    ----------
    target : object
        The pipeline or the denoiser module.
    wanted : str or Profile, optional
        A registered profile's name, or a profile; None finds one by the target's class.
    denoiser : Module, optional
        The target's; None looks for it, see `find_denoisers`.

    Raises
    ------
    CaptureError
        If there is no such profile, or none that serves the target.
    """
    if isinstance(wanted, Profile):
        return wanted
    known = known_profiles()
    if wanted is not None:
        return named_profile(wanted)
    denoiser = find_denoiser(target) if denoiser is None else denoiser
    for profile in reversed(known):
        if profile.serves(target, denoiser):
            unnamed = profile.find_unnamed_taps
            return profile if unnamed is None else replace(profile, find_taps=unnamed)
    # Nearest are those that the class alone decides; they come last.
    ordered = sorted(known, key=lambda profile: profile.recognise is None)
    served = {profile.name: profile.classes for profile in ordered}
    raise CaptureError(no_profile(target, denoiser, served))


def named_profile(wanted: object) -> Profile:
    """Return the registered profile of a name.

    Raises
    ------
    CaptureError
        If there is none.

    Examples
    --------
    >>> named_profile("unet").name
    'unet'
    """
    found = {profile.name: profile for profile in known_profiles()}
    if isinstance(wanted, str) and wanted in found:
        return found[wanted]
    hint = "Give a name, such as 'unet', or a Profile."
    if isinstance(wanted, str):
        hint = did_you_mean(wanted, found)
    msg = f"Expected a known profile, got {wanted!r}. {hint}"
    raise CaptureError(msg)


@functools.cache
def _load_published() -> None:
    """Register the profiles that installed packages publish as entry points.

    Raises
    ------
    CaptureError
        If one of them cannot be loaded, or is not a profile.
    """
    for profile in iter_published(ENTRY_POINTS, Profile, CaptureError):
        register(profile)
