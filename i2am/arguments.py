"""What the command line takes, and the one line that says what is wrong with a call.

Each function that parses an option's value returns it, or says what was wanted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from i2am.schemas import I2AMError

__all__ = [
    "Parser",
    "existing_file",
    "existing_store",
    "explain",
    "grid",
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


def explain(error: Exception) -> str:
    """Return an error's message; for one that nobody foresaw, also its kind and what to do."""
    if isinstance(error, I2AMError | OSError) and str(error):
        return str(error)
    where = "Run it again with --debug and report what it shows"
    return f"unexpected {type(error).__name__}: {error or 'no message'}. {where}."


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
