"""Everything about capture that only a GPU can tell, in one command of at most six minutes.

    python benchmarks/on_gpu.py [--minutes 6] [--json FILE] [--device cuda:1] [--dir DIR]

Whether captured attention is the model's own: tiny models of real classes, in three dtypes, offloaded
and compiled, against attention that is computed in the open in the same run. What capture costs on
a UNet of Stable Diffusion 1.5's size, one of SDXL's and six blocks of FLUX's: seconds over generation
alone, beside attention-map-diffusers (if it is installed) and a hook on every block, and device and
host memory. How fast bytes reach host memory and the disk, beside the machine's own rates. Any
accelerator of PyTorch will do.

Writes all figures as JSON, and the page ``benchmarks/results/gpu.md``. What does not fit into the time
is left out, and named. ``--quick`` runs everything with small models, also on a CPU, where the page is
written only if ``--page`` names one. Needs what capture needs; pytest, accelerate (offloading) and a
compiler (compiled models) are used if they are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

BEGIN_S = time.monotonic()  # Loading the packages counts, too.
ROOT = Path(__file__).parents[1]
sys.path.insert(1, str(ROOT))  # For the tests' tiny models, and where i2am is not installed.

from support.capture_variants import VARIANTS, is_available  # noqa: E402
from support.equality import cases, check  # noqa: E402
from support.failures import EXPECTED, reason_of  # noqa: E402
from support.figures import Figures, benchmark_parser  # noqa: E402
from support.gpu_page import format_page, tell_costs, tell_equality, tell_rates  # noqa: E402
from support.models import Kind  # noqa: E402
from support.time_budget import TimeBudget  # noqa: E402
from support.transfer_rates import measure_rates  # noqa: E402
from support.variant_costs import Setting, measure_costs  # noqa: E402

from i2am.capture.pipelines.load import default_device  # noqa: E402
from i2am.capture.recording.options import DEFAULT_MEMORY_BYTES  # noqa: E402

PAGE = ROOT / "benchmarks/results/gpu.md"
NAMES = tuple(name for name in VARIANTS if "no fsync" not in name)
STEPS: dict[Kind, int] = {"sd15": 20, "sdxl": 10, "flux": 8}
# What making it and a first generation may take on a GPU.
START_S: dict[Kind, float] = {"sd15": 6, "sdxl": 20, "flux": 10}
ENDING_S = 5  # Taking away what was written.
MAX_ROUNDS = 7
# Of the time that is left when each begins; the models share what remains.
TESTS_SHARE, EQUALITY_SHARE, RATES_SHARE = 0.15, 0.3, 0.15
TESTS = ("test_staging.py", "test_device_copies.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return 1 if anything failed or is wrong, whatever the speed."""
    options = _parse(arguments)
    budget = TimeBudget(60 * options.minutes - ENDING_S - (time.monotonic() - BEGIN_S))
    figures, found = Figures("on_gpu", options, device=options.device), dict[str, Any]()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        place = Path(folder)
        stages: dict[str, Callable[[], Any]] = {
            "tests": lambda: run_tests(budget.part(TESTS_SHARE), quick=options.quick),
            "equality": lambda: check_equality(options, place, budget.part(EQUALITY_SHARE)),
            "rates": lambda: find_rates(options, place, budget.part(RATES_SHARE)),
            "models": lambda: find_costs(options, place, budget),
        }
        for name, stage in stages.items():
            found[name] = stage()
            tell(figures, name, found[name], options.memory_bytes)
            print(f"{time.monotonic() - BEGIN_S:.0f} s: {name} done", file=sys.stderr, flush=True)
    print(f"\ntests of the path to host memory: {found['tests']}")
    print(*(f"left out: {what}" for what in budget.left_out), sep="\n")
    if options.page is not None:
        page = format_page(figures, found["tests"], budget.left_out)
        options.page.write_text(page, encoding="utf-8")
    faults = list(find_faults(found))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def tell(figures: Figures, stage: str, found: Any, memory_bytes: int) -> None:
    """Record what a stage has found, and write it at once: a machine may be taken away."""
    if stage == "equality":
        with figures.section(stage, "Captured is computed") as section:
            tell_equality(section, found)
    elif stage == "rates":
        with figures.section(stage, "Bytes a second") as section:
            tell_rates(section, found)
    elif stage == "models":
        for model in found:
            told = ", ".join(str(model[k]) for k in ("model", "dtype") if k in model)
            title = f"{told}, {model['steps']} steps" if "steps" in model else told
            with figures.section(model["kind"], title) as section:
                tell_costs(section, model, memory_bytes)


def find_faults(found: dict[str, Any]) -> Iterator[str]:
    """Yield what failed, or is wrong: what takes long is no fault."""
    if "failed" in found["tests"] or "error" in found["tests"]:
        yield f"tests of the path to host memory: {found['tests']}"
    for case in found["equality"]:
        if not case["is_met"]:
            what = case.get("error", f"off by {case.get('worst')}")
            yield f"{case['family']}, {case['dtype']}, {case['how']}: {what}"
    for part in (found["rates"], *found["models"]):
        if "error" in part:
            yield f"{part.get('model', 'rates')}: {part['error']}"
        for name, reason in part.get("failed", {}).items():
            yield f"{part['model']}, {name}: {reason}"


def run_tests(budget: TimeBudget, *, quick: bool) -> str:
    """Run the tests of the path to host memory, and return pytest's last line."""
    if importlib.util.find_spec("pytest") is None:
        budget.left_out.append("tests of the path to host memory: pytest is not installed")
        return "not run"
    # None of the project's own settings, whose plugins need not be there.
    settings = ["--noconftest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings="]
    settings += ["-o", "addopts=--import-mode=importlib", "--rootdir", str(ROOT)]
    files = [str(ROOT / "tests/capture/writer" / name) for name in TESTS[: 1 if quick else 2]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "pytest", *settings, *files],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=budget.left_s,
        )
    except subprocess.TimeoutExpired:
        budget.left_out.append("tests of the path to host memory: they took too long")
        return "stopped"
    lines = (answer.stdout + answer.stderr).strip().splitlines() or ["nothing"]
    return lines[-1].strip("= ")


def check_equality(
    options: argparse.Namespace, folder: Path, budget: TimeBudget
) -> list[dict[str, Any]]:
    """Return what came of each tiny model."""
    found, longest_s = [], 0.0
    can_offload = importlib.util.find_spec("accelerate") is not None
    for case in cases(quick=options.quick):
        if case.how == "offloaded" and not can_offload:
            budget.left_out.append(f"equality: {case}: accelerate is not installed")
            continue
        if not budget.has_room(case.expected_s(options.device, longest_s), f"equality: {case}"):
            continue
        start_s = time.monotonic()
        found.append(check(case, options.device, folder))
        if case.how != "compiled":
            longest_s = max(longest_s, time.monotonic() - start_s)
    return found


def find_rates(options: argparse.Namespace, folder: Path, budget: TimeBudget) -> dict[str, Any]:
    """Return bytes and seconds to host memory and to the disk."""
    steps, max_side, rounds = (2, 32, 1) if options.quick else (40, 64, 5)
    try:
        rates = measure_rates(
            options.device,
            folder,
            steps=steps,
            max_side=max_side,
            max_rounds=rounds,
            budget=budget,
        )
    except EXPECTED as error:
        return {"error": reason_of(error)}
    return dataclasses.asdict(rates)


def find_costs(
    options: argparse.Namespace, folder: Path, budget: TimeBudget
) -> list[dict[str, Any]]:
    """Return the figures of each model, which share the time equally."""
    names = [name for name in NAMES if is_available(name)]
    budget.left_out += [f"{name}: not installed" for name in NAMES if name not in names]
    found: list[dict[str, Any]] = []
    for number, (kind, steps) in enumerate(STEPS.items()):
        part = budget.part(1 / (len(STEPS) - number))
        if not part.has_room(0 if options.quick else START_S[kind], kind):
            continue
        setting = Setting(
            kind,
            options.device,
            options.quick,
            2 if options.quick else steps,
            1 if options.quick else MAX_ROUNDS,
            names,
            options.memory_bytes,
            folder / kind,
        )
        try:
            found.append({"kind": kind, **measure_costs(setting, part)})
        except EXPECTED as error:
            found.append({"kind": kind, "model": kind, "error": reason_of(error)})
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--minutes", type=float, default=6, help="at most so many; 6")
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    parser.add_argument("--page", type=Path, help="file for the tables; on a GPU results/gpu.md")
    options = parser.parse_args(arguments)
    is_for_the_record = options.device != "cpu" and not options.quick
    if options.page is None and is_for_the_record:
        options.page = PAGE
    return options


if __name__ == "__main__":
    sys.exit(main())
