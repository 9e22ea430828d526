"""Painting one image several times, each time with something else cut, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from i2am.capture.causal.patches import Values, with_frames_stacked
from i2am.capture.causal.repeated_call import PaintingCall
from i2am.capture.cuts.cut import cutting
from i2am.capture.cuts.editor import Cut
from i2am.capture.cuts.placing import Size
from i2am.capture.hooks.instance_method import call_instead
from i2am.capture.profiles.profile import Profile
from i2am.capture.recording.options import StepsOption
from i2am.schemas import Box, CaptureError
from i2am.schemas.choices import GuidanceOption

__all__ = ["Painter", "Painting", "WatchedDecoder"]

_DECODERS = ("vae", "movq", "vqvae", "first_stage_model")


@dataclass(frozen=True)
class Painting:
    """What a call painted.

    Parameters
    ----------
    latents : array (image, channel, y, x) of float32
        The final ones, in the units in which the denoiser sees them; a video's frames are above one
        another. Of a model without a decoder, its output.
    pixels : array (image, channel, y, x) of float32, 0 to 1, or None
        The decoded images; None of a model that decodes none.
    output : object
        What the call returned.
    """

    latents: Values
    pixels: Values | None
    output: Any


@dataclass
class Painter:
    """Paints one image again and again.

    Parameters
    ----------
    target : diffusers pipeline, CompVis-style model, or denoiser module
    call : PaintingCall
        Of the target.
    size : int
        Number of images that every call paints: with another number rounding would be another.
    frames : int
        Of a video, how many latent frames are generated.
    sizes, boxes, guidance, profile, denoiser
        See `i2am.capture.cutting`.

    Attributes
    ----------
    pictures : int
        Number of images that were painted so far.
    """

    target: Any
    call: PaintingCall
    size: int
    frames: int = 1
    sizes: Mapping[str, Size] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)
    guidance: GuidanceOption = "conditional"
    profile: str | Profile | None = None
    denoiser: str | None = None
    pictures: int = field(default=0, init=False)

    def paint(
        self,
        cuts: Sequence[Cut | None],
        references: Sequence[Image.Image | None] | None = None,
    ) -> Painting:
        """Paint images with something cut of each, or with another reference.

        Parameters
        ----------
        cuts : sequence of Cut or None
            At most `size`; untouched images fill the call.
        references : sequence of PIL image or None, optional
            Of each image; None leaves it as it is.

        Returns
        -------
        Painting
            Of `size` images.

        Raises
        ------
        CaptureError
            If a cut cannot be made, or the call paints another number of images.
        """
        with ExitStack() as stack:
            decoder = WatchedDecoder(self.target, stack)
            stack.enter_context(self.cutting(cuts))
            filled = None
            if references is not None:
                filled = [*references, *[None] * (self.size - len(references))]
            try:
                output = self.call(self.size, filled)
            except Exception as e:
                if self.size > 1 and not self.pictures:
                    e.add_note(
                        "If it cannot paint several images in a call: batch=1 (--batch-size 1)."
                    )
                raise
        self.pictures += self.size
        return decoder.painting(output, self.size, self.frames)

    def cutting(
        self, cuts: Sequence[Cut | None], steps: StepsOption = None
    ) -> AbstractContextManager[None]:
        """Return a context manager in which a call paints with something cut; see `cutting`."""
        return cutting(
            self.target,
            [*cuts, *[None] * (self.size - len(cuts))],
            self.sizes,
            self.boxes,
            guidance=self.guidance,
            steps=steps,
            profile=self.profile,
            denoiser=self.denoiser,
        )


class WatchedDecoder:
    """Sees what a pipeline's decoder is given and returns, until `stack` closes.

    Parameters
    ----------
    target : diffusers pipeline or other model
    stack : ExitStack
    replayed : sequence, optional
        What the decoder returned before, to be returned again: nothing is decoded then.
    """

    def __init__(
        self, target: Any, stack: ExitStack, replayed: Sequence[Any] | None = None
    ) -> None:
        names = (name for name in _DECODERS if hasattr(getattr(target, name, None), "decode"))
        self._decoder = next((getattr(target, name) for name in names), None)
        self._given: list[torch.Tensor] = []
        self.returned: list[Any] = []
        self._replayed = None if replayed is None else iter(replayed)
        if self._decoder is not None:
            call_instead(self._decoder, "decode", self._decode, stack)

    def _decode(self, decode: Any, *args: Any, **kwargs: Any) -> Any:
        if self._replayed is not None:
            return next(self._replayed)
        latents = args[0] if args else next(iter(kwargs.values()))
        returned = decode(*args, **kwargs)
        self._given.append(latents.detach())
        self.returned.append(returned)
        return returned

    def painting(self, output: Any, count: int, frames: int) -> Painting:
        """Return what a call painted.

        Parameters
        ----------
        output : object
            That it returned.
        count : int
            Number of images that it was to paint.
        frames : int
            Of a video, how many latent frames are generated.

        Raises
        ------
        CaptureError
            If it painted another number.
        """
        latents, pixels = self._read(count, frames)
        if latents is None:  # A model without a decoder.
            latents = _rows_of(output)
            pixels = None if isinstance(output, torch.Tensor) else latents
        if latents is None or latents.ndim != 4 or len(latents) != count:
            shape = None if latents is None else latents.shape
            msg = (
                f"Expected {count} images from a call for as many, got {shape}, at the latents that its "
                "decoder was given. Paint one image a call: batch=1 (--batch-size 1)."
            )
            raise CaptureError(msg)
        return Painting(latents, pixels, output)

    def _read(self, count: int, frames: int) -> tuple[Values | None, Values | None]:
        """Return the latents of `count` images, and the decoded images; None of what was not seen."""
        # A pipeline may decode something else before, of another shape.
        given = [one for one in self._given if one.shape[1:] == self._given[-1].shape[1:]]
        if not given:
            return None, None
        latents = _with_frames(_to_array(torch.cat(given)), count)
        samples = [_sample_of(one) for one in self.returned[-len(given) :]]
        pixels = None
        if all(isinstance(one, torch.Tensor) for one in samples):
            decoded = _with_frames(_to_array(torch.cat(samples)), count)
            latent_frames = latents.shape[2] if latents.ndim == 5 else None
            pixels = np.clip(with_frames_stacked(decoded, frames, latent_frames) / 2 + 0.5, 0, 1)
        return with_frames_stacked(self._in_units(latents), frames), pixels

    def _in_units(self, latents: Values) -> Values:
        """Return latents in the units in which the denoiser has them; a constant offset stays."""
        config = getattr(self._decoder, "config", None)
        scaling = getattr(config, "scaling_factor", None)
        deviations = getattr(config, "latents_std", None)
        found = latents * np.float32(1 if scaling is None else scaling)
        if deviations is not None and len(deviations) == latents.shape[1]:
            found /= np.reshape(np.float32(deviations), (-1, *[1] * (latents.ndim - 2)))
        return found


def _with_frames(values: Values, count: int) -> Values:
    """Return images with an axis of frames, where a decoder got them as so many images more."""
    frames, rest = divmod(len(values), count)
    if rest or frames < 2:
        return values
    if values.ndim == 5 and values.shape[2] == 1:
        values = values[:, :, 0]
    elif values.ndim != 4:
        return values
    return np.moveaxis(values.reshape(count, frames, *values.shape[1:]), 1, 2)


def _rows_of(output: Any) -> Values | None:
    """Return the images of a model without a decoder, dims (image, channel, y, x)."""
    found = getattr(output, "images", output)
    if isinstance(found, tuple) and len(found) == 1:
        (found,) = found
    if isinstance(found, torch.Tensor):
        return _to_array(found)
    if isinstance(found, Sequence) and found and isinstance(found[0], Image.Image):
        found = np.stack([np.asarray(image.convert("RGB")) / np.float32(255) for image in found])
    if isinstance(found, np.ndarray) and found.ndim == 4:
        return np.moveaxis(found, -1, 1).astype(np.float32)
    return None


def _sample_of(returned: Any) -> Any:
    if isinstance(returned, tuple):
        return returned[0]
    return getattr(returned, "sample", returned)


def _to_array(values: torch.Tensor) -> Values:
    found: Values = values.detach().float().cpu().numpy()
    return found
