"""The command ``i2am average``: what maps have in common, over a run or each kind of sample."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from i2am.cli.arguments import add_command, existing_store, new_address, sample_name
from i2am.schemas.choices import LEVEL_NAMES
from i2am.schemas.text import safe_text

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands, "average", _average, "average the maps over samples, with their variance"
    )
    command.add_argument("store", type=existing_store, metavar="MAPS.zarr")
    command.add_argument(
        "--run", dest="source", type=existing_store, metavar="RUN.zarr", help="where the labels are"
    )
    command.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="one average for each value of a manifest's column, or of what capture noted",
    )
    command.add_argument(
        "--levels",
        nargs="+",
        choices=LEVEL_NAMES,
        default=list(LEVEL_NAMES[:4]),
        help="default: the first four",
    )
    command.add_argument(
        "--samples", nargs="+", type=sample_name, metavar="SAMPLE", help="default: all"
    )
    command.add_argument(
        "--out", type=new_address, metavar="FILE.zarr", help="default: beside the maps"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an earlier average")


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
