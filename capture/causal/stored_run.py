"""A captured run as effects are measured of it: its samples' pictures, layers and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError

from i2am.capture.causal.effects_store import EffectsSource
from i2am.capture.causal.surroundings import Surroundings
from i2am.capture.pipelines.call import GenerationSettings, guidance_argument
from i2am.capture.pipelines.load import LoadOptions
from i2am.schemas import Box, ImageAttributes, LayerAttributes, StoreError, did_you_mean
from i2am.schemas.attributes import check_schema
from i2am.storage.addresses import member_names, open_group, own_attributes, reported_as_store_error
from i2am.storage.inventory import contents_of
from i2am.storage.listing import Unreadable, iter_groups
from i2am.storage.sample_state import SampleState

__all__ = ["StoredRun", "StoredSample"]

_GENERATED = "generated"
_REFERENCE = "reference"
# Where the call says itself how many steps there are.
_STEPS = ("num_inference_steps", "timesteps", "sigmas")


@dataclass(frozen=True)
class StoredSample:
    """One captured sample.

    Parameters
    ----------
    name : str
    provenance : mapping of str to object
    images : mapping of str to array of uint8
        Its stored images, by their names in the run.
    boxes : mapping of str to Box
        The part of the generated image, and of each reference, that the model saw.
    layers : mapping of str to LayerAttributes
        By their names in the run, in the model's order.
    """

    name: str
    provenance: Mapping[str, Any]
    images: Mapping[str, NDArray[np.uint8]]
    boxes: Mapping[str, Box]
    layers: Mapping[str, LayerAttributes]

    def surroundings(self) -> Surroundings:
        """Return where the grids of its layers lie.

        Raises
        ------
        StoreError
            If it has no layers.
        """
        if not self.layers:
            msg = f"Expected a sample with layers, got none, at {self.name!r}. Capture it again."
            raise StoreError(msg)
        paths = (
            name.removesuffix(f".{layer.reference_image()}") if layer.reference_index else name
            for name, layer in self.layers.items()
        )
        return Surroundings.of(paths, self.layers.values(), self.boxes)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return (height, width) of the stored pictures that regions may be of, in pixels."""
        return {name: self.images[name].shape[:2] for name in self.boxes}

    def loading(self) -> LoadOptions:
        """Return how its model was loaded, as far as it says so."""
        own = self.provenance
        dtype = own.get("dtype")
        return LoadOptions(
            revision=own.get("requested_revision"),
            dtype=dtype if dtype in ("float16", "bfloat16") else "float32",
            ip_adapter=own.get("ip_adapter"),
            ip_adapter_scale=own.get("ip_adapter_scale"),
            randomize_weights=own.get("randomize_weights"),
        )

    def settings(self, pipeline: Any, given: GenerationSettings) -> GenerationSettings:
        """Return how it was generated, as far as it says so, and nothing else is given."""
        own = self.provenance
        arguments = {**(own.get("arguments") or {}), **given.arguments}
        steps = own.get("num_inference_steps") or own.get("steps")
        scale, name = own.get("guidance_scale"), guidance_argument(pipeline)
        if not isinstance(steps, int) or arguments.keys() & set(_STEPS):
            steps = None
        if not isinstance(scale, int | float) or name is None or name in arguments:
            scale = None
        return GenerationSettings(
            steps if given.steps is None else given.steps,
            scale if given.guidance_scale is None else given.guidance_scale,
            arguments,
        )


class StoredRun:
    """A run, to read.

    Parameters
    ----------
    address : str or Path
        A folder or a URL.

    Raises
    ------
    StoreError
        If it is no run, or cannot be read.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = address
        with reported_as_store_error(address):
            self._root = open_group(address)
            own = own_attributes(self._root)
            if own.get("kind") != "run":
                kind = own.get("kind") or "another Zarr group"
                msg = f"Expected a run, got {kind} at {address}. Give the store that was captured."
                raise StoreError(msg)
            check_schema(own, address)
            self._sources = {
                name: EffectsSource(str(found.get("created")), contents_of(found))
                for name, found in iter_groups(self._root)
                if not isinstance(found, Unreadable) and found.get("status") == "complete"
            }

    @property
    def names(self) -> list[str]:
        """The names of its complete samples."""
        return list(self._sources)

    def source(self, name: str) -> EffectsSource:
        """Return what tells a sample from another capture under its name."""
        return self._sources[name]

    def select(self, names: list[str] | None) -> list[str]:
        """Return the names of complete samples: all, or those that are asked for.

        Raises
        ------
        StoreError
            If one is not there, or none is complete.
        """
        if not self._sources:
            msg = (
                f"Expected a run with complete samples, got none, at {self.address}. Capture some."
            )
            raise StoreError(msg)
        for name in names or []:
            if name not in self._sources:
                msg = (
                    f"Expected a complete sample, got {name!r}, at {self.address}. "
                    f"{did_you_mean(name, self.names)}"
                )
                raise StoreError(msg)
        return [name for name in self._sources if names is None or name in names]

    def read(self, name: str) -> StoredSample:
        """Return a sample.

        Raises
        ------
        StoreError
            If it is not as it was written, or cannot be read.
        """
        with reported_as_store_error(self.address):
            group = self._group(self._root, name)
            state = SampleState(group.store_path)
            state.check_whole(self.address)
            own = own_attributes(group)
            if EffectsSource(str(own.get("created")), contents_of(own)) != self._sources[name]:
                msg = (
                    f"Expected the sample as it was listed, got one captured since, at {name!r} in "
                    f"{self.address}. Give the same command again."
                )
                raise StoreError(msg)
            stored = self._group(group, "images")
            images: dict[str, NDArray[np.uint8]] = {}
            boxes: dict[str, Box] = {}
            for image in member_names(stored):
                node = stored[image]
                if not isinstance(node, zarr.Array):
                    continue
                images[image] = np.asarray(node[:], np.uint8)
                if image == _GENERATED or (
                    image.partition("_")[0] == _REFERENCE and image != ("reference_mask")
                ):
                    boxes[image] = _box(own_attributes(node), images[image])
            layers = self._layers(self._group(group, "layers"), name)
            state.check_same()
        for image in (_GENERATED, _REFERENCE):
            if image not in images:
                msg = f"Expected a sample with its {image} image, got none, at {name!r} in {self.address}. "
                raise StoreError(msg + "Capture it with its images.")
        return StoredSample(name, own, images, boxes, layers)

    def _group(self, parent: zarr.Group, name: str) -> zarr.Group:
        node = parent.get(name)
        if not isinstance(node, zarr.Group):
            msg = f"Expected a group {name!r}, got none, at {self.address}/{parent.path}. "
            raise StoreError(msg + "'i2am validate' says what is wrong with the store.")
        return node

    def _layers(self, group: zarr.Group, sample: str) -> dict[str, LayerAttributes]:
        found: dict[str, LayerAttributes] = {}
        for name, own in iter_groups(group):
            try:
                found[name] = LayerAttributes.model_validate(own)
            except ValidationError as e:
                msg = (
                    f"Expected a layer's attributes, got others, at layer {name!r} of sample {sample!r} in "
                    f"{self.address}. 'i2am validate' says what is wrong with the store."
                )
                raise StoreError(msg) from e
        return dict(sorted(found.items(), key=lambda one: one[1].order))


def _box(own: Mapping[str, Any], image: NDArray[np.uint8]) -> Box:
    if "box" not in own:
        return Box.whole(*image.shape[:2])
    try:
        return ImageAttributes.model_validate(own).box
    except ValidationError as e:
        msg = f"Expected a box of an image, got {own['box']!r}. 'i2am validate' says what is wrong."
        raise StoreError(msg) from e
