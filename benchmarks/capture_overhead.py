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
import multiprocessing
import resource
import shutil
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
from support.devices import wait_for
from support.figures import Figures, Section, at_most, benchmark_parser
from support.models import Model, build_model
from support.overheads import ACCELERATOR_BAR, ALONE, CPU_BAR, is_capture, tell_overheads
from tqdm import tqdm

from i2am.capture.recording.options import DEFAULT_MEMORY_BYTES

OTHERS = tuple(name for name in VARIANTS if name != ALONE)
DEFAULTS = {"tiny": (50, 7), "sd15": (3, 3)}  # steps, repeats
QUICK = (2, 1)
FORMULAS = {
    "logits": "formula: logits",
    "factors": "formula: factors",
    "smaller": "formula: the smaller one of each layer",
}
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
    figures = Figures("capture_overhead", options, device=options.device)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
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
            model, measured = measure(setting)
            dtype = str(model.denoiser.dtype).removeprefix("torch.")
            title = f"{model.name}: {setting.steps} steps, {dtype}, rounds: {setting.repeats}"
            with figures.section(kind, title) as section:
                tell(section, setting, measured)
    return 0


@dataclass(frozen=True)
class Measured:
    """What was found of each variant: seconds of each round, peak memory, and what lies on disk."""

    seconds: dict[str, list[float]]
    peak_bytes: dict[str, int]
    stored: dict[str, dict[str, int]]


def measure(setting: Setting) -> tuple[Model, Measured]:
    """Return a model and all that was found of it."""
    peaks = {name: measure_peak(setting, name) for name in setting.names}
    model = setting.build()
    times, stored = measure_times(setting, model, setting.names)
    return model, Measured(times, peaks, stored)


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


def tell(section: Section, setting: Setting, found: Measured) -> None:
    """Record times, ratios within the rounds, memory and what lies on disk."""
    peaks, memory_bar = found.peak_bytes, at_most(round(setting.memory_bytes / MIB))
    bar = CPU_BAR if setting.device == "cpu" else ACCELERATOR_BAR
    tell_overheads(section, found.seconds, bar)
    section.add(ALONE, "peak memory", peaks[ALONE] / MIB, "MiB")
    for name in (name for name in peaks if name != ALONE):
        extra, own_bar = peaks[name] - peaks[ALONE], memory_bar if is_capture(name) else None
        section.add(name, "more memory", extra / MIB, "MiB", bar=own_bar)
    for name, stored in found.stored.items():
        section.add(name, "layers on disk", stored["layer_bytes"] / 1e6, "MB")
        section.add(name, "sample on disk", stored["bytes"] / 1e6, "MB")
        section.add(name, "files", stored["files"])
    formulas = next((one for one in found.stored.values() if "smaller_bytes" in one), {})
    for name in FORMULAS if formulas else ():
        section.add(FORMULAS[name], "layers on disk", formulas[f"{name}_bytes"] / 1e6, "MB")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--model", choices=("tiny", "sd15", "both"), default="both")
    parser.add_argument("--steps", type=int, help="denoising steps; 50 and 3")
    parser.add_argument("--repeats", type=int, help="measured rounds; 7 and 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--leave-out", action="append", default=[], choices=OTHERS, help="a variant; repeatable"
    )
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    options = parser.parse_args(arguments)
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
