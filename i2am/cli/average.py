"""The command ``i2am average``: what maps have in common, over a run or each kind of sample."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from i2am.cli.arguments import add_command, existing_store, new_address
from i2am.cli.options import add_option
from i2am.cli.parser import ListAction
from i2am.schemas.choices import LEVEL_NAMES
from i2am.schemas.text import safe_text

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "average",
        _average,
        "average the maps over samples, with their variance",
        examples=(
            "i2am average maps.zarr --by category",
            "i2am average maps.zarr --samples shirt-001 shirt-002 --levels ulam llam",
        ),
    )
    command.add_argument("store", type=existing_store, metavar="MAPS.zarr", help="maps of a run")
    add_option(command, "--run")
    command.add_argument(
        "--by",
        nargs="+",
        action=ListAction,
        default=[],
        metavar="COLUMN",
        help="one average for each value of these columns: those of the manifest, or what capture "
        "noted, as guidance_scale; default: one of all samples",
    )
    levels = LEVEL_NAMES[:4]
    add_option(command, "--levels", default=list(levels), adds=f"default: {' '.join(levels)}")
    add_option(command, "--samples")
    command.add_argument(
        "--out",
        type=new_address,
        metavar="FILE.zarr",
        help="averages to write; default: beside the maps",
    )
    add_option(command, "--overwrite")


def _average(options: argparse.Namespace) -> None:
    from i2am.analysis import average_maps, default_average_path
    from i2am.schemas.attributes import ATTRIBUTE_KEY

    out = options.out or default_average_path(options.store)
    averages = average_maps(
        options.store,
        run=options.source,
        by=options.by,
        samples=options.samples,
        levels=options.levels,
        out=out,
        overwrite=options.overwrite,
        progress=True,
    )
    counts = {name: node.attrs[ATTRIBUTE_KEY]["samples"] for name, node in averages.items()}
    counts = {safe_text(name): count for name, count in counts.items()}
    width = max(map(len, counts))
    for name, count in counts.items():
        sys.stdout.write(f"{name:{width}}  {count} sample{'' if count == 1 else 's'}\n")
    sys.stdout.write(f"Averages: {out}\n")
