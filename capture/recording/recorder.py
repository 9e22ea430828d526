"""The context manager ``capture``: hooks a model, and streams its attention into a store.

A tensor's way: a tap reads a layer's queries and keys in one call of the denoiser, `DenoiserHooks`
adds step and guidance branch, `Recording` selects each sample's batch index, and `SampleRecorder`
reduces and stores it. Nothing in the model changes, and no hook stays on it.
"""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from i2am.capture.families.guidance import batch_branches, has_side_calls
from i2am.capture.families.profile import (
    Profile,
    find_denoiser,
    find_profile,
    is_compiled,
    select_layers,
)
from i2am.capture.hooks.denoiser import (
    DenoiserHooks,
    GuidanceBranches,
    LayerCall,
)
from i2am.capture.recording.options import (
    DEFAULT_MEMORY_BYTES,
    CaptureOptions,
    StepsOption,
)
from i2am.capture.recording.placement import CallPictures
from i2am.capture.recording.provenance import describe_target
from i2am.capture.recording.sample_recorder import SampleRecorder
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureError, SchemaError, check_sample_name, did_you_mean
from i2am.schemas.choices import GuidanceOption, RepresentationOption, StoredDtype

__all__ = ["Recording", "capture", "open_recording"]


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
    dtype: StoredDtype = "float16",
    profile: str | Profile | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
) -> Recording:
    """Return a context manager that captures what `target` computes inside it.

    Parameters
    ----------
    target : diffusers pipeline, CompVis-style model, or denoiser module
    store : str or Path
        The run to write into, a folder or a URL (``s3://bucket/run.zarr``); created if there is
        none.
    sample : str or sequence of str
        One name for each image that the call generates.
    layers, steps, heads, guidance, representation, dtype, profile, memory_bytes, overwrite
        What is kept, and how it is stored; see `CaptureOptions`.

    Returns
    -------
    Recording
        Opens the samples and hooks the model when it is entered.

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
    options = CaptureOptions(
        layers=layers,
        steps=steps,
        heads=heads,
        guidance=guidance,
        representation=representation,
        dtype=dtype,
        profile=profile,
        memory_bytes=memory_bytes,
        overwrite=overwrite,
    )
    return open_recording(target, store, sample, options)


def open_recording(
    target: Any, store: str | Path, sample: str | Sequence[str], options: CaptureOptions
) -> Recording:
    """Return a `capture` with its options in one object; see there."""
    samples = (sample,) if isinstance(sample, str) else tuple(sample)
    for name in samples:
        check_sample_name(name)
    if not samples or len(set(samples)) < len(samples):
        msg = f"Expected different sample names, got {list(samples)}. Name each image."
        raise SchemaError(msg)
    denoiser = find_denoiser(target)
    profile = find_profile(target, options.profile)
    hooks = DenoiserHooks(
        denoiser,
        select_layers(target, profile, options.layers),
        GuidanceBranches(
            profile.guidance,
            profile.calls,
            len(samples),
            options.guidance,
            is_batched=profile.is_batched,
            of_batch=partial(batch_branches, target, denoiser, profile),
            has_side_calls=partial(has_side_calls, target, denoiser),
        ),
        options.keeps_step,
        getattr(target, "scheduler", None),
        is_compiled(target, denoiser),
    )
    if options.keeps_step(0):
        hooks.check_any_awake(0)
    provenance = describe_target(target, denoiser, profile.name)
    pictures = CallPictures(target, denoiser, profile)
    return Recording(hooks, str(store), samples, options, provenance, pictures)


class Recording:
    """A running capture, used with ``with``; `capture` returns it.

    Parameters
    ----------
    hooks : DenoiserHooks
    store : str
        The run.
    samples : tuple of str
        Their names.
    options : CaptureOptions
    provenance : dict
        Of all samples.
    pictures : CallPictures
        How the model's pictures are prepared.

    Raises
    ------
    CaptureError
        When entered, if it was entered before. When left, if the model did not run, a layer was not
        read, or anything could not be written.
    StoreError
        When entered, if the store is something else or a sample is complete there.

    Examples
    --------
    ::

        with capture(pipe, "run.zarr", sample=["shirt-001", "shirt-002"]) as recording:
            images = pipe(example_image=garments, image=people, mask_image=masks).images
            recording.add_provenance(guidance_scale=7.5)
            recording.add_images(sample="shirt-001", generated=images[0], reference=garments[0])
            recording.add_images(sample="shirt-002", generated=images[1], reference=garments[1])
    """

    def __init__(
        self,
        hooks: DenoiserHooks,
        store: str,
        samples: tuple[str, ...],
        options: CaptureOptions,
        provenance: dict[str, Any],
        pictures: CallPictures,
    ) -> None:
        branches = 2 if options.guidance == "both" else 1
        layers = len(hooks.taps) * len(samples) * branches
        self._staging = StagingArea(options.memory_bytes, layers=layers)
        self._hooks: DenoiserHooks | None = hooks  # None afterwards: it holds the model.
        self._store, self._names, self._options = store, samples, options
        self._provenance, self._pictures = provenance, pictures
        self._sample_provenance: dict[str, dict[str, Any]] = {name: {} for name in samples}
        self._stack = ExitStack()
        self._samples: dict[str, SampleRecorder] = {}

    def __enter__(self) -> Self:
        """Open the samples in the store and hook the model."""
        if self._hooks is None or self._samples:
            msg = "Expected a new capture, got one that was entered before. Call capture() again."
            raise CaptureError(msg)
        for name in self._names:
            provenance = ChainMap(self._sample_provenance[name], self._provenance)
            self._samples[name] = SampleRecorder(
                self._store, name, self._options, self._staging, provenance
            )
        with self._stack:  # Removes the hooks if one of them cannot be attached.
            self._hooks.attach(self._stack, self)
            self._pictures.watch(self._stack)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Remove the hooks, write what is left, and mark the samples."""
        self._stack.close()
        hooks, self._hooks = self._hooks, None
        try:
            if error is None and hooks is not None:
                self._finish(hooks)
            else:
                self._staging.close()
        except BaseException as failure:
            self._fail(failure)
            raise
        if error is not None:
            self._fail(error)

    def add_images(
        self,
        *,
        sample: str | None = None,
        boxes: Mapping[str, Sequence[float]] | None = None,
        **images: Any,
    ) -> None:
        """Store images of a sample, and which part of each the model saw.

        Parameters
        ----------
        sample : str, optional
            Needed when the capture has several.
        boxes : mapping of str to (y0, x0, y1, x1), optional
            The part of an image that the model saw, by the image's name, in pixels of the stored
            image: the layers' grids lie over it. It goes before what profile and pipeline tell, and
            may reach beyond the image where the model saw padding.
        **images : path, PIL image, array or Tensor
            generated, reference; optional: source, inpainting_mask (white = painted),
            reference_mask; reference_1, reference_2 … of a model that takes several references.
            Each may be given once; generated and reference complete the sample, also after the
            ``with`` block. Arrays are uint8 (y, x, 3), uint16, or float from 0 to 1; a source or
            mask of another size than its image is resized.

        Warns
        -----
        InputWarning
            If something was left out or added: further frames, transparency, a full mask.

        Raises
        ------
        CaptureError
            If the sample or an image's name is unknown, or an image is given twice; if it cannot be
            known which part of an image the model saw. For images that are given before the model
            runs, this is found at the end of the ``with`` block.
        SchemaError
            If an image cannot be read without a guess, a mask marks nothing, a source or mask has
            another shape than its image, or a box is none.
        """
        if sample is None and len(self._names) > 1:
            msg = f"Expected sample= one of {list(self._names)}, got none. Say whose images."
            raise CaptureError(msg)
        name = self._names[0] if sample is None else sample
        if name not in self._samples:
            msg = f"Expected a sample of this capture, got {name!r}. "
            raise CaptureError(msg + did_you_mean(name, self._names))
        self._samples[name].add_images(images, boxes)

    def add_provenance(self, *, sample: str | None = None, **facts: Any) -> None:
        """Store facts that the pipeline does not know, such as ``seed`` and ``guidance_scale``.

        Parameters
        ----------
        sample : str, optional
            Of which the facts are; None means all samples of the capture.
        **facts : object
            As JSON can hold them.
        """
        (self._provenance if sample is None else self._sample_provenance[sample]).update(facts)

    def receive(self, call: LayerCall) -> None:
        """Append to each sample its batch index of a layer's inputs; called by the hooks."""
        if not all(sample.is_placed for sample in self._samples.values()):
            self._place_samples()
        # Pipelines have disabled gradients already; every microsecond counts for a small model.
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            for branch, first in call.branches:
                for batch_index, sample in enumerate(self._samples.values(), first):
                    for inputs in call.inputs:
                        sample.append(call, inputs, batch_index, branch)

    def call_ended(self) -> None:
        """Start the copies from the GPU; called by the hooks after each call of the denoiser."""
        self._staging.flush()

    def last_step(self) -> None:
        """Let the last steps be written while the pipeline decodes the image."""
        for sample in self._samples.values():
            sample.flush()

    def _place_samples(self) -> None:
        """Ask once, while the pipeline runs, how each sample's pictures were prepared."""
        placements = self._pictures.read(len(self._samples))
        for sample, placement in zip(self._samples.values(), placements, strict=True):
            sample.place(placement)

    def _finish(self, hooks: DenoiserHooks) -> None:
        branches = hooks.branches
        try:
            _check_ran(hooks)
            for sample in self._samples.values():
                sample.close(branches)
            for sample in self._samples.values():
                sample.finalize()
        finally:
            self._staging.close()
        self._provenance["steps"] = hooks.step_count
        complete = [
            sample.finish(hooks.steps, hooks.timesteps, branches)
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


def _check_ran(hooks: DenoiserHooks) -> None:
    if not hooks.calls:
        msg = "Expected the model to run inside the with block, got no call of its denoiser. "
        raise CaptureError(msg + "Call the pipeline there.")
    if not hooks.steps:
        msg = f"Expected steps to keep, got none of the {hooks.step_count} that ran. "
        raise CaptureError(msg + "Give other steps=.")
    hooks.check_ended()
