"""From a target to the hooks that will read it: its denoisers, its profile, its layers."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import nn

from i2am.capture.families.lookup import find_profile
from i2am.capture.hooks.denoiser import DenoiserHooks, GuidanceBranches, HookedDenoiser
from i2am.capture.profiles.denoisers import find_denoisers, is_compiled
from i2am.capture.profiles.guidance import batch_branches, has_side_calls, only_branch
from i2am.capture.profiles.profile import Profile, select_layers
from i2am.capture.recording.options import CaptureOptions
from i2am.schemas import CaptureError

__all__ = ["HookedTarget", "hook_target"]


class HookedTarget(NamedTuple):
    """A target, and hooks that are not attached yet.

    Parameters
    ----------
    denoiser : Module
        That of the noisiest step.
    profile : Profile
    hooks : DenoiserHooks
    """

    denoiser: nn.Module
    profile: Profile
    hooks: DenoiserHooks


def hook_target(target: Any, options: CaptureOptions, samples: int) -> HookedTarget:
    """Return the hooks for a target as it stands now: its adapters, scheduler, layers.

    Parameters
    ----------
    target : diffusers pipeline, CompVis-style model, or denoiser module
    options : CaptureOptions
        Which layers, steps and guidance branches are read, and how.
    samples : int
        Number of images that a call generates.

    Raises
    ------
    CaptureError
        If no profile serves the target, or no layer matches.
    """
    denoiser, *others = find_denoisers(target, options.denoiser)
    profile = find_profile(target, options.profile, denoiser)
    hooked = [HookedDenoiser(denoiser, select_layers(denoiser, profile, options.layers))]
    for other in others:
        hooked.append(HookedDenoiser(other, select_layers(other, profile, options.layers)))
        _check_same_layers(*hooked)
    hooks = DenoiserHooks(
        hooked,
        GuidanceBranches(
            profile.guidance,
            profile.calls,
            samples,
            options.guidance,
            is_batched=profile.is_batched,
            of_batch=partial(batch_branches, target, denoiser, profile),
            has_side_calls=partial(has_side_calls, target, denoiser),
            of_call=only_branch,
        ),
        options.keeps_step,
        getattr(target, "scheduler", None),
        any(is_compiled(target, one) for one in (denoiser, *others)),
        profile.is_step,
    )
    return HookedTarget(denoiser, profile, hooks)


def _check_same_layers(first: HookedDenoiser, second: HookedDenoiser) -> None:
    """Refuse denoisers that share the steps and differ in their layers: no layer has all steps."""
    names = [{tap.name for tap in denoiser.taps} for denoiser in (first, second)]
    if names[0] == names[1]:
        return
    other = sorted(names[0] ^ names[1])[0]
    msg = (
        "Expected two denoisers that share the steps to have the same layers, got one alone with "
        f"{other!r}. Capture one of them, with denoiser='transformer' or 'transformer_2'."
    )
    raise CaptureError(msg)
