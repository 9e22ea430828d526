"""What the command line takes, and the one line that says what is wrong with a call.

Each function that parses an option's value returns it, or says what was wanted.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from i2am.cli.parser import Parser, print_error
from i2am.disk import has_no_room
from i2am.schemas.errors import I2AMError, shorten

if TYPE_CHECKING:
    from i2am.capture.batch.batch_summary import BatchSummary
    from i2am.schemas import Fault

__all__ = [
    "Parser",
    "add_command",
    "byte_count",
    "call_argument",
    "existing_file",
    "existing_path",
    "existing_store",
    "explain",
    "grid",
    "kept_steps",
    "labels",
    "new_address",
    "new_path",
    "number",
    "port",
    "positive",
    "print_clusters",
    "print_error",
    "print_summary",
    "sample_name",
    "sample_names",
    "seed",
    "shard",
    "share",
    "worker_count",
]

# Texts, with the numbers of further text encoders.
_PROMPTS = re.compile(r"(negative_)?prompt(_\d+)?")
# Far beyond any count of ours, and far below what Python or an array's index cannot hold.
_MOST: Final = 10**9
# More labels than any model has steps or heads; they are listed in memory.
_MOST_LABELS: Final = 100_000
_MOST_WORKERS: Final = 1024
_LAST_PORT: Final = 65535
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Where commands take a store.
_STORE_OPTIONS = ("store", "maps", "source", "other")
_BYTE_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{prefix}iB": 2**power for prefix, power in (("K", 10), ("M", 20), ("G", 30), ("T", 40))
}


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    purpose: str,
    extras: Sequence[str] = ("analysis",),
    *,
    examples: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a command that `run` does with the packages of some extras, and return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        examples=examples,
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run, command=name, extras=tuple(extras))
    return command


def print_clusters(clusters: Mapping[str, str], samples: Iterable[str]) -> None:
    """Print by how many clusters intervals are drawn, where samples share some."""
    names = list(samples)
    count = len({clusters[name] for name in names})
    if count < len(names):
        clusters_of = f"{count} cluster{'s' * (count > 1)}"
        sys.stdout.write(f"Intervals: of {len(names)} samples in {clusters_of}, drawn together\n")


def print_summary(address: Any, summary: BatchSummary) -> int:
    """Print what became of a batch's samples, and return the exit code."""
    for reason in summary.taken.values():
        print_error(reason)
    for sample, reason in summary.failed.items():
        print_error(f"sample {sample!r} failed: {reason}")
    if summary.untried:
        print_error(
            f"stopped, as the store failed: {len(summary.untried)} samples were not tried. The same "
            "command goes on from here"
        )
    sys.stdout.write(f"{address}: {summary}\n")
    return 1 if summary.failed else 0


def explain(error: Exception, options: argparse.Namespace) -> str:
    """Return what to tell a user of a command's error.

    Our own errors say it themselves. Where an import fails, the command's extras are what to install.
    Any other error that comes of a store is most often the store's fault: then the first way in which
    one of those that were named breaks the contract is told instead.
    """
    if isinstance(error, I2AMError) and str(error):
        return str(error)
    if isinstance(error, OSError) and has_no_room(error):
        from i2am.storage.failures import storage_error

        place = error.filename or getattr(options, "out", None) or "what is written"
        return str(storage_error(error, place))
    if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
        where = "" if error.filename is None else f", at {error.filename}"
        return (
            f"Expected files that can be read and written, got {type(error).__name__}: "
            f"{error.strerror}{where}. Check the path and the rights to it."
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
    if isinstance(error, MemoryError):
        reason = f" ({error})" if str(error) else ""
        return (
            f"Expected 'i2am {given.get('command', '')}' to fit this machine's memory, got more"
            f"{reason}. Ask for less of it, or run it on a larger machine."
        )
    message = str(error) or "no message"
    hint = "Run it again with --debug and report what it shows."
    return f"Expected no such error, got {type(error).__name__}: {message}. {hint}"


def _first_fault(store: str | Path) -> Fault | None:
    from i2am.analysis import describe_store
    from i2am.schemas import find_faults

    try:
        return next(find_faults(describe_store(store)), None)
    except (I2AMError, OSError, ValueError):  # It cannot even be described.
        return None


def existing_file(text: str) -> Path:
    """Return the path of a file that exists."""
    if not os.path.isfile(text):  # noqa: PTH113 - pathlib's raises of a name that is too long
        msg = f"expected a file, found none at {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def existing_path(text: str) -> Path:
    """Return the path of a file or folder that exists."""
    if not (text and os.path.exists(text)):  # noqa: PTH110 - as above
        msg = f"expected a file or folder, found none at {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def existing_store(text: str) -> str:
    """Return a URL, or the path of a folder that exists."""
    if "://" not in text and not (text and os.path.exists(text)):  # noqa: PTH110 - as above
        msg = f"expected a store, found none at {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return text


def sample_name(text: str) -> str:
    """Return what can be the name of a sample; whether there is such a one is told by its store."""
    if text in {"", ".", ".."} or "/" in text or _CONTROL_CHARACTERS.search(text):
        msg = f"expected a sample's name, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return text


def sample_names(text: str) -> list[str]:
    """Return the names of "A" or "A,B": no sample's name has a comma.

    Examples
    --------
    >>> sample_names("shirt-001"), sample_names("a,b")
    (['shirt-001'], ['a', 'b'])
    """
    return [sample_name(name) for name in text.split(",")]


def new_address(text: str) -> str:
    """Return a URL, or a path that can be written as text in one line."""
    if (
        not text
        or _CONTROL_CHARACTERS.search(text)
        or text != text.encode(errors="replace").decode()
    ):
        msg = f"expected a path of visible characters, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return text


def new_path(text: str) -> Path:
    """Return a local path that can be written as text in one line."""
    if "://" in text:
        msg = f"expected a local path, got the URL {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return Path(new_address(text))


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    if not (value := _whole_number(text)):
        msg = f"expected a whole number from 1 on{_too_large(text)}, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return value


def port(text: str) -> int:
    """Return the number of a port; 0 is any free one."""
    value = _whole_number(text)
    if value is None or value > _LAST_PORT:
        msg = f"expected a port from 0 to {_LAST_PORT}, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return value


def worker_count(text: str) -> int:
    """Return a number of processes that one machine may run."""
    value = positive(text)
    if value > _MOST_WORKERS:
        msg = f"expected at most {_MOST_WORKERS} processes of one machine, got {value}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _whole_number(text: str) -> int | None:
    """Return a number of plain digits that is within reason; None for anything else."""
    found = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
    return None if found is None or found > _MOST else found


def _too_large(text: str) -> str:
    """Return the bound, to be told where a number is beyond it."""
    return f" to {_MOST:,}" if re.fullmatch(r"[0-9]+", text) and text.strip("0") else ""


def number(text: str) -> float:
    """Return a number, neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"expected a number, got {shorten(repr(text))}"
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
    """Return (height, width) of "HxW", or of "N" for both."""
    height, width = map(_whole_number, text.split("x", 1) if "x" in text else (text, text))
    if not (height and width):
        msg = f"expected a grid N or HxW, such as 64 or 64x48, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return height, width


def shard(text: str) -> tuple[int, int]:
    """Return (I, N) of "I/N", where shards count from 0."""
    index, count = map(_whole_number, text.partition("/")[::2])
    if index is None or count is None or index >= count:
        msg = f"expected I/N with I from 0 to N - 1, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return index, count


def seed(text: str) -> int:
    """Return a whole number, which may be negative; how many bits it may have is told elsewhere."""
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        msg = f"expected a whole number, got {shorten(repr(text))}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def kept_steps(text: str) -> int | slice | list[int]:
    """Return every N-th, a slice "A:B[:S]", or the numbers of a list.

    Examples
    --------
    >>> kept_steps("5"), kept_steps(":20:4"), kept_steps("0,10,49")
    (5, slice(None, 20, 4), [0, 10, 49])
    """
    found = _whole_number(text) if text.isdecimal() else _slice_or_list(text)
    if not found:
        came = shorten(repr(text))
        msg = f"expected every N-th step as N, a range A:B[:S] or a list A,B,…, got {came}"
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
        numbers = range(0 if stop is None else stop)[slice(found.start, stop, found.step)]
        if len(numbers) > _MOST_LABELS:
            msg = f"expected at most {_MOST_LABELS:,} numbers, got {len(numbers):,} in {text!r}"
            raise argparse.ArgumentTypeError(msg)
        found = list(numbers)
    if not found:
        came = shorten(repr(text))
        msg = f"expected numbers as a list A,B,… or a range A:B[:S], got {came}"
        raise argparse.ArgumentTypeError(msg)
    return found


def _slice_or_list(text: str) -> slice | list[int] | None:
    """Return None for what is neither, and for a slice that holds nothing."""
    if re.fullmatch(r"[0-9]+(,[0-9]+)*,?", text):
        numbers = [_whole_number(part) for part in text.rstrip(",").split(",")]
        return None if None in numbers else [n for n in numbers if n is not None]
    if not re.fullmatch(r"[0-9]*:[0-9]*(:[0-9]*)?", text):
        return None
    parts = text.split(":")
    if any(part and _whole_number(part) is None for part in parts):
        return None
    start, stop, step = ([int(part) if part else None for part in parts] + [None])[:3]
    is_empty = step == 0 or (stop is not None and stop <= (start or 0))
    return None if is_empty else slice(start, stop, step)


def byte_count(text: str) -> int:
    """Return a number of bytes, given as in "2GiB", "500MB" or "1000000".

    Examples
    --------
    >>> byte_count("1.5GiB")
    1610612736
    """
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) *([A-Za-z]*)", text)
    units = {unit.upper(): size for unit, size in _BYTE_UNITS.items()}
    size = units.get(found[2].upper()) if found else None
    if found is None or size is None or float(found[1]) * size < 1:
        msg = f"expected an amount of memory such as 2GiB or 500MB, got {shorten(repr(text))}"
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
        msg = f"expected NAME=VALUE, got {shorten(repr(text))}"
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
