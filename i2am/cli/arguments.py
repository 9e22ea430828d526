"""What the command line takes, and the one line that says what is wrong with a call.

Each function that parses an option's value returns it, or says what was wanted.
"""

from __future__ import annotations

import argparse
import ast
import errno
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from i2am.schemas import Fault, I2AMError, find_faults
from i2am.schemas.text import safe_text

__all__ = [
    "Parser",
    "add_command",
    "byte_count",
    "call_argument",
    "existing_file",
    "existing_store",
    "explain",
    "grid",
    "kept_steps",
    "labels",
    "number",
    "positive",
    "print_error",
    "shard",
    "share",
]

# Texts, with the numbers of further text encoders.
_PROMPTS = re.compile(r"(negative_)?prompt(_\d+)?")
# Where commands take a store.
_STORE_OPTIONS = ("store", "maps", "source", "other")
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_BYTE_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{prefix}iB": 2**power for prefix, power in (("K", 10), ("M", 20), ("G", 30), ("T", 40))
}


class Parser(argparse.ArgumentParser):
    """One line for a wrong call; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with code 2."""
        print_error(f"{message}. See {self.prog} --help.")
        raise SystemExit(2)


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    purpose: str,
    extras: Sequence[str] = ("analysis",),
) -> argparse.ArgumentParser:
    """Add a command that `run` does with the packages of some extras, and return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run, command=name, extras=tuple(extras))
    return command


def print_error(message: str) -> None:
    """Write one line to standard error, whatever line breaks and the like `message` holds."""
    sys.stderr.write(f"i2am: {safe_text(' '.join(message.split()))}\n")


def explain(error: Exception, options: argparse.Namespace) -> str:
    """Return what to tell a user of a command's error.

    Our own errors say it themselves. Where an import fails, the command's extras are what to install.
    Any other error that comes of a store is most often the store's fault: then the first way in which
    one of those that were named breaks the contract is told instead.
    """
    if isinstance(error, I2AMError) and str(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        from i2am.storage.failures import storage_error

        place = error.filename or getattr(options, "out", None) or "what is written"
        return str(storage_error(error, place))
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"Expected files that can be read and written, got {type(error).__name__}: "
            f"{error.strerror}, at {error.filename}. Check the path and the rights to it."
        )
    given = vars(options)
    if isinstance(error, ImportError) and not str(error.name).startswith("i2am"):
        return (
            f"Expected the packages of 'i2am {given.get('command', '')}', got "
            f"{type(error).__name__}: {error}. Install with "
            f"pip install 'i2am[{','.join(given.get('extras', ['all']))}]'."
        )
    for store in filter(None, map(given.get, _STORE_OPTIONS)):
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


def share(text: str) -> float:
    """Return a number between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        msg = f"expected a number between 0 and 1, got {text!r}"
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
    """Return (I, N) of "I/N", where shards count from 0."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        msg = f"expected I/N with I from 0 to N - 1, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(index), int(count)


def kept_steps(text: str) -> int | slice | list[int]:
    """Return every N-th, a slice "A:B[:S]", or the numbers of a list.

    Examples
    --------
    >>> kept_steps("5"), kept_steps(":20:4"), kept_steps("0,10,49")
    (5, slice(None, 20, 4), [0, 10, 49])
    """
    found = int(text) if text.isdecimal() else _slice_or_list(text)
    if not found:
        msg = f"expected every N-th step as N, a range A:B[:S] or a list A,B,…, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return found


def labels(text: str) -> list[int]:
    """Return the numbers of a list, or of a range "A:B[:S]".

    Examples
    --------
    >>> labels("3"), labels("0,2"), labels("1:8:3")
    ([3], [0, 2], [1, 4, 7])
    """
    found = _slice_or_list(text)
    if isinstance(found, slice):
        stop = found.stop
        found = None if stop is None else list(range(found.start or 0, stop, found.step or 1))
    if not found:
        msg = f"expected numbers as a list A,B,… or a range A:B[:S], got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return found


def _slice_or_list(text: str) -> slice | list[int] | None:
    """Return None for what is neither, and for a slice that holds nothing."""
    if re.fullmatch(r"\d+(,\d+)*,?", text):
        return [int(part) for part in text.rstrip(",").split(",")]
    if not re.fullmatch(r"\d*:\d*(:\d*)?", text):
        return None
    start, stop, step = ([int(p) if p else None for p in text.split(":")] + [None])[:3]
    is_empty = step == 0 or (stop is not None and stop <= (start or 0))
    return None if is_empty else slice(start, stop, step)


def byte_count(text: str) -> int:
    """Return a number of bytes, given as in "2GiB", "500MB" or "1000000".

    Examples
    --------
    >>> byte_count("1.5GiB")
    1610612736
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", text)
    units = {unit.upper(): size for unit, size in _BYTE_UNITS.items()}
    size = units.get(found[2].upper()) if found else None
    if found is None or size is None or float(found[1]) * size < 1:
        msg = f"expected an amount of memory such as 2GiB or 500MB, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(float(found[1]) * size)


def call_argument(text: str) -> tuple[str, Any]:
    """Return name and value of "NAME=VALUE".

    A value that reads as JSON or as a Python literal is one: a number, true, null, a list, an object.
    Any other is a text, and so is that of a prompt whatever it reads like. Quotes make a text of what
    reads otherwise.

    Examples
    --------
    >>> call_argument("num_images_per_prompt=1"), call_argument("prompt=1")
    (('num_images_per_prompt', 1), ('prompt', '1'))
    >>> call_argument("eta=None"), call_argument("style='7'"), call_argument("style=a red hat")
    (('eta', None), ('style', '7'), ('style', 'a red hat'))
    """
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        msg = f"expected NAME=VALUE, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return name, value if _PROMPTS.fullmatch(name) else _literal(value)


def _literal(text: str) -> Any:
    """Return the value that a text stands for; the text where it stands for none."""
    for parse in (_parse_json, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def _parse_json(text: str) -> Any:
    """Return a JSON value; infinity and NaN, which JSON has not, raise ValueError."""
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
