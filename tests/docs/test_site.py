"""The built site: every public name is in it, nothing comes from elsewhere, and its search finds."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from i2am.cli import build_parser
from tests.page.conftest import browser as browser
from tests.page.visiting import visiting

ROOT = Path(__file__).parents[2]
# How Sphinx writes a signature of several lines, and the theme the arrows of its table of contents.
OF_OTHERS = {"definition-list", "summary-name"}
PACKAGES = ("capture", "analysis", "analysis.figures", "page", "viewer", "schemas")

pytestmark = [
    pytest.mark.skipif(not (ROOT / "docs" / "conf.py").is_file(), reason="needs the source tree"),
    pytest.mark.slow,
]


def build(source: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build a site as `make docs` does."""
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going",
         "--quiet", *options, "--doctree-dir", str(folder / "doctrees"), str(source), str(folder / "html")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` makes it, but for notebooks, which are not run; or one that is named."""
    if "I2AM_SITE" in os.environ:
        return Path(os.environ["I2AM_SITE"]).resolve()
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder, "--define", "nb_execution_mode=off")
    assert done.returncode == 0, done.stderr
    return folder / "html"


def inventory(site: Path) -> dict[str, str]:
    """Return the page of every Python name that the site tells of."""
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = re.findall(r"^(\S+) py:\w+ \S+ (\S+) ", zlib.decompress(content).decode(), re.MULTILINE)
    return dict(lines)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_its_place_in_the_reference(site: Path, package: str) -> None:
    names = {
        f"i2am.{package}.{name}" for name in importlib.import_module(f"i2am.{package}").__all__
    }
    told = inventory(site)
    assert names - set(told) == set()
    # What is told is public: no page is left of a name that went.
    own = {name for name in told if name.rpartition(".")[0] == f"i2am.{package}"}
    assert own - names == set()


def test_every_command_and_option_has_its_place(site: Path) -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        text = (site / "reference" / "commands" / "generated" / f"{name}.html").read_text("utf-8")
        for action in command._actions:
            if action.help != argparse.SUPPRESS:
                for option in action.option_strings:
                    assert option in text, f"{name} {option}"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    loaded = r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="(?!data:)([^"]*)"|<link\b[^>]*\bhref="([^"]*)"'
    for page in site.rglob("*.html"):
        for found in re.finditer(loaded, page.read_text("utf-8")):
            assert not re.match(r"(\w+:)?//", found[1] or found[2]), f"{page}: {found[0]}"


def test_a_formula_is_drawn_by_the_browser_itself(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs' / 'extensions')!r})\n"
        "extensions = ['myst_parser', 'mathml']\nhtml_math_renderer = 'mathml'\n"
        "myst_enable_extensions = ['dollarmath']\n"
    )
    (source / "index.md").write_text("# A\n\nWith $x^2$:\n\n$$\n\\frac{a}{b}\n$$\n")
    assert build(source, tmp_path).returncode == 0
    page = (tmp_path / "html" / "index.html").read_text("utf-8")
    assert "<msup>" in page
    assert re.search(r'<div class="math[^>]*>\s*<math[^>]*display="block">\s*<mfrac>', page)
    assert "MathJax" not in page
    (source / "index.md").write_text("# A\n\n$\\nosuch{x}$\n")
    done = build(source, tmp_path)
    assert done.returncode == 1
    assert re.search(r"index\.md:3: WARNING: Expected a formula, got .*nosuch", done.stderr)


@pytest.mark.parametrize(
    ("query", "title"), [("cross_attention", "cross_attention"), ("logsumexp", "The store")]
)
def test_the_search_finds_without_a_server(
    site: Path, browser: Any, query: str, title: str
) -> None:
    start = (site / "index.html").as_uri()
    with visiting(browser, start) as visit:
        visit.page.keyboard.press("Control+k")
        visit.page.locator("dialog input[type=search]").fill(query)
        visit.page.keyboard.press("Enter")
        found = visit.page.locator("#search-results li a", has_text=title).first
        found.wait_for()
        found.click()
        visit.page.get_by_role("heading", name=title).first.wait_for()
        assert visit.outside("file:") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize(
    "page", ["index", "how-to/capture", "reference/api/generated/i2am.capture.capture"]
)
def test_a_page_fits_its_window_and_can_be_read(
    site: Path, browser: Any, page: str, width: int, scheme: str
) -> None:
    with visiting(browser, (site / f"{page}.html").as_uri(), width=width, scheme=scheme) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.page.evaluate("document.documentElement.dataset.theme") == scheme
        assert visit.faults == []
        faults = {name for name, _ in visit.serious_faults()}
        assert faults <= OF_OTHERS
