"""One sample in view, with everything that its layers, panels and questions need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.stores.layers import layer_attributes, sram_layers
from i2am.schemas.attributes import ATTRIBUTE_KEY, CaptureAttributes, LayerAttributes
from i2am.schemas.dims import CONDITIONAL, GUIDANCE
from i2am.viewer.data.axes import Names
from i2am.viewer.data.loader import Loader
from i2am.viewer.data.map_readers import Maps
from i2am.viewer.data.volume import Volume

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Origin", "Row"]


@dataclass(frozen=True)
class Origin:
    """What is in view, and how it was analysed.

    Parameters
    ----------
    run : str
        Path or URL of the capture store.
    sample : str
    maps : str or None
        The maps store that was asked for or found.
    computed : bool
        Maps are computed from the run: there is no such store, the sample is not in it, or it holds
        another half of the guidance.
    guidance : str
    normalisation : str
    """

    run: str
    sample: str
    maps: str | None = None
    computed: bool = False
    guidance: str = CONDITIONAL
    normalisation: str = "mass"


@dataclass(eq=False)
class Row:
    """A sample in view.

    Parameters
    ----------
    origin : Origin
    capture : DataTree
        As `i2am.analysis.open_run` gives it.
    names : Names
        Of the positions along the sliders.
    images : dict of str to array
        The stored pictures and masks; ``reference`` is the one that the maps' layers look at.
    volumes : dict of str to Volume
        "r2g" and, where it exists, "g2r".
    source : Maps
        What fills the volumes.
    stored : DataTree or None
        The maps that were stored.
    """

    origin: Origin
    capture: xr.DataTree
    names: Names
    images: dict[str, NDArray[np.uint8]]
    volumes: dict[str, Volume]
    source: Maps
    stored: xr.DataTree | None = None

    def __post_init__(self) -> None:
        for volume in self.volumes.values():
            volume.row = self

    @cached_property
    def maps(self) -> xr.DataTree:
        """The sample's maps, lazily: those that were stored, or what `analyze` gives."""
        if self.stored is not None:
            return self.stored
        from i2am.analysis import analyze

        own = self.origin
        options: dict[str, Any] = {"guidance": own.guidance, "normalisation": own.normalisation}
        return analyze(self.capture, **options)

    @cached_property
    def layers(self) -> dict[str, LayerAttributes]:
        """What is known of each captured layer, in the order in which they run."""
        return layer_attributes(self.capture)

    @cached_property
    def askable(self) -> frozenset[str]:
        """The layers that can be asked about a patch."""
        return frozenset(sram_layers(self.capture))

    @property
    def guidance_labels(self) -> list[str]:
        """The halves of the guidance that were captured."""
        halves = self.capture.coords.get(GUIDANCE)
        return [CONDITIONAL] if halves is None else [str(half) for half in halves.to_numpy()]

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
        if not any(self.names.causal):
            return (
                "R2G only, and as a similarity, not a cause: with one reference token "
                "the attention to it is always 1."
            )
        return "R2G only: the reference tokens have no layout."

    def loader(self) -> Loader:
        """Return what fills the volumes."""
        return Loader(self.source, self.volumes)
