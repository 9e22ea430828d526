"""The HTML around the page's script: its data as JSON, its policy, and what is there without scripts.

Whatever comes from a store or a table is text here: escaped in HTML, and in JSON without a character that
could end a script. The policy lets nothing in but the script itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

from i2am.schemas.text import safe_text

__all__ = ["bundle_file", "json_script", "page_html", "policy"]

_NOTHING: Final = ("default-src 'none'", "base-uri 'none'", "form-action 'none'")


def bundle_file(name: str) -> str:
    """Return one of the built files of the page, such as ``report.js``."""
    return files("i2am.page").joinpath("static", name).read_text(encoding="utf-8")


def json_script(identifier: str, content: Any) -> Markup:
    r"""Return data as a script element that no content of it can end.

    Examples
    --------
    >>> print(json_script("i2am-run", {"name": "</script><b>"}))
    <script type="application/json" id="i2am-run">{"name":"\u003c/script>\u003cb>"}</script>
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return Markup(f'<script type="application/json" id="{identifier}">{text}</script>')


def policy(*, script: str | None = None, origins: Sequence[str] = ()) -> str:
    """Return the content security policy of a page.

    Parameters
    ----------
    script : str, optional
        The text of the one script that a report holds; without it the page is a site, which loads its
        own files and reads the stores.
    origins : sequence of str
        From where a site reads, besides its own.

    Examples
    --------
    >>> policy(origins=["https://data.org"]).split("; ")[-1]
    "connect-src 'self' https://data.org"
    """
    pictures = "img-src data: blob:"
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        own = (f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", pictures)
        return "; ".join((*_NOTHING, *own, "connect-src 'none'"))
    of_site = (
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        pictures,
        " ".join(("connect-src 'self'", *origins)),
    )
    return "; ".join((*_NOTHING, *of_site))


def page_html(**content: Any) -> str:
    """Return the page: the template with what it is given, all of it escaped but what is `Markup`."""
    text = files("i2am.page").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Escapes keep HTML out; this keeps out what turns the direction of text round, or is unseen.
        finalize=lambda value: value if isinstance(value, Markup) else safe_text(value, keep="\n"),
    )
    return environment.from_string(text).render(version=version("i2am"), **content)
