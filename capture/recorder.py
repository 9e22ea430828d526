"""The context manager ``capture``: hooks a model, and streams what its attention computes.

The way of a tensor: a tap reads Q and K of a layer in one call of the denoiser, the step clock says
which step it is, the recorder picks the rows of each sample and guidance half and hands them to
the layer's writer. Nothing of the model changes, and nothing is left on it afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from torch import nn

import i2am.capture.unet  # noqa: F401 - registers its profiles
from i2am.capture.profiles import Profile, find_denoiser, find_profile
from i2am.capture.provenance import describe_target
from i2am.capture.representation import RepresentationOption, check_representation
from i2am.capture.sample_recorder import GuidanceOption, RecordingSettings, SampleRecorder
from i2am.capture.steps import StepClock, guidance_halves, read_timestep
from i2am.capture.taps import LayerTap, TappedFactors, attach, select_taps
from i2am.capture.writer import BackgroundWriter
from i2am.schemas import CaptureError, SchemaError, check_sample_name, did_you_mean
from i2am.schemas.dims import CONDITIONAL

__all__ = ["Recording", "capture"]

_DTYPES = ("float16", "float32")


def capture(
    target: Any,
    store: str | Path,
    *,
    sample: str | Sequence[str],
    layers: str | Sequence[str] | None = None,
    guidance: GuidanceOption = "conditional",
    representation: RepresentationOption = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    profile: str | Profile | None = None,
    overwrite: bool = False,
) -> Recording:
    """Return a context manager that captures what `target` computes inside it.

    Parameters
    ----------
    target : diffusers pipeline or denoiser module
    store : str or Path
        The run to write into; made when there is none.
    sample : str or sequence of str
        One name for each image that the call generates.
    layers : str or sequence of str, optional
        Shell-style patterns of layer names; None captures every layer of the profile.
    guidance : {"conditional", "both"}
        Which halves of a guided batch are kept. A call without guidance has the conditional alone.
    representation : {"auto", "factors", "logits"}
        "auto" takes what needs fewer bytes, layer by layer.
    dtype : {"float16", "float32"}
        A layer with a value beyond float16 is stored as float32 all the same.
    profile : str or Profile, optional
        None finds it from the target's class.
    overwrite : bool
        Whether a complete sample of this name may be replaced.

    Raises
    ------
    CaptureError
        If no profile serves the target, or no layer matches; from within the model's call, if a
        layer stays silent or the batch does not fit the samples.
    StoreError
        If `store` is something else, or the sample is complete there.
    SchemaError
        If an option or a sample's name is not valid.

    Examples
    --------
    ::

        with capture(pipe, "run.zarr", sample="shirt-001") as recording:
            image = pipe(example_image=garment, image=person, mask_image=mask).images[0]
            recording.add_images(generated=image, reference=garment)
    """
    if dtype not in _DTYPES:
        msg = f"Expected dtype 'float16' or 'float32', got {dtype!r}. Name one of them."
        raise SchemaError(msg)
    if guidance not in ("conditional", "both"):
        msg = f"Expected guidance 'conditional' or 'both', got {guidance!r}. Name one of them."
        raise SchemaError(msg)
    check_representation(representation)
    samples = (sample,) if isinstance(sample, str) else tuple(sample)
    for name in samples:
        check_sample_name(name)
    if not samples or len(set(samples)) < len(samples):
        msg = f"Expected different sample names, got {list(samples)}. Name each image."
        raise SchemaError(msg)
    denoiser = find_denoiser(target)
    found = find_profile(target, profile)
    taps = select_layers(target, found, layers)
    settings = RecordingSettings(str(store), guidance, representation, np.dtype(dtype), overwrite)
    return Recording(target, denoiser, found, taps, settings, samples)


@dataclass
class _Call:
    """One call of the denoiser, while it runs."""

    step: int
    halves: tuple[str, ...]
    heard: set[str]


class Recording:
    """A running capture; made by `capture`, used with ``with``."""

    def __init__(
        self,
        target: Any,
        denoiser: nn.Module,
        profile: Profile,
        taps: Sequence[LayerTap],
        settings: RecordingSettings,
        samples: tuple[str, ...],
    ) -> None:
        self._denoiser: nn.Module | None = denoiser
        self._taps = {tap.name: tap for tap in taps}
        self._profile, self._settings, self._names = profile, settings, samples
        self._provenance = describe_target(target, denoiser, profile.name)
        self._clock, self._stack = StepClock(), ExitStack()
        self._call: _Call | None = None
        self._halves: tuple[str, ...] | None = None
        self._samples: dict[str, SampleRecorder] = {}

    def __enter__(self) -> Self:
        """Open the samples in the store and hook the model."""
        if self._denoiser is None or self._samples:
            msg = "Expected a new capture, got one that was entered before. Call capture() again."
            raise CaptureError(msg)
        self._writer = BackgroundWriter()
        for name in self._names:
            self._samples[name] = SampleRecorder(
                name, self._settings, self._profile.layout, self._writer, self._provenance
            )
        with self._stack:  # Unhooks again if hooking fails halfway.
            for handle in (
                self._denoiser.register_forward_pre_hook(self._on_call, with_kwargs=True),
                self._denoiser.register_forward_hook(self._on_return),
            ):
                self._stack.callback(handle.remove)
            for tap in self._taps.values():
                attach(tap, self._on_factors, self._stack)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Unhook the model, write what is left, and mark the samples."""
        self._stack.close()
        self._denoiser, self._taps, self._call = None, {}, None
        try:
            if error is None:
                self._finish()
            else:
                self._writer.close()
        except BaseException as failure:
            self._fail(failure)
            raise
        if error is not None:
            self._fail(error)

    def add_images(self, *, sample: str | None = None, **images: Any) -> None:
        """Store pictures of a sample.

        Parameters
        ----------
        sample : str, optional
            Needed when the capture has several.
        **images : PIL image, or array uint8 (y, x[, 3]); a mask may be bool
            generated, reference; optional: source, inpainting_mask (white = painted),
            reference_mask. Each may be given once; generated and reference complete the sample,
            also after the ``with`` block.

        Raises
        ------
        CaptureError
            If the sample or an image's name is unknown, or an image comes twice.
        SchemaError
            If a picture has another shape or dtype.
        """
        if sample is None and len(self._names) > 1:
            msg = f"Expected sample= one of {list(self._names)}, got none. Say whose images."
            raise CaptureError(msg)
        name = self._names[0] if sample is None else sample
        if name not in self._samples:
            msg = f"Expected a sample of this capture, got {name!r}. "
            raise CaptureError(msg + did_you_mean(name, self._names))
        self._samples[name].add_images(images)

    def add_provenance(self, **facts: Any) -> None:
        """Store what the pipeline does not tell, such as ``seed`` and ``guidance_scale``."""
        self._provenance.update(facts)

    def _on_call(
        self, _module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        states = arguments[0] if arguments else options["sample"]
        halves = guidance_halves(len(states), len(self._names), self._profile.guidance)
        if self._halves not in (None, halves):
            msg = (
                f"Expected the guidance halves {self._halves} at every step, got {halves}. "
                "Capture with a guidance that stays."
            )
            raise CaptureError(msg)
        self._halves = halves
        step = self._clock.tick(read_timestep(arguments, options))
        self._call = _Call(step, halves, set())

    def _on_factors(self, tap: LayerTap, factors: TappedFactors) -> None:
        if self._call is None:
            return  # The layer runs outside of the denoiser, for somebody else's purpose.
        self._call.heard.add(tap.name)
        count, halves = len(self._names), self._call.halves
        if len(factors.query) != count * len(halves):
            msg = (
                f"Expected {count * len(halves)} rows, got {len(factors.query)}, at layer "
                f"{tap.name!r}. This layer folds other axes into the batch; leave it out."
            )
            raise CaptureError(msg)
        kept = self._kept(halves)
        for index, sample in enumerate(self._samples.values()):
            rows = [halves.index(half) * count + index for half in kept]
            own = TappedFactors(factors.query[rows], factors.key[rows], factors.grid)
            sample.put(self._call.step, tap, own, kept)

    def _on_return(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        silent = [name for name in self._taps if self._call and name not in self._call.heard]
        self._call = None
        if silent:
            others = f" and {len(silent) - 1} more" if silent[1:] else ""
            msg = (
                f"Expected Q and K of every layer, got none from {silent[0]!r}{others}. A "
                "compiled, fused or cached model bypasses hooks: capture it without that, or "
                "leave the layer out."
            )
            raise CaptureError(msg)

    def _kept(self, halves: tuple[str, ...]) -> tuple[str, ...]:
        return halves if self._settings.guidance == "both" else (CONDITIONAL,)

    def _finish(self) -> None:
        for sample in self._samples.values():
            sample.close()
        self._writer.close()
        if not self._clock.timesteps or self._halves is None:
            msg = "Expected the model to run inside the with block, got no call of its denoiser."
            raise CaptureError(msg)
        self._provenance["steps"] = len(self._clock.timesteps)
        kept = self._kept(self._halves)
        complete = [s.finish(self._clock.timesteps, kept) for s in self._samples.values()]
        if not all(complete):
            waiting = [n for n, done in zip(self._names, complete, strict=True) if not done]
            msg = (
                f"Samples {waiting} stay incomplete until recording.add_images(generated=…, "
                "reference=…) is called."
            )
            warnings.warn(msg, stacklevel=3)

    def _fail(self, error: BaseException) -> None:
        for sample in self._samples.values():
            sample.fail(error)


def select_layers(
    target: Any, profile: Profile, layers: str | Sequence[str] | None
) -> list[LayerTap]:
    """Return the taps of a target's layers that match the patterns.

    Raises
    ------
    CaptureError
        If a pattern matches no layer, or a layer cannot be captured.
    """
    denoiser = find_denoiser(target)
    return select_taps(list(profile.find_taps(denoiser)), layers, type(denoiser).__name__)
