"""The device that a benchmark runs on: waiting for it, and how much memory is used."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Peak", "measure_peak", "wait_for"]


@dataclass(frozen=True)
class Peak:
    """The largest memory during some work, in bytes; None where this machine cannot tell.

    Parameters
    ----------
    device : int, optional
        What PyTorch's tensors take of the device.
    resident : int, optional
        What the process has come to hold beyond what it held before.
    pinned : int, optional
        Pinned host memory in use, which need not count as resident.
    """

    device: int | None
    resident: int | None
    pinned: int | None


def wait_for(device: str) -> None:
    """Wait until a device has done all its work."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def measure_peak(device: str, work: Callable[[], object]) -> Peak:
    """Do some work and return the most memory that was used meanwhile."""
    gc.collect()
    _call(device, "reset_peak_memory_stats", device)
    _call(device, "reset_peak_host_memory_stats")
    before = _reset_resident_peak()
    work()
    wait_for(device)
    peak = None if before is None else max(0, _status("VmHWM") - before)
    pinned: dict[str, Any] = _call(device, "host_memory_stats") or {}
    return Peak(
        _call(device, "max_memory_allocated", device), peak, pinned.get("active_bytes.peak")
    )


def _call(device: str, name: str, *arguments: Any) -> Any:
    """Call a function of the device's memory, if this PyTorch has it for this device."""
    kind = torch.device(device).type
    if kind == "cpu":
        return None
    for module in (torch.accelerator, torch.get_device_module(kind)):
        if (function := getattr(module, name, None)) is not None:
            try:
                return function(*arguments)
            except (RuntimeError, TypeError):  # It is there, but not for this device.
                continue
    return None


def _reset_resident_peak() -> int | None:
    """Let Linux forget the largest resident memory so far; return what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
