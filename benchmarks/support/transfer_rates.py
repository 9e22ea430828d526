"""Bytes a second from a device to host memory and to the disk: capture's, and what the machine can do.

The tensors are those of a step of Stable Diffusion 1.5's cross-attention at 512 pixels, float16.
Keys are the same at every step, and so are copied but not written. All four ways take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from i2am.capture.writer.device_copies import Accelerator
from i2am.capture.writer.staging import StagingArea
from support.devices import wait_for
from support.sample_writing import Step, time_way, write_ours, write_raw
from support.synthetic_run import layers
from support.time_budget import TimeBudget

__all__ = ["Rates", "measure_rates"]

_BLOCK_STEPS = 5


@dataclass(frozen=True)
class Rates:
    """How fast each way was: "pinned copy", "capture to host", "raw write", "capture to disk".

    Parameters
    ----------
    copied_bytes, written_bytes : int
        In each round, by the first two ways and by the others.
    seconds : dict of str to list of float
        Of each way's rounds.
    """

    copied_bytes: int
    written_bytes: int
    seconds: dict[str, list[float]]


def measure_rates(
    device: str, folder: Path, *, steps: int, max_side: int, max_rounds: int, budget: TimeBudget
) -> Rates:
    """Copy and write the steps of a run in each way, by turns, as long as there is time."""
    step = {
        layer.name: {name: tensor.to(device) for name, tensor in layer.tensors().items()}
        for layer in layers(max_side)
    }
    sizes = {name: 0 for arrays in step.values() for name in arrays}
    for name, tensor in (pair for arrays in step.values() for pair in arrays.items()):
        sizes[name] += steps * tensor.nbytes
    varying = [t.cpu() for arrays in step.values() for n, t in arrays.items() if n != "key"]
    run = [step] * steps
    ways: dict[str, Callable[[], float]] = {
        "pinned copy": lambda: copy_raw(step, device, steps),
        "capture to host": lambda: copy_by_capture(run, device),
        "raw write": lambda: time_way(partial(write_raw, varying * steps), folder)[0],
        "capture to disk": lambda: time_way(partial(write_ours, run, 2), folder)[0],
    }
    for way in ways.values():
        way()  # Once, unmeasured: memory is pinned then.
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    round_s = 0.0
    for number in range(max_rounds):
        if not budget.has_room(round_s, f"bytes a second: rounds from {number + 1} on"):
            break
        start_s = time.monotonic()
        for name, way in ways.items():
            seconds[name].append(way())
        round_s = time.monotonic() - start_s
    copied = sum(sizes.values())
    return Rates(copied, copied - sizes.get("key", 0), seconds)


def copy_raw(step: dict[str, dict[str, torch.Tensor]], device: str, steps: int) -> float:
    """Return the seconds of copies into the same memory, without anything else."""
    own, accelerator = torch.device(device), Accelerator()
    is_pinned = accelerator.side_stream(own) is not None
    sources = [tensor for arrays in step.values() for tensor in arrays.values()]
    targets = [
        accelerator.empty_pinned(source.shape, source.dtype)
        if is_pinned
        else torch.empty_like(source, device="cpu")
        for source in sources
    ]
    wait_for(device)
    start_s = time.perf_counter()
    for _ in range(steps):
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source, non_blocking=True)
    wait_for(device)
    return time.perf_counter() - start_s


def copy_by_capture(run: list[Step], device: str) -> float:
    """Return the seconds until all steps have gone through host memory, where nobody stores them."""
    staging = StagingArea(layers=len(run[0]))
    wait_for(device)
    start_s = time.perf_counter()
    blocks: dict[str, dict[str, torch.Tensor]] = {}
    for position, step in enumerate(run):
        index = position % _BLOCK_STEPS
        for layer, arrays in step.items():
            if index == 0:
                blocks[layer] = {
                    name: staging.lend((_BLOCK_STEPS, *t.shape), t.dtype, t.device)
                    for name, t in arrays.items()
                }
            staging.fill(blocks[layer], index, arrays)
            if index == _BLOCK_STEPS - 1 or position == len(run) - 1:
                staging.submit(lambda _scratch: None, list(blocks[layer].values()))
        staging.flush()
    staging.close()
    return time.perf_counter() - start_s
