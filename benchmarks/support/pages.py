"""Figures that are kept, and the pages that show them: tables between two comments.

A page says ``<!-- figures: BENCHMARK/SECTION -->``, and everything from there to ``<!-- end -->`` is
rendered; the rest of the page is its author's. ``summary`` and ``machines`` stand for all benchmarks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support.figures import Figure, Section, to_json
from support.scaling_picture import draw_scaling

__all__ = [
    "KEPT",
    "PAGES",
    "FigureError",
    "check_kept",
    "read_kept",
    "render",
    "render_pages",
    "write_kept",
]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = RESULTS / "figures.json"
# The page that `on_gpu.py` writes as a whole has no comments, and stays as it is.
PAGES = (*sorted(RESULTS.glob("*.md")), ROOT / "docs" / "reference" / "benchmarks.md")
SCHEMA = 1
_MARKER = re.compile(
    r"^<!-- figures: (\S+) -->$(?:(?!<!-- figures:).)*?^<!-- end -->$", re.DOTALL | re.MULTILINE
)
_OPENING = "<!-- figures:"


class FigureError(Exception):
    """Figures or a page are not what they should be; two lines."""


def read_kept(path: Path) -> dict[str, Any]:
    """Return the figures that a file keeps; none if there is no file."""
    if not path.exists():
        return {"schema": SCHEMA, "benchmarks": {}}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        msg = (
            f"Expected figures as JSON, got {error}, at {path}.\nTake an earlier state of the file."
        )
        raise FigureError(msg) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        msg = f"Expected figures of schema {SCHEMA}, got others, at {path}.\nMeasure anew: make bench."
        raise FigureError(msg)
    return found


def check_kept(kept: Mapping[str, Any], path: Path) -> None:
    """Raise `FigureError` of figures that only show that a benchmark works."""
    if any(one["quick"] for one in kept["benchmarks"].values()):
        msg = (
            f"Expected measured figures, got those of --quick, at {path}.\nMeasure without --quick."
        )
        raise FigureError(msg)


def write_kept(kept: dict[str, Any], path: Path) -> None:
    """Write figures, whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(to_json(kept), encoding="utf-8")
    beside.replace(path)


def render_pages(kept: Mapping[str, Any]) -> None:
    """Bring all tables and the picture up to date, once it is known that each table can be."""
    texts = {page: render(page.read_text("utf-8"), kept, page) for page in PAGES}
    for page, text in texts.items():
        page.write_text(text, encoding="utf-8")
    if "scaling" in kept["benchmarks"]:
        draw_scaling(kept["benchmarks"]["scaling"], RESULTS / "scaling.png")


def render(text: str, kept: Mapping[str, Any], page: Path) -> str:
    """Return a page with its tables rendered.

    Raises
    ------
    FigureError
        If there are no figures of that name, or a comment does not end.
    """
    blocks = {"summary": _summary, "machines": _machines}

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        lines = blocks[name](kept) if name in blocks else _section(name, kept, page)
        return "\n".join([f"<!-- figures: {name} -->", *lines, "<!-- end -->"])

    if text.count(_OPENING) != len(_MARKER.findall(text)):
        msg = (
            f"Expected `{_OPENING} BENCHMARK/SECTION -->` and `<!-- end -->`, each on a line of its "
            f"own, got a comment without its end, at {page.name}.\nWrite both lines."
        )
        raise FigureError(msg)
    return _MARKER.sub(fill, text)


def _section(name: str, kept: Mapping[str, Any], page: Path) -> Iterator[str]:
    benchmark, _, section = name.partition("/")
    record = kept["benchmarks"].get(benchmark, {"sections": {}})
    if section not in record["sections"]:
        known = ", ".join(record["sections"]) or "nothing"
        msg = (
            f"Expected figures of {name}, got {known} of that benchmark, at {page.name}.\n"
            f"Measure them (benchmarks/run_all.py --only {benchmark}), or take the comment away."
        )
        raise FigureError(msg)
    own = record["sections"][section]
    table = Section(own["title"], [Figure.from_json(one) for one in own["figures"]])
    title = table.title + ("" if table.title.endswith(".") else ".")
    yield from (f"{title} {_when(record)}.", "", *table.table())


def _when(record: Mapping[str, Any]) -> str:
    state = " with changes" if record["is_dirty"] else ""
    return f"Measured {record['date']}, commit {record['commit']}{state}"


def _summary(kept: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of all figures that have a bar."""
    _check_any(kept)
    yield from ("| benchmark | what | figure | bar | |", "|---|---|---|---|---|")
    for benchmark, record in kept["benchmarks"].items():
        for name, section in record["sections"].items():
            for one in section["figures"]:
                figure = Figure.from_json(one)
                if figure.bar is not None:
                    what = ", ".join(part for part in (figure.row, figure.column) if part)
                    yield (
                        f"| {_link(f'{benchmark}/{name}')} | {what} | "
                        f"{figure.describe_values()} | {figure.bar} | "
                        f"{'met' if figure.is_met else '**missed**'} |"
                    )


def _check_any(kept: Mapping[str, Any]) -> None:
    if not kept["benchmarks"]:
        msg = f"Expected figures of benchmarks, got none, at {KEPT.name}.\nMeasure: make bench."
        raise FigureError(msg)


def _link(name: str) -> str:
    """Return a section's name, as a link to the page that shows it."""
    for page in PAGES:
        if f"{_OPENING} {name} -->" in page.read_text("utf-8"):
            return f"[{name}](../../{page.relative_to(ROOT).as_posix()})"
    return name


def _machines(kept: Mapping[str, Any]) -> Iterator[str]:
    """Yield when and where each benchmark was measured, and with which versions."""
    _check_any(kept)
    yield from ("| benchmark | measured | took |", "|---|---|---|")
    places: dict[str, list[str]] = {}
    for benchmark, record in kept["benchmarks"].items():
        when = _when(record).removeprefix("Measured ")
        yield f"| {benchmark} | {when} | {record['seconds']} s |"
        machine = record["machine"]
        told = [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gb']} GB"]
        told += [machine["os"], f"accelerator {machine['accelerator']}"]
        told += [f"{name} {one}" for name, one in record["versions"].items()]
        place = ", ".join(one for one in told if not one.endswith(" none"))
        places.setdefault(place, []).append(benchmark)
    yield ""
    yield from (f"- {', '.join(names)}: {place}" for place, names in places.items())
