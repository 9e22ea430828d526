"""The command ``i2am view``: a run in napari."""

from __future__ import annotations

import argparse
from typing import Any

from i2am.cli.arguments import add_command, existing_store, sample_name

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands, "view", _view, "open a run, or the run of maps, in napari", ["viewer"]
    )
    command.add_argument("store", type=existing_store, metavar="RUN.zarr|MAPS.zarr")
    command.add_argument("--maps", type=existing_store, metavar="MAPS.zarr")
    command.add_argument("--effects", type=existing_store, metavar="EFFECTS.zarr")
    command.add_argument("--sample", type=sample_name, help="default: the first")


def _view(options: argparse.Namespace) -> None:
    from i2am.viewer import view

    view(options.store, sample=options.sample, maps=options.maps, effects=options.effects)
