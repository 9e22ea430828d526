"""What it takes to repeat a sample: model, sampler, inputs, settings and versions."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from i2am.schemas import ManifestRow

__all__ = ["describe_inputs", "describe_target", "to_json_value"]

_PACKAGES = (
    *("i2am", "torch", "diffusers", "transformers", "accelerate", "peft", "safetensors"),
    *("zarr", "numpy", "pillow"),
)
_IMAGES = ("source", "mask", "reference", "reference_mask")
_COMMIT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})\b")


def describe_target(target: Any, denoiser: nn.Module, profile: str) -> dict[str, Any]:
    """Return what a pipeline or denoiser says about a sample's provenance.

    Parameters
    ----------
    target : pipeline or Module
    denoiser : Module
        The module that is captured; `target` itself, or a part of it.
    profile : str
    """
    scheduler = getattr(target, "scheduler", None)
    # A quantised model may hold buffers alone.
    parameter = next(itertools.chain(denoiser.parameters(), denoiser.buffers()), torch.empty(0))
    return {
        "pipeline": type(target).__name__,
        "model": str(getattr(target, "name_or_path", "") or type(target).__name__),
        "revision": _commit(denoiser),
        "profile": profile,
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "scheduler_config": _scheduler_config(scheduler),
        "steps": None,
        "guidance_scale": None,
        "seed": None,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "device_name": _device_name(parameter.device),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": dict(_package_versions()),
    }


def describe_inputs(row: ManifestRow, manifest: Path) -> dict[str, dict[str, str]]:
    """Return path and SHA-256 of each image of a row; paths are relative to the manifest's folder.

    Parameters
    ----------
    row : ManifestRow
    manifest : Path
        The file with the row.
    """
    folder = manifest.parent.absolute()
    found = {}
    for column in (*_IMAGES, *row.other_references()):
        path: Path | None = getattr(row, column)
        if path is not None:
            shown = path.relative_to(folder) if path.is_relative_to(folder) else path
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[column] = {"path": shown.as_posix(), "sha256": digest}
    return found


@cache  # To look them up takes half a step of a small model.
def _package_versions() -> Mapping[str, str]:
    """Return the installed versions of the packages that a capture depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)


def to_json_value(value: Any) -> Any:
    """Return a value that JSON can hold; other objects become text."""
    return json.loads(json.dumps(value, default=str))


def _scheduler_config(scheduler: Any) -> dict[str, Any] | None:
    config = getattr(scheduler, "config", None)
    if config is None:
        return None
    found: dict[str, Any] = to_json_value(
        {k: v for k, v in config.items() if not k.startswith("_")}
    )
    return found


def _commit(denoiser: nn.Module) -> str | None:
    """Return the hub's commit of the weights, which names a folder of the hub's cache."""
    path = str(getattr(getattr(denoiser, "config", None), "_name_or_path", ""))
    found = _COMMIT.search(path)
    return found[1] if found else None


def _device_name(device: torch.device) -> str:
    """Return what the maker calls a device, where PyTorch can tell; of the processor, its kind."""
    name = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return platform.machine() if name is None else str(name(device))
