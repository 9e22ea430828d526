"""Batch capture: every row of a manifest becomes a sample of one run; a re-run continues it."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from i2am.capture.batch.batch_summary import BatchSummary
from i2am.capture.batch.input_files import find_unreadable
from i2am.capture.batch.load_model import load_model
from i2am.capture.batch.manifest_shard import find_shard
from i2am.capture.batch.run_settings import (
    EarlierSamples,
    call_settings,
    check_others,
    comparable_settings,
    settings_before_loading,
    settings_of_pipeline,
)
from i2am.capture.batch.sample_images import SampleImages
from i2am.capture.families.lookup import find_profile, named_profile
from i2am.capture.pipelines.call import (
    Generate,
    GenerationSettings,
    SampleInputs,
    call_arguments,
    check_call,
    generate,
    guidance_argument,
    guidance_scale_of,
    image_arguments,
    is_unguided,
    is_video,
    most_steps,
    output_size,
    steps_of,
    supports_batches,
    takes_several_references,
)
from i2am.capture.pipelines.load import LoadOptions, default_device
from i2am.capture.profiles.denoisers import find_denoiser
from i2am.capture.profiles.profile import select_layers
from i2am.capture.recording.options import CaptureOptions, check_heads
from i2am.capture.recording.provenance import describe_inputs, to_json_value
from i2am.capture.recording.recorder import Recording, open_recording
from i2am.capture.recording.roads import check_knows_text
from i2am.capture.writer.run_store import (
    SampleComplete,
    enter_run,
    iter_finished_samples,
    stored_bytes,
)
from i2am.files import check_can_hold_store
from i2am.schemas import (
    CaptureError,
    InputWarning,
    ManifestRow,
    SchemaError,
    StorageError,
    read_manifest,
)
from i2am.storage.owners import SampleTaken, Writer
from i2am.storage.strikes import StoreStrikes

__all__ = ["CaptureSummary", "ManifestCapture", "capture_manifest", "run_first_row"]

# What PyTorch's generators take.
_LEAST_SEED, _LARGEST_SEED = -(2**63), 2**64 - 1


@dataclass
class CaptureSummary(BatchSummary):
    """The result of `capture_manifest`.

    Parameters
    ----------
    shard, finished, skipped, failed, untried, taken, elapsed_s
        See `BatchSummary`; the time is that of generation and capture together.
    bytes_written : int
        Size of the finished samples in the store.

    Examples
    --------
    >>> summary = CaptureSummary(finished=["a", "b"], elapsed_s=6.0, bytes_written=4_000_000)
    >>> str(summary)
    '2 captured, 0 were complete, 0 failed; 20.0 samples a minute, 2.0 MB a sample'
    """

    bytes_written: int = 0

    def __str__(self) -> str:
        """Return a summary in one line."""
        counts = self.counts("captured")
        if not self.finished or not self.elapsed_s:
            return counts
        rate = 60 * len(self.finished) / self.elapsed_s
        size = self.bytes_written / len(self.finished) / 1e6
        return f"{counts}; {rate:.1f} samples a minute, {size:.1f} MB a sample"


def capture_manifest(
    model: str,
    manifest: str | Path,
    out: str | Path,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 1,
    shard: tuple[int, int] | None = None,
    loading: LoadOptions | None = None,
    options: CaptureOptions | None = None,
    progress: bool = True,
) -> CaptureSummary:
    """Generate and capture each row of a manifest.

    Complete samples are skipped, unfinished ones captured again. A sample that fails is marked as
    failed in the store, and the next one follows; but after two in a row that could not be written to
    the store, no further one is tried. A sample whose own metadata in the store cannot be read fails,
    too, and is left as it is, since it may be complete. All samples of a run have the same settings:
    with other settings the run is not continued.

    Parameters
    ----------
    model : str
        See `i2am.capture.load_pipeline`.
    manifest : str or Path
        See `i2am.schemas.read_manifest`.
    out : str or Path
        The run, a folder or a URL; created if there is none.
    steps : int, optional
        Number of denoising steps; None leaves the pipeline's default.
    guidance_scale : float, optional
        None leaves the pipeline's default.
    arguments : mapping, optional
        Further arguments of the pipeline's call; ``prompt`` is for rows without one.
    seed : int
        A row without a seed of its own gets this plus its position in the manifest.
    batch_size : int
        Number of samples that one call generates; 1 where the pipeline cannot generate several.
    shard : (int, int), optional
        (I, N) with I from 0: every N-th row from the I-th on, so that N processes share a manifest.
        None reads the environment of torchrun or Slurm.
    loading : LoadOptions, optional
        How the model is loaded; without a device, the process's local rank chooses the GPU.
    options : CaptureOptions, optional
        What is kept; None keeps the defaults of `capture`.
    progress : bool
        Whether to show bars with rate and remaining time: one over the samples and, in a terminal,
        one over the denoising steps.

    Returns
    -------
    CaptureSummary

    Raises
    ------
    SchemaError
        If the manifest or the shard is not valid, or the call has not what shall be kept.
    StoreError
        If `out` is not a run, cannot be reached, or holds samples of other settings.
    CaptureError
        If the model cannot be loaded, called with the manifest's columns, or captured.

    Warns
    -----
    InputWarning
        Of a file, once in a run, if something was left out or added (further frames, transparency,
        a full mask, a stretched source); of a column that the pipeline does not read.

    Examples
    --------
    ::

        options = CaptureOptions(guidance="both", steps=5)
        summary = capture_manifest("i2am-tiny", "rows.csv", "run.zarr", options=options)
        print(summary)
    """
    options, loading = options or CaptureOptions(), loading or LoadOptions()
    settings = GenerationSettings(steps, guidance_scale, arguments or {})
    _check_numbers(steps, batch_size)
    check_can_hold_store(out)
    if isinstance(options.profile, str):
        named_profile(options.profile)
    summary = CaptureSummary(shard=find_shard(os.environ, shard))
    manifest_rows = read_manifest(manifest)
    rows = summary.shard.select(list(enumerate(manifest_rows)))
    known, earlier = _earlier_samples(out, {row.sample for row in manifest_rows}, options)
    earlier.check(settings_before_loading(model, settings, loading, options))
    summary.skipped = [row.sample for _, row in rows if row.sample in known]
    waiting = [
        row if row.seed is not None else row.model_copy(update={"seed": seed + position})
        for position, row in rows
        if row.sample not in known
    ]
    if not waiting:
        return summary
    _check_seeds(waiting)
    summary.failed |= find_unreadable(waiting)
    waiting = [row for row in waiting if row.sample not in summary.failed]
    if not waiting:
        return summary
    if loading.device is None:
        loading = replace(loading, device=default_device(summary.shard.local_rank))
    pipeline = load_model(model, loading, options.denoiser)
    runner = make_runner(pipeline, settings, waiting, options)
    found = _check_continues(earlier, pipeline, settings, loading, options)
    size = _batch_size(pipeline, runner, batch_size)
    shared = comparable_settings(found)
    start_s, strikes = time.monotonic(), StoreStrikes()
    with (
        enter_run(out, shared) as writer,
        tqdm(total=len(waiting), desc="capture", unit="sample", disable=not progress) as bar,
    ):
        manifest_capture = ManifestCapture(
            pipeline, runner, settings, Path(manifest), str(out), options, loading, progress, writer
        )
        for first in range(0, len(waiting), size):
            check_others(writer, found, str(out))
            rows_now = waiting[first : first + size]
            for done in _capture_rows(manifest_capture, rows_now, summary, strikes):
                bar.update(done)
            if strikes.is_out:
                summary.untried = [row.sample for row in waiting[first + size :]]
                break
        left = [row for row in waiting if row.sample in summary.taken and not strikes.is_out]
        for row in left:  # Its owner may have ended, complete or not.
            if writer.wait_for(row.sample):
                del summary.taken[row.sample]
                list(_capture_rows(manifest_capture, [row], summary, strikes))
    summary.elapsed_s = time.monotonic() - start_s
    return summary


def _check_numbers(steps: int | None, batch_size: int) -> None:
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        if number is not None and number < 1:
            msg = f"Expected {name} from 1 on, got {number}. Give another number."
            raise SchemaError(msg)


def _check_seeds(rows: Sequence[ManifestRow]) -> None:
    for row in rows:
        if not _LEAST_SEED <= (row.seed or 0) <= _LARGEST_SEED:
            msg = (
                f"Expected a seed of 64 bits, got {row.seed}, at sample {row.sample!r}. "
                "Give a smaller one."
            )
            raise SchemaError(msg)


def _earlier_samples(
    out: str | Path, named: Set[str], options: CaptureOptions
) -> tuple[set[str], EarlierSamples]:
    """Return the complete samples that stay, and the settings that they were made with."""
    earlier = EarlierSamples(str(out))
    complete: set[str] = set()
    for name, own in iter_finished_samples(out):  # One at a time: together they are gigabytes.
        # With overwrite the manifest's are replaced, if not by this shard then by another.
        if not (options.overwrite and name in named):
            complete.add(name)
            earlier.add(name, own)
    earlier.can_overwrite = not options.overwrite and complete <= named
    return complete, earlier


def _check_continues(
    earlier: EarlierSamples,
    pipeline: Any,
    settings: GenerationSettings,
    loading: LoadOptions,
    options: CaptureOptions,
) -> dict[str, Any]:
    """Check that the run may be continued, now that the pipeline says what it is.

    Returns
    -------
    dict
        The settings.
    """
    denoiser = find_denoiser(pipeline, options.denoiser)
    profile = find_profile(pipeline, options.profile, denoiser)
    found = settings_of_pipeline(pipeline, denoiser, profile.name, settings, loading)
    before = settings_before_loading(str(found["model"]), settings, loading, options)
    earlier.check(before | found)
    earlier.warn_of_versions(found["versions"], found["device"])
    return before | found


def make_runner(
    pipeline: Any,
    settings: GenerationSettings,
    rows: Sequence[ManifestRow],
    options: CaptureOptions,
) -> Generate:
    """Return the function that runs the pipeline, after checks of what would fail every sample."""
    denoiser = find_denoiser(pipeline, options.denoiser)
    profile = find_profile(pipeline, options.profile, denoiser)
    check_heads(select_layers(denoiser, profile, options.layers), options.heads)
    check_knows_text(profile, options.text_edges)
    if profile.generate is None:
        _check_columns(pipeline, rows)
        check_call(pipeline, settings, has_prompt=all(row.prompt is not None for row in rows))
        _check_kept(pipeline, settings, options)
    return profile.generate or generate


def _check_columns(pipeline: Any, rows: Sequence[ManifestRow]) -> None:
    """Check that the rows have the images of a pipeline's call, and warn of what it ignores."""
    name, wanted = type(pipeline).__name__, image_arguments(pipeline)
    for argument, column in wanted.items():
        missing = [row.sample for row in rows if getattr(row, column) is None]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            msg = (
                f"Expected a column {column!r} for {name}, which takes it as {argument!r}, got "
                f"none in sample {missing[0]!r}{more}. Add it to the manifest."
            )
            raise CaptureError(msg)
    several = [row.sample for row in rows if row.other_references()]
    if several and not takes_several_references(pipeline):
        msg = (
            f"Expected one reference a sample for {name}, got 'reference_1' in sample "
            f"{several[0]!r}. Leave that column out, or choose a pipeline that takes several."
        )
        raise CaptureError(msg)
    for column in sorted({"source", "mask"}.difference(wanted.values())):
        if any(getattr(row, column) is not None for row in rows):
            what = "It is not used" if is_video(pipeline) else "It is stored, and nothing else"
            msg = f"Column {column!r} is not read by {name}. {what}."
            warnings.warn(msg, InputWarning, stacklevel=4)
    arguments = call_arguments(pipeline)
    for label in sorted({label for row in rows for label in row.labels() if label in arguments}):
        msg = (
            f"Column {label!r} is taken for a label and not given to {name}. "
            f"Give it to all samples with --argument {label}=VALUE."
        )
        warnings.warn(msg, InputWarning, stacklevel=4)


def _check_kept(pipeline: Any, settings: GenerationSettings, options: CaptureOptions) -> None:
    """Check that the call has the steps and the guidance branches that shall be kept."""
    count = most_steps(pipeline, settings)
    _check_step_count(pipeline, steps_of(pipeline, settings))
    if count is not None:
        listed = options.steps if isinstance(options.steps, list | tuple) else ()
        beyond = [step for step in listed if step >= count]
        if beyond or not any(options.keeps_step(step) for step in range(count)):
            what = f"got {beyond}" if beyond else "got none of them"
            msg = (
                f"Expected steps to keep from 0 to {count - 1}, which the call runs, {what}. Give other "
                "--keep-steps, or more --inference-steps."
            )
            raise SchemaError(msg)
    if options.guidance == "both" and is_unguided(pipeline, settings):
        name, scale = guidance_argument(pipeline), guidance_scale_of(pipeline, settings)
        wanted = "a scale above 1" + (" and a negative_prompt" if name == "true_cfg_scale" else "")
        msg = (
            f"Expected a guided call to keep both guidance branches, got {name} {scale:g}, which has one "
            f"branch. Give {wanted}, or leave out --guidance both."
        )
        raise SchemaError(msg)


def _check_step_count(pipeline: Any, count: int | None) -> None:
    """Check that a scheduler has as many timesteps as a call asks for; most fail with more."""
    scheduler = getattr(pipeline, "scheduler", None)
    most = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
    if isinstance(count, int) and isinstance(most, int) and count > most:
        msg = (
            f"Expected at most {most} steps, with which {type(scheduler).__name__} was trained, got "
            f"{count}. Give fewer."
        )
        raise SchemaError(msg)


def _batch_size(pipeline: Any, runner: Generate, wanted: int) -> int:
    if wanted == 1 or runner is not generate or supports_batches(pipeline):
        return wanted
    name = type(pipeline).__name__
    msg = f"{name} generates one sample per call; batch size {wanted} becomes 1."
    warnings.warn(msg, stacklevel=3)
    return 1


def _capture_rows(
    manifest_capture: ManifestCapture,
    rows: Sequence[ManifestRow],
    summary: CaptureSummary,
    strikes: StoreStrikes,
) -> Iterator[int]:
    """Capture some rows in one call, or one by one if that fails; yield the number of rows done."""
    names = [row.sample for row in rows]
    try:
        manifest_capture.capture(rows)
    except Exception as e:  # noqa: BLE001 - one sample must not end a night's batch
        if len(rows) > 1 and not isinstance(e, StorageError):  # It would take none of them alone.
            for row in rows:
                yield from _capture_rows(manifest_capture, [row], summary, strikes)
            return
        if isinstance(e, SampleTaken):
            summary.taken[names[0]] = str(e)
        elif isinstance(e, SampleComplete):  # Another process was faster.
            summary.skipped += names
        else:
            strikes.failed(e)
            summary.failed |= dict.fromkeys(names, _reason(e))
    else:
        strikes.done()
        summary.finished += names
        with suppress(StorageError):  # They are complete; only their size is not known.
            summary.bytes_written += sum(stored_bytes(manifest_capture.out, name) for name in names)
    yield len(rows)


def _reason(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def run_first_row(
    pipeline: Any, manifest: str | Path, settings: GenerationSettings, options: CaptureOptions
) -> None:
    """Generate the first row of a manifest, and store nothing of it.

    Parameters
    ----------
    pipeline : diffusers pipeline
    manifest : str or Path
        See `i2am.schemas.read_manifest`.
    settings : GenerationSettings
    options : CaptureOptions
        Says which profile runs the pipeline.

    Raises
    ------
    SchemaError
        If the manifest is not valid, or a file of its first row is none.
    CaptureError
        If the pipeline cannot be called with its columns.
    """
    (row, *_) = read_manifest(manifest)
    run = make_runner(pipeline, settings, [row], options)
    images = SampleImages.open(row)
    size = painted_size(pipeline, settings, images)
    run(pipeline, [row_inputs(images, row, size)], settings)


def painted_size(
    pipeline: Any, settings: GenerationSettings, images: SampleImages
) -> tuple[int, int] | None:
    """Return (width, height) in pixels of what a call paints; None where nothing tells before it."""
    size = output_size(pipeline, settings)
    if size is None and images.source is not None:
        return images.source.to_pil().size
    return size


def row_inputs(
    images: SampleImages, row: ManifestRow, size: tuple[int, int] | None
) -> SampleInputs:
    """Return the inputs of a row's call; `size` is that of `painted_size`."""
    source = mask = None
    if size is not None:
        images.box_at(size)  # One outside the image is refused before anything is generated.
        source, marked = images.source_at(size), images.mask_at(size)
        mask = None if marked is None else marked.to_pil()
    others = tuple(other.to_pil() for other in images.other_references.values())
    reference = images.reference.to_pil()
    return SampleInputs(source, mask, reference, row.prompt, row.seed or 0, others)


@dataclass(frozen=True)
class ManifestCapture:
    """Captures rows of one manifest: what all its samples have in common.

    Parameters
    ----------
    pipeline : diffusers pipeline
    run : Generate
        Runs the pipeline.
    settings : GenerationSettings
    manifest : Path
    out : str
        The run to write into.
    options : CaptureOptions
    loading : LoadOptions
        How the pipeline was loaded.
    progress : bool
        Whether a terminal shows the denoising steps.
    writer : Writer
        This process in the run.
    said : set of str
        The warnings that were given.
    """

    pipeline: Any
    run: Generate
    settings: GenerationSettings
    manifest: Path
    out: str
    options: CaptureOptions
    loading: LoadOptions
    progress: bool
    writer: Writer
    said: set[str] = field(default_factory=set)

    def capture(self, rows: Sequence[ManifestRow]) -> None:
        """Generate and capture some rows, each with a seed, in one call of the pipeline.

        An exception is also stored, as the reason why the samples failed.
        """
        names = [row.sample for row in rows]
        if self.progress:
            self.pipeline.set_progress_bar_config(
                desc=", ".join(names), unit="step", position=1, leave=False, disable=None
            )
        recording = open_recording(self.pipeline, self.out, names, self.options, self.writer)
        recording.add_provenance(
            guidance_scale=guidance_scale_of(self.pipeline, self.settings),
            arguments=to_json_value(dict(self.settings.arguments)),
            requested_revision=self.loading.revision,
            ip_adapter=self.loading.ip_adapter,
            ip_adapter_scale=self.loading.ip_adapter_scale,
            randomize_weights=self.loading.randomize_weights,
            batch=names,
            **call_settings(self.pipeline, self.settings),
        )
        with recording:  # Entered before anything can fail, so that the reason is stored.
            for row in rows:
                self._add_provenance(recording, row)
            images = [SampleImages.open(row) for row in rows]
            self._warn(note for each in images for note in each.iter_notes())
            inputs = [self._inputs(*each) for each in zip(images, rows, strict=True)]
            generated = self.run(self.pipeline, inputs, self.settings)
            for row, row_images, image in zip(rows, images, generated, strict=True):
                self._add_images(recording, row.sample, row_images, image)

    def _add_provenance(self, recording: Recording, row: ManifestRow) -> None:
        texts = self.settings.arguments
        recording.add_provenance(
            sample=row.sample,
            seed=row.seed,
            prompt=texts.get("prompt") if row.prompt is None else row.prompt,
            negative_prompt=texts.get("negative_prompt"),
            labels=row.labels(),
            inputs=describe_inputs(row, self.manifest),
        )

    def _inputs(self, images: SampleImages, row: ManifestRow) -> SampleInputs:
        size = painted_size(self.pipeline, self.settings, images)
        if size is not None:
            self._warn(images.iter_stretch_notes(size))
        return row_inputs(images, row, size)

    def _add_images(
        self, recording: Recording, sample: str, images: SampleImages, generated: Image.Image
    ) -> None:
        found: dict[str, Any] = {
            "generated": generated,
            "reference": images.reference,
            "reference_mask": images.reference_mask,
            **images.other_references,
        }
        if not is_video(self.pipeline):  # A video's frames have no single source.
            self._warn(images.iter_stretch_notes(generated.size))
            found["source"] = images.source_at(generated.size)
            found["inpainting_mask"] = images.mask_at(generated.size)
            recording.add_provenance(sample=sample, box=images.box_at(generated.size))
        given = {name: image for name, image in found.items() if image is not None}
        recording.add_images(sample=sample, **given)

    def _warn(self, notes: Iterable[str]) -> None:
        """Warn of each note once in a run: many rows may share a file."""
        for note in notes:
            if note not in self.said:
                self.said.add(note)
                with tqdm.external_write_mode(file=sys.stderr):  # On a line of its own.
                    warnings.warn(note, InputWarning, stacklevel=2)
