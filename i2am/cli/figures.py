"""The command ``i2am figure``: pictures of a run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from i2am.cli.arguments import add_command, existing_store, new_path, number
from i2am.cli.options import add_option
from i2am.cli.parser import ListAction, print_error
from i2am.cli.run_and_maps import add_stores, open_effects_of, open_pair
from i2am.schemas import AnalysisError, StoreError, did_you_mean
from i2am.schemas.choices import (
    CONTRASTS,
    FIGURE_BASES,
    FIGURE_FORMATS,
    FIGURE_INCHES,
)
from i2am.schemas.errors import shorten

__all__ = ["add"]

# What `analyze` is asked for.
_SELECTION: Final = ("layers", "steps", "heads", "guidance", "within")
# What a figure's style is asked for; by default it is the style's own.
_STYLE: Final = ("polarity", "colormap", "opacity", "contrast", "base", "width")


class _Kinds(Collection[str]):
    """The kinds of figures, which are imported when one of them is asked for: help does not need them."""

    def __iter__(self) -> Iterator[str]:
        from i2am.analysis.figures import FIGURES

        return iter(FIGURES)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, kind: object) -> bool:
        return kind in list(self)


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "figure",
        _figure,
        "draw a paper's figures as PNG, PDF or SVG files",
        examples=(
            "i2am figure run.zarr",
            "i2am figure run.zarr --kinds tlam sram --at 200,120 --width 7 --format pdf",
        ),
    )
    add_stores(command)
    add_option(command, "--samples")
    command.add_argument(
        "--kinds",
        nargs="+",
        action=ListAction,
        choices=_Kinds(),
        metavar="KIND",
        help="figures to draw, as overview, tlam or sram; --kinds alone lists them; default: all",
    )
    command.add_argument(
        "--after",
        type=existing_store,
        metavar="RUN.zarr",
        help="second run, for the figure before-after; default: none",
    )
    command.add_argument(
        "--out", type=new_path, default=Path("figures"), metavar="DIR", help="folder for the files"
    )
    add_option(command, "--overwrite")
    _add_selection(command.add_argument_group("what of a sample is shown"))
    _add_style(command.add_argument_group("how it looks"))


def _add_selection(group: Any) -> None:
    for name in ("--layers", "--steps", "--heads", "--guidance", "--within"):
        add_option(group, name)
    group.add_argument(
        "--at",
        nargs="+",
        action=ListAction,
        type=_place,
        metavar="Y,X",
        help="pixels of the generated image whose patches sram and before-after show; default: "
        "those that read most",
    )


def _add_style(group: Any) -> None:
    group.add_argument(
        "--width",
        type=_inches,
        metavar="INCHES",
        help="width of the printed figure, with text of 7 pt: 3.3 for a column, 7 for a page; "
        "default: as wide as a screen",
    )
    group.add_argument(
        "--format",
        nargs="+",
        action=ListAction,
        choices=FIGURE_FORMATS,
        default=["png"],
        metavar="FORMAT",
        help=f"of {', '.join(FIGURE_FORMATS)}; default: png",
    )
    group.add_argument(
        "--base",
        choices=FIGURE_BASES,
        help="what lies under the heat: the picture in grey or as it is, or nothing; default: grey",
    )
    group.add_argument(
        "--colormap",
        type=_colormap,
        metavar="NAME",
        help="colours of the heat, one of Matplotlib's colormaps; default: inferno",
    )
    group.add_argument(
        "--opacity",
        type=_opacity,
        metavar="SHARE",
        help="opacity of the hottest pixel, above 0, up to 1; default: 0.9",
    )
    add_option(group, "--polarity")
    group.add_argument(
        "--contrast",
        choices=CONTRASTS,
        help="one scale for the maps of a direction, or one for each panel; default: shared",
    )


def _place(text: str) -> tuple[float, float]:
    """Return (y, x) of "Y,X"."""
    parts = text.split(",")
    if len(parts) != 2:
        msg = f"expected a place Y,X such as 200,120, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return number(parts[0]), number(parts[1])


def _inches(text: str) -> float:
    """Return the width of a figure, in inches."""
    value, (low, high) = number(text), FIGURE_INCHES
    if not low <= value <= high:
        msg = f"expected inches from {low:g} to {high:g}, got {value:g}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _opacity(text: str) -> float:
    """Return a number above 0, up to 1."""
    value = number(text)
    if not 0 < value <= 1:
        msg = f"expected an opacity above 0, up to 1, got {value:g}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _colormap(text: str) -> str:
    """Return the name of one of Matplotlib's colormaps."""
    import matplotlib as mpl

    if text not in mpl.colormaps:
        hint = did_you_mean(text, list(mpl.colormaps))
        msg = f"expected one of Matplotlib's colormaps, got {shorten(repr(text))}. {hint}"
        raise argparse.ArgumentTypeError(msg)
    return text


def _figure(options: argparse.Namespace) -> None:
    from i2am.analysis import open_run
    from i2am.analysis.figures import FigureOptions, FigureStyle, selected_maps
    from i2am.analysis.figures.files import write_figures

    given = {name: getattr(options, name) for name in _STYLE}
    style = FigureStyle(**{name: value for name, value in given.items() if value is not None})
    run, maps = open_pair(options)
    names = options.samples or list(run)
    if not names:
        msg = (
            f"Expected a complete sample to draw, got none, at {options.store}. Capture one first."
        )
        raise StoreError(msg)
    # With any of it the maps are made from the run.
    selection = {name: getattr(options, name) for name in _SELECTION}
    kinds = _asked_kinds(options)
    written = write_figures(
        run,
        selected_maps(run, maps, selection),
        names,
        options.out,
        kinds,
        options.overwrite,
        style,
        progress=True,
        effects=open_effects_of(options),
        options=FigureOptions(
            at=options.at,
            selection=selection,
            other=open_run(options.after) if options.after else None,
            formats=tuple(dict.fromkeys(options.format)),
        ),
    )
    for kind in options.kinds or ():
        if not any(path.stem == kind or path.stem.endswith(f"-{kind}") for path in written):
            _tell_missing(kind, options.store)
    print(f"Figures: {len(written)} in {options.out}")


def _asked_kinds(options: argparse.Namespace) -> list[str]:
    """Return the kinds to draw: those that were named, or all.

    Raises
    ------
    AnalysisError
        If places or a second run are given, and none of the kinds shows them.
    """
    from i2am.analysis.figures import FIGURES

    kinds = list(options.kinds or _Kinds())
    if options.at and not any("at" in FIGURES[kind].takes for kind in kinds):
        those = " or ".join(kind for kind, own in FIGURES.items() if "at" in own.takes)
        msg = f"Expected a kind that shows single patches, got {', '.join(kinds)}, at --at. Draw {those}."
        raise AnalysisError(msg)
    if options.after and not any(FIGURES[kind].needs_other for kind in kinds):
        those = " or ".join(kind for kind, own in FIGURES.items() if own.needs_other)
        msg = f"Expected a kind that shows a second run, got {', '.join(kinds)}, at --after. Draw {those}."
        raise AnalysisError(msg)
    return kinds


def _tell_missing(kind: str, store: str) -> None:
    """Say of a kind that was asked for why no sample has it."""
    from i2am.analysis.figures import FIGURES

    hint = FIGURES[kind].missing or "Its layers do not hold what it shows."
    print_error(f"no sample of {store} has the figure {kind!r}. {hint}")
