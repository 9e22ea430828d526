"""Batch capture: every row of a manifest becomes a sample of one run, and a re-run goes on."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import zarr
from PIL import Image
from tqdm import tqdm

from i2am.capture.batch.manifest_shard import Shard, find_shard
from i2am.capture.batch.pictures import RowPictures
from i2am.capture.families.profile import find_profile, select_layers
from i2am.capture.pipelines.call import (
    Generate,
    GenerationSettings,
    SampleInputs,
    check_call,
    generate,
    guidance_scale_of,
    is_video,
    picture_size,
    takes_several,
)
from i2am.capture.pipelines.load import LoadOptions, load_pipeline
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.provenance import describe_inputs, plain
from i2am.capture.recording.recorder import Recording, capture
from i2am.capture.writer.run_store import finished_samples, open_run_group
from i2am.schemas import ManifestRow, read_manifest

__all__ = ["CaptureSummary", "Job", "capture_manifest"]


@dataclass
class CaptureSummary:
    """What became of a manifest's samples.

    `elapsed_s` is what generation and capture took together, without loading the model;
    `bytes_written` is what the finished samples hold in the store.
    """

    shard: Shard = field(default_factory=Shard)
    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elapsed_s: float = 0
    bytes_written: int = 0

    def __str__(self) -> str:
        """Return one line for people."""
        counts = (
            f"{len(self.finished)} captured, {len(self.skipped)} were complete, "
            f"{len(self.failed)} failed"
        )
        if self.shard.count > 1:
            counts = f"shard {self.shard}: {counts}"
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

    Complete samples are skipped, unfinished ones done again; a sample that fails is recorded as
    failed and the rest goes on.

    Parameters
    ----------
    model : str
        See `i2am.capture.load_pipeline`.
    manifest : str or Path
        See `i2am.schemas.read_manifest`.
    out : str or Path
        The run.
    steps, guidance_scale : optional
        Passed to the pipeline; None leaves its default.
    arguments : mapping, optional
        Further arguments of the pipeline's call; ``prompt`` serves rows without one.
    seed : int
        A row without a seed of its own gets this plus its position in the manifest.
    batch_size : int
        How many samples one call generates, where the pipeline can; else one by one.
    shard : (int, int), optional
        (I, N) with I from 0: take every N-th row from the I-th on, so that N processes share a
        manifest. None asks the environment of torchrun or Slurm, see `i2am.capture.batch.manifest_shard`.
    loading : LoadOptions, optional
        Without a device, the process's local rank picks the GPU.
    options : CaptureOptions, optional
    progress : bool
        Whether bars with rate and remaining time are shown: one over the samples and, in a
        terminal, one over the denoising steps of those that run.

    Raises
    ------
    SchemaError
        If the manifest or the shard is not valid.
    StoreError
        If `out` is something else than a run.
    CaptureError
        If the model cannot be loaded, called with what the manifest gives, or captured.
    """
    options, loading = options or CaptureOptions(), loading or LoadOptions()
    summary = CaptureSummary(shard=find_shard(os.environ, shard))
    rows = summary.shard.deal(list(enumerate(read_manifest(manifest))))
    known = set() if options.overwrite else finished_samples(out)
    summary.skipped = [row.sample for _, row in rows if row.sample in known]
    waiting = [
        row if row.seed is not None else row.model_copy(update={"seed": seed + position})
        for position, row in rows
        if row.sample not in known
    ]
    if not waiting:
        return summary
    if loading.device is None and torch.cuda.is_available():
        number = summary.shard.local_rank % torch.cuda.device_count()
        loading = replace(loading, device=f"cuda:{number}")
    pipeline = load_pipeline(model, **vars(loading))
    settings = GenerationSettings(steps, guidance_scale, arguments or {})
    runner = _make_runner(pipeline, settings, waiting, options)
    open_run_group(out)
    job = Job(pipeline, runner, settings, Path(manifest), str(out), options, loading, progress)
    size = _batch_size(pipeline, runner, batch_size)
    start_s = time.monotonic()
    with tqdm(total=len(waiting), desc="capture", unit="sample", disable=not progress) as bar:
        for first in range(0, len(waiting), size):
            for done in _attempt(job, waiting[first : first + size], summary):
                bar.update(done)
    summary.elapsed_s = time.monotonic() - start_s
    return summary


def _make_runner(
    pipeline: Any,
    settings: GenerationSettings,
    rows: Sequence[ManifestRow],
    options: CaptureOptions,
) -> Generate:
    """Return what runs the pipeline; whatever would fail every sample is found out here, once."""
    profile = find_profile(pipeline, options.profile)
    if profile.generate is None:
        check_call(pipeline, settings, has_prompt=any(row.prompt is not None for row in rows))
    select_layers(pipeline, profile, options.layers)
    return profile.generate or generate


def _batch_size(pipeline: Any, runner: Generate, wanted: int) -> int:
    if wanted == 1 or runner is not generate or takes_several(pipeline):
        return wanted
    name = type(pipeline).__name__
    msg = f"{name} generates one sample a call; batch size {wanted} becomes 1."
    warnings.warn(msg, stacklevel=3)
    return 1


def _attempt(job: Job, rows: Sequence[ManifestRow], summary: CaptureSummary) -> Iterator[int]:
    """Capture some rows in one call, and one by one if that fails; yield how many are over."""
    names = [row.sample for row in rows]
    try:
        job.capture(rows)
    except Exception as e:  # noqa: BLE001 - one sample must not end a night's batch
        if len(rows) > 1:
            for row in rows:
                yield from _attempt(job, [row], summary)
            return
        summary.failed[names[0]] = f"{type(e).__name__}: {e}"
    else:
        summary.finished += names
        summary.bytes_written += sum(_stored_bytes(job.out, name) for name in names)
    yield len(rows)


def _stored_bytes(out: str, sample: str) -> int:
    members = open_run_group(out).require_group(sample).members(max_depth=None)
    return sum(member.nbytes_stored() for _, member in members if isinstance(member, zarr.Array))


@dataclass(frozen=True)
class Job:
    """What all samples of a manifest have in common.

    Parameters
    ----------
    pipeline : diffusers pipeline
    run : Generate
        Runs it.
    settings : GenerationSettings
    manifest : Path
    out : str
        The run to write into.
    options : CaptureOptions
    loading : LoadOptions
        How the pipeline was loaded.
    progress : bool
        Whether a terminal shows the denoising steps.
    """

    pipeline: Any
    run: Generate
    settings: GenerationSettings
    manifest: Path
    out: str
    options: CaptureOptions
    loading: LoadOptions
    progress: bool

    def capture(self, rows: Sequence[ManifestRow]) -> None:
        """Generate and capture some rows, each with a seed, in one call of the pipeline.

        Whatever is raised is recorded in the store as the samples' failure.
        """
        names = [row.sample for row in rows]
        if self.progress:
            self.pipeline.set_progress_bar_config(
                desc=", ".join(names), unit="step", position=1, leave=False, disable=None
            )
        recording = capture(self.pipeline, self.out, sample=names, **vars(self.options))
        recording.add_provenance(
            guidance_scale=guidance_scale_of(self.pipeline, self.settings),
            arguments=plain(dict(self.settings.arguments)),
            requested_revision=self.loading.revision,
            ip_adapter=self.loading.ip_adapter,
            ip_adapter_scale=self.loading.ip_adapter_scale,
            batch=names,
        )
        with recording:  # Entered before anything can fail, so that the store tells of it.
            for row in rows:
                self._describe(recording, row)
            pictures = [RowPictures.open(row) for row in rows]
            inputs = [self._inputs(*each) for each in zip(pictures, rows, strict=True)]
            painted = self.run(self.pipeline, inputs, self.settings)
            for row, own, picture in zip(rows, pictures, painted, strict=True):
                self._add_images(recording, row.sample, own, picture)

    def _describe(self, recording: Recording, row: ManifestRow) -> None:
        texts = self.settings.arguments
        recording.add_provenance(
            sample=row.sample,
            seed=row.seed,
            prompt=texts.get("prompt") if row.prompt is None else row.prompt,
            negative_prompt=texts.get("negative_prompt"),
            labels=row.labels(),
            inputs=describe_inputs(row, self.manifest),
        )

    def _inputs(self, pictures: RowPictures, row: ManifestRow) -> SampleInputs:
        size = picture_size(self.pipeline, self.settings) or pictures.source.size
        source, mask = pictures.source_at(size), pictures.mask_at(size)
        return SampleInputs(source, mask, pictures.reference, row.prompt, row.seed or 0)

    def _add_images(
        self, recording: Recording, sample: str, pictures: RowPictures, generated: Image.Image
    ) -> None:
        found = {"generated": generated, "reference": pictures.reference}
        if pictures.reference_mask is not None:
            found["reference_mask"] = pictures.reference_mask
        if not is_video(self.pipeline):  # Its frames have no one source that they go with.
            found["source"] = pictures.source_at(generated.size)
            found["inpainting_mask"] = pictures.mask_at(generated.size)
            recording.add_provenance(sample=sample, box=pictures.box_at(generated.size))
        recording.add_images(sample=sample, **found)
