"""The context manager ``capture``: hooks a model, and streams what its attention computes.

The way of a tensor: a tap reads a layer's inputs in one call of the denoiser, the listener says
which step and guidance branch it is, the recording hands each sample its row, and the sample's
recorder streams it into the store. Nothing of the model changes, and nothing is left on it.
"""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch

from i2am.capture.families.profile import (
    Profile,
    find_denoiser,
    find_profile,
    is_compiled,
    select_layers,
)
from i2am.capture.hooks.denoiser import DenoiserHooks, GuidanceOption, LayerCall
from i2am.capture.recording.options import (
    DEFAULT_MEMORY_BYTES,
    RecordingSettings,
    StepsOption,
    check_choice,
    head_set,
    keeps_step,
)
from i2am.capture.recording.provenance import describe_target
from i2am.capture.recording.representation import RepresentationOption, check_representation
from i2am.capture.recording.sample_recorder import SampleRecorder
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureError, SchemaError, check_sample_name, did_you_mean

__all__ = ["Recording", "capture"]


def capture(
    target: Any,
    store: str | Path,
    *,
    sample: str | Sequence[str],
    layers: str | Sequence[str] | None = None,
    steps: StepsOption = None,
    heads: Sequence[int] | None = None,
    guidance: GuidanceOption = "conditional",
    representation: RepresentationOption = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    profile: str | Profile | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
) -> Recording:
    """Return a context manager that captures what `target` computes inside it.

    Parameters
    ----------
    target : diffusers pipeline, CompVis-style model, or denoiser module
    store : str or Path
        The run to write into, a folder or a URL (``s3://bucket/run.zarr``); made when there is
        none.
    sample : str or sequence of str
        One name for each image that the call generates.
    layers : str or sequence of str, optional
        Shell-style patterns of layer names; None captures every layer of the profile.
    steps : int, slice, range or sequence of int, optional
        Which denoising steps are kept: every n-th, a range, or a list; None keeps all.
    heads : sequence of int, optional
        Which heads are kept, of layers that have them; None keeps all.
    guidance : {"conditional", "both"}
        Which branches of a guided batch are kept. A call without guidance has the conditional alone.
    representation : {"auto", "factors", "logits", "maps"}
        "auto" takes what needs fewer bytes, logits or their factors Q and K, layer by layer.
        "maps" reduces each call on the device to its two directional maps: far fewer bytes, and no
        SRAM afterwards.
    dtype : {"float16", "float32"}
        A layer with a value beyond float16 is stored as float32 all the same.
    profile : str or Profile, optional
        None finds it from the target's class.
    memory_bytes : int
        Host memory that tensors may hold on their way to the store. When the store is slower than
        the model, the model waits.
    overwrite : bool
        Whether a complete sample of this name may be replaced.

    Raises
    ------
    CaptureError
        If no profile serves the target, or no layer matches; from within the model's call, if a
        layer is not read or the batch does not fit the samples.
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
    check_choice("dtype", dtype, ("float16", "float32"))
    check_choice("guidance", guidance, ("conditional", "both"))
    check_representation(representation)
    samples = (sample,) if isinstance(sample, str) else tuple(sample)
    for name in samples:
        check_sample_name(name)
    if not samples or len(set(samples)) < len(samples):
        msg = f"Expected different sample names, got {list(samples)}. Name each image."
        raise SchemaError(msg)
    settings = RecordingSettings(
        str(store), representation, np.dtype(dtype), head_set(heads), overwrite
    )
    keeps = keeps_step(steps)
    denoiser = find_denoiser(target)
    found = find_profile(target, profile)
    taps = select_layers(target, found, layers)
    branches = 2 if guidance == "both" else 1
    staging = StagingArea(memory_bytes, layers=len(taps) * len(samples) * branches)
    recording = Recording(settings, samples, staging)
    recording.listen_to(
        DenoiserHooks(
            denoiser,
            taps,
            found.guidance,
            found.calls,
            len(samples),
            guidance,
            keeps,
            getattr(target, "scheduler", None),
            is_compiled(target, denoiser),
            recording.receive,
            staging.flush,
            recording.flush,
        ),
        describe_target(target, denoiser, found.name),
    )
    return recording


class Recording:
    """A running capture; made by `capture`, used with ``with``."""

    def __init__(
        self, settings: RecordingSettings, samples: tuple[str, ...], staging: StagingArea
    ) -> None:
        self._settings, self._names, self._staging = settings, samples, staging
        self._listener: DenoiserHooks | None = None
        self._provenance: dict[str, Any] = {}
        self._own: dict[str, dict[str, Any]] = {name: {} for name in samples}
        self._stack = ExitStack()
        self._samples: dict[str, SampleRecorder] = {}

    def listen_to(self, listener: DenoiserHooks, provenance: dict[str, Any]) -> None:
        """Say whose layers are recorded; once, before ``with``."""
        self._listener, self._provenance = listener, provenance

    def __enter__(self) -> Self:
        """Open the samples in the store and hook the model."""
        if self._listener is None or self._samples:
            msg = "Expected a new capture, got one that was entered before. Call capture() again."
            raise CaptureError(msg)
        for name in self._names:
            provenance = ChainMap(self._own[name], self._provenance)
            self._samples[name] = SampleRecorder(name, self._settings, self._staging, provenance)
        with self._stack:  # Unhooks again if hooking fails halfway.
            self._listener.attach(self._stack)
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
        listener, self._listener = self._listener, None
        try:
            if error is None and listener is not None:
                self._finish(listener)
            else:
                self._staging.close()
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
            reference_mask; reference_1, reference_2 … of a model that takes several references.
            Each may be given once; generated and reference complete the sample, also after the
            ``with`` block.

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

    def add_provenance(self, *, sample: str | None = None, **facts: Any) -> None:
        """Store what the pipeline does not tell, such as ``seed`` and ``guidance_scale``.

        With `sample`, of that sample alone.
        """
        (self._provenance if sample is None else self._own[sample]).update(facts)

    def receive(self, layer: LayerCall) -> None:
        """Hand each sample its rows of a layer's layer_inputs."""
        if self._listener is None:
            return
        branches = self._listener.expected_branches()
        # Pipelines have switched gradients off. What a small model's hooks do costs microseconds.
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            for branch, first in layer.branches:
                for place, sample in enumerate(self._samples.values()):
                    for inputs in layer.inputs:
                        row = first + place
                        sample.put(layer.tap, inputs, row, layer.step_index, branch, branches)

    def flush(self) -> None:
        """Let the last steps be written while the pipeline decodes the image."""
        for sample in self._samples.values():
            sample.flush()

    def _finish(self, listener: DenoiserHooks) -> None:
        branches = listener.branches
        try:
            _check_ran(listener)
            for sample in self._samples.values():
                sample.close(branches)
            for sample in self._samples.values():
                sample.finalize()
        finally:
            self._staging.close()
        self._provenance["steps"] = listener.step_count
        complete = [
            sample.finish(listener.steps, listener.timesteps, branches)
            for sample in self._samples.values()
        ]
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


def _check_ran(listener: DenoiserHooks) -> None:
    if not listener.calls:
        msg = "Expected the model to run inside the with block, got no call of its denoiser. "
        raise CaptureError(msg + "Call the pipeline there.")
    if not listener.steps:
        msg = f"Expected steps to keep, got none of the {listener.step_count} that ran. "
        raise CaptureError(msg + "Give other steps=.")
    listener.check_all_layers_read()
