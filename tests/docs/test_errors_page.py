"""The errors that the page explains are errors that the code raises, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"
STAGES = ("analysis", "capture", "i2am", "page", "schemas", "viewer")
# What differs from case to case; the page says it with the same sign.
OPEN = "…"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield every text of a module but its docstrings, with what is filled in left open."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in told:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else OPEN for p in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def code() -> list[str]:
    files = [file for stage in STAGES for file in (ROOT / stage).rglob("*.py")]
    found = (text for file in files for text in texts(ast.parse(file.read_text("utf-8"))))
    return [" ".join(text.split()) for text in found if " " in text]


def quoted() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return [line.strip() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("message", quoted())
def test_every_quoted_message_is_one_of_the_codes(message: str, code: list[str]) -> None:
    pieces = [piece.strip() for piece in message.split(OPEN) if len(piece.strip()) > 2]
    assert pieces
    in_order = re.compile(".*".join(map(re.escape, pieces)))
    assert any(in_order.search(text) for text in code), message


def test_every_message_has_its_cause_and_its_way_out() -> None:
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^## ", text.partition("## Warnings")[0], flags=re.MULTILINE)[1:]
    assert len(parts) > 12
    for part in parts:
        assert "**Cause.**" in part, part
        assert "**Way out.**" in part, part
