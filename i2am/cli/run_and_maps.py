"""A run, its maps and its measured effects, as commands that show them take them."""

from __future__ import annotations

import argparse
from typing import Any

from i2am.cli.arguments import existing_store
from i2am.cli.options import add_option

__all__ = ["add_stores", "open_effects_of", "open_pair"]


def add_stores(command: argparse.ArgumentParser) -> None:
    """Add a run and what belongs to it to a command's parser."""
    command.add_argument("store", type=existing_store, metavar="RUN.zarr", help="captured run")
    add_option(command, "--maps")
    add_option(command, "--effects")


def open_pair(options: argparse.Namespace) -> tuple[Any, Any]:
    """Open a run and its maps: those that were named, those beside it, or else lazy ones."""
    from i2am.analysis import find_maps, maps_of, open_run

    run = open_run(options.store)
    return run, maps_of(run, options.maps or find_maps(options.store))


def open_effects_of(options: argparse.Namespace) -> Any:
    """Open the measured effects that were named, or those beside the run; None where there are none."""
    from i2am.analysis import find_effects, open_effects

    found = options.effects or find_effects(options.store)
    return None if found is None else open_effects(found)
