"""The code of a page of Markdown: its fences, and the commands in its indented blocks."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "Block", "blocks", "commands", "pages"]

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^( *)(```+|:::+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_INDENTED: Final = re.compile(r"(?<=\n\n)(?:    \S[^\n]*\n)(?:(?:    [^\n]*)?\n)*")
_REASON: Final = re.compile(r"<!-- Not run: ([^>]+)\. -->\n\n?\Z")
_PAGE_REASON: Final = re.compile(r"<!-- No code of this page is run: ([^>]+)\. -->")
_SHELL: Final = ("bash", "sh", "console", "shell", "")


@dataclass(frozen=True)
class Block:
    """A fence, or an indented block; `reason` says why it is not run, and is empty where it is."""

    page: str
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the pages for users and contributors, by their paths in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    others = ("tests/", "page/web/", ".github/")
    return sorted(
        name for name in set(listed) if not name.startswith(others) and (ROOT / name).exists()
    )


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, from the top down."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for_all = _PAGE_REASON.search(text)
    found, rest = [], text
    for fence in _FENCE.finditer(text):
        _, _, info, code = fence.groups()
        own = _REASON.search(text, 0, fence.start()) or for_all
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, line, info.strip(), code, own[1] if own else ""))
        blank = re.sub(r"[^\n]", "", fence[0])
        rest = (
            rest[: fence.start()]
            + "\0" * (len(fence[0]) - len(blank))
            + blank
            + rest[fence.end() :]
        )
    for block in _INDENTED.finditer(rest):
        own = _REASON.search(text, 0, block.start()) or for_all
        code = re.sub(r"^    ", "", block[0], flags=re.MULTILINE)
        line = rest.count("\n", 0, block.start()) + 1
        found.append(Block(page, line, "", code, own[1] if own else ""))
    return sorted(found, key=lambda block: block.line)


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block, without comments, prompts and environment."""
    if block.language not in _SHELL:
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True) if _closes(line) else []
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        if words:
            yield words


def _closes(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:  # A quote of prose.
        return False
    return True
