# PYTHON_ARGCOMPLETE_OK - a shell's global completion looks for this.
"""The command line: parse, call one function of a stage, print.

Exit codes: 0 done, 1 the work failed or something is invalid, 2 the call is wrong, 128 and the
signal's number when it was told to stop. Errors are one line on standard error; ``--debug`` shows the
traceback. Stages are imported inside the commands, so that ``i2am --help`` answers at once and a
capture node needs no napari.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import partial

from i2am.cli import (
    analyze,
    average,
    capture,
    causal,
    compare,
    demo,
    export,
    figures,
    report,
    score,
    serve,
    stores,
    tokens,
    view,
)
from i2am.cli.arguments import explain
from i2am.cli.completion import complete
from i2am.cli.parser import Parser, print_error
from i2am.cli.stopping import Stopped, stopped_by_signals
from i2am.schemas import require_extras
from i2am.schemas.text import safe_text

__all__ = ["build_parser", "main"]

# A command is a file with `add(commands)`, and a line here; help lists them in this order.
_COMMANDS = (
    *(demo, tokens, capture, analyze, causal, score, average, compare),
    *(figures, report, view, serve, export, stores),
)
# Commands that skip what an earlier call has finished.
_CONTINUED = frozenset({"capture", "analyze", "causal"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = argparse.Namespace(debug=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that lacks a character shows its code.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        parser = build_parser()
        complete(parser)
        parser.parse_args(arguments, options)
        if not options.debug:
            _quiet_libraries()
        # Without arguments this is the program itself.
        with stopped_by_signals(partial(_say_stopped, options), is_program=arguments is None):
            require_extras(f"to run 'i2am {options.command}'", *options.extras)
            return int(options.run(options) or 0)
    except KeyboardInterrupt as e:
        _say_stopped(options, e)
        return e.exit_code if isinstance(e, Stopped) else 128 + signal.SIGINT
    except Exception as e:  # A traceback is for those who ask for it.
        if options.debug:
            raise
        print_error(explain(e, options))
        return 1


def _say_stopped(options: argparse.Namespace, stopped: KeyboardInterrupt) -> None:
    """Say in one line that a command was stopped, and how to go on."""
    how = "call it again to do it anew"
    if getattr(options, "command", None) in _CONTINUED:
        how = "what is finished is kept, and the same command goes on from here"
    print_error(f"stopped {stopped or 'by Ctrl-C'}; {how}")


def _quiet_libraries() -> None:
    """Keep third parties' notices out of the way of progress bars and errors, which tell the same."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger().setLevel(logging.ERROR)
    # Of several requests that fail together one is told; asyncio would print the others' tracebacks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"(?!i2am)")
    warnings.formatwarning = _format_warning


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a warning in one line, without the place in our code that gave it."""
    return f"i2am: {safe_text(' '.join(str(message).split()))}\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; parsed options have a `run` to call."""
    from i2am import __version__

    parser = Parser(
        prog="i2am",
        description="Attention attribution for image-to-image diffusion.",
        examples=("i2am demo", "i2am serve i2am-demo/run.zarr", "i2am capture --help"),
    )
    parser.add_argument("--version", action="version", version=f"i2am {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for command in _COMMANDS:
        command.add(commands)
    return parser
