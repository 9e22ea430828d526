"""The paper's figures: a captured sample and its maps, drawn for people.

Each function takes what `open_run` and `open_maps` give for one sample, and returns a matplotlib
figure that knows nothing of pyplot. Maps are changed for the eye alone; see `overlay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import xarray as xr
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from i2am.analysis.captions import (
    DIRECTIONS,
    Direction,
    absence,
    askable_layers,
    layer_titles,
    reference_image,
    similarity_note,
    time_titles,
    unit,
)
from i2am.analysis.heat_panels import (
    computed,
    heat_panel,
    heat_panels,
    mask_of,
    picture_of,
    plain_panel,
    size_of,
)
from i2am.analysis.overlay import DEFAULT_STYLE, Pixels, Style, limits_of
from i2am.analysis.panels import Band, Key, Panel, draw, render
from i2am.analysis.sram_figure import default_points, sram_grid
from i2am.schemas import AnalysisError, StoreError, did_you_mean, dims

__all__ = [
    "DEFAULT_KINDS",
    "FIGURES",
    "default_points",
    "has_figure",
    "hlam",
    "llam",
    "overview",
    "sram_grid",
    "tlam",
    "write_figures",
]

DEFAULT_KINDS: Final = ("overview", "tlam", "hlam", "sram")


def overview(sample: xr.DataTree, maps: xr.DataTree, style: Style = DEFAULT_STYLE) -> Figure:
    """Draw the pictures and the unified maps in one row, each map with its own scale.

    A direction that does not exist has a panel that says why.

    Parameters
    ----------
    sample : DataTree
        One sample of a run, with images (y, x, rgb) and masks (y, x), uint8.
    maps : DataTree
        The sample's maps.
    style : Style
    """
    images = sample.children["images"].dataset
    mask = mask_of(sample)
    reference = reference_image(sample, maps)
    shown = [plain_panel(sample, reference, reference.replace("_", " "))]
    if "source" in images:
        title = "source and the mask's outline" if mask is not None else "source"
        shown.append(plain_panel(sample, "source", title, mask))
    shown.append(plain_panel(sample, "generated"))
    shown.extend(_unified_panels(sample, maps, style, mask))
    return draw((Band("", tuple(shown), columns=len(shown)),))


def tlam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: Direction | None = None,
    style: Style = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per time group, noisiest first.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run, and its maps.
    direction : {"r2g", "g2r"}, optional
        None draws every direction that the maps hold, one below the other.
    style : Style

    Raises
    ------
    AnalysisError
        If the maps do not hold that direction.
    """
    return _level(sample, maps, "tlam", direction, style)


def hlam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: Direction | None = None,
    style: Style = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per head; parameters as in `tlam`."""
    return _level(sample, maps, "hlam", direction, style)


def llam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: Direction | None = None,
    style: Style = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per layer; parameters as in `tlam`."""
    return _level(sample, maps, "llam", direction, style)


def has_figure(kind: str, sample: xr.DataTree) -> bool:
    """Return whether a sample has that figure: SRAM needs the scores of several placed tokens."""
    return kind != "sram" or bool(askable_layers(sample))


def write_figures(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    sample_names: Iterable[str],
    out_dir: Path,
    kinds: Sequence[str] = DEFAULT_KINDS,
    overwrite: bool = False,
    style: Style = DEFAULT_STYLE,
    progress: bool = False,
) -> list[Path]:
    """Write ``SAMPLE-KIND.png`` for each sample and kind, and return the paths.

    A figure that a sample cannot have (see `has_figure`) is left out. Names and existing files are
    checked before anything is drawn.

    Raises
    ------
    AnalysisError
        If a kind is not in `FIGURES`, or a sample is in the run or the maps alone.
    StoreError
        If a file exists and `overwrite` is false.
    """
    names = list(sample_names)
    _check_known(kinds, FIGURES, "figure")
    _check_known(names, run, "sample of the run")
    _check_known(names, maps, "sample of the maps")
    wanted_files = [
        (name, kind, Path(out_dir) / f"{name}-{kind}.png")
        for name in names
        for kind in kinds
        if has_figure(kind, run[name])
    ]
    existing = [path for *_, path in wanted_files if path.exists()]
    if existing and not overwrite:
        msg = (
            f"Expected no file, got one, at {existing[0]}. Allow overwriting or name a new folder."
        )
        raise StoreError(msg)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    bar = tqdm(wanted_files, "figures", unit="figure", disable=not progress)
    for name, kind, path in bar:
        path.write_bytes(render(FIGURES[kind](run[name], maps[name], style)))
    return [path for *_, path in wanted_files]


# How each kind is drawn from a sample, its maps and a style.
FIGURES: Final[Mapping[str, Callable[[xr.DataTree, xr.DataTree, Style], Figure]]] = {
    "overview": overview,
    "tlam": lambda sample, maps, style: tlam(sample, maps, None, style),
    "hlam": lambda sample, maps, style: hlam(sample, maps, None, style),
    "llam": lambda sample, maps, style: llam(sample, maps, None, style),
    "sram": lambda sample, _, style: sram_grid(sample, None, style),
}


def _check_known(names: Iterable[str], known: Mapping[str, object], what: str) -> None:
    for name in names:
        if name not in known:
            msg = f"Expected a {what}, got {name!r}, at write_figures. {did_you_mean(name, known)}"
            raise AnalysisError(msg)


def _unified_panels(
    sample: xr.DataTree, maps: xr.DataTree, style: Style, mask: Pixels | None
) -> Iterator[Panel]:
    for direction, meaning in DIRECTIONS.items():
        picture = _picture_under(sample, maps, direction)
        if direction not in maps.children:
            sentence = absence(sample, direction)
            yield Panel(direction.upper(), size_of(picture), sentence=sentence)
            continue
        note = similarity_note(sample, maps) if direction == "r2g" else ""
        shown = [("ulam", f"{meaning}\n({note})" if note else meaning, unit(maps))]
        if "mass" in maps.children[direction].dataset:
            shown.append(
                ("mass", "reference mass: share of attention\nthat goes to the reference", "share")
            )
        outline = mask if direction == "r2g" else None
        for level, title, label in shown:
            values = computed([maps.children[direction].dataset[level]])
            limits = limits_of(values)
            yield heat_panel(picture, values[0], title, Key(limits, style, label), outline)


def _picture_under(sample: xr.DataTree, maps: xr.DataTree, direction: Direction) -> Pixels:
    """Return the stored picture that a direction's maps lie on."""
    name = "generated" if direction == "r2g" else reference_image(sample, maps)
    return picture_of(sample, name)


def _level(
    sample: xr.DataTree, maps: xr.DataTree, level: str, direction: Direction | None, style: Style
) -> Figure:
    present = [known for known in DIRECTIONS if known in maps.children]
    wanted = present if direction is None else [direction]
    for name in wanted:
        if name not in present:
            msg = f"Expected maps of direction {name!r}, got {present}, at {level}. "
            raise AnalysisError(msg + absence(sample, name))
    return draw(tuple(_level_band(sample, maps, level, name, style) for name in wanted))


def _level_band(
    sample: xr.DataTree, maps: xr.DataTree, level: str, direction: Direction, style: Style
) -> Band:
    values = maps.children[direction].dataset[level]
    if level == "tlam":
        titles = time_titles(sample, values)
    elif level == "llam":
        titles = layer_titles(sample, [str(name) for name in values[dims.LAYER].values], direction)
    else:
        titles = [f"head {int(head)}" for head in values[dims.HEAD].values]
    picture = _picture_under(sample, maps, direction)
    note = similarity_note(sample, maps) if direction == "r2g" else ""
    shown, key = heat_panels(picture, list(computed([values])[0]), titles, style, unit(maps))
    return Band(DIRECTIONS[direction], shown, key, note)
