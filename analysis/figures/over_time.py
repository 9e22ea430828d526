"""A run over time: how much attention lies inside the masks at each denoising step, over its samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import map_options, selection_words
from i2am.analysis.figures.sheet import fit_text
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.statistics import over_time as statistics
from i2am.schemas.dims import STEP, TIMESTEP
from i2am.schemas.directions import DirectionName

__all__ = ["evolution"]

_HEIGHT: Final = 1.9  # of a plot; all sizes in inches
_SCREEN_WIDTH: Final = 4.2
_BLUE: Final = "#3b6ea5"
_MASKS: Final = {"r2g": "inpainting mask", "g2r": "reference's mask"}


def evolution(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    samples: Iterable[str] | None = None,
    style: FigureStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw the share of attention inside the mask at each step: the mean over samples, and its interval.

    Parameters
    ----------
    run, maps : Mapping of str to DataTree
        As `open_run` and `maps_of` give them.
    samples : iterable of str, optional
        By default all. Those without a mask, or with other timesteps than the first, are left out, and
        the figure says how many it shows.
    style : FigureStyle

    Returns
    -------
    Figure
        A plot for each direction: a thin line for each sample, their mean and its 95 % interval
        (bootstrap over samples, those of the same pictures together), and the mask's share of the area,
        which an even map would have.

    Raises
    ------
    AnalysisError
        If no sample has a mask.
    """
    names = list(run if samples is None else dict.fromkeys(samples))
    curves = statistics.evolution(run, maps, samples=names)
    words = selection_words(map_options(maps[curves["sample"].values[0]]))
    title = f"{_named(names)}: attention inside the mask over denoising"
    return _draw(curves, ", ".join([title, *words]), style)


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} samples"


def _draw(curves: xr.Dataset, title: str, style: FigureStyle) -> Figure:
    directions: list[DirectionName] = curves["direction"].values.tolist()
    beside = style.width is None or style.width >= 2 * _HEIGHT + 1
    columns = len(directions) if beside else 1
    rows = -(-len(directions) // columns)
    line = style.font_pt * 1.25 / 72
    width = style.width or columns * _SCREEN_WIDTH
    title = fit_text(title, int(width / (0.7 * style.font_pt / 72)))
    head = (1.5 + title.count("\n")) * line
    left, below, above = 5.5 * line, 3 * line, 1.8 * line
    plot = (width / columns - left - line, _HEIGHT)
    height = head + rows * (above + _HEIGHT + below)
    figure = Figure(figsize=(width, height), dpi=style.dpi, facecolor="white")
    figure.text(
        0.04 / width, 1 - 0.4 * line / height, title, va="top", size=style.font_pt,
        weight="bold", parse_math=False,
    )  # fmt: skip
    for number, direction in enumerate(directions):
        row, column = divmod(number, columns)
        x = column * width / columns + left
        y = height - head - row * (above + _HEIGHT + below) - above - _HEIGHT
        axes = figure.add_axes((x / width, y / height, plot[0] / width, plot[1] / height))
        own = curves.sel(direction=direction)
        _plot(axes, own, style)
        of_mask = f"{direction.upper()}: inside the {_MASKS[direction]}"
        count = int(own["count"])
        of_mask += f", {count} sample{'s' * (count > 1)}"
        axes.set_title(of_mask, fontsize=style.font_pt, loc="left", parse_math=False)
        axes.set_ylabel("share of attention" if not column else "", fontsize=style.font_pt)
    return figure


def _plot(axes: Axes, curve: xr.Dataset, style: FigureStyle) -> None:
    inside = curve["share"].dropna("sample").to_numpy()
    mean, timesteps = curve["mean"].to_numpy(), curve[TIMESTEP].to_numpy()
    words: dict[str, Any] = {"fontsize": style.font_pt, "parse_math": False}
    for own in inside:
        axes.plot(timesteps, own, color=_BLUE, lw=0.5, alpha=0.35)
    axes.plot(timesteps, mean, color=_BLUE, lw=1.5, label="mean")
    has_interval = bool(np.isfinite(curve["low"]).all())
    if has_interval:
        ends = curve["low"].to_numpy(), curve["high"].to_numpy()
        axes.fill_between(timesteps, *ends, color=_BLUE, alpha=0.25, lw=0, label="95 % interval")
    chance = float(curve["chance"])
    axes.axhline(chance, color="0.35", lw=0.8, ls="--")
    axes.set_ylim(0, 1)
    # Time goes from noise to picture, which is from high timesteps to low ones.
    first, last = (float(end) for end in timesteps[[0, -1]])
    axes.set_xlim(first, last if last != first else first - 1)
    is_low = float(mean.mean()) > chance
    axes.annotate(
        "an even map", (1, chance), xycoords=("axes fraction", "data"), xytext=(-2, -2 if is_low else 2),
        textcoords="offset points", ha="right", va="top" if is_low else "bottom", color="0.35", **words,
    )  # fmt: skip
    axes.set_xlabel(
        f"timestep, from noise to picture ({len(timesteps)} {STEP}s)", fontsize=style.font_pt
    )
    axes.tick_params(labelsize=style.font_pt, width=0.5, length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
    place: Any = "lower left" if is_low else "upper left"
    if has_interval:
        axes.legend(loc=place, fontsize=style.font_pt, frameon=False, labelspacing=0.2)
