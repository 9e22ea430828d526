"""A page for each command of `i2am`, from the parser that the command line itself uses."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from i2am.cli import build_parser

_FOLDER = Path("reference/commands/generated")
# What Markdown would take for markup.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#$|~])")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for pages."""
    app.connect("builder-inited", _write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.md": "\n".join(_page(own)) for name, own, _ in _commands()}
    pages["_table.md"] = "\n".join(
        ["| command | does |", "|---|---|"]
        + [
            f"| [`i2am {name}`](generated/{name}.md) | {_plain(does)} |"
            for name, _, does in _commands()
        ]
    )
    for old in folder.iterdir():
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        # An unchanged page is not read anew.
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def _commands() -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield the name, the parser and the purpose of each command, as `i2am --help` lists them."""
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            purposes = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, purpose in purposes.items():
                yield name, action.choices[name], purpose


def _page(command: argparse.ArgumentParser) -> Iterator[str]:
    yield from (f"# {command.prog}", "", _plain(command.description or ""), "")
    usage = command.format_usage().removeprefix("usage: ").rstrip()
    yield from ("```text", usage, "```", "")
    for group in command._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        title = _plain(str(group.title))
        yield from (f"## {title[0].upper()}{title[1:]}", "")
        if group.description:
            yield from (_plain(group.description), "")
        for action in actions:
            told = command._get_formatter()._expand_help(action) if action.help else ""
            yield from (f"`{_invocation(action)}`", f": {_plain(told) or 'See above.'}", "")
    if command.epilog:
        yield from ("## Examples", "", "```console", _commands_of(command.epilog), "```", "")


def _invocation(action: argparse.Action) -> str:
    """Return how an argument is given, as the help has it, with the choices whole."""
    value = argparse.HelpFormatter("")._format_args(action, _metavar(action))
    if not action.option_strings:
        return value
    return ", ".join(f"{option} {value}".rstrip() for option in action.option_strings)


def _metavar(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.option_strings else action.dest


def _commands_of(epilog: str) -> str:
    """Return the lines of an epilog that are commands."""
    lines = (line.strip() for line in epilog.splitlines())
    return "\n".join(line for line in lines if line and not line.endswith(":"))


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
