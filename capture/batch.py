"""Batch capture: every row of a manifest becomes a sample of one run, and a re-run goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from i2am.capture.models import load_pipeline
from i2am.capture.profiles import GenerationSettings, Pictures, Profile, find_profile
from i2am.capture.recorder import capture, select_layers
from i2am.capture.representation import RepresentationOption
from i2am.capture.run_store import finished_samples, open_run_group
from i2am.capture.sample_recorder import GuidanceOption
from i2am.schemas import CaptureError, ManifestRow, SchemaError, read_manifest

__all__ = ["CaptureOptions", "CaptureSummary", "capture_manifest"]


@dataclass(frozen=True)
class CaptureOptions:
    """What `capture` takes beside target, store and sample; see there."""

    layers: str | Sequence[str] | None = None
    guidance: GuidanceOption = "conditional"
    representation: RepresentationOption = "auto"
    dtype: Any = "float16"
    profile: str | Profile | None = None
    overwrite: bool = False


@dataclass
class CaptureSummary:
    """What became of a manifest's samples."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def capture_manifest(
    model: str,
    manifest: str | Path,
    out: str | Path,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    revision: str | None = None,
    device: str | None = None,
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
    seed : int
        A row without a seed of its own gets this plus its position in the manifest.
    shard : (int, int)
        (I, N): take every N-th row from the I-th on, so that N processes share a manifest.
    revision, device : str, optional
        See `i2am.capture.load_pipeline`.
    options : CaptureOptions, optional
    progress : bool
        Whether a bar with rate and remaining time is shown.

    Raises
    ------
    SchemaError
        If the manifest is not valid.
    StoreError
        If `out` is something else than a run.
    CaptureError
        If the model cannot be loaded or captured.
    """
    options = options or CaptureOptions()
    rows = list(enumerate(read_manifest(manifest)))[shard[0] - 1 :: shard[1]]
    known = set() if options.overwrite else finished_samples(out)
    summary = CaptureSummary(skipped=[row.sample for _, row in rows if row.sample in known])
    waiting = [(position, row) for position, row in rows if row.sample not in known]
    if not waiting:
        return summary
    pipeline = load_pipeline(model, revision=revision, device=device)
    profile = find_profile(pipeline, options.profile)
    if profile.generate is None:
        msg = (
            f"Expected a profile that can run a manifest, got {profile.name!r}. "
            "Call the pipeline yourself inside i2am.capture.capture."
        )
        raise CaptureError(msg)
    # Once, before the run is made: otherwise every sample would fail for the same reason.
    select_layers(pipeline, profile, options.layers)
    open_run_group(out)
    for position, row in tqdm(waiting, "capture", unit="sample", disable=not progress):
        settings = GenerationSettings(
            _or_default(pipeline, "num_inference_steps", steps),
            _or_default(pipeline, "guidance_scale", guidance_scale),
            seed + position if row.seed is None else row.seed,
        )
        try:
            _capture_row(pipeline, profile.generate, row, settings, out, options, revision)
        except Exception as e:  # noqa: BLE001 - one sample must not end a night's batch
            summary.failed[row.sample] = f"{type(e).__name__}: {e}"
        else:
            summary.finished.append(row.sample)
    return summary


def _capture_row(
    pipeline: Any,
    generate: Callable[[Any, Pictures, GenerationSettings], Image.Image],
    row: ManifestRow,
    settings: GenerationSettings,
    out: str | Path,
    options: CaptureOptions,
    revision: str | None,
) -> None:
    pictures, box = _open_pictures(row, _picture_size(pipeline))
    recording = capture(pipeline, out, sample=row.sample, **vars(options))
    recording.add_provenance(
        revision=revision,
        guidance_scale=settings.guidance_scale,
        seed=settings.seed,
        box=box,
        prompt=row.prompt,
        labels=row.labels(),
        inputs={
            c: str(p)
            for c in ("source", "mask", "reference", "reference_mask")
            if (p := getattr(row, c))
        },
    )
    with recording:
        painted = generate(pipeline, pictures, settings)
        recording.add_images(
            generated=painted,
            reference=pictures.reference,
            source=pictures.source,
            inpainting_mask=pictures.mask,
        )
        if pictures.reference_mask is not None:
            recording.add_images(reference_mask=pictures.reference_mask)


def _open_pictures(row: ManifestRow, size: tuple[int, int]) -> tuple[Pictures, list[float] | None]:
    """Return a row's pictures at the pipeline's size (width, height), and its box there."""
    original = _open(row.source, "RGB")
    source = original.resize(size, Image.Resampling.LANCZOS)
    mask = _open(row.mask, "L").resize(size, Image.Resampling.NEAREST)
    reference = _open(row.reference, "RGB")
    reference_mask = None
    if row.reference_mask is not None:
        reference_mask = _open(row.reference_mask, "L")
        reference_mask = reference_mask.resize(reference.size, Image.Resampling.NEAREST)
    box = None
    if row.box is not None:
        factors = [new / old for new, old in zip(size, original.size, strict=True)] * 2
        box = [value * factor for value, factor in zip(row.box, factors, strict=True)]
    return Pictures(source, mask, reference, reference_mask), box


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert(mode)
    except (UnidentifiedImageError, OSError) as e:
        msg = f"Expected a picture, got something else at {path} ({e}). Convert it to PNG."
        raise SchemaError(msg) from e


def _picture_size(pipeline: Any) -> tuple[int, int]:
    """(width, height) that the pipeline generates by default."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


def _or_default(pipeline: Any, parameter: str, value: Any) -> Any:
    """Return `value`, or the pipeline's own default, so that provenance names what was used."""
    if value is not None:
        return value
    found = inspect.signature(type(pipeline).__call__).parameters.get(parameter)
    return None if found is None or found.default is inspect.Parameter.empty else found.default
