"""The command ``i2am serve``: a run in the browsers of this machine."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from i2am.cli.arguments import add_command, existing_store, port
from i2am.cli.options import add_option

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "serve",
        _serve,
        "show a run in a browser, and answer its clicks",
        examples=("i2am serve run.zarr", "i2am serve run.zarr --port 8080 --no-open"),
    )
    command.add_argument(
        "store",
        type=existing_store,
        metavar="RUN.zarr",
        help="captured run, or maps, which name theirs",
    )
    add_option(command, "--maps")
    command.add_argument(
        "--port", type=port, default=0, metavar="N", help="port to listen at; default: a free one"
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; default: 127.0.0.1, which this machine alone can reach",
    )
    command.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=_has_desktop(),
        help="open a browser; default: on a desktop",
    )


def _serve(options: argparse.Namespace) -> None:
    from i2am.page import serve

    try:
        serve(
            options.store,
            maps=options.maps,
            host=options.host,
            port=options.port,
            open_browser=options.open,
            tell=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:  # As it says how to.
        print()


def _has_desktop() -> bool:
    """Return whether a browser would open where the user sits."""
    if "SSH_CONNECTION" in os.environ:
        return False
    is_x = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return is_x or sys.platform in {"darwin", "win32"}
