"""One file a figure, and the report. Matplotlib is used here alone.

May import every other folder of analysis. A figure is a function ``draw(sample, maps, style=…)`` in
a file of its own, and one entry in `FIGURES`: the command line, the files and the report take it from
there. It is imported when it is first drawn, and Matplotlib with it. One of measured effects is a function
``draw(sample, effects, style=…)``, and says which of them it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import xarray as xr

from i2am.analysis.stores.layers import sram_layers
from i2am.schemas import AnalysisError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES",
    "FigureKind",
    "existing_kinds",
    "hlam",
    "llam",
    "load_figure",
    "overview",
    "report_kinds",
    "sram_grid",
    "tlam",
    "write_comparison",
    "write_figures",
]

_HOMES: Final = {
    **dict.fromkeys(("overview", "tlam", "hlam", "llam"), "i2am.analysis.figures.maps"),
    **dict.fromkeys(("write_comparison", "write_figures"), "i2am.analysis.figures.files"),
    "sram_grid": "i2am.analysis.figures.sram",
}


def _always(_sample: xr.DataTree) -> bool:
    return True


def _has_sram(sample: xr.DataTree) -> bool:
    return bool(sram_layers(sample))


def _has_roads(sample: xr.DataTree) -> bool:
    layers = sample.children["layers"].children.values()
    return all({"text_key", "text_query"} <= set(layer.data_vars) for layer in layers)


def _has_sources(sample: xr.DataTree) -> bool:
    return all(
        "logsumexp" in layer.data_vars for layer in sample.children["layers"].children.values()
    )


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Parameters
    ----------
    function : str
        ``module:function``, called as ``function(sample, maps, style=…)``; returns a Matplotlib
        Figure.
    caption : str
        What the figure shows, for the report.
    exists : callable (DataTree) -> bool
        Whether a captured sample has this figure.
    is_in_report : bool
        Whether the report shows it, and `write_figures` writes it by default.
    needs : tuple of str
        The measured effects that it is drawn from, by their names in a sample of `open_effects`. It is
        then called as ``function(sample, effects, style=…)``, where they are given.
    """

    function: str
    caption: str
    exists: Callable[[xr.DataTree], bool] = _always
    is_in_report: bool = True
    needs: tuple[str, ...] = ()


FIGURES: Final[dict[str, FigureKind]] = {
    "overview": FigureKind(
        "i2am.analysis.figures.maps:overview",
        "The images, and the maps averaged over layers, steps and heads: R2G shows which generated "
        "regions draw on the reference, G2R which parts of the reference were used.",
    ),
    "tlam": FigureKind(
        "i2am.analysis.figures.maps:tlam",
        "When the reference is used, and where: one map per group of denoising steps, noisiest "
        "first, averaged over layers and heads.",
    ),
    "hlam": FigureKind(
        "i2am.analysis.figures.maps:hlam",
        "What each attention head looks at: one map per head, averaged over layers and steps.",
    ),
    "llam": FigureKind(
        "i2am.analysis.figures.maps:llam",
        "What each layer looks at: one map per attention layer, averaged over steps and heads.",
        is_in_report=False,
    ),
    "sram": FigureKind(
        "i2am.analysis.figures.sram:sram_of_default_points",
        "For each numbered patch of the generated image, where on the reference it looks, averaged "
        "over layers, steps and heads.",
        exists=_has_sram,
    ),
    "roads": FigureKind(
        "i2am.analysis.figures.roads:roads",
        "By which road the reference comes: the attention that goes to it directly, and that which goes "
        "to text that has read it in earlier layers; averaged over layers, steps and heads.",
        exists=_has_roads,
    ),
    "sources": FigureKind(
        "i2am.analysis.figures.roads:sources",
        "How the attention of each patch is shared among text, the generated picture itself and each "
        "reference, averaged over layers, steps and heads.",
        exists=_has_sources,
        is_in_report=False,
    ),
    "effects": FigureKind(
        "i2am.analysis.figures.effects:effects_beside_maps",
        "What the object and two of its patches read of each region of the reference, beside what cutting "
        "that region changes there. Where the two look alike, the map may be believed.",
        exists=_has_sram,
        is_in_report=False,
        needs=("region", "ceiling"),
    ),
    "curves": FigureKind(
        "i2am.analysis.figures.effect_plots:curves",
        "How much of the effect of the whole reference comes and goes as its regions are cut one after the "
        "other, in several orders.",
        is_in_report=False,
        needs=("deletion", "ceiling"),
    ),
    "layer_effects": FigureKind(
        "i2am.analysis.figures.effect_plots:layer_effects",
        "What cutting the reference in one layer alone changes, as share of what cutting it in all layers "
        "changes.",
        is_in_report=False,
        needs=("layer_effect", "ceiling"),
    ),
}


def report_kinds() -> tuple[str, ...]:
    """Return the kinds of figures that the report shows."""
    return tuple(name for name, kind in FIGURES.items() if kind.is_in_report)


def existing_kinds(
    sample: xr.DataTree, kinds: Iterable[str], effects: xr.Dataset | None = None
) -> list[str]:
    """Return those of the kinds that exist for a sample, and for its measured effects."""
    measured = set() if effects is None else set(effects.data_vars)
    return [
        kind
        for kind in kinds
        if measured.issuperset(FIGURES[kind].needs) and FIGURES[kind].exists(sample)
    ]


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
    module, _, name = FIGURES[kind].function.partition(":")
    found: Callable[..., Figure] = getattr(importlib.import_module(module), name)
    return found


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
