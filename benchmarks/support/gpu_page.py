"""The figures of `on_gpu.py`, and the page that shows them: tables in markdown, and the bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from support.equality import COMPILED_BAR, DTYPE_BARS
from support.figures import Figures, Section, at_least, at_most
from support.overheads import ACCELERATOR_BAR, ALONE, is_capture, tell_overheads
from support.turns import ratios_of

__all__ = ["BARS", "format_page", "tell_costs", "tell_equality", "tell_rates"]

RATE_BAR = 0.7
MIB, GB = 2**20, 1e9
BARS = (
    "captured attention equals attention computed in the open in the same run within "
    + ", ".join(f"{bar:.0e} ({dtype})" for dtype, bar in DTYPE_BARS.items())
    + f", and within {COMPILED_BAR:.0e} of another run's where the model is compiled",
    "the output is the same with and without capture, bit for bit",
    f"`capture()` takes at most {ACCELERATOR_BAR} of generation alone, and less than "
    "attention-map-diffusers and the block hook",
    "`capture()` takes no more host memory than its bound, 2 GiB",
    f"capture reaches {RATE_BAR} of a pinned copy's rate to host memory, and of the disk's own rate",
)


def format_page(figures: Figures, tests: str, left_out: Sequence[str]) -> str:
    """Return the page of all figures so far."""
    record = figures.as_record()
    machine, versions = record["machine"], record["versions"]
    told = [machine["accelerator"], f"{machine['cores']} cores"]
    told += [f"{name} {one}" for name, one in versions.items() if one != "none"]
    lines = ["# On a GPU", "", f"`python benchmarks/on_gpu.py` on {', '.join(told)};"]
    lines += [f"{record['date']}, {record['seconds']} seconds.", "", "Bars:", ""]
    lines += [f"- {bar};" for bar in BARS[:-1]] + [f"- {BARS[-1]}.", ""]
    for section in figures.sections.values():
        lines += [f"## {section.title}", "", *section.table(), ""]
    lines += [f"Tests of the path to host memory: {tests}.", "", "## Left out", ""]
    lines += [f"- {what}" for what in left_out] or ["Nothing."]
    return "\n".join([*lines, ""])


def tell_equality(section: Section, cases: Sequence[dict[str, Any]]) -> None:
    """Record how far captured attention is from computed, and whether the output stayed the same."""
    for case in cases:
        name = f"{case['family']}, {case['dtype']}, {case['how']}"
        if "error" in case:
            section.add(name, "largest difference", (), note=f"failed: {case['error']}")
            continue
        section.add(name, "largest difference", case["worst"], bar=at_most(case["bar"]))
        output = {True: "same", False: "changed", None: "–"}[case["output_is_same"]]
        section.add(name, "output", (), note=output)


def tell_costs(section: Section, model: dict[str, Any], memory_bytes: int) -> None:
    """Record what each variant takes on a model; of memory, what comes on top of generation alone."""
    if "error" in model:
        section.add("failed", "time", (), "s", note=model["error"])
        return
    peaks, bound = model["peaks"], at_most(round(memory_bytes / MIB))
    if any(model["seconds"].values()):
        tell_overheads(section, model["seconds"], ACCELERATOR_BAR)
    for name, own in peaks.items():
        for kind in ("device", "resident", "pinned"):
            alone = peaks.get(ALONE, {}).get(kind)
            if own[kind] is None or alone is None:
                continue
            if name == ALONE:
                section.add(name, f"{kind} memory", own[kind] / MIB, "MiB")
                continue
            bar = bound if is_capture(name) and kind != "device" else None
            section.add(name, f"more {kind} memory", (own[kind] - alone) / MIB, "MiB", bar=bar)
    for name, reason in model["failed"].items():
        section.add(name, "failed", (), note=reason)


def tell_rates(section: Section, rates: dict[str, Any]) -> None:
    """Record bytes a second of capture, beside the machine's own."""
    if "error" in rates:
        section.add("failed", "rate", (), "GB/s", note=rates["error"])
        return
    seconds = rates["seconds"]
    ways = (
        ("pinned copy", "capture to host", rates["copied_bytes"]),
        ("raw write", "capture to disk", rates["written_bytes"]),
    )
    for raw, ours, size_bytes in ways:
        if not seconds[raw]:
            continue
        raw_rates, own_rates = (size_bytes / GB / np.array(seconds[way]) for way in (raw, ours))
        section.add(ours, "rate", own_rates.tolist(), "GB/s", limit=float(np.median(raw_rates)))
        ratios = ratios_of(seconds[raw], seconds[ours])
        section.add(ours, "over the machine's own", ratios, bar=at_least(RATE_BAR))
        section.add(ours, "a round", size_bytes / MIB, "MiB")
