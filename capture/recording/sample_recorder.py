"""One sample of a running capture: its group in the store, its layers, images and status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.denoiser import LayerCall
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.representation import Kept, hides_any, keep
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
    store : str
        The run.
    name : str
        Of the sample.
    options : CaptureOptions
    staging : StagingArea
        Shared by the samples of a capture; closed by the recording.
    provenance : mapping
        Read again each time the status is written.

    Raises
    ------
    StoreError
        If the store is not a run, or holds a complete sample of this name.
    """

    def __init__(
        self,
        store: str,
        name: str,
        options: CaptureOptions,
        staging: StagingArea,
        provenance: Mapping[str, Any],
    ) -> None:
        self._options, self._staging, self._provenance = options, staging, provenance
        self._group = open_sample(
            store, name, overwrite=options.overwrite, attributes=self._attributes("running")
        )
        self._layers_path = self._group.store_path / "layers"
        self._layers: dict[str, LayerWriter] = {}
        self._images: set[str] = set()
        self._finished = False

    def append(
        self, call: LayerCall, inputs: AttentionInputs, batch_index: int, branch: str
    ) -> None:
        """Append one batch index of one softmax.

        Parameters
        ----------
        call : LayerCall
        inputs : AttentionInputs
            One of the call's, over the whole batch.
        batch_index : int
            Of this sample in this branch.
        branch : str
            Label of the guidance branch.
        """
        heads = self._options.kept_heads(inputs.query.shape[1])
        if heads is not None:
            if not heads:
                return
            inputs, batch_index = inputs.select_batch_index(batch_index).select_heads(heads), 0
        for kept in keep(inputs, batch_index, self._options.representation):
            index = kept.reference.index
            name = f"{call.tap.name}.reference_{index}" if index else call.tap.name
            layer = self._layers.get(name)
            if layer is None:
                own = inputs.select_batch_index(batch_index)
                attributes = self._layer_attributes(call.tap, own, kept, heads)
                layer = self._layers[name] = LayerWriter(
                    self._layers_path,
                    name,
                    attributes,
                    np.dtype(self._options.dtype),
                    self._staging,
                    call.run_branches,
                    len(inputs.references),
                )
            layer.append(call.step_index, branch, kept.arrays)

    def add_images(self, images: Mapping[str, Any]) -> None:
        """Write images; the required ones complete a finished sample."""
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
            If a layer has other branches, or there is none.
        """
        if not self._layers:
            msg = (
                "Expected at least one layer to keep, got none: the adapter of the chosen layers is off, "
                "or no layer has the chosen heads. Give other layers= or heads=."
            )
            raise CaptureError(msg)
        for layer in self._layers.values():
            layer.close(branches)

    def finalize(self) -> None:
        """Write the metadata of the closed layers, after all their values.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        write_layers(self._layers_path, self._layers.values(), self._staging)

    def finish(
        self, steps: Sequence[int], timesteps: Sequence[float], branches: Sequence[str]
    ) -> bool:
        """Write the coordinates after everything else; return whether the sample is complete."""
        write_coordinates(self._group, steps, timesteps, branches)
        self._finished = True
        self._layers.clear()  # A long recording keeps its samples, for images that come later.
        return self._complete()

    @property
    def misses_images(self) -> bool:
        """Whether the sample is finished but for its images."""
        return self._finished and not self._images >= _REQUIRED_IMAGES

    def update_provenance(self) -> None:
        """Write what was added to the provenance of a finished sample."""
        if self._finished:
            self._complete()

    def fail(self, error: BaseException) -> None:
        """Mark the sample as failed, with the reason."""
        self._set_status("failed", error=f"{type(error).__name__}: {error}")

    def _layer_attributes(
        self, tap: LayerTap, inputs: AttentionInputs, kept: Kept, heads: list[int] | None
    ) -> LayerAttributes:
        reference, mask = kept.reference, inputs.mask
        if mask is not None and kept.representation == "factors" and hides_any(mask, reference):
            msg = (
                f"Expected reference tokens that all patches may see, got masked ones, at layer "
                f"{tap.name!r}. Capture it with representation='logits', which keep the mask."
            )
            raise CaptureError(msg)
        extra: dict[str, Any] = {} if reference.weight == 1 else {"weight": reference.weight}
        return LayerAttributes(
            scale=inputs.scale,
            generated_grid=inputs.grid,
            reference_grid=reference.layout.grid,
            special_tokens=reference.layout.special_tokens,
            order=len(self._layers),
            block=tap.block,
            representation=kept.representation,
            reference_index=reference.index,
            heads=None if heads is None else tuple(heads),
            frames=inputs.frames,
            causal=inputs.is_shared(reference) or inputs.key.shape[2] > 1,
            **extra,
        )

    def _complete(self) -> bool:
        """Mark the sample as complete if it has its images, and return whether it has."""
        is_complete = self._images >= _REQUIRED_IMAGES
        self._set_status("complete" if is_complete else "running")
        return is_complete

    def _set_status(self, status: Status, **facts: str) -> None:
        set_status(self._group, self._attributes(status, **facts))

    def _attributes(self, status: Status, **facts: str) -> dict[str, Any]:
        attributes = CaptureAttributes(status=status, **self._provenance, **facts)
        found: dict[str, Any] = attributes.to_store()[ATTRIBUTE_KEY]
        return found
