"""The commands ``i2am figure`` and ``i2am report``: pictures of a run, and a page about it."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from i2am.cli.arguments import add_command, existing_file, existing_store, new_path, sample_name
from i2am.schemas import StoreError

__all__ = ["add"]


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
    """Add the commands to a parser's commands."""
    _add_figure(commands)
    _add_report(commands)


def _add_figure(commands: Any) -> None:
    command = add_command(commands, "figure", _figure, "draw the paper's panels as PNG files")
    _add_pictures(command)
    command.add_argument(
        "--samples", nargs="+", type=sample_name, metavar="SAMPLE", help="default: all"
    )
    command.add_argument(
        "--kinds", nargs="+", choices=_Kinds(), metavar="KIND", help="such as tlam; default: all"
    )
    command.add_argument("--out", type=new_path, default=Path("figures"), metavar="DIR")


def _add_report(commands: Any) -> None:
    command = add_command(commands, "report", _report, "write one self-contained page about a run")
    _add_pictures(command)
    command.add_argument("--scores", type=existing_file, metavar="FILE.csv")
    command.add_argument("--out", type=new_path, default=Path("report.html"), metavar="FILE.html")


def _add_pictures(command: argparse.ArgumentParser) -> None:
    command.add_argument("store", type=existing_store, metavar="RUN.zarr")
    command.add_argument(
        "--maps", type=existing_store, metavar="MAPS.zarr", help="default: beside the run"
    )
    command.add_argument(
        "--effects",
        type=existing_store,
        metavar="EFFECTS.zarr",
        help="what 'i2am causal' measured; default: beside the run, if any",
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is there")


def _figure(options: argparse.Namespace) -> None:
    from i2am.analysis.figures.files import write_figures

    run, maps = _open_pair(options)
    names = options.samples or list(run)
    if not names:
        msg = (
            f"Expected a complete sample to draw, got none, at {options.store}. Capture one first."
        )
        raise StoreError(msg)
    written = write_figures(
        run,
        maps,
        names,
        options.out,
        options.kinds or list(_Kinds()),
        options.overwrite,
        progress=True,
        effects=_open_effects(options),
    )
    print(f"Figures: {len(written)} in {options.out}")


def _report(options: argparse.Namespace) -> None:
    from i2am.analysis import read_scores
    from i2am.analysis.figures.report import write_report

    run, maps = _open_pair(options)
    scores = read_scores(options.scores) if options.scores else None
    write_report(
        run,
        maps,
        scores,
        options.out,
        overwrite=options.overwrite,
        effects=_open_effects(options),
    )
    print(f"Report: {options.out}")


def _open_pair(options: argparse.Namespace) -> tuple[Any, Any]:
    """Open a run and its maps: those that were named, those beside it, or else lazy ones."""
    from i2am.analysis import find_maps, maps_of, open_run

    run = open_run(options.store)
    return run, maps_of(run, options.maps or find_maps(options.store))


def _open_effects(options: argparse.Namespace) -> Any:
    """Open the measured effects that were named, or those beside the run; None where there are none."""
    from i2am.analysis import find_effects, open_effects

    found = options.effects or find_effects(options.store)
    return None if found is None else open_effects(found)
