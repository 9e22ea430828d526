"""The page of `on_gpu.py`'s figures: tables in markdown, and which bars are met."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from support.equality import COMPILED_BAR, DTYPE_BARS
from support.ratios import format_ratio, ratios_of
from support.variant_costs import ALONE

__all__ = ["BARS", "OVERHEAD_BAR", "RATE_BAR", "format_page"]

OVERHEAD_BAR, RATE_BAR = 1.05, 0.7
MIB, GB = 2**20, 1e9
BARS = (
    "captured attention equals attention computed in the open in the same run within "
    + ", ".join(f"{bar:.0e} ({dtype})" for dtype, bar in DTYPE_BARS.items())
    + f", and within {COMPILED_BAR:.0e} of another run's where the model is compiled",
    "the output is the same with and without capture, bit for bit",
    f"`capture()` takes at most {OVERHEAD_BAR} of generation alone, and less than "
    "attention-map-diffusers and the block hook",
    "`capture()` takes no more host memory than its bound, 2 GiB",
    f"capture reaches {RATE_BAR} of a pinned copy's rate to host memory, and of the disk's own rate",
)


def format_page(found: dict[str, Any]) -> str:
    """Return the page of all figures."""
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = ["# On a GPU", "", f"`python benchmarks/on_gpu.py` on {machine};"]
    lines += [f"{found['elapsed_s']:.0f} seconds.", "", "Bars:", ""]
    lines += [f"- {bar};" for bar in BARS[:-1]] + [f"- {BARS[-1]}.", ""]
    lines += _equality(found["equality"], found["tests"])
    for model in found["models"]:
        lines += _costs(model, found["memory_bytes"])
    lines += _rates(found["rates"])
    lines += ["## Left out", ""]
    lines += [f"- {what}" for what in found["left_out"]] or ["Nothing."]
    return "\n".join([*lines, ""])


def _table(head: str, rows: Iterator[str]) -> list[str]:
    return [head, "|---" * (head.count("|") - 1) + "|", *rows, ""]


def _equality(cases: list[dict[str, Any]], tests: str) -> list[str]:
    head = "| tiny model | dtype | run | largest difference | bar | output | |"

    def rows() -> Iterator[str]:
        for case in cases:
            start = f"| {case['family']} | {case['dtype']} | {case['how']} "
            if "error" in case:
                yield f"{start}| – | {case['bar']:.0e} | – | failed: {case['error']} |"
                continue
            output = {True: "same", False: "changed", None: "–"}[case["output_is_same"]]
            yield f"{start}| {case['worst']:.1e} | {case['bar']:.0e} | {output} | {_verdict(case['is_met'])} |"

    return [
        "## Captured is computed",
        "",
        *_table(head, rows()),
        f"Tests of the path to host memory: {tests}.",
        "",
    ]


def _costs(model: dict[str, Any], memory_bytes: int) -> list[str]:
    if "error" in model:
        return [f"## {model['model']}", "", f"Failed: {model['error']}.", ""]
    seconds, peaks = model["seconds"], model["peaks"]
    rounds = min(map(len, seconds.values()), default=0)
    title = f"## {model['model']}, {model['dtype']}, {model['steps']} steps"
    head = (
        "| | median s | × generation alone | device memory, MiB | host memory, MiB | pinned, MiB |"
    )

    def rows() -> Iterator[str]:
        for name, times in seconds.items():
            ratio = format_ratio(ratios_of(times, seconds[ALONE])) if rounds else "–"
            median = f"{statistics.median(times):.3f}" if rounds else "–"
            memory = " | ".join(
                _peak(peaks, name, kind) for kind in ("device", "resident", "pinned")
            )
            yield f"| {name} | {median} | {ratio} | {memory} |"
        for name, reason in model["failed"].items():
            yield f"| {name} | failed: {reason} | | | | |"

    verdicts = [*_overheads(seconds), *_memory(peaks, memory_bytes)] if rounds else []
    times_of = f"Median (smallest – largest) of {rounds} rounds" if rounds else "No round fitted"
    note = f"{times_of}; memory of one run before, below the first row what comes on top of it."
    return [title, "", *_table(head, rows()), note, "", *verdicts, *([""] if verdicts else [])]


def _peak(peaks: dict[str, Any], name: str, kind: str) -> str:
    own, alone = peaks[name][kind], peaks.get(ALONE, {}).get(kind)
    if own is None or alone is None:
        return "–"
    return f"{own / MIB:.0f}" if name == ALONE else f"{round((own - alone) / MIB):+d}"


def _overheads(seconds: dict[str, list[float]]) -> Iterator[str]:
    captures = [name for name in seconds if name.startswith("capture()")]
    rivals = [name for name in seconds if name not in captures and name != ALONE]
    for name in captures:
        for other in (ALONE, *rivals):
            ratios = ratios_of(seconds[name], seconds[other])
            median = statistics.median(ratios)
            is_met = median <= OVERHEAD_BAR if other == ALONE else median < 1
            wanted = f"≤ {OVERHEAD_BAR}" if other == ALONE else "< 1"
            yield f"- {name} over {other}: {format_ratio(ratios)}, bar {wanted}: {_verdict(is_met)}"


def _memory(peaks: dict[str, Any], memory_bytes: int) -> Iterator[str]:
    for name in (name for name in peaks if name.startswith("capture()")):
        extra = [
            peaks[name][kind] - peaks[ALONE][kind]
            for kind in ("resident", "pinned")
            if peaks[name][kind] is not None and peaks[ALONE][kind] is not None
        ]
        if extra:
            is_met = max(extra) <= memory_bytes
            bound = f"bar {memory_bytes / MIB:.0f} MiB: {_verdict(is_met)}"
            yield f"- {name}: {round(max(extra) / MIB)} MiB more host memory, {bound}"


def _rates(rates: dict[str, Any]) -> list[str]:
    if "error" in rates:
        return ["## Bytes a second", "", f"Failed: {rates['error']}.", ""]
    seconds, copied, written = rates["seconds"], rates["copied_bytes"], rates["written_bytes"]
    sizes = {"pinned copy": copied, "capture to host": copied}
    if not seconds["pinned copy"]:
        return []

    def rows() -> Iterator[str]:
        for raw, ours in (("pinned copy", "capture to host"), ("raw write", "capture to disk")):
            ratios = ratios_of(seconds[raw], seconds[ours])
            size = sizes.get(raw, written)
            raw_rate, own_rate = (
                f"{size / GB / statistics.median(seconds[way]):.2f}" for way in (raw, ours)
            )
            verdict = _verdict(statistics.median(ratios) >= RATE_BAR)
            yield f"| {ours} | {own_rate} | {raw_rate} ({raw}) | {format_ratio(ratios)} | {verdict} |"

    return [
        "## Bytes a second",
        "",
        *_table(f"| | GB/s | the machine's own | ratio | bar {RATE_BAR} |", rows()),
        f"{copied / MIB:.0f} MiB copied and {written / MIB:.0f} MiB written a round.",
        "",
    ]


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"
