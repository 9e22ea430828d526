"""One sample of a running capture: its group in the store, its layers, images and status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.recording.options import RecordingSettings
from i2am.capture.recording.representation import (
    Representation,
    choose,
    hides_any,
    reduce_row,
    row_normaliser,
)
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.run_store import open_sample, set_status, write_coordinates, write_images
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureAttributes, CaptureError, LayerAttributes
from i2am.schemas.attributes import ATTRIBUTE_KEY

__all__ = ["SampleRecorder"]

Status = Literal["running", "complete", "failed"]


_REQUIRED_IMAGES = {"generated", "reference"}


class SampleRecorder:
    """Writes one sample, from its first tensor to its status.

    Parameters
    ----------
    name : str
    settings : RecordingSettings
    staging : StagingArea
        Shared by the samples of a capture; closed by the recording.
    provenance : mapping
        Shared too, and read anew each time the status is written.

    Raises
    ------
    StoreError
        If the store is not a run, or holds a complete sample of this name.
    """

    def __init__(
        self,
        name: str,
        settings: RecordingSettings,
        staging: StagingArea,
        provenance: Mapping[str, Any],
    ) -> None:
        self._settings, self._staging, self._provenance = settings, staging, provenance
        self._group = open_sample(
            settings.store, name, overwrite=settings.overwrite, attributes=self._facts("running")
        )
        self._layers_path = self._group.store_path / "layers"
        self._layers: dict[str, LayerWriter] = {}
        self._images: set[str] = set()
        self._finished = False

    def put(
        self,
        tap: LayerTap,
        inputs: AttentionInputs,
        row: int,
        position: int,
        branch: str,
        branches: tuple[str, ...] | None,
    ) -> None:
        """Take one row of one inputs.

        Parameters
        ----------
        tap : LayerTap
        inputs : AttentionInputs
            Of all rows of the batch.
        row : int
        position : int
            Index of the step among the steps that are kept.
        half : str
            The row's guidance branch.
        branches : tuple of str or None
            All branches that will come, where it is known.
        """
        heads = self._some_heads(inputs.query.shape[1])
        if heads is not None:
            if not heads:
                return
            inputs, row = inputs.select_batch_index(row).select_heads(heads), 0
        total: torch.Tensor | None = None
        for reference in inputs.references:
            stored_as = self._representation(inputs, reference)
            arrays = reduce_row(inputs, row, reference, stored_as)
            if inputs.is_shared(reference) and stored_as != "maps":
                total = row_normaliser(inputs.select_batch_index(row)) if total is None else total
                arrays["logsumexp"] = total
            name = tap.name + (f".reference_{reference.index}" if reference.index else "")
            if name not in self._layers:
                own = inputs.select_batch_index(row)
                attributes = self._describe(tap, own, reference, stored_as, heads)
                self._layers[name] = LayerWriter(
                    self._layers_path,
                    name,
                    attributes,
                    self._settings.dtype,
                    self._staging,
                    branches,
                    len(inputs.references),
                )
            self._layers[name].append(position, branch, arrays)

    def add_images(self, images: Mapping[str, Any]) -> None:
        """Write pictures; the required ones complete a finished sample."""
        write_images(self._group, images, self._images)
        self._images.update(images)
        if self._finished:
            self._complete()

    def flush(self) -> None:
        """Submit what no further step will change."""
        for layer in self._layers.values():
            layer.flush()

    def close(self, branches: tuple[str, ...]) -> None:
        """Submit the remaining steps of all layers.

        Raises
        ------
        CaptureError
            If the branches are others than those that came.
        """
        for layer in self._layers.values():
            layer.close(branches)

    def finalize(self) -> None:
        """Describe the closed layers to readers.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        write_layers(self._layers_path, self._layers.values(), self._staging)

    def finish(
        self, steps: Sequence[int], timesteps: Sequence[float], branches: Sequence[str]
    ) -> bool:
        """Write the coordinates once everything else is on disk; tell whether it is complete."""
        write_coordinates(self._group, steps, timesteps, branches)
        self._finished = True
        return self._complete()

    def fail(self, error: BaseException) -> None:
        """Mark the sample as failed, with the reason."""
        self._set_status("failed", error=f"{type(error).__name__}: {error}")

    def _some_heads(self, count: int) -> list[int] | None:
        """Return the heads that are kept; None where all are."""
        if self._settings.heads is None:
            return None
        heads = [head for head in range(count) if head in self._settings.heads]
        return heads if len(heads) < count else None

    def _representation(self, inputs: AttentionInputs, reference: ReferenceKeys) -> Representation:
        tokens = inputs.token_count(reference)
        _, _, patches, channels = inputs.query.shape
        return choose(self._settings.representation, patches, tokens, channels)

    def _describe(
        self,
        tap: LayerTap,
        inputs: AttentionInputs,
        reference: ReferenceKeys,
        stored_as: Representation,
        heads: list[int] | None,
    ) -> LayerAttributes:
        mask = inputs.mask
        if mask is not None and stored_as == "factors" and hides_any(mask, reference):
            msg = (
                f"Expected reference tokens that all patches may see, got masked ones, at layer "
                f"{tap.name!r}. Capture it with representation='logits', which keep the mask."
            )
            raise CaptureError(msg)
        is_shared = inputs.is_shared(reference)
        extra: dict[str, Any] = {} if reference.weight == 1 else {"weight": reference.weight}
        return LayerAttributes(
            scale=inputs.scale,
            generated_grid=inputs.grid,
            reference_grid=reference.layout.grid,
            special_tokens=reference.layout.special_tokens,
            order=len(self._layers),
            block=tap.block,
            representation=stored_as,
            reference_index=reference.index,
            heads=None if heads is None else tuple(heads),
            frames=inputs.frames,
            causal=is_shared or inputs.key.shape[2] > 1,
            **extra,
        )

    def _complete(self) -> bool:
        """Mark the sample as complete if it has its images, and tell whether it has."""
        is_complete = self._images >= _REQUIRED_IMAGES
        self._set_status("complete" if is_complete else "running")
        return is_complete

    def _set_status(self, status: Status, **facts: str) -> None:
        set_status(self._group, self._facts(status, **facts))

    def _facts(self, status: Status, **facts: str) -> dict[str, Any]:
        attributes = CaptureAttributes(status=status, **self._provenance, **facts)
        found: dict[str, Any] = attributes.to_store()[ATTRIBUTE_KEY]
        return found
