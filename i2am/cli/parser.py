"""The parser of a command: how its help is laid out, and the line that says what is wrong with a call."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from i2am.schemas.errors import did_you_mean, shorten
from i2am.schemas.text import safe_text

__all__ = ["HIDDEN", "ListAction", "Parser", "print_error"]

# Help of an earlier spelling: it goes on to work and is not shown.
HIDDEN: Final = argparse.SUPPRESS
_HELP_COLUMN: Final = 26
_MOST_COLUMNS: Final = 100
_EXAMPLE_COLUMNS: Final = 74
_LONGEST_WORD: Final = 300
_LONGEST_MESSAGE: Final = 5000


def print_error(message: str) -> None:
    """Write one line to standard error, whatever line breaks, controls or lengths `message` holds."""
    words = (shorten(safe_text(word), _LONGEST_WORD) for word in message.split())
    sys.stderr.write(f"i2am: {shorten(' '.join(words), _LONGEST_MESSAGE)}\n")


class Parser(argparse.ArgumentParser):
    """A parser that shows examples below its help, and has one line for a wrong call.

    Parameters
    ----------
    examples : sequence of str
        Whole calls, which are right.
    **options : Any
        Of `argparse.ArgumentParser`.
    """

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        self.examples = tuple(examples)
        if examples:
            title = "examples" if len(examples) > 1 else "example"
            options["epilog"] = "\n".join([f"{title}:", *map(_in_lines, examples)])
        super().__init__(**{"formatter_class": _HelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with code 2; argparse would print the usage before it."""
        if self._subparsers is not None and message.endswith("required: COMMAND"):
            message = "expected a command, such as 'i2am demo', got none"
        end = "" if message.endswith((".", "?")) else "."
        print_error(f"{message}{end} See '{self.prog} --help'.")
        raise SystemExit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is left over where it was given: argparse leaves that to the caller."""
        options, others = super().parse_known_args(args, namespace)
        if others:
            self.error(self._left_over(others))
        return options, others

    def _left_over(self, others: Sequence[str]) -> str:
        """Return what is wrong with arguments that the parser has no use for."""
        first, came = others[0].partition("=")[0], shorten(shlex.join(others))
        if not first.startswith("-"):
            return f"expected no further argument of '{self.prog}', got {came}"
        if self._subparsers is not None:
            return f"expected options after their command, got {came}"
        # Without the dashes, which make every two options alike.
        known = [name.removeprefix("--") for name in shown_options(self._actions)]
        close = difflib.get_close_matches(first.lstrip("-"), known, n=1)
        hint = f". Did you mean '--{close[0]}'?" if close else ""
        return f"expected an option of '{self.prog}', got {came}{hint}"

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        """Return how many arguments an option takes; one that has none is told its choices."""
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError as e:
            if action.choices is None:
                raise
            msg = f"expected one of {', '.join(map(str, action.choices))}, got none"
            raise argparse.ArgumentError(action, msg) from e

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise unless a value is one of the choices; argparse's text lists them all."""
        if action.choices is None or value in action.choices:
            return
        hint = did_you_mean(str(value), map(str, action.choices))
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"expected a command, got {shorten(repr(value))}. {hint}")
        msg = f"expected a known value, got {shorten(repr(value))}. {hint}"
        raise argparse.ArgumentError(action, msg)


def shown_options(actions: Iterable[argparse.Action]) -> list[str]:
    """Return the long names of the options that help shows."""
    return [
        name
        for action in actions
        if action.help != HIDDEN
        for name in action.option_strings
        if name.startswith("--")
    ]


def _in_lines(call: str) -> str:
    """Return an example in lines that a terminal holds, which a shell takes as one."""
    lines = textwrap.wrap(
        call,
        _EXAMPLE_COLUMNS,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "  " + " \\\n  ".join(lines)


class ListAction(argparse.Action):
    """Gather the values of an option that may be given several times, each a value or a list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the values; the first ones take the default's place."""
        given = getattr(namespace, self.dest, None)
        found = [] if given is None or given is self.default else list(given)
        for value in values if isinstance(values, list) else [values]:
            found += value if isinstance(value, list) else [value]
        setattr(namespace, self.dest, found)


class _HelpFormatter(argparse.HelpFormatter):
    """Short usage, a default for every option that has one, and examples line by line."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": _HELP_COLUMN, **options})
        self._width = min(self._width, _MOST_COLUMNS)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """Show what must be given; the options stand below."""
        needed_groups = [group for group in groups if group.required]
        of_groups = [action for group in needed_groups for action in group._group_actions]
        needed = [a for a in actions if not a.option_strings or a.required or a in of_groups]
        if len(needed) < len(list(actions)):
            self._prog = f"{self._prog} [options]"
        super().add_usage(usage, needed, needed_groups, prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if not text or "default" in text or not action.option_strings:
            return text
        if default is None or default is argparse.SUPPRESS or isinstance(default, bool | list):
            return text
        return f"{text}; default: %(default)s"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "\n".join(f"{indent}{line}" for line in text.splitlines())
