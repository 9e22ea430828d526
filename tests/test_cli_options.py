"""The options of all commands as one table: each has help, and a name means one thing; examples are right."""

from __future__ import annotations

import argparse
import io
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from i2am.cli import build_parser
from i2am.cli.options import SHARED
from i2am.cli.parser import HIDDEN, ListAction, Parser, shown_options

# Files that the examples name.
EXAMPLE_FILES = ("rows.csv", "scores.csv", "points.csv")
# The same name, with another value or meaning in these commands, and why; in all others it agrees.
SEVERAL_MEANINGS = {
    ("--out", "*"): "what is written differs, and its metavar says what",
    ("--grid", "causal"): "of the regions that are cut; elsewhere of the maps that are made",
    ("--guidance", "capture"): "which branches are stored, one or both; elsewhere one is read",
    ("--guidance", "causal"): "in which branches is cut, one or both",
    ("--effects", "score"): "the maps are held against it, also without an address",
}
# Earlier spellings, which go on to work: what each was, and in which commands.
EARLIER = {
    ("capture", "--steps"): "inference_steps",
    ("causal", "--steps"): "inference_steps",
    ("causal", "--layers"): "cut_layers",
    ("score", "--heads"): "heads_out",
    ("score", "--randomised"): "randomized",
}
WIDTH = 80


class Meaning(NamedTuple):
    """What must agree between two options of one name."""

    kind: str
    value: Any
    metavar: Any
    nargs: Any
    choices: Any
    text: str


def commands() -> dict[str, Parser]:
    (found,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def iter_actions() -> Iterator[tuple[str, argparse.Action]]:
    for command, parser in commands().items():
        for action in parser._actions:
            yield command, action


def meaning(action: argparse.Action) -> Meaning:
    text = (action.help or "").partition(";")[0]
    choices = None if action.choices is None else tuple(action.choices)
    metavar = action.metavar
    return Meaning(type(action).__name__, action.type, metavar, action.nargs, choices, text)


def test_a_name_means_one_thing_in_all_commands() -> None:
    found: dict[str, dict[Meaning, list[str]]] = defaultdict(lambda: defaultdict(list))
    used = set()
    for command, action in iter_actions():
        for name in action.option_strings if action.help != HIDDEN else ():
            reasons = {(name, command), (name, "*")} & SEVERAL_MEANINGS.keys()
            used |= reasons
            if not reasons:
                found[name][meaning(action)].append(command)
    several = {name: dict(those) for name, those in found.items() if len(those) > 1}
    assert several == {}
    assert used == SEVERAL_MEANINGS.keys()  # A reason that is no longer needed goes.


def test_the_shared_options_are_those_that_commands_take() -> None:
    taken = {name for _, action in iter_actions() for name in action.option_strings}
    assert set(SHARED) <= taken


@pytest.mark.parametrize("command", commands())
def test_every_option_has_help_and_says_what_it_is_without_being_given(command: str) -> None:
    parser = commands()[command]
    told = parser.format_help()
    for action in parser._actions:
        assert action.help, action
        if action.help == HIDDEN:
            continue
        takes_value = action.option_strings and action.nargs != 0 and not action.required
        in_group = any(
            action in group._group_actions for group in parser._mutually_exclusive_groups
        )
        if not takes_value or in_group or action.dest == "argument":
            continue
        own = _entry(told, action.option_strings[-1])
        assert "default: " in own, (command, own)
        assert action.metavar or action.choices or action.dest in {"device", "host", "url"}, own


def _entry(told: str, name: str) -> str:
    """Return what help says of an option, in one line."""
    lines = told.splitlines()
    (begin,) = (i for i, line in enumerate(lines) if re.match(rf"  (-\S+, )?{name}( |$)", line))
    ends = (i for i, line in enumerate(lines) if i > begin and not line.startswith(" " * 4))
    return " ".join(" ".join(lines[begin : next(ends, len(lines))]).split())


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_fits_a_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([*command.split(), "--help"])
    told = out.getvalue()
    assert max(map(len, told.splitlines())) <= WIDTH
    assert told.startswith("usage: i2am")


@pytest.mark.parametrize("command", commands())
def test_the_examples_of_a_command_are_right_calls(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in EXAMPLE_FILES:
        Path(name).touch()
    parser = commands()[command]
    assert 1 <= len(parser.examples) <= 3
    told = parser.format_help().partition("\nexample")[2].replace("\\\n", " ")
    calls = [line.split() for line in told.splitlines() if line.startswith("  i2am ")]
    assert calls == [call.split() for call in parser.examples]
    for call in parser.examples:
        words = shlex.split(call)
        for word in words:
            if ".zarr" in word:
                Path(word).mkdir(parents=True, exist_ok=True)
        assert words[:2] == ["i2am", command]
        assert build_parser().parse_args(words[1:]).command == command


def test_the_examples_of_the_help_of_all_are_right_calls() -> None:
    parser = build_parser()
    assert isinstance(parser, Parser)
    told = parser.format_help().partition("\nexamples:\n")[2]
    assert [line.strip() for line in told.splitlines()] == list(parser.examples)
    assert {call.split()[1] for call in parser.examples} <= set(commands())


def test_earlier_spellings_work_and_are_not_shown() -> None:
    hidden = {
        (command, name): action.dest
        for command, action in iter_actions()
        if action.help == HIDDEN
        for name in action.option_strings
    }
    assert hidden == EARLIER
    for (command, name), dest in EARLIER.items():
        parser = commands()[command]
        assert name not in shown_options(parser._actions)
        assert dest in {a.dest for a in parser._actions if a.help != HIDDEN}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", None),
        ("--samples a b", ["a", "b"]),
        ("--samples a,b", ["a", "b"]),
        ("--samples a --samples b,c d", ["a", "b", "c", "d"]),
    ],
)
def test_samples_are_told_apart_by_spaces_or_commas_or_one_by_one(
    given: str, wanted: object, tmp_path: Path
) -> None:
    for command in ("analyze", "report", "figure", "score", "average"):
        options = build_parser().parse_args([command, str(tmp_path), *given.split()])
        assert options.samples == wanted


def test_what_is_given_takes_the_place_of_a_default_list() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--format", nargs="+", action=ListAction, default=["png"])
    assert parser.parse_args([]).format == ["png"]
    assert parser.parse_args(["--format", "pdf", "--format", "svg"]).format == ["pdf", "svg"]
    assert parser.parse_args([]).format == ["png"]
