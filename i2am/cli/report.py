"""The command ``i2am report``: one page about a run, in one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from i2am.cli.arguments import add_command, existing_file, new_path, positive
from i2am.cli.options import add_option
from i2am.cli.run_and_maps import add_stores, open_effects_of, open_pair
from i2am.schemas.errors import shorten

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "report",
        _report,
        "write one self-contained page about a run, to open in a browser",
        examples=(
            "i2am report run.zarr",
            "i2am report run.zarr --scores scores.csv --sort imacs_g --max-samples 20",
        ),
    )
    add_stores(command)
    command.add_argument(
        "--scores",
        type=existing_file,
        metavar="FILE.csv",
        help="table of scores, as 'i2am score --out' writes it; default: none",
    )
    add_option(command, "--samples", adds="default: all that have maps")
    command.add_argument(
        "--sort",
        metavar="SCORE",
        help="order of the samples: the highest of this score first; default: the run's own order",
    )
    command.add_argument(
        "--max-samples",
        type=positive,
        default=50,
        metavar="N",
        help="samples that the page shows; the others are left out",
    )
    command.add_argument(
        "--out",
        type=_page,
        default=Path("report.html"),
        metavar="FILE.html",
        help="page to write",
    )
    add_option(command, "--overwrite")


def _page(text: str) -> Path:
    """Return the path of a page, which browsers know by its suffix."""
    path = new_path(text)
    if path.suffix.lower() not in {"", ".html", ".htm"} and not path.is_dir():
        msg = f"expected a file that ends in .html, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return path


def _report(options: argparse.Namespace) -> None:
    from i2am.analysis import read_scores
    from i2am.page import write_report

    run, maps = open_pair(options)
    scores = read_scores(options.scores) if options.scores else None
    write_report(
        run,
        maps,
        scores,
        options.out,
        overwrite=options.overwrite,
        samples=options.samples,
        sort=options.sort,
        max_samples=options.max_samples,
        effects=open_effects_of(options),
    )
    print(f"Report: {options.out}")
