"""What it takes to repeat a sample: model, sampler, settings and versions."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

__all__ = ["describe_target", "package_versions"]

_PACKAGES = ("i2am", "torch", "diffusers", "transformers", "zarr", "numpy")


def describe_target(target: Any, denoiser: nn.Module, profile: str) -> dict[str, Any]:
    """Return the provenance that can be read off a pipeline or denoiser.

    Parameters
    ----------
    target : pipeline or Module
    denoiser : Module
        The module that is captured; `target` itself, or a part of it.
    profile : str
    """
    scheduler = getattr(target, "scheduler", None)
    parameter = next(denoiser.parameters())
    return {
        "pipeline": type(target).__name__,
        "model": str(getattr(target, "name_or_path", "") or type(target).__name__),
        "revision": None,
        "profile": profile,
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "steps": None,
        "guidance_scale": None,
        "seed": None,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the installed versions of what a capture depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
