"""One file a figure, and the report. Matplotlib is used here alone.

May import every other folder of analysis. A figure is a function ``draw(sample, maps, style=…)`` in
a file of its own, and one line in `FIGURES`; it is imported when it is first drawn, and Matplotlib
with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from i2am.schemas import AnalysisError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DEFAULT_KINDS",
    "FIGURES",
    "hlam",
    "llam",
    "load_figure",
    "overview",
    "sram_grid",
    "tlam",
    "write_comparison",
    "write_figures",
]

# kind: "module:function" (sample, maps, style=…) -> Figure
FIGURES: Final[Mapping[str, str]] = {
    "overview": "i2am.analysis.figures.maps:overview",
    "tlam": "i2am.analysis.figures.maps:tlam",
    "hlam": "i2am.analysis.figures.maps:hlam",
    "llam": "i2am.analysis.figures.maps:llam",
    "sram": "i2am.analysis.figures.sram:sram_of_default_points",
}
DEFAULT_KINDS: Final = ("overview", "tlam", "hlam", "sram")

_HOMES: Final = {
    **dict.fromkeys(("overview", "tlam", "hlam", "llam"), "i2am.analysis.figures.maps"),
    **dict.fromkeys(("write_comparison", "write_figures"), "i2am.analysis.figures.files"),
    "sram_grid": "i2am.analysis.figures.sram",
}


def load_figure(kind: str) -> Callable[..., Figure]:
    """Return the function that draws a kind of figure.

    Raises
    ------
    AnalysisError
        If there is no such kind.
    """
    if kind not in FIGURES:
        msg = f"Expected a figure, got {kind!r}, at kinds. {did_you_mean(kind, FIGURES)}"
        raise AnalysisError(msg)
    module, _, name = FIGURES[kind].partition(":")
    found: Callable[..., Figure] = getattr(importlib.import_module(module), name)
    return found


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
