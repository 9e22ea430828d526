"""The context manager ``capture``: hooks a model, and streams its attention into a store.

A tensor's way: a tap reads a layer's queries and keys in one call of the denoiser, `DenoiserHooks`
adds step and guidance branch, `Sampling` selects each sample's batch index, and `SampleRecorder`
reduces and stores it. Nothing in the model changes, and no hook stays on it.
"""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from i2am.capture.hooks.denoiser import DenoiserHooks
from i2am.capture.profiles.profile import Profile
from i2am.capture.profiles.running_call import CallInProgress, call_in_progress
from i2am.capture.recording.hooked_target import hook_target
from i2am.capture.recording.options import (
    DEFAULT_MEMORY_BYTES,
    CaptureOptions,
    StepsOption,
    check_heads,
)
from i2am.capture.recording.placement import CallPictures
from i2am.capture.recording.provenance import describe_target
from i2am.capture.recording.roads import check_knows_text
from i2am.capture.recording.sample_recorder import SampleRecorder
from i2am.capture.recording.sampling import Sampling, mark_failed
from i2am.capture.writer.run_store import enter_run
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import (
    CaptureError,
    SchemaError,
    check_facts,
    check_sample_name,
    did_you_mean,
)
from i2am.schemas.choices import EdgeName, GuidanceOption, RepresentationOption, StoredDtype
from i2am.storage.owners import Writer

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
    edges: Sequence[EdgeName] = (),
    profile: str | Profile | None = None,
    denoiser: str | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
    durable: bool = True,
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
    layers, steps, heads, guidance, representation, dtype, edges
        What is kept, and how it is stored; see `CaptureOptions`.
    profile, denoiser
        How the target is read, where that is not found; see `CaptureOptions`.
    memory_bytes, overwrite, durable
        See `CaptureOptions`.

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
    The shipped model and pictures stand for a pipeline of your own, whose call is written as ever.

    >>> import tempfile
    >>> from PIL import Image
    >>> from i2am.capture import DEMO_MANIFEST, load_pipeline
    >>> pipe = load_pipeline("i2am-tiny")
    >>> pipe.set_progress_bar_config(disable=True)
    >>> frog, photo, mask = (
    ...     Image.open(DEMO_MANIFEST.parent / f"frog-{name}.png") for name in ("reference", "source", "mask")
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with capture(pipe, f"{folder}/run.zarr", sample="frog-001") as recording:
    ...         call = {"example_image": frog, "image": photo, "mask_image": mask}
    ...         image = pipe(**call, num_inference_steps=1).images[0]
    ...         recording.add_images(generated=image, reference=frog, inpainting_mask=mask)
    ...     from i2am.analysis import open_run  # any time later, on any machine
    ...     list(open_run(f"{folder}/run.zarr"))
    ['frog-001']
    """
    options = CaptureOptions(
        layers=layers,
        steps=steps,
        heads=heads,
        guidance=guidance,
        representation=representation,
        dtype=dtype,
        edges=edges,
        profile=profile,
        denoiser=denoiser,
        memory_bytes=memory_bytes,
        overwrite=overwrite,
        durable=durable,
    )
    return open_recording(target, store, sample, options)


def open_recording(
    target: Any,
    store: str | Path,
    sample: str | Sequence[str],
    options: CaptureOptions,
    writer: Writer | None = None,
) -> Recording:
    """Return a `capture` with its options in one object; see there.

    A process that makes many recordings may give itself as the `writer` of all of them.
    """
    names = _checked_names(sample)
    return Recording(partial(_prepare, target, options), str(store), names, options, writer)


def _checked_names(sample: str | Sequence[str]) -> tuple[str, ...]:
    names = (sample,) if isinstance(sample, str) else tuple(sample)
    for name in names:
        check_sample_name(name)
    if not names or len(set(names)) < len(names):
        msg = f"Expected different sample names, got {list(names)}. Name each image."
        raise SchemaError(msg)
    return names


class _Prepared(NamedTuple):
    """A sampling that may begin."""

    hooks: DenoiserHooks  # not attached yet
    pictures: CallPictures
    provenance: dict[str, Any]
    call_in_progress: Callable[[], CallInProgress | None]


def _prepare(target: Any, options: CaptureOptions, samples: int) -> _Prepared:
    """Prepare a sampling of the target as it stands now: its adapters, scheduler, layers."""
    denoiser, profile, hooks = hook_target(target, options, samples)
    check_knows_text(profile, options.text_edges)
    check_heads(hooks.taps, options.heads)
    if options.keeps_step(0):
        hooks.check_any_awake(0)
    pictures = CallPictures(target, denoiser, profile)
    provenance = describe_target(target, denoiser, profile.name) | {"options": options.describe()}
    return _Prepared(hooks, pictures, provenance, partial(call_in_progress, target, denoiser))


class Recording:
    """A running capture, used with ``with``; `capture` returns it.

    Parameters
    ----------
    prepare : callable (number of samples) -> (hooks, pictures, provenance, call_in_progress)
        Prepares a sampling of the model as it stands then.
    store : str
        The run.
    samples : tuple of str
        The names of the images of the first sampling.
    options : CaptureOptions
    writer : Writer, optional
        This process in the run; by default it enters the run for as long as the recording is entered.

    Raises
    ------
    CaptureError
        If the model cannot be captured. When entered, if it was entered before. When left, if the
        model did not run, a layer was not read, or anything could not be written.
    StoreError
        When entered, if the store is something else or a sample is complete there.

    Examples
    --------
    Two images of one call:

    ::

        with capture(pipe, "run.zarr", sample=["shirt-001", "shirt-002"]) as recording:
            images = pipe(example_image=garments, image=people, mask_image=masks).images
            recording.add_provenance(guidance_scale=7.5)
            recording.add_images(sample="shirt-001", generated=images[0], reference=garments[0])
            recording.add_images(sample="shirt-002", generated=images[1], reference=garments[1])

    One image of each of ten calls:

    ::

        with capture(pipe, "run.zarr", sample="seed-0") as recording:
            for seed in range(10):
                if seed:
                    recording.next_sample(f"seed-{seed}")
                image = pipe(..., generator=torch.manual_seed(seed)).images[0]
                recording.add_provenance(seed=seed)
                recording.add_images(generated=image, reference=garment)
    """

    def __init__(
        self,
        prepare: Callable[[int], _Prepared],
        store: str,
        samples: tuple[str, ...],
        options: CaptureOptions,
        writer: Writer | None = None,
    ) -> None:
        self._store, self._options = store, options
        self._writer, self._owns_writer = writer, writer is None
        self._first_names = samples
        # Both hold the model: None afterwards.
        self._prepare: Callable[[int], _Prepared] | None = prepare
        self._prepared: _Prepared | None = prepare(len(samples))
        # Of the running sampling; of the last one afterwards.
        self._provenance = self._prepared.provenance
        self._sample_provenance: dict[str, dict[str, Any]] = {name: {} for name in samples}
        self._staging: StagingArea | None = None
        self._staged_layers = 0
        self._sampling: Sampling | None = None
        self._samples: dict[str, SampleRecorder] = {}  # of all samplings
        self._samplings = 0

    def __enter__(self) -> Self:
        """Open the samples in the store and hook the model."""
        if self._prepared is None or self._samples:
            msg = "Expected a new capture, got one that was entered before. Call capture() again."
            raise CaptureError(msg)
        try:
            self._begin(self._prepared, self._first_names)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Remove the hooks, write what is left, and mark the samples."""
        self._prepare = None
        try:
            self._end(error)
            self._close_staging()
        finally:
            self._leave()
        if error is None:
            self._warn_of_missing_images()

    def next_sample(self, sample: str | Sequence[str]) -> None:
        """End the sampling so far, and begin the next one: what the next call generates.

        Call it between two calls of the pipeline. The sample so far is complete once it has its
        images, which may also come later, by its name. The model is read as it stands now: its
        adapters, scheduler and layers may have changed since the last sampling.

        Parameters
        ----------
        sample : str or sequence of str
            One name for each image that the next call generates.

        Raises
        ------
        CaptureError
            If this is not between two calls, if the sampling so far was not whole (its samples are
            marked as failed), or a name was used before in this capture.
        StoreError
            If the store cannot be reached, or the sample is complete there.
        SchemaError
            If a name is not valid, or names are not different.
        """
        prepare = self._check_is_between_calls()
        self._end()
        names = _checked_names(sample)
        if used := [name for name in names if name in self._samples]:
            msg = f"Expected a new sample name, got {used[0]!r}, which this capture has already. "
            raise CaptureError(msg + "Name another one.")
        self._begin(prepare(len(names)), names)

    def _check_is_between_calls(self) -> Callable[[int], _Prepared]:
        """Return what prepares a sampling, where one may begin."""
        if self._prepare is None or not self._samples:
            when = "after" if self._prepare is None else "before"
            msg = f"Expected next_sample inside the with block, got it {when} the block. "
            raise CaptureError(msg + "Call it between two calls of the pipeline.")
        if self._sampling is None or self._prepared is None:
            return self._prepare  # The last one has ended, and the next could not begin.
        names = ", ".join(map(repr, self._sampling.names))
        if not self._sampling.has_begun:
            msg = f"Expected the next sample after the pipeline ran for {names}, got it before. "
            raise CaptureError(msg + "Call the pipeline once for each sample.")
        if self._prepared.call_in_progress() is not None:
            msg = (
                f"Expected the next sample after the pipeline's call for {names}, got it within. "
                "Call next_sample outside of callbacks, between two calls of the pipeline."
            )
            raise CaptureError(msg)
        return self._prepare

    def _begin(self, prepared: _Prepared, names: tuple[str, ...]) -> None:
        """Open samples in the store and hook the model."""
        branches = 2 if self._options.guidance == "both" else 1
        layers = len(prepared.hooks.taps) * len(names) * branches
        if self._writer is None:
            self._writer = enter_run(self._store)
        if self._staging is None or layers != self._staged_layers:
            self._close_staging()
            self._staging = StagingArea(self._options.memory_bytes, layers=layers)
            self._staged_layers = layers
        opened: dict[str, SampleRecorder] = {}
        try:
            for name in names:
                own = self._sample_provenance.setdefault(name, {})
                opened[name] = SampleRecorder(
                    self._store,
                    name,
                    self._options,
                    self._staging,
                    ChainMap(own, prepared.provenance),
                    self._writer,
                )
            sampling = Sampling(
                prepared.hooks, prepared.pictures, opened, self._staging, prepared.provenance
            )
            self._sampling = sampling.attach()
        except BaseException as error:
            with suppress(CaptureError):
                self._close_staging(abandoned=True)
            mark_failed(opened.values(), error)
            raise
        self._prepared, self._provenance = prepared, prepared.provenance
        self._samples |= opened
        self._samplings += 1

    def _end(self, error: BaseException | None = None) -> None:
        """Remove the hooks, and finish the running sampling, or mark it as failed."""
        sampling, self._sampling, self._prepared = self._sampling, None, None
        if sampling is None:
            return
        sampling.detach()
        try:
            if error is None:
                sampling.finish()
            else:
                self._close_staging(abandoned=True)
        except BaseException as failure:
            # Its tensors still lie in memory that was lent: the next sampling gets other memory.
            with suppress(CaptureError):
                self._close_staging(abandoned=True)
            sampling.fail(failure)
            raise
        if error is not None:
            sampling.fail(error)

    def _leave(self) -> None:
        """Leave the run, if it was entered for this recording."""
        if self._owns_writer and self._writer is not None:
            self._writer.close()

    def _close_staging(self, *, abandoned: bool = False) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            if abandoned:
                staging.abandon()
            staging.close()

    def _warn_of_missing_images(self) -> None:
        waiting = [name for name, sample in self._samples.items() if sample.misses_images]
        if waiting:
            msg = (
                f"Samples {waiting} stay incomplete until recording.add_images(generated=…, "
                "reference=…) is called."
            )
            warnings.warn(msg, stacklevel=3)

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
            ``with`` block.

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
        name = self._sample_of(sample, "images")
        if sample is None and "generated" in images and self._awaits_later_call():
            msg = (
                f"Expected the image that was generated for {name!r}, got one before its pipeline ran. "
                "Name the sample whose image it is: sample='NAME'."
            )
            raise CaptureError(msg)
        self._samples[name].add_images(images, boxes)

    def add_provenance(self, *, sample: str | None = None, **facts: Any) -> None:
        """Store facts that the pipeline does not know, such as ``seed`` and ``guidance_scale``.

        Parameters
        ----------
        sample : str, optional
            Of which the facts are; None means all samples of the running sampling.
        **facts : object
            Texts, finite numbers, true, false, None, and lists and mappings of these.

        Raises
        ------
        CaptureError
            If the sample is unknown, or none is given after several samplings.
        SchemaError
            If a fact cannot be stored: see `i2am.schemas.check_facts`. None is stored then.
        """
        check_facts(facts)
        if sample is not None:
            if sample not in self._sample_provenance:
                msg = f"Expected a sample of this capture, got {sample!r}. "
                raise CaptureError(msg + did_you_mean(sample, self._sample_provenance))
            self._sample_provenance[sample].update(facts)
            changed = [sample]
        else:
            if self._is_between_samplings() or (self._sampling is None and self._samplings > 1):
                raise CaptureError(_which_sample(self._samples, "facts"))
            self._provenance.update(facts)
            changed = [] if self._sampling else list(self._samples)
        for name in changed:
            if name in self._samples:
                self._samples[name].update_provenance()

    def _awaits_later_call(self) -> bool:
        """Whether the pipeline has not run yet for a sampling that is not the first."""
        return self._samplings > 1 and self._sampling is not None and not self._sampling.has_begun

    def _is_between_samplings(self) -> bool:
        """Whether, inside the block, the last sampling has ended and no other could begin."""
        return self._prepare is not None and self._sampling is None and bool(self._samples)

    def _sample_of(self, sample: str | None, what: str) -> str:
        """Return the name of the sample that is meant; none given means the only one."""
        if sample is None:
            names = list(self._sampling.names if self._sampling else self._samples)
            if len(names) > 1 or self._is_between_samplings():
                raise CaptureError(_which_sample(names, what))
            sample = (names or self._first_names)[0]
        if sample not in self._samples:
            known = self._samples or self._first_names
            msg = f"Expected a sample of this capture, got {sample!r}. "
            raise CaptureError(msg + did_you_mean(sample, known))
        return sample


def _which_sample(names: Iterable[str], what: str) -> str:
    return f"Expected sample= one of {list(names)}, got none. Say whose {what}."
