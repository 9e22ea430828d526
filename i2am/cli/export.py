"""The command ``i2am export``: a run in a form for others to read."""

from __future__ import annotations

import argparse
from typing import Any

from i2am.cli.arguments import add_command, existing_store, new_path
from i2am.cli.options import add_option

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "export",
        _export,
        "write a run as a page for a web server",
        examples=("i2am export run.zarr --page page",),
    )
    command.add_argument(
        "store",
        type=existing_store,
        metavar="RUN.zarr",
        help="captured run, or maps, which name theirs",
    )
    kinds = command.add_mutually_exclusive_group(required=True)
    kinds.add_argument(
        "--page",
        type=new_path,
        metavar="DIR",
        help="a static site that reads the run in the browser",
    )
    add_option(command, "--maps")
    command.add_argument(
        "--url", metavar="URL", help="where browsers find the run; default: beside the page"
    )
    command.add_argument(
        "--maps-url", metavar="URL", help="where browsers find the maps; default: beside the page"
    )
    add_option(command, "--overwrite")


def _export(options: argparse.Namespace) -> None:
    from i2am.page import export_page

    out = export_page(
        options.store,
        options.page,
        maps=options.maps,
        url=options.url,
        maps_url=options.maps_url,
        overwrite=options.overwrite,
    )
    print(f"Page: {out / 'index.html'}")
