"""The lines of `scaling.py`, drawn from its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.figures import Figure
from support.power_law import fit_power_law

__all__ = ["draw_scaling"]

_COLORS = {"analysis": "#0b5fa5", "capture": "#c2571a", "memory": "#4b7f3b"}
_LABELS = {"s": "seconds of the processor", "MB": "resident memory, MB"}


def draw_scaling(record: Mapping[str, Any], path: Path) -> None:
    """Draw a panel for each size: points with the range of their rounds, and the line through them.

    Parameters
    ----------
    record : mapping
        What `scaling.py` tells.
    path : Path
        Its ending chooses the format.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Sheet
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels: dict[tuple[str, str], dict[str, list[Figure]]] = {}
    for name, section in record["sections"].items():
        what, _, axis = name.partition("-")
        if axis:
            points = [Figure.from_json(one) for one in section["figures"] if one["column"] == what]
            panels.setdefault((axis, points[0].unit), {})[what] = points
    panels = dict(sorted(panels.items(), key=lambda panel: panel[0][1] == "MB"))
    columns = 3
    rows = -(-len(panels) // columns)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9}):
        sheet = Sheet(figsize=(10, 2.9 * rows), layout="constrained")
        axes = sheet.subplots(rows, columns, squeeze=False).flat
        for ax, ((axis, unit), lines) in zip(axes, panels.items(), strict=False):
            for what, points in lines.items():
                _draw_line(ax, what, points)
            ax.set(xscale="log", yscale="log", xlabel=axis.replace("-", " "), ylabel=_LABELS[unit])
            low, high = ax.get_ylim()
            ax.set_ylim(min(low, 1), high * 3) if unit == "s" else ax.set_ylim(low / 3, high * 3)
            sizes = [int(point.row) for point in next(iter(lines.values()))]
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(plain)
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.legend(loc="upper left", frameon=False, fontsize=8)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in list(axes)[len(panels) :]:
            ax.set_visible(False)
        sheet.savefig(path, dpi=110)


def _draw_line(ax: Any, what: str, points: list[Figure]) -> None:
    sizes, medians = [int(point.row) for point in points], [point.median for point in points]
    line, color = fit_power_law(sizes, medians), _COLORS[what]
    lowest, highest = ([pick(p.values) for p in points] for pick in (min, max))
    below = [one - low for one, low in zip(medians, lowest, strict=True)]
    above = [high - one for one, high in zip(medians, highest, strict=True)]
    label = f"{what}: exponent {line}"
    ax.plot(sizes, [line.at(size) for size in sizes], color=color, linewidth=1, label=label)
    ax.errorbar(sizes, medians, [below, above], fmt="o", color=color, markersize=4, capsize=2)
