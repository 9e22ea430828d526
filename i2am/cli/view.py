"""The command ``i2am view``: a run in napari."""

from __future__ import annotations

import argparse
from typing import Any

from i2am.cli.arguments import add_command, existing_store, sample_name
from i2am.cli.options import add_option

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "view",
        _view,
        "open a run, or the run of maps, in napari",
        ["viewer"],
        examples=("i2am view run.zarr", "i2am view run.zarr --sample shirt-002"),
    )
    command.add_argument(
        "store",
        type=existing_store,
        metavar="RUN.zarr",
        help="captured run, or maps, which name theirs",
    )
    add_option(command, "--maps")
    add_option(command, "--effects")
    command.add_argument(
        "--sample",
        type=sample_name,
        metavar="SAMPLE",
        help="sample that is shown first; default: the run's first",
    )


def _view(options: argparse.Namespace) -> None:
    from i2am.viewer import view

    view(options.store, sample=options.sample, maps=options.maps, effects=options.effects)
