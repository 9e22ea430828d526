"""What the command line takes, and the one line that says what is wrong with a call.

Each function that parses an option's value returns it, or says what was wanted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from i2am.schemas import Fault, I2AMError, find_faults

__all__ = [
    "Parser",
    "existing_file",
    "existing_store",
    "explain",
    "grid",
    "number",
    "positive",
    "print_error",
    "shard",
]


class Parser(argparse.ArgumentParser):
    """One line for a wrong call; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with code 2."""
        print_error(f"{message}. See {self.prog} --help.")
        raise SystemExit(2)


def print_error(message: str) -> None:
    """Write one line to standard error, whatever line breaks `message` holds."""
    sys.stderr.write(f"i2am: {' '.join(message.split())}\n")


def explain(error: Exception, stores: Iterable[str | Path] = ()) -> str:
    """Return what to tell a user of an error.

    Our own errors say it themselves. Any other that comes of a store is most often the store's
    fault: then the first way in which one of `stores` breaks the contract is told instead.
    """
    if isinstance(error, I2AMError | OSError) and str(error):
        return str(error)
    for store in stores:
        if (fault := _first_fault(store)) is not None:
            return (
                f"Expected a store that keeps the contract, got '{fault}', at {store}. "
                f"Run 'i2am validate {store}' for all that is wrong with it."
            )
    message = str(error) or "no message"
    hint = "Run it again with --debug and report what it shows."
    return f"Expected no such error, got {type(error).__name__}: {message}. {hint}"


def _first_fault(store: str | Path) -> Fault | None:
    from i2am.analysis import describe_store

    try:
        return next(find_faults(describe_store(store)), None)
    except (I2AMError, OSError, ValueError):  # It cannot even be described.
        return None


def existing_file(text: str) -> Path:
    """Return the path of a file that exists."""
    if not Path(text).is_file():
        msg = f"expected a file, found none at {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def existing_store(text: str) -> str:
    """Return a URL, or the path of a folder that exists."""
    if "://" not in text and not Path(text).exists():
        msg = f"expected a store, found none at {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return text


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        msg = f"expected a whole number from 1 on, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def number(text: str) -> float:
    """Return a number, neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"expected a number, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return value


def grid(text: str) -> tuple[int, int]:
    """Return (height, width) of "HxW"."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        msg = f"expected a grid HxW such as 64x48, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(height), int(width)


def shard(text: str) -> tuple[int, int]:
    """Return (I, N) of "I/N"."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        msg = f"expected I/N with I from 1 to N, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(index), int(count)
