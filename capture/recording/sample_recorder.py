"""One sample of a running capture: its group in the store, its layers, images and status."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from i2am.capture.hooks.attention import AttentionInputs, ReferenceLayout, layer_attributes
from i2am.capture.hooks.denoiser import LayerCall
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.images.added_images import read_images
from i2am.capture.recording.contribution import Contribution
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.placement import Placement, checked_boxes
from i2am.capture.recording.representation import Kept, hides_any, keep
from i2am.capture.recording.roads import check_roads
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.run_store import open_sample
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import (
    Box,
    CaptureAttributes,
    CaptureError,
    InputWarning,
    LayerAttributes,
    SchemaError,
    StorageError,
    StoreError,
    check_painted_box,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.storage.owners import Writer

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
    writer : Writer
        This process in the run.

    Raises
    ------
    SampleTaken
        If another process writes the sample.
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
        writer: Writer,
    ) -> None:
        self._name, self._options, self._staging = name, options, staging
        self._provenance = provenance
        self._stored = open_sample(
            store,
            name,
            overwrite=options.overwrite,
            attributes=self._attributes("running"),
            writer=writer,
            durable=options.durable,
        )
        self._layers: dict[str, LayerWriter] = {}
        self._contributions: dict[str, Contribution] = {}  # of the same layers
        self._step_index = 0
        self._grids: list[LayerAttributes] = []
        self._images: dict[str, tuple[int, ...]] = {}  # of each its shape
        self._placement: Placement | None = None
        self._unplaced: dict[str, tuple[int, int]] = {}  # images, before their part is known
        self._blank: set[str] = set()  # images of one colour
        self._finished = self._is_complete = False

    def place(self, placement: Placement) -> None:
        """Take how the sample's pictures were prepared, once its model runs."""
        self._placement = placement

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

        Raises
        ------
        CaptureError
            If a layer joins or leaves on the way.
        """
        if call.step_index > self._step_index:
            self._check_none_left(call.step_index)
            self._step_index = call.step_index
        heads = self._options.kept_heads(inputs.query.shape[1])
        if heads is not None:
            if not heads:
                return
            inputs, batch_index = inputs.select_batch_index(batch_index).select_heads(heads), 0
        edges = self._options.text_edges
        representation = "factors" if edges else self._options.representation
        for kept in keep(inputs, batch_index, representation, edges):
            index = kept.reference.index
            name = f"{call.tap.name}.reference_{index}" if index else call.tap.name
            layer = self._layers.get(name)
            if layer is None:
                if call.step_index:
                    raise CaptureError(_changed(name, call.step_index, "none before"))
                own = inputs.select_batch_index(batch_index)
                attributes = self._layer_attributes(call.tap, own, kept, heads)
                if edges:
                    check_roads(call.tap.name, own, kept.reference, edges)
                self._grids.append(attributes)
                layer = self._layers[name] = LayerWriter(
                    self._stored.folder / "layers",
                    name,
                    attributes,
                    np.dtype(self._options.dtype),
                    self._staging,
                    call.run_branches,
                    sum(len(one.references) for one in call.inputs),
                )
                self._contributions[name] = Contribution(name)
            layer.append(call.step_index, branch, kept.arrays)
            reference = kept.reference.select_batch_index(batch_index)
            # Maps have their region in them: it is not stored beside them, to be applied again.
            region = None if kept.representation == "maps" else reference.region
            self._contributions[name].add(call.step_index, branch, reference.weight, region)

    def add_images(
        self, images: Mapping[str, Any], boxes: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        """Write images, and what the model saw of them; the required ones complete the sample."""
        given = checked_boxes(boxes, images)
        arrays, notes = read_images(images, self._images, self._name)
        for note in notes:
            warnings.warn(note, InputWarning, stacklevel=3)
        self._blank |= {name for name, array in arrays.items() if array.min() == array.max()}
        found: dict[str, Box] = {}
        unplaced: dict[str, tuple[int, int]] = {}
        for name, array in arrays.items():
            height, width = array.shape[:2]
            if name in given:
                box = _given_box(given[name], name, height, width)
            elif self._grids:
                box = self._seen_part(name, height, width)
            else:
                box, unplaced[name] = None, (height, width)
            if box is not None:
                found[name] = box
        self._stored.write_images(arrays, found)
        self._images |= {name: array.shape for name, array in arrays.items()}
        self._unplaced |= unplaced
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
            If a layer has other branches, or fewer steps than another one; if there is none.
        """
        if not self._layers:
            msg = (
                "Expected at least one layer to keep, got none: the adapter of the chosen layers is off, "
                "or no layer has the chosen heads. Give other layers= or heads=."
            )
            raise CaptureError(msg)
        self._check_none_left(max(layer.steps for layer in self._layers.values()))
        for name, layer in self._layers.items():
            layer.close(branches)
            layer.conclude(*self._contributions[name].stored(layer.attributes))

    def finalize(self) -> None:
        """Write the metadata of the closed layers, after all their values.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        write_layers(self._stored.folder / "layers", self._layers.values(), self._staging)

    def finish(
        self, steps: Sequence[int], timesteps: Sequence[float], branches: Sequence[str]
    ) -> bool:
        """Write the coordinates after everything else; return whether the sample is complete.

        Raises
        ------
        CaptureError
            If it cannot be known which part the model saw of an image that was added before it ran.
        """
        for name, size in self._unplaced.items():
            if (box := self._seen_part(name, *size)) is not None:
                self._stored.write_box(name, self._images[name], box)
        self._stored.write_coordinates(steps, timesteps, branches)
        self._finished = True
        # A long recording keeps its samples, for images that come later.
        self._layers.clear()
        self._contributions.clear()
        return self._complete()

    @property
    def misses_images(self) -> bool:
        """Whether the sample is finished but for its images."""
        return self._finished and not self._images.keys() >= _REQUIRED_IMAGES

    def update_provenance(self) -> None:
        """Write what was added to the provenance of a finished sample."""
        if self._finished:
            self._complete()

    def fail(self, error: BaseException) -> None:
        """Mark the sample as failed, with the reason; one that another process has taken is left.

        A complete one stays complete: what failed was another sample of the same call.

        Raises
        ------
        StorageError
            If the store does not take it.
        """
        if self._is_complete:
            return
        try:
            self._set_status("failed", error=f"{type(error).__name__}: {error}")
        except StorageError:
            raise
        except StoreError:  # The error itself is what is to be told.
            return

    def _seen_part(self, name: str, height: int, width: int) -> Box | None:
        placement = self._placement or Placement(None, None)
        try:
            return placement.box(name, height, width, self._grids, self._name)
        except CaptureError:
            if name in self._blank:  # It stands in for a picture: no map can lie wrong on it.
                return None
            raise

    def _check_none_left(self, steps: int) -> None:
        """Refuse a layer that was not read at the latest of so many steps."""
        for name, layer in self._layers.items():
            if layer.steps < steps:
                raise CaptureError(_changed(name, layer.steps, "none there"))

    def _layer_attributes(
        self, tap: LayerTap, inputs: AttentionInputs, kept: Kept, heads: list[int] | None
    ) -> LayerAttributes:
        reference = kept.reference
        _check_layout(tap.name, reference.layout, inputs.token_count(reference))
        if kept.representation == "factors" and hides_any(inputs.mask, reference.tokens):
            msg = (
                f"Expected reference tokens that all patches may see, got masked ones, at layer "
                f"{tap.name!r}. Capture it with representation='logits', which keep the mask."
            )
            raise CaptureError(msg)
        extra: dict[str, Any] = {} if reference.weight == 1 else {"weight": reference.weight}
        return layer_attributes(
            inputs,
            reference,
            tap.block,
            order=len(self._layers),
            representation=kept.representation,
            heads=None if heads is None else tuple(heads),
            causal=inputs.is_shared(reference) or inputs.key.shape[2] > 1,
            **extra,
        )

    def _complete(self) -> bool:
        """Mark the sample as complete if it has its images, and return whether it has."""
        is_complete = self._images.keys() >= _REQUIRED_IMAGES
        if is_complete:
            height, width = self._images["generated"][:2]
            told = self._provenance.get("box")
            check_painted_box(told, height, width, "the generated image", self._name)
        self._set_status("complete" if is_complete else "running")
        self._is_complete = is_complete
        return is_complete

    def _set_status(self, status: Status, **facts: str) -> None:
        self._stored.set_status(self._attributes(status, **facts))

    def _attributes(self, status: Status, **facts: str) -> dict[str, Any]:
        attributes = CaptureAttributes(status=status, **self._provenance, **facts)
        found: dict[str, Any] = attributes.to_store()[ATTRIBUTE_KEY]
        return found


def _given_box(box: Box, name: str, height: int, width: int) -> Box | None:
    """Return the box that the user gave; None for the whole image."""
    if box.y0 >= height or box.x0 >= width or box.y1 <= 0 or box.x1 <= 0:
        msg = (
            f"Expected a box that has a part of the image, which has {height}×{width} px, got "
            f"{tuple(box)}, at boxes[{name!r}]. Give (y0, x0, y1, x1) in pixels of the stored image."
        )
        raise SchemaError(msg)
    return None if box.is_whole(height, width) else box


def _check_layout(layer: str, layout: ReferenceLayout, tokens: int) -> None:
    """Refuse a layout that has not as many places as there are tokens."""
    if layout.grid is None:
        return
    height, width = layout.grid
    if layout.special_tokens + height * width != tokens:
        special = f"{layout.special_tokens} + " if layout.special_tokens else ""
        msg = (
            f"Expected {special}{height}×{width} reference tokens, as their layout says, got {tokens}, "
            f"at layer {layer!r}. Leave it out with layers=, or pass a Profile of your own."
        )
        raise CaptureError(msg)


def _changed(layer: str, step_index: int, came: str) -> str:
    """Return what to say of a layer that joins or leaves at a step (its index among those kept)."""
    return (
        f"Expected attention to the reference at every kept step, got {came} at layer {layer!r}: what "
        f"reads it, an IP-Adapter perhaps, was switched on or off before kept step {step_index} (from "
        "0). Keep the steps of one setting with steps=, or leave the layer out with layers=."
    )
