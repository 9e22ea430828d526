"""Profiles: where a family of models keeps its reference tokens, and how they are laid out.

A profile is found from the class of a pipeline or denoiser, by its name and the package that it comes
from, so that no model's code is imported to recognise it. Each family has its own module, which
registers its profiles. For your own model, pass a `Profile` to ``capture(profile=…)`` or to
`register`, or publish it from a package as an entry point of the group ``i2am.profiles``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.recognition import class_names
from i2am.capture.profiles.refusal import OWN_PROFILE
from i2am.schemas import CaptureError, did_you_mean
from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

if TYPE_CHECKING:
    from torch import nn

    from i2am.capture.pipelines.call import Generate
    from i2am.capture.profiles.notes import ModelNotes
    from i2am.capture.profiles.preparation import Preparation, Prepares
    from i2am.capture.profiles.running_call import CallInProgress, RunningCall

__all__ = [
    "Profile",
    "class_names",
    "register",
    "registered_profiles",
    "select_layers",
    "select_taps",
]


@dataclass(frozen=True)
class Profile:
    """How to read a model family: its layers, their reference tokens, its guidance and pictures.

    Parameters
    ----------
    name : str
        Stored with every sample.
    classes : tuple of str
        Class names of pipelines or bare denoisers that it serves; subclasses are served too.
    find_taps : callable (denoiser) -> iterable of LayerTap
        Finds the layers that attend to the reference; called when a capture begins.
    guidance : tuple of str
        Labels of the branches of a guided batch, in the batch's order.
    calls : tuple of str
        Labels of the calls of one step, in their order, of a model that is called once per branch:
        each looks at the same latents. Where all are conditional, the calls may serve something else.
    is_batched : bool
        Whether the branches lie in one batch. False of a family whose pipelines call the denoiser
        once per branch: then every row of a batch is an image.
    branches : callable (CallInProgress) -> tuple of str or None, optional
        The branches of the batch of a pipeline's running call, where the pipeline says them otherwise
        than by ``do_classifier_free_guidance``; None where it does not say.
    is_step : callable (arguments) -> bool, optional
        Whether a call of the denoiser with these arguments, by name, is one of the sampling. Others are
        passed over, such as those that fill a cache beforehand. None takes all.
    recognise : callable (target, denoiser) -> bool, optional
        Whether it serves a target; given where the class alone does not decide that.
    generate : callable, optional
        Runs the pipeline on a manifest's rows; see `i2am.capture.pipelines.call`. None fills the
        pipeline's arguments by their names.
    package : str, optional
        The top package that `classes` come from, such as "diffusers": a class of the same name from
        elsewhere is another model. None takes them from anywhere.
    find_unnamed_taps : callable (denoiser) -> iterable of LayerTap, optional
        Instead of `find_taps` where nobody named the profile and the class does not tell all: its
        taps refuse what may be no reference.
    prepares : callable (RunningCall) -> Preparation, sequence of Preparation, or None, optional
        How references are prepared, which says over which part of the stored picture their tokens
        lie: `Stretched`, `CentreCrop` …; one for all, or one for each reference. None is unknown:
        then the picture must have the shape of the tokens' grid.
    paints : callable (RunningCall) -> Preparation or None, optional
        Which part of the stored generated image was painted, over which its patches lie, if it is not
        what diffusers' inpainting pipelines paint.
    notes : ModelNotes, optional
        What docs/gallery/models.md tells of it.

    Examples
    --------
    A denoiser of your own, whose layers ``cross`` attend to a reference of 1 + 14 × 14 tokens:

    >>> from i2am.capture import Profile, cross_attention, register
    >>> mine = Profile(
    ...     name="mine",
    ...     classes=("MyDenoiser",),
    ...     find_taps=lambda denoiser: cross_attention(denoiser, suffix=".cross"),
    ... )
    >>> register(mine).name  # or capture(…, profile=mine)
    'mine'
    """

    name: str
    classes: tuple[str, ...]
    find_taps: Callable[[nn.Module], Iterable[LayerTap]]
    guidance: tuple[str, ...] = (UNCONDITIONAL, CONDITIONAL)
    calls: tuple[str, ...] = (CONDITIONAL, UNCONDITIONAL)
    is_batched: bool = True
    branches: Callable[[CallInProgress], tuple[str, ...] | None] | None = None
    is_step: Callable[[Mapping[str, Any]], bool] | None = None
    recognise: Callable[[Any, nn.Module], bool] | None = None
    generate: Generate | None = None
    package: str | None = None
    find_unnamed_taps: Callable[[nn.Module], Iterable[LayerTap]] | None = None
    prepares: Prepares | None = None
    paints: Callable[[RunningCall], Preparation | None] | None = None
    notes: ModelNotes | None = None

    def serves(self, target: Any, denoiser: nn.Module) -> bool:
        """Return whether this profile is for `target`.

        Parameters
        ----------
        target : pipeline or Module
        denoiser : Module
            See `find_denoisers`.
        """
        if self.recognise is not None:
            return self.recognise(target, denoiser)
        return not class_names(target, self.package).isdisjoint(self.classes)


_profiles: dict[str, Profile] = {}


def register(profile: Profile) -> Profile:
    """Make a profile findable by its name and classes, and return it.

    If several profiles serve a target, the one that was registered last is used.

    Parameters
    ----------
    profile : Profile
        Replaces a profile of the same name.

    Returns
    -------
    Profile
        The same.

    Examples
    --------
    >>> from i2am.capture import Profile, cross_attention
    >>> register(Profile("mine", ("MyDenoiser",), cross_attention)).name
    'mine'

    """
    _profiles.pop(profile.name, None)
    _profiles[profile.name] = profile
    return profile


def registered_profiles() -> dict[str, Profile]:
    """Return the profiles by name, in the order in which they were registered.

    Whoever looks one up asks `i2am.capture.families.lookup`, which has every family registered.
    """
    return dict(_profiles)


def select_layers(
    denoiser: nn.Module, profile: Profile, layers: str | Sequence[str] | None
) -> list[LayerTap]:
    """Return the taps of a denoiser's layers that match the patterns.

    Raises
    ------
    CaptureError
        If the profile was made for other models, a pattern matches no layer, or a layer cannot be
        captured.
    """
    kind, wanted = type(denoiser).__name__, f"Expected layers that profile {profile.name!r} reads"
    hint = f"Give the profile that fits it, or {OWN_PROFILE}."
    try:
        taps = list(profile.find_taps(denoiser))
    except (AttributeError, KeyError, TypeError) as e:  # Other families have other parts.
        msg = f"{wanted}, got {type(e).__name__}: {e}, at {kind}. {hint}"
        raise CaptureError(msg) from e
    if not taps:
        msg = f"{wanted}, got none in {kind}. {hint}"
        raise CaptureError(msg)
    return select_taps(taps, layers, kind)


def select_taps(
    taps: list[LayerTap], layers: str | Sequence[str] | None, denoiser: str
) -> list[LayerTap]:
    """Return the taps whose layer matches any of the shell-style patterns; None takes all.

    Raises
    ------
    CaptureError
        If there is no pattern, or one of them matches no layer.
    """
    patterns = ["*"] if layers is None else [layers] if isinstance(layers, str) else layers
    if not _are_patterns(patterns):
        msg = (
            f"Expected layers as patterns such as 'up_blocks.*', got {layers!r}, at layers. Give one "
            "or a list of them, or leave layers out for all."
        )
        raise CaptureError(msg)
    for pattern in patterns:
        if not fnmatch.filter((tap.name for tap in taps), pattern):
            hint = did_you_mean(pattern, (tap.name for tap in taps))
            msg = f"Expected layers that match {pattern!r}, got none in {denoiser}. {hint}"
            raise CaptureError(msg)
    return [tap for tap in taps if any(fnmatch.fnmatchcase(tap.name, p) for p in patterns)]


def _are_patterns(patterns: object) -> bool:
    """Return whether it is a collection of at least one text."""
    return (
        isinstance(patterns, Collection)
        and len(patterns) > 0
        and all(isinstance(pattern, str) for pattern in patterns)
    )
