"""What File, Open Sample gives: the run that ships with the plugin, opened like any other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from i2am.viewer.layers import LayerData

__all__ = ["DEMO_RUN", "open_demo_run"]

# Three pictures that the shipped model painted in ten steps.
DEMO_RUN: Final = Path(__file__).parent / "demo.zarr"


def open_demo_run() -> list[LayerData]:
    """Return the demo run's layers."""
    from i2am.viewer.reader import read_layers

    return read_layers(str(DEMO_RUN))
