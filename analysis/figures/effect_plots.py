"""Plots of measured effects: curves of cuts, and what each layer does."""

from __future__ import annotations

from typing import Any, Final

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2am.analysis.effects.faithfulness import curve_shares, object_or_changed
from i2am.analysis.figures.captions import figure_title
from i2am.analysis.figures.effect_words import short_layer_names
from i2am.analysis.figures.sheet import fit_text
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.stores.effects import NO_EFFECT_SHARE, effect_share
from i2am.schemas.dims import LAYER, ORDER
from i2am.schemas.text import safe_text

__all__ = ["curves", "layer_effects"]

_PLOT: Final = (2.6, 2.1)  # width and height of one plot; all sizes in inches
_LEFT: Final = 0.6
_GAP: Final = 0.15
# Beside the last number of an axis, on a page.
_RIGHT: Final = 0.12
_TOP: Final = 0.42
_BELOW: Final = 0.5
_LEGEND_LINE: Final = 0.2
_BAR: Final = 0.24
_BAR_WIDTH: Final = 3.4
_LETTER_EM: Final = 0.6
_TITLE: Final = 0.3
# The least width at which two plots stand side by side.
_PAGE: Final = 5.0
_GREY: Final = "0.65"
_BLUE: Final = "#3b6ea5"
_TITLES: Final = {
    "deletion": "Deletion: the first regions are cut",
    "insertion": "Insertion: all but the first are cut",
}
_ORDERS: Final = {
    "map": "most read first (mean over layers)",
    "least": "least read first",
    "random": "random",
    "position": "at the object's own place first",
}


def curves(
    sample: xr.DataTree,
    effects: xr.Dataset,
    style: FigureStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw how the effect grows as regions are cut in several orders, and how it falls as they stay.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    effects : Dataset
        This sample of `open_effects`, with curves.
    style : FigureStyle
    """
    inside = object_or_changed(sample, effects["ceiling"])
    shown = [curve for curve in _TITLES if curve in effects]
    names = [str(name) for name in effects[ORDER].values]
    width, height = _PLOT
    columns = len(shown) if style.width is None or style.width >= _PAGE else 1
    share = _LEFT + width + _GAP
    if style.width is not None:
        share = style.width / columns
        width = share - _LEFT - _RIGHT
    rows = -(-len(shown) // columns)
    pitch = _TOP + height + _BELOW
    whole = columns * share
    tall = _TITLE + rows * pitch + _LEGEND_LINE * len(names)
    figure = Figure(figsize=(whole, tall), dpi=style.dpi, facecolor="white")
    _write(figure, figure_title(sample, "effects as regions are cut"), 0.08, 0.06, style, "bold")
    colors = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for number, curve in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = _LEFT + column * share, _TITLE + row * pitch
        axes = figure.add_axes(
            (left / whole, 1 - (top + _TOP + height) / tall, width / whole, height / tall)
        )
        taken, shares = curve_shares(effects, curve, inside)
        for order, (name, own) in enumerate(zip(names, shares, strict=True)):
            color = _GREY if name == "random" else colors[order % len(colors)]
            label = safe_text(_ORDERS.get(name, f"most read first in {name}"))
            axes.plot(taken, own, color=color, marker="o", markersize=2.5, lw=1.3, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, None)
        y = "" if column else "share of the effect on the object"
        _label(axes, "share of the regions", y, style)
        _write(figure, _TITLES[curve], left, top + 0.2, style)
    handles: Any = figure.axes[0].lines
    figure.legend(
        handles=handles, loc="lower left", fontsize=style.font_pt, frameon=False,
        bbox_to_anchor=(_LEFT / whole - 0.02, 0.0), labelspacing=0.25,
    )  # fmt: skip
    return figure


def layer_effects(
    sample: xr.DataTree,
    effects: xr.Dataset,
    style: FigureStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw the share of the effect that each layer has alone; those without are grey, and say so.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    effects : Dataset
        This sample of `open_effects`, with effects of layers.
    style : FigureStyle
    """
    shares = effect_share(effects["layer_effect"], effects["ceiling"]).to_numpy()
    titles = short_layer_names(sample, [str(name) for name in effects[LAYER].values])
    names = [safe_text(title) for title in titles]
    left = 0.15 + _LETTER_EM * style.font_pt / 72 * max(map(len, names))
    beside = 0.14 * style.font_pt  # For the number at the end of a bar.
    bar_width = _BAR_WIDTH if style.width is None else max(0.8, style.width - left - beside)
    whole = style.width or left + bar_width + beside
    tall = _TITLE + 0.1 + _BAR * len(names) + _BELOW
    figure = Figure(figsize=(whole, tall), dpi=style.dpi, facecolor="white")
    axes = figure.add_axes(
        (left / whole, _BELOW / tall, bar_width / whole, _BAR * len(names) / tall)
    )
    places = np.arange(len(names))
    is_idle = shares < NO_EFFECT_SHARE
    axes.barh(places, shares, color=[_GREY if idle else _BLUE for idle in is_idle], height=0.7)
    high = max(float(shares.max()) * 1.02, NO_EFFECT_SHARE * 2)
    axes.set_xlim(0, high)
    axes.set_ylim(len(names) - 0.5, -0.5)  # The first layer on top.
    axes.set_yticks(places, names)
    axes.axvline(NO_EFFECT_SHARE, color="0.35", lw=0.8, ls="--")
    for place, share, idle in zip(places, shares, is_idle, strict=True):
        axes.annotate(
            f"{share:.3f}, no effect" if idle else f"{share:.3f}",
            (max(share, NO_EFFECT_SHARE), place),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=style.font_pt,
            annotation_clip=False,
        )  # fmt: skip
    # Centred below the figure: it is longer than the bars of a column.
    figure.text(
        0.5, 0.08 / tall, "share of the effect of cutting the reference in all layers",
        ha="center", fontsize=style.font_pt,
    )  # fmt: skip
    _label(axes, "", "", style)
    _write(figure, figure_title(sample, "what each layer does"), 0.08, 0.06, style, "bold")
    return figure


def _write(
    figure: Figure, text: str, left: float, top: float, style: FigureStyle, weight: str = "normal"
) -> None:
    width, height = figure.get_size_inches()
    letters = int((width - left) / (0.7 * style.font_pt / 72))
    figure.text(
        left / width, 1 - top / height, fit_text(text, letters), va="top", size=style.font_pt,
        weight=weight, parse_math=False,
    )  # fmt: skip


def _label(axes: Axes, x: str, y: str, style: FigureStyle) -> None:
    axes.set_xlabel(x, fontsize=style.font_pt)
    axes.set_ylabel(y, fontsize=style.font_pt)
    axes.tick_params(labelsize=style.font_pt, width=0.5, length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
