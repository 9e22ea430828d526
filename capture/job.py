"""The capture of some rows of a manifest in one call of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from i2am.capture.generate import Generate, SampleInputs
from i2am.capture.models import LoadOptions
from i2am.capture.pipeline_call import (
    GenerationSettings,
    guidance_scale_of,
    is_video,
    picture_size,
)
from i2am.capture.profiles import Profile
from i2am.capture.provenance import describe_inputs, plain
from i2am.capture.recorder import DEFAULT_MEMORY_BYTES, Recording, capture
from i2am.capture.rows import RowPictures
from i2am.schemas import ManifestRow

__all__ = ["CaptureOptions", "Job"]


@dataclass(frozen=True)
class CaptureOptions:
    """What `capture` takes beside target, store and sample; see there."""

    layers: str | Sequence[str] | None = None
    steps: Any = None
    heads: Sequence[int] | None = None
    guidance: Any = "conditional"
    representation: Any = "auto"
    dtype: Any = "float16"
    profile: str | Profile | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    overwrite: bool = False


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
