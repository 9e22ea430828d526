"""I²AM: which generated regions use the reference, and which of its parts were used.

The stages are ``i2am.capture``, ``i2am.analysis``, ``i2am.viewer`` and ``i2am.page``; they meet in the store that
``i2am.schemas`` describes. Importing this package loads none of them: stages and public names come
on first use. ``i2am.capture`` is the stage; its main function is ``i2am.capture.capture``.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from i2am import analysis as analysis
    from i2am import capture as capture
    from i2am import page as page
    from i2am import schemas as schemas
    from i2am import viewer as viewer
    from i2am.analysis import analyze, open_maps, open_run, sram
    from i2am.page import show

# Without the stages: a star import must not ask for every extra.
__all__ = ["DEMO_RUN", "__version__", "analyze", "open_maps", "open_run", "show", "sram"]
__version__ = version("i2am")

# A run that ships with the viewer: three pictures that the shipped model painted in ten steps.
DEMO_RUN: Final = Path(__file__).parent / "viewer" / "demo.zarr"

_STAGES = ("analysis", "capture", "page", "schemas", "viewer")


def __getattr__(name: str) -> Any:
    if name in _STAGES:
        return importlib.import_module(f"i2am.{name}")
    if name == "show":
        return importlib.import_module("i2am.page").show
    if name in __all__:
        return getattr(importlib.import_module("i2am.analysis"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_STAGES})
