"""Figures: what a benchmark has measured, beside its bars; printed as tables, and kept as JSON.

A benchmark has sections, each of them a table. A figure is a cell of one: the values of all rounds, of
which the median is told, and by which a bar is judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from support.machine import describe_code, describe_machine, describe_versions

__all__ = [
    "Bar",
    "Figure",
    "Figures",
    "Section",
    "at_least",
    "at_most",
    "below",
    "benchmark_parser",
    "format_number",
    "to_json",
]


@dataclass(frozen=True)
class Bar:
    """What a figure's median is to be."""

    sense: Literal["≤", "≥", "<"]
    limit: float

    def is_met(self, value: float) -> bool:
        """Return whether a value is on the right side."""
        if self.sense == "<":
            return value < self.limit
        return value <= self.limit if self.sense == "≤" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.sense} {self.limit:,g}"


def at_most(limit: float) -> Bar:
    """Return the bar of what is to be small."""
    return Bar("≤", limit)


def at_least(limit: float) -> Bar:
    """Return the bar of what is to be large."""
    return Bar("≥", limit)


def below(limit: float) -> Bar:
    """Return the bar of what is to be smaller than something else."""
    return Bar("<", limit)


@dataclass(frozen=True)
class Figure:
    """One cell of a section's table.

    Parameters
    ----------
    row, column : str
        Together they name the figure.
    values : tuple of float
        Of each round, or a single one; none where only the note tells something.
    unit : str
        Empty of ratios; with "×" in front it says what a ratio is taken over.
    spread : {"range", "95 %"}
        What is told beside the median: smallest and largest value, or the 95th percentile.
    bar : Bar, optional
    error : float, optional
        The standard error of a single value.
    limit : float, optional
        What the machine itself allows, in the same unit.
    note : str
        What else is to be said, in few words.
    """

    row: str
    column: str
    values: tuple[float, ...]
    unit: str = ""
    spread: Literal["range", "95 %"] = "range"
    bar: Bar | None = None
    error: float | None = None
    limit: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the bar; None without a bar."""
        return None if self.bar is None else self.bar.is_met(self.median)

    @property
    def verdict(self) -> str:
        """The bar, and whether it is met; empty without one."""
        return "" if self.bar is None else f"{self.bar}: {'met' if self.is_met else 'missed'}"

    def describe_values(self, *, with_unit: bool = True) -> str:
        """Return the median and how far the rounds spread."""
        if not self.values:
            return ""
        text, unit = format_number(self.median), f" {self.unit}" if with_unit and self.unit else ""
        if len(self.values) > 1:
            spread = [float(np.percentile(self.values, 95))]
            if self.spread == "range":
                spread = [min(self.values), max(self.values)]
            text += f" ({'–'.join(map(format_number, spread))})"
        if self.error is not None:
            text += f" ± {format_number(self.error)}"
        return text + unit

    def describe(self, *, with_unit: bool = True) -> str:
        """Return the cell: values, the machine's limit, the bar and the note."""
        limit = "" if self.limit is None else f"limit {format_number(self.limit)}"
        bar = f"bar {self.verdict}" if self.bar else ""
        parts = (self.describe_values(with_unit=with_unit), limit, bar, self.note)
        return ", ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return all fields that say something, the values to six digits, and what follows from them."""
        found: dict[str, Any] = {"row": self.row, "column": self.column}
        found |= {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, "")}
        if len(self.values) < 2:
            del found["spread"]
        found["values"] = [_shorten(value) for value in self.values]
        found |= {name: _shorten(found[name]) for name in ("error", "limit") if name in found}
        if self.values:
            found["median"] = _shorten(self.median)
            found["p95"] = _shorten(float(np.percentile(self.values, 95)))
        if self.bar is not None:
            found["is_met"] = self.is_met
        return found

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Figure:
        """Return the figure that `to_json` told."""
        own = {
            name.name: found[name.name] for name in dataclasses.fields(cls) if name.name in found
        }
        own["values"] = tuple(own["values"])
        if "bar" in own:
            own["bar"] = Bar(**own["bar"])
        return cls(**own)


def _shorten(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def format_number(value: float) -> str:
    """Return a number as people read it; counts, which are integers, in full.

    >>> [format_number(value) for value in (7, 1234.5, 12.34, 1.5, 0.034, 1.2e-7)]
    ['7', '1,234', '12.3', '1.50', '0.034', '1.2e-07']
    """
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 0 < size < 1e-3:
        return f"{value:.1e}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    return f"{value:,.{digits}f}"


@dataclass
class Section:
    """A table of figures.

    Parameters
    ----------
    title : str
        What was measured, and how; the line above the table.
    figures : list of Figure
    """

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self, row: str, column: str, values: float | Sequence[float], unit: str = "", **more: Any
    ) -> Figure:
        """Record a figure; see `Figure` for what else may be told."""
        every = (values,) if isinstance(values, (int, float)) else tuple(values)
        plain = tuple(v if isinstance(v, int) else float(v) for v in every)
        self.figures.append(Figure(row, column, plain, unit, **more))
        return self.figures[-1]

    def table(self, *, is_padded: bool = False) -> list[str]:
        """Return the lines of a table in markdown; padded, its columns stand below each other."""
        rows = list(dict.fromkeys(figure.row for figure in self.figures))
        columns = list(dict.fromkeys(figure.column for figure in self.figures))
        units = {
            column: {figure.unit for figure in self.figures if figure.column == column}
            for column in columns
        }
        cells = {
            (figure.row, figure.column): figure.describe(with_unit=len(units[figure.column]) > 1)
            for figure in self.figures
        }
        shared = [
            next(iter(units[column])) if len(units[column]) == 1 else "" for column in columns
        ]
        head = [
            f"{name}, {unit}" if unit else name for name, unit in zip(columns, shared, strict=True)
        ]
        lines = [["", *head], *([row, *(cells.get((row, c), "") for c in columns)] for row in rows)]
        widths = [max(map(len, column)) if is_padded else 0 for column in zip(*lines, strict=True)]
        texts = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        return [texts[0], "|---" * len(lines[0]) + "|", *texts[1:]]


class Figures:
    """All figures of one benchmark, in the order in which they were measured.

    Parameters
    ----------
    benchmark : str
        The script's name, without its ending.
    options : argparse.Namespace
        Of `benchmark_parser`.
    device : str, optional
        PyTorch's device that was measured, if it is an accelerator.
    """

    def __init__(
        self, benchmark: str, options: argparse.Namespace, *, device: str | None = None
    ) -> None:
        self.sections: dict[str, Section] = {}
        self._path: Path | None = options.json
        self._start_s = time.monotonic()
        self.record: dict[str, Any] = {
            "benchmark": benchmark,
            "quick": options.quick,
            "date": datetime.now(UTC).date().isoformat(),
            **describe_code(),
            "machine": describe_machine(device),
            "versions": describe_versions(),
        }
        machine, versions = self.record["machine"], self.record["versions"]
        told = [f"{machine['cores']} cores", f"accelerator {machine['accelerator']}"]
        told += [f"{name} {one}" for name, one in versions.items()]
        print(", ".join(one for one in told if not one.endswith(" none")), flush=True)

    @contextmanager
    def section(self, name: str, title: str) -> Iterator[Section]:
        """Record a section; at its end it is printed, and all figures so far are written."""
        self.sections[name] = section = Section(title)
        yield section
        print("", section.title, "", *section.table(is_padded=True), sep="\n", flush=True)
        self.write()

    def write(self) -> None:
        """Write all figures so far as JSON, if a file was named."""
        if self._path is not None:
            self._path.write_text(to_json(self.as_record()), encoding="utf-8")

    def as_record(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            **self.record,
            "seconds": round(time.monotonic() - self._start_s),
            "sections": {
                name: {"title": one.title, "figures": [f.to_json() for f in one.figures]}
                for name, one in self.sections.items()
            },
        }


def to_json(document: dict[str, Any]) -> str:
    """Return JSON in which each figure is one line."""
    lines: list[str] = []

    def hide(part: Any) -> Any:
        if isinstance(part, dict) and "values" in part:
            lines.append(json.dumps(part, ensure_ascii=False))
            return f"@{len(lines) - 1}@"
        if isinstance(part, dict):
            return {name: hide(value) for name, value in part.items()}
        return [hide(value) for value in part] if isinstance(part, list) else part

    text = json.dumps(hide(document), indent=1, ensure_ascii=False)
    return re.sub(r'"@(\d+)@"', lambda found: lines[int(found[1])], text) + "\n"


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's options, with those that all have."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--quick", action="store_true", help="only whether it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all figures")
    return parser
