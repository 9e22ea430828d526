"""One sample of a running capture: its group in the store, its layers, images and status."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from i2am.capture.layer_writer import LayerWriter
from i2am.capture.profiles import ReferenceLayout
from i2am.capture.representation import Representation, RepresentationOption, choose
from i2am.capture.run_store import open_sample, set_status, write_coordinates, write_images
from i2am.capture.taps import LayerTap, TappedFactors
from i2am.capture.writer import Array, BackgroundWriter
from i2am.schemas import CaptureAttributes, LayerAttributes
from i2am.schemas.attributes import ATTRIBUTE_KEY

__all__ = ["GuidanceOption", "RecordingSettings", "SampleRecorder"]

GuidanceOption = Literal["conditional", "both"]
_REQUIRED_IMAGES = {"generated", "reference"}


@dataclass(frozen=True)
class RecordingSettings:
    """What the caller of `capture` chose."""

    store: str
    guidance: GuidanceOption
    representation: RepresentationOption
    dtype: np.dtype[Any]
    overwrite: bool


class SampleRecorder:
    """Writes one sample, from its first tensor to its status.

    Parameters
    ----------
    name : str
    settings : RecordingSettings
    layout : callable (number of reference tokens) -> ReferenceLayout
    writer : BackgroundWriter
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
        layout: Callable[[int], ReferenceLayout],
        writer: BackgroundWriter,
        provenance: Mapping[str, Any],
    ) -> None:
        self._settings, self._layout = settings, layout
        self._writer, self._provenance = writer, provenance
        self._group = open_sample(settings.store, name, overwrite=settings.overwrite)
        self._layer_group = self._group.create_group("layers")
        self._layers: dict[str, LayerWriter] = {}
        self._images: set[str] = set()
        self._finished = False
        self._set_status("running")

    def put(self, step: int, tap: LayerTap, factors: TappedFactors, halves: Sequence[str]) -> None:
        """Take one layer's Q and K of one step; their rows are the guidance halves."""
        query, key = factors.query, factors.key
        stored_as = choose(
            self._settings.representation, query.shape[2], key.shape[2], query.shape[3]
        )
        layer = self._layers.get(tap.name)
        if layer is None:
            layer = self._layers[tap.name] = LayerWriter(
                self._layer_group,
                tap.name,
                self._describe(tap, factors, stored_as),
                halves,
                self._settings.dtype,
                self._writer,
            )
        if stored_as == "logits":
            # Scaled after the product, as attention itself does: other orders round otherwise.
            logits = query.float() @ key.float().transpose(-1, -2) * tap.scale
            layer.put_logits(step, _to_host(logits))
        else:
            layer.put_factors(step, _to_host(query), _to_host(key))

    def add_images(self, images: Mapping[str, Any]) -> None:
        """Write pictures; the required ones complete a finished sample."""
        write_images(self._group, images)
        self._images.update(images)
        if self._finished:
            self._complete()

    def close(self) -> None:
        """Hand what is buffered to the background writer."""
        for layer in self._layers.values():
            layer.close()

    def finish(self, timesteps: Sequence[float], halves: Sequence[str]) -> bool:
        """Write the coordinates once everything else is on disk; tell whether it is complete."""
        write_coordinates(self._group, timesteps, halves)
        self._finished = True
        return self._complete()

    def fail(self, error: BaseException) -> None:
        """Mark the sample as failed, with the reason."""
        self._set_status("failed", error=f"{type(error).__name__}: {error}")

    def _describe(
        self, tap: LayerTap, factors: TappedFactors, stored_as: Representation
    ) -> LayerAttributes:
        tokens = factors.key.shape[2]
        layout = self._layout(tokens)
        return LayerAttributes(
            scale=tap.scale,
            generated_grid=factors.grid,
            reference_grid=layout.grid,
            special_tokens=layout.special_tokens,
            order=len(self._layers),
            block=tap.block,
            representation=stored_as,
            causal=tokens > 1,
        )

    def _complete(self) -> bool:
        """Mark the sample as complete if it has its images, and tell whether it has."""
        is_complete = self._images >= _REQUIRED_IMAGES
        self._set_status("complete" if is_complete else "running")
        return is_complete

    def _set_status(self, status: Literal["running", "complete", "failed"], **facts: str) -> None:
        attributes = CaptureAttributes(status=status, **self._provenance, **facts)
        set_status(self._group, attributes.to_store()[ATTRIBUTE_KEY])


def _to_host(values: torch.Tensor) -> Array:
    host: Array = values.to("cpu", torch.float32).numpy()
    return host
