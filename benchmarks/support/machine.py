"""What figures depend on: the machine, the versions of packages, and the state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["describe_code", "describe_machine", "describe_versions"]

ROOT = Path(__file__).parents[2]
_PACKAGES = (
    *("i2am", "numpy", "numba", "dask", "xarray", "zarr", "zarrs", "numcodecs"),
    *("torch", "diffusers", "attention-map-diffusers", "napari"),
)
# What is rendered from figures is no part of what they were measured with.
_RENDERED = (":!benchmarks/results", ":!docs/reference/benchmarks.md")


def describe_machine(device: str | None = None) -> dict[str, Any]:
    """Return the machine without its name; of PyTorch's device that is told, or of its accelerator."""
    import torch  # Not by who only shares this module: it takes seconds.

    if device is None and torch.accelerator.is_available():
        device = str(torch.accelerator.current_accelerator())
    kind = "cpu" if device is None else torch.device(device).type
    name_of = getattr(getattr(torch, kind, None), "get_device_name", None)
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "os": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "accelerator": "none" if name_of is None else str(name_of(device)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def describe_versions() -> dict[str, str]:
    """Return the version of Python and of each package, "none" of one that is not there."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def describe_code() -> dict[str, Any]:
    """Return the commit, and whether files that git knows differ from it; None where git cannot tell."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", *_RENDERED)
        return {"commit": ask("rev-parse", "--short=12", "HEAD"), "is_dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "is_dirty": None}
