"""One sample in view, with everything that its layers, plots and SRAMs need."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.stores.layers import layer_attributes, sram_layers
from i2am.schemas.attributes import ATTRIBUTE_KEY, CaptureAttributes, LayerAttributes
from i2am.schemas.boxes import Box
from i2am.schemas.dims import CONDITIONAL, GUIDANCE
from i2am.viewer.data.axes import MapAxes
from i2am.viewer.data.loader import Loader
from i2am.viewer.data.map_readers import MapReader
from i2am.viewer.data.scores import MapSpread
from i2am.viewer.data.volume import MapVolume

if TYPE_CHECKING:
    import xarray as xr

    from i2am.analysis import LiveSram

__all__ = ["SampleSource", "SampleView", "run_identity"]


def run_identity(run: str | PathLike[str]) -> str:
    """Return what tells a run from others, however its place was typed: its full path, or its URL.

    Examples
    --------
    >>> run_identity("s3://bucket/run.zarr/")
    's3://bucket/run.zarr'
    """
    place = os.fspath(run)
    if "://" in place:
        return place.rstrip("/")
    return os.path.abspath(place)  # noqa: PTH100  # a link to a run has maps of its own beside it


@dataclass(frozen=True)
class SampleSource:
    """What is in view, and how it was analysed.

    Parameters
    ----------
    run : str
        Full path or URL of the capture store; see `run_identity`.
    sample : str
    maps : str or None
        The maps store that was named or found.
    computed : bool
        Maps are computed from the run: there is no such store, the sample is not in it, or it holds
        another branch of the guidance, or maps of other patches.
    guidance : str
    normalisation : str
    within : "image" or "mask"
        Which patches the maps are of: all, or those inside the inpainting mask.
    reference : str
        The stored image of the reference that the maps are of; empty for the first one, or the one that
        stored maps are of.
    effects : str or None
        The store of measured effects that was named; without it the one beside the run is looked at.
    """

    run: str
    sample: str
    maps: str | None = None
    computed: bool = False
    guidance: str = CONDITIONAL
    normalisation: str = "mass"
    within: str = "image"
    reference: str = ""
    effects: str | None = None


@dataclass(eq=False)
class SampleView:
    """A sample in view.

    Parameters
    ----------
    source : SampleSource
    capture : DataTree
        As `i2am.analysis.open_run` gives it.
    axes : MapAxes
        Of the positions along the sliders.
    images : dict of str to array
        The stored images and masks; ``reference`` is the one that the maps' layers attend to.
    boxes : dict of str to Box
        Of the stored ones of ``generated`` and ``reference``: what the model saw, in their pixels.
    volumes : dict of str to MapVolume
        "r2g" and, where it exists, "g2r".
    spreads : dict of str to MapSpread
        Of the maps of each volume.
    reader : MapReader
        Reads the maps of the volumes.
    stored : DataTree or None
        The maps that were stored.
    """

    source: SampleSource
    capture: xr.DataTree
    axes: MapAxes
    images: dict[str, NDArray[np.uint8]]
    boxes: dict[str, Box]
    volumes: dict[str, MapVolume]
    spreads: dict[str, MapSpread]
    reader: MapReader
    stored: xr.DataTree | None = None

    @cached_property
    def layers(self) -> dict[str, LayerAttributes]:
        """What is known of each captured layer, in the order in which they run."""
        return layer_attributes(self.capture)

    @cached_property
    def sram_layers(self) -> frozenset[str]:
        """The layers in view that have an SRAM."""
        return frozenset(sram_layers(self.capture, self.source.reference))

    @cached_property
    def live_sram(self) -> LiveSram:
        """Computes SRAMs of the sample; from any thread."""
        from i2am.analysis import LiveSram

        own: Any = self.source
        return LiveSram(self.capture, guidance=own.guidance, normalisation=own.normalisation)

    @property
    def guidance_labels(self) -> list[str]:
        """The branches of the guidance that were captured."""
        halves = self.capture.coords.get(GUIDANCE)
        return [CONDITIONAL] if halves is None else [str(half) for half in halves.to_numpy()]

    @property
    def identity(self) -> str:
        """What tells this capture from every other, wherever it lies: when it was made, and a checksum.

        The checksum is missing where the sample has no inventory.
        """
        own = self.capture.attrs[ATTRIBUTE_KEY]
        return " ".join(filter(None, (own["created"], own.get("contents"))))

    @cached_property
    def references(self) -> list[str]:
        """The stored images of the references that captured layers attend to, the first one first."""
        every = sorted((own.reference_index, own.reference_image()) for own in self.layers.values())
        return list(dict.fromkeys(name for _, name in every))

    def provenance(self) -> str:
        """Return how the sample was made, in a few short lines."""
        own = CaptureAttributes.model_validate(self.capture.attrs[ATTRIBUTE_KEY])
        settings = {"steps": own.steps, "guidance": own.guidance_scale, "seed": own.seed}
        known = [f"{name} {value}" for name, value in settings.items() if value is not None]
        return "\n".join(filter(None, (own.model, own.scheduler, ", ".join(known))))

    def note(self) -> str:
        """Return why a sample has no G2R map; empty if it has one."""
        if "g2r" in self.volumes:
            return ""
        if not any(self.axes.causal):
            return (
                "R2G only, and as a similarity, not a cause: with one reference token "
                "the attention to it is always 1."
            )
        return "R2G only: the reference tokens have no layout."

    def seen(self) -> str:
        """Return which part of an image the model saw: a line for each that it did not see as it is."""
        words = {"generated": "the generated image", "reference": "the reference"}
        lines = []
        for name, box in self.boxes.items():
            size = self.images[name].shape[:2]
            if box.is_whole(*size):
                continue
            within = box.within(*size)
            y0, x0, y1, x1 = (f"{round(end, 1):g}" for end in within)
            part = f"rows {y0} to {y1}, columns {x0} to {x1} of {words[name]}"
            if within.is_whole(*size):
                part = f"all of {words[name]}"
            padding = "" if box == within else ", and padding around it"
            lines.append(f"The model saw {part}{padding}.")
        return "\n".join(lines)

    def loader(
        self,
        arrived: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> Loader:
        """Return what loads the maps; see `Loader` for what it calls."""
        loaded = {direction: volume.loaded for direction, volume in self.volumes.items()}
        return Loader(self.reader, loaded, arrived, failed)
