"""What each variant costs on one model: seconds, by turns, and the most memory that it takes."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from support.capture_variants import VARIANTS
from support.devices import measure_peak, wait_for
from support.failures import EXPECTED, reason_of
from support.models import Kind, build_model
from support.overheads import ALONE
from support.time_budget import TimeBudget

__all__ = ["Setting", "measure_costs"]

# A round may take longer than the one before, which its prediction is.
_MARGIN = 1.25


@dataclass(frozen=True)
class Setting:
    """A model, and how it is measured.

    Parameters
    ----------
    kind, device, quick
        See `build_model`.
    steps, max_rounds : int
    names : sequence of str
        The variants, `ALONE` first.
    memory_bytes : int
        What `capture` is given.
    folder : Path
        Where it writes, and nobody else.
    """

    kind: Kind
    device: str
    quick: bool
    steps: int
    max_rounds: int
    names: Sequence[str]
    memory_bytes: int
    folder: Path


def measure_costs(setting: Setting, budget: TimeBudget) -> dict[str, Any]:
    """Return a model's figures, ready for JSON; a variant that fails has its reason instead.

    Each variant first runs once by itself, which shows its memory and prepares what later runs find.
    Then all take turns, each round beginning with another one, as long as there is time.
    """
    model = build_model(setting.kind, setting.device, quick=setting.quick)
    found: dict[str, Any] = {
        "model": model.name,
        "dtype": str(model.denoiser.dtype).removeprefix("torch."),
        "steps": setting.steps,
        "peaks": {},
        "failed": {},
    }

    def generate(name: str) -> None:
        VARIANTS[name](model, setting.steps, setting.folder / "run.zarr", setting.memory_bytes)

    lasted: dict[str, float] = {}
    for name in setting.names:
        # What is not yet known is taken to be as dear as the dearest so far.
        if not budget.has_room(max(lasted.values(), default=0.0), f"{model.name}: {name}"):
            continue
        start_s = time.monotonic()
        try:
            peak = measure_peak(setting.device, partial(generate, name))
        except EXPECTED as error:
            found["failed"][name] = reason_of(error)
            continue
        finally:
            shutil.rmtree(setting.folder, ignore_errors=True)
        lasted[name] = time.monotonic() - start_s
        found["peaks"][name] = dataclasses.asdict(peak)
    found["seconds"] = _take_turns(setting, generate, lasted, budget, found)
    return found


def _take_turns(
    setting: Setting,
    generate: Callable[[str], None],
    lasted: dict[str, float],
    budget: TimeBudget,
    found: dict[str, Any],
) -> dict[str, list[float]]:
    """Return the seconds of each variant's rounds, all of as many."""
    names, round_s = list(lasted), sum(lasted.values())
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(setting.max_rounds if ALONE in lasted else 0):
        what = f"{found['model']}: rounds from {number + 1} on"
        if not budget.has_room(_MARGIN * round_s, what):
            break
        first, start_s = number % len(names), time.monotonic()
        for name in [*names[first:], *names[:first]]:
            gc.collect()
            wait_for(setting.device)
            begin_s = time.perf_counter()
            try:
                generate(name)
            except EXPECTED as error:
                found["failed"][name] = reason_of(error)
                return {name: times[:number] for name, times in seconds.items()}
            wait_for(setting.device)
            seconds[name].append(time.perf_counter() - begin_s)
            shutil.rmtree(setting.folder, ignore_errors=True)
        round_s = time.monotonic() - start_s
    return seconds
