"""What capture costs: time, host memory and bytes on disk, beside three other ways to generate.

    python benchmarks/capture_overhead.py [--model tiny|sd15|both] [--device cuda]

On each model it times generation alone; generation inside ``capture``, until everything has been
written to the disk; the same with ``attention-map-diffusers`` (if it is installed), which keeps Q
and K in memory; and with attention recomputed in a hook on every transformer. See
``support/capture_variants.py`` for what each does.

All variants take turns in one process, and each round starts with another one: so whatever else
the machine does hits all alike. A ratio is taken within each round; the table shows the median
over the rounds and, in brackets, the smallest and largest; from six rounds on, the bars also say
between which values the median lies with 95 % confidence. Peak memory is that of a process of its
own for each variant, less that of generation alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import zarr
from support.capture_variants import VARIANTS, is_available
from support.devices import describe_machine, wait_for
from support.models import Model, build_model
from support.ratios import format_ratio, median_interval, ratios_of
from tqdm import tqdm

from i2am.capture.recording.options import DEFAULT_MEMORY_BYTES

ALONE, *OTHERS = VARIANTS
CAPTURES = tuple(name for name in VARIANTS if name.startswith("capture()"))
RIVALS = tuple(name for name in OTHERS if name not in CAPTURES)
CPU_BAR, ACCELERATOR_BAR = 1.10, 1.05
DEFAULTS = {"tiny": (50, 7), "sd15": (3, 3)}  # steps, repeats
QUICK = (2, 1)
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """What all measurements of one model have in common."""

    kind: Any
    device: str
    quick: bool
    steps: int
    repeats: int
    memory_bytes: int
    folder: Path
    names: tuple[str, ...]

    def build(self) -> Model:
        """Return the model."""
        return build_model(self.kind, self.device, quick=self.quick)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0, whether or not the bars are met."""
    options = _parse(arguments)
    kinds = ("tiny", "sd15") if options.model == "both" else (options.model,)
    machine = describe_machine(options.device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = []
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        for kind in kinds:
            steps, repeats = QUICK if options.quick else DEFAULTS[kind]
            setting = Setting(
                kind,
                options.device,
                options.quick,
                options.steps or steps,
                options.repeats or repeats,
                options.memory_bytes,
                Path(folder),
                tuple(n for n in VARIANTS if is_available(n) and n not in options.leave_out),
            )
            results.append(measure(setting))
            print("\n".join(format_result(results[-1])), flush=True)
    if options.json is not None:
        found = {"machine": machine, "models": results}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(setting: Setting) -> dict[str, Any]:
    """Return all figures of one model, ready for JSON."""
    peaks = {name: measure_peak(setting, name) for name in setting.names}
    model = setting.build()
    times, stored = measure_times(setting, model, setting.names)
    return {
        "model": model.name,
        "dtype": str(model.denoiser.dtype).removeprefix("torch."),
        "steps": setting.steps,
        "repeats": setting.repeats,
        "memory_bytes": setting.memory_bytes,
        "bar": CPU_BAR if setting.device == "cpu" else ACCELERATOR_BAR,
        "seconds": times,
        "peak_bytes": peaks,
        "stored": stored,
    }


def measure_times(
    setting: Setting, model: Model, names: Sequence[str]
) -> tuple[dict[str, list[float]], dict[str, dict[str, int]]]:
    """Return (seconds by variant and round, what each capture left on disk)."""
    times: dict[str, list[float]] = {name: [] for name in names}
    stored = {}
    run = setting.folder / "run.zarr"
    for name in names:  # Once, unmeasured: first calls load and prepare what later ones find.
        VARIANTS[name](model, 1, run, setting.memory_bytes)
        shutil.rmtree(run, ignore_errors=True)
    rounds = [[*names[i % len(names) :], *names[: i % len(names)]] for i in range(setting.repeats)]
    for name in tqdm([*chain(*rounds)], desc=model.name, disable=None, leave=False):
        gc.collect()
        wait_for(setting.device)
        start_s = time.perf_counter()
        kept = VARIANTS[name](model, setting.steps, run, setting.memory_bytes)
        wait_for(setting.device)
        times[name].append(time.perf_counter() - start_s)
        del kept
        if run.exists():
            stored[name] = measure_storage(model, run / "sample")
            shutil.rmtree(run)
    return times, stored


def measure_storage(model: Model, sample: Path) -> dict[str, int]:
    """Return bytes and files of a sample, and what the formulas say unless it holds maps.

    Notes
    -----
    In float16, with h heads and T steps, a layer's logits take 2·h·T·P·R bytes and its factors
    2·h·T·(P + R)·d.
    """
    files = [path for path in sample.rglob("*") if path.is_file()]
    layers = [path for path in files if path.relative_to(sample).parts[0] == "layers"]
    found = {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "layer_bytes": sum(path.stat().st_size for path in layers),
    }
    logits, factors = [], []
    groups: Any = zarr.open_group(sample / "layers", mode="r").groups()
    for name, group in groups:
        if group.attrs["i2am"]["representation"] == "maps":
            return found
        attention = model.denoiser.get_submodule(name)
        sizes: dict[str, int] = {}
        for _, array in group.arrays():
            sizes |= zip(array.metadata.dimension_names, array.shape, strict=True)
        patches, tokens, rows = (
            sizes["generated"],
            sizes["reference"],
            sizes["head"] * sizes["step"],
        )
        channels = attention.to_q.out_features // attention.heads
        logits.append(2 * rows * patches * tokens)
        factors.append(2 * rows * (patches + tokens) * channels)
    smaller = sum(map(min, logits, factors))
    formulas = {"logits": sum(logits), "factors": sum(factors), "smaller": smaller}
    return found | {f"{name}_bytes": size for name, size in formulas.items()}


def measure_peak(setting: Setting, name: str) -> int:
    """Return the largest resident memory of a process that runs a variant once, in bytes."""
    # Forked from a server without history: a plain child would start from its parent's peak.
    context = multiprocessing.get_context("forkserver")
    # Importing them may begin with the device, which no fork survives: each child imports anew.
    preload = ["i2am.capture.recording.recorder", "diffusers.models.unets.unet_2d_condition"]
    context.set_forkserver_preload(preload if setting.device == "cpu" else [])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(run_for_peak, setting, name).result()


def run_for_peak(setting: Setting, name: str) -> int:
    """Run a variant, and return this process's largest resident memory so far, in bytes."""
    run = setting.folder / "peak.zarr"
    VARIANTS[name](setting.build(), setting.steps, run, setting.memory_bytes)
    shutil.rmtree(run, ignore_errors=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def format_result(result: dict[str, Any]) -> list[str]:
    """Return the lines to print: a table, the bars, and what lies on disk."""
    times, peaks = result["seconds"], result["peak_bytes"]
    lines = [
        f"\n{result['model']}: {result['steps']} steps, {result['dtype']}, "
        f"rounds: {result['repeats']}",
        f"{'':26}{'median s':>10}{'× generation alone':>22}{'peak memory, MiB':>20}",
    ]
    for name, seconds in times.items():
        ratio = format_ratio(ratios_of(times[name], times[ALONE]))
        extra = f"{peaks[name] / MIB:.0f}"
        if name != ALONE:
            extra = f"{(peaks[name] - peaks[ALONE]) / MIB:+.0f}"
        lines.append(f"{name:26}{statistics.median(seconds):10.3f}{ratio:>22}{extra:>20}")
    for name in (name for name in CAPTURES if name in times):
        lines.append(_format_bar(name, f"≤ {result['bar']:.2f}", times, ALONE, result["bar"]))
        lines += [_format_bar(name, "< 1", times, rival, 1) for rival in RIVALS if rival in times]
        extra_bytes, bound = peaks[name] - peaks[ALONE], result["memory_bytes"]
        verdict = "met" if extra_bytes <= bound else "missed"
        lines.append(
            f"bar ≤ {bound / MIB:.0f} MiB more than {ALONE}: {name} {extra_bytes / MIB:.0f}, "
            f"{verdict}"
        )
    for name, stored in result["stored"].items():
        lines.append(
            f"on disk, {name}: {stored['layer_bytes'] / 1e6:.2f} MB of layers; "
            f"{stored['bytes'] / 1e6:.2f} MB and {stored['files']} files a sample"
        )
        if "smaller_bytes" in stored:
            lines.append(
                f"  formulas: logits {stored['logits_bytes'] / 1e6:.2f} MB, factors "
                f"{stored['factors_bytes'] / 1e6:.2f} MB, the smaller one of each layer "
                f"{stored['smaller_bytes'] / 1e6:.2f} MB"
            )
    return lines


def _format_bar(name: str, bar: str, times: Any, other: str, limit: float) -> str:
    ratios = ratios_of(times[name], times[other])
    median = statistics.median(ratios)
    met = median < limit or (median == limit and bar.startswith("≤"))
    verdict = "met" if met else "missed"
    if (interval := median_interval(ratios)) is not None:
        verdict += f"; median within {interval[0]:.3f}–{interval[1]:.3f}"
    return f"bar {bar} × {other}: {name} {format_ratio(ratios)}, {verdict}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what capture costs.")
    parser.add_argument("--model", choices=("tiny", "sd15", "both"), default="both")
    parser.add_argument("--steps", type=int, help="denoising steps; 50 and 3")
    parser.add_argument("--repeats", type=int, help="measured rounds; 7 and 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--leave-out", action="append", default=[], choices=OTHERS, help="a variant; repeatable"
    )
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    parser.add_argument("--quick", action="store_true", help="only whether it works")
    parser.add_argument("--out", type=Path, help="where to write; a temporary folder")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(arguments)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
