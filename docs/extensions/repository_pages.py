"""Pages that lie elsewhere in the repository, and links to files that are no page.

`repository_pages` names them: each page of the site, below a folder `generated`, and the file that it
shows. A page links to the file, as it must in the repository, and the site leads to the page. A file
that is no page is offered as a download.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

# A link that is called by its file's name, which readers of the site do not know: its title stands there.
_NAMED_BY_FILE = re.compile(r"\[[\w./-]+\.md\](?=\([^)#\s]+\.md(#[^)\s]+)?\))")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|<)([^)#\s]+)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for pages, and bring each link to its page."""
    app.add_config_value("repository_pages", {}, "env", [dict])
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _pages(app: Sphinx) -> dict[Path, Path]:
    """Return the page of each file of the repository."""
    source = Path(app.srcdir)
    return {
        (source.parent / file).resolve(): source / f"{page}.md"
        for page, file in app.config.repository_pages.items()
    }


def _write_pages(app: Sphinx) -> None:
    pages = _pages(app)
    for file, page in pages.items():
        text = _with_links(file.read_text(encoding="utf-8"), file.parent, page.parent, pages)
        page.parent.mkdir(parents=True, exist_ok=True)
        # An unchanged file is not read anew.
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md":
        text = _NAMED_BY_FILE.sub("[]", source[0])
        source[0] = _with_links(text, page.parent, page.parent, _pages(app))


def _with_links(text: str, was_in: Path, is_in: Path, pages: Mapping[Path, Path]) -> str:
    """Return a text whose relative links hold in another folder, and lead to pages."""

    def link(found: re.Match[str]) -> str:
        target = (was_in / found[1]).resolve()
        if target not in pages and was_in == is_in:
            return found[1]
        return os.path.relpath(pages.get(target, target), is_in)

    return _LINK.sub(link, text)
