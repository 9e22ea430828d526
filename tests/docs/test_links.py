"""Every link of the documentation leads to a file of the repository, and to a heading that is there."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|^:link: (\S+)$", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the source tree")


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    shown = (ROOT / name for name in listed if not name.startswith(("tests/", "page/web/")))
    return [page for page in shown if page.exists()]


def prose(page: Path) -> str:
    """Return a page without its code, whose comments look like headings."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```[^{\n]*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """Return the anchor that GitHub and MyST give a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = prose(page)
    found: set[str] = set()
    for heading in _HEADING.findall(text):
        # A heading that comes again is numbered.
        same = (slug(heading) + (f"-{n}" if n else "") for n in itertools.count())
        found.add(next(anchor for anchor in same if anchor not in found))
    return found | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = prose(page)
    faults = []
    for found in _LINK.finditer(text):
        target = found[1] or found[2]
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / name
        if found[2] and not file.suffix:
            file = file.with_suffix(".md")
        if not file.exists():
            faults.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            faults.append(f"{target}: no such heading")
    assert faults == []


def test_the_anchors_are_githubs() -> None:
    assert slug("`i2am score`: what *one* says, [here](x.md)") == "i2am-score-what-one-says-here"
