"""The command ``i2am report``: one page about a run, in one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from i2am.cli.arguments import add_command, existing_file, new_path, positive, sample_name
from i2am.cli.run_and_maps import add_stores, open_effects_of, open_pair

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "report",
        _report,
        "write one self-contained page about a run, to open in a browser",
    )
    add_stores(command)
    command.add_argument("--scores", type=existing_file, metavar="FILE.csv")
    command.add_argument(
        "--samples", type=_names, metavar="A,B", help="default: all that have maps"
    )
    command.add_argument(
        "--sort", metavar="SCORE", help="the highest first; default: the run's own order"
    )
    command.add_argument(
        "--max-samples", type=positive, default=50, metavar="N", help="default: 50"
    )
    command.add_argument("--out", type=new_path, default=Path("report.html"), metavar="FILE.html")
    command.add_argument("--overwrite", action="store_true", help="replace what is there")


def _names(text: str) -> list[str]:
    """Return the samples of "A,B": no name has a comma."""
    return [sample_name(name) for name in text.split(",")]


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
