"""A run over time: how much attention lies inside the masks at each denoising step, over its samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import dask
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from i2am.analysis.figures.captions import map_options, selection_words
from i2am.analysis.figures.sheet import fit_text
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.scores.bootstrap import bootstrap_mean_interval
from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import spread
from i2am.schemas import AnalysisError
from i2am.schemas.dims import HEAD, LAYER, STEP, TIMESTEP
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["evolution"]

_HEIGHT: Final = 1.9  # of a plot; all sizes in inches
_SCREEN_WIDTH: Final = 4.2
_BLUE: Final = "#3b6ea5"
_MASKS: Final = {"r2g": "inpainting mask", "g2r": "reference's mask"}

Floats = NDArray[np.float64]


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
        (bootstrap over samples), and the mask's share of the area, which an even map would have.

    Raises
    ------
    AnalysisError
        If no sample has a mask.
    """
    names = list(run if samples is None else dict.fromkeys(samples))
    found: dict[DirectionName, list[tuple[Floats, float]]] = {}
    timesteps: Floats | None = None
    words: list[str] = []
    for name in names:  # One sample in memory at a time.
        sample, of_sample = run[name], maps[name]
        own = _timesteps(sample, of_sample)
        if timesteps is None:
            timesteps, words = own, selection_words(map_options(of_sample))
        if not np.array_equal(own, timesteps):
            continue
        for direction, shares in _shares(sample, of_sample).items():
            found.setdefault(direction, []).append(shares)
    if not found or timesteps is None:
        msg = (
            f"Expected a sample with an inpainting mask or a reference's mask, got {len(names)} without, "
            "at samples. Capture them with recording.add_images(…, inpainting_mask=mask)."
        )
        raise AnalysisError(msg)
    title = f"{_named(names)}: attention inside the mask over denoising"
    return _draw(found, timesteps, ", ".join([title, *words]), style)


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} samples"


def _timesteps(sample: xr.DataTree, maps: xr.DataTree) -> Floats:
    """Return the scheduler's timestep of each step that the maps hold."""
    (first, *_) = (maps.children[d] for d in DIRECTIONS if d in maps.children)
    own = sample.dataset[TIMESTEP].sel({STEP: first.dataset["volume"][STEP].values})
    return own.to_numpy().astype(np.float64)


def _shares(sample: xr.DataTree, maps: xr.DataTree) -> dict[DirectionName, tuple[Floats, float]]:
    """Return each direction's share inside the mask at every step, and the mask's share of the area."""
    masks = masks_of(sample, maps)
    lazy = {
        direction: maps.children[direction].dataset["volume"].mean((LAYER, HEAD))
        for direction in masks
        if direction in maps.children
    }
    (computed,) = dask.compute(lazy)
    found: dict[DirectionName, tuple[Floats, float]] = {}
    for direction, by_step in computed.items():
        measures = spread(by_step, masks[direction])
        found[direction] = measures["inside"].to_numpy(), float(measures["chance"])
    return found


def _draw(
    found: Mapping[DirectionName, list[tuple[Floats, float]]],
    timesteps: Floats,
    title: str,
    style: FigureStyle,
) -> Figure:
    directions: list[DirectionName] = [d for d in DIRECTIONS if d in found]
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
        _plot(axes, found[direction], timesteps, style)
        of_mask = f"{direction.upper()}: inside the {_MASKS[direction]}"
        count = len(found[direction])
        of_mask += f", {count} sample{'s' * (count > 1)}"
        axes.set_title(of_mask, fontsize=style.font_pt, loc="left", parse_math=False)
        axes.set_ylabel("share of attention" if not column else "", fontsize=style.font_pt)
    return figure


def _plot(
    axes: Axes, shares: list[tuple[Floats, float]], timesteps: Floats, style: FigureStyle
) -> None:
    inside = np.stack([own for own, _ in shares])
    words: dict[str, Any] = {"fontsize": style.font_pt, "parse_math": False}
    for own in inside:
        axes.plot(timesteps, own, color=_BLUE, lw=0.5, alpha=0.35)
    axes.plot(timesteps, inside.mean(axis=0), color=_BLUE, lw=1.5, label="mean")
    if len(inside) > 1:
        ends = np.array([bootstrap_mean_interval(values) for values in inside.T])
        axes.fill_between(timesteps, *ends.T, color=_BLUE, alpha=0.25, lw=0, label="95 % interval")
    chance = float(np.mean([own for _, own in shares]))
    axes.axhline(chance, color="0.35", lw=0.8, ls="--")
    axes.set_ylim(0, 1)
    # Time goes from noise to picture, which is from high timesteps to low ones.
    first, last = (float(end) for end in timesteps[[0, -1]])
    axes.set_xlim(first, last if last != first else first - 1)
    is_low = float(inside.mean()) > chance
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
    if len(inside) > 1:
        axes.legend(loc=place, fontsize=style.font_pt, frameon=False, labelspacing=0.2)
