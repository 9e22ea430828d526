"""Write the table and the gallery of docs/gallery/models.md from the registered profiles.

Run from the project's root: ``.venv/bin/python tools/models_page.py``. A test compares the page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from i2am.capture.families.lookup import known_profiles
from i2am.capture.profiles.notes import ModelNotes

PAGE = Path(__file__).parents[1] / "docs" / "gallery" / "models.md"
_HEADER = ("profile", "serves", "reference tokens", "grid", "shares the softmax", "text roads")


def main() -> int:
    """Write the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def written(page: str) -> str:
    """Return the page with its generated parts made anew."""
    for name, lines in (("table", table()), ("gallery", gallery())):
        start, end = f"<!-- {name}: tools/models_page.py -->", f"<!-- end of {name} -->"
        parts = re.split(f"{re.escape(start)}.*?{re.escape(end)}", page, flags=re.DOTALL)
        if len(parts) != 2:
            msg = f"Expected {start} … {end} once in {PAGE}."
            raise ValueError(msg)
        page = f"{parts[0]}{start}\n{chr(10).join(lines)}\n{end}{parts[1]}"
    return page


def documented() -> list[tuple[str, ModelNotes]]:
    """Return the profiles of this package with their notes, by name."""
    return sorted((p.name, p.notes) for p in known_profiles() if p.notes is not None)


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| {' | '.join(_HEADER)} |"
    yield "|---" * len(_HEADER) + "|"
    for name, notes in documented():
        roads = "yes" if notes.has_text else "–"
        cells = (f"[`{name}`](#{name.replace('.', '')})", notes.serves, notes.tokens, notes.grid)
        yield f"| {' | '.join((*cells, notes.shares, roads))} |"


def gallery() -> Iterator[str]:
    """Yield the lines of the sections, one a profile."""
    for name, notes in documented():
        yield f"\n### {name}\n"
        yield f"- Serves {notes.serves}."
        yield f"- The reference is {notes.prepared}."
        yield f"- Not in its maps: {notes.unseen}."
        yield f"\n```py\n{notes.example.strip()}\n```"


if __name__ == "__main__":
    sys.exit(main())
