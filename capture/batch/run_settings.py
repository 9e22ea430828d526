"""One run, one setting: what the samples of a run must have in common to be continued.

A run's samples are browsed, averaged and compared together. So `capture_manifest` compares its own
settings with those that the complete samples of the run were made with, from their provenance, and
refuses others. What differs by sample (seed, prompt, labels) is no setting. The versions of the
packages and the kind of device are not either: numbers may differ by their rounding, which is told
in a warning.

Only what both sides know is compared: samples of older versions say less, and some settings are known
only when the model is loaded.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2am.capture.pipelines.call import (
    GenerationSettings,
    guidance_argument,
    guidance_scale_of,
    output_size,
    steps_of,
)
from i2am.capture.pipelines.load import LoadOptions
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.provenance import describe_target
from i2am.schemas import StoreError
from i2am.storage.owners import Writer

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "EarlierSamples",
    "call_settings",
    "check_others",
    "comparable_settings",
    "settings_before_loading",
    "settings_of_pipeline",
]

# Stored name of a setting, and what it is called in a message.
_SETTINGS = {
    "model": "model",
    "pipeline": "pipeline",
    "profile": "profile",
    "dtype": "model dtype",
    "scheduler": "scheduler",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance scale",
    "size": "size",
    "ip_adapter": "IP-Adapter",
    "ip_adapter_scale": "IP-Adapter scale",
    "randomize_weights": "randomised weights",
}
_REVISIONS = ("revision", "requested_revision")
_MAPPINGS = {"arguments": "argument", "scheduler_config": "scheduler", "options": "kept"}
# Arguments that are compared as settings, and those that samples may have of their own.
_KNOWN_ARGUMENTS = {"width", "height", "num_inference_steps"}
_GUIDANCE_ARGUMENTS = {"guidance_scale", "true_cfg_scale", "max_guidance_scale"}
_SAMPLE_ARGUMENTS = {"prompt"}
_COMPARED = {*_SETTINGS, *_MAPPINGS, *_REVISIONS, "versions", "device"}
_PACKAGES = ("i2am", "torch", "diffusers")
_SHOWN = 5

Settings = Mapping[str, Any]


def settings_before_loading(
    model: str, settings: GenerationSettings, loading: LoadOptions, options: CaptureOptions
) -> dict[str, Any]:
    """Return the settings that are known without the model, by their names in the provenance."""
    found: dict[str, Any] = {
        "model": model,
        "arguments": dict(settings.arguments),
        "guidance_arguments": _GUIDANCE_ARGUMENTS,
        "options": options.describe(),
        "ip_adapter": loading.ip_adapter,
        "ip_adapter_scale": loading.ip_adapter_scale,
        "randomize_weights": loading.randomize_weights,
    }
    if settings.steps is not None:
        found["num_inference_steps"] = settings.steps
    if settings.guidance_scale is not None:
        found["guidance_scale"] = settings.guidance_scale
    return found


def settings_of_pipeline(
    pipeline: Any,
    denoiser: nn.Module,
    profile: str,
    settings: GenerationSettings,
    loading: LoadOptions,
) -> dict[str, Any]:
    """Return the settings that a loaded pipeline tells, with versions and device."""
    guidance = guidance_argument(pipeline)
    return describe_target(pipeline, denoiser, profile) | {
        "requested_revision": loading.revision,
        "guidance_arguments": () if guidance is None else (guidance,),
        "guidance_scale": guidance_scale_of(pipeline, settings),
        **call_settings(pipeline, settings),
    }


def call_settings(pipeline: Any, settings: GenerationSettings) -> dict[str, Any]:
    """Return the settings of a pipeline's call beside its scale: steps, and size in (y, x) pixels."""
    size = output_size(pipeline, settings)
    return {
        "num_inference_steps": steps_of(pipeline, settings),
        "size": None if size is None else [size[1], size[0]],
    }


def comparable_settings(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a sample's facts, or of a capture's, that a run has in common; JSON types."""
    settings = {name: provenance[name] for name in _COMPARED & provenance.keys()}
    settings["device"] = _device_type(settings.get("device"))
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def check_others(writer: Writer, settings: Settings, out: str) -> None:
    """Check that no process that was here first fills the run with other settings.

    The later one of two gives way. So the earlier one need not look, but for a process whose clock
    says that it came earlier: both look before each sample.

    Raises
    ------
    StoreError
        If one does; the differences are told.
    """
    for other in writer.others():
        if other.settings and (other.entered_s, other.id) < (writer.entered_s, writer.id):
            earlier = EarlierSamples(out, can_overwrite=False)
            earlier.add(str(other), other.settings)
            earlier.check(settings)


@dataclass
class EarlierSamples:
    """The different settings of a run's complete samples, each with the first sample that has it.

    Parameters
    ----------
    out : str
        The run.
    can_overwrite : bool
        Whether to name ``--overwrite`` as a way on.

    Examples
    --------
    >>> earlier = EarlierSamples("run.zarr")
    >>> earlier.add("a", {"model": "i2am-tiny", "num_inference_steps": 20, "seed": 1})
    >>> earlier.add("b", {"model": "i2am-tiny", "num_inference_steps": 20, "seed": 2})
    >>> earlier.check({"model": "i2am-tiny", "num_inference_steps": 20})
    """

    out: str
    can_overwrite: bool = True
    _found: dict[str, tuple[str, Settings]] = field(default_factory=dict, init=False)
    _last: Settings = field(default_factory=dict, init=False)

    def add(self, sample: str, provenance: Mapping[str, Any]) -> None:
        """Add a complete sample's provenance."""
        chosen = {name: provenance[name] for name in _COMPARED & provenance.keys()}
        if chosen == self._last:  # As nearly always, and far faster than to write it down.
            return
        self._last = chosen
        settings = comparable_settings(provenance)
        self._found.setdefault(json.dumps(settings, sort_keys=True), (sample, settings))

    def check(self, settings: Settings) -> None:
        """Check that a run may be continued with these settings.

        Raises
        ------
        StoreError
            If a sample has others; the differences are told.
        """
        for sample, earlier in self._found.values():
            if differences := list(_differences(earlier, settings)):
                shown = ", ".join(differences[:_SHOWN])
                if len(differences) > _SHOWN:
                    shown = f"{shown} and {len(differences) - _SHOWN} more"
                ways = "name another run with --out"
                if self.can_overwrite:
                    ways = f"{ways}, or pass --overwrite to replace its samples"
                msg = (
                    f"Expected the settings of {sample!r} in {self.out}, got others: {shown}.\n"
                    f"One run has one setting: {ways}."
                )
                raise StoreError(msg)

    def warn_of_versions(self, versions: Mapping[str, str], device: str) -> None:
        """Warn once where samples were made by other versions, or on another kind of device."""
        found: dict[str, None] = {}
        for _, earlier in self._found.values():
            before = earlier.get("versions") or {}
            found |= dict.fromkeys(
                f"{package} {before[package]} → {versions[package]}"
                for package in _PACKAGES
                if package in before and before[package] != versions.get(package)
            )
            if (kind := earlier.get("device")) and kind != _device_type(device):
                found[f"device {kind} → {_device_type(device)}"] = None
        if found:
            msg = (
                f"Samples in {self.out} were made with others: {', '.join(found)}. Numbers may differ "
                "by their rounding."
            )
            warnings.warn(msg, stacklevel=3)


def _differences(earlier: Settings, now: Settings) -> Iterator[str]:
    """Yield each setting that both sides know and that differs, as "name old → new"."""
    for name, label in _SETTINGS.items():
        if name in earlier and name in now and not _is_same(name, earlier[name], now[name]):
            yield _told(label, earlier[name], now[name])
    yield from _revision_difference(earlier, now)
    for name, label in _MAPPINGS.items():
        if earlier.get(name) is None or now.get(name) is None:
            continue
        if name == "scheduler_config" and earlier.get("scheduler") != now.get("scheduler"):
            continue  # Another class has other options.
        before, after = (_comparable(name, side[name], now) for side in (earlier, now))
        # Of what the packages fill in, another version may know more.
        keys = before.keys() | after.keys() if name == "arguments" else before.keys() & after.keys()
        for key in sorted(keys):
            if before.get(key) != after.get(key):
                yield _told(f"{label} {key}", before.get(key), after.get(key))


def _revision_difference(earlier: Settings, now: Settings) -> Iterable[str]:
    """Return the difference of the commits; where one is not known, of what was asked for."""
    for name in _REVISIONS:
        if (
            name in earlier
            and name in now
            and (name == _REVISIONS[-1] or _both(earlier, now, name))
        ):
            if earlier[name] != now[name]:
                return [_told("revision", earlier[name], now[name])]
            return []
    return []


def _both(earlier: Settings, now: Settings, name: str) -> bool:
    return earlier[name] is not None and now[name] is not None


def _comparable(name: str, values: Mapping[str, Any], now: Settings) -> dict[str, Any]:
    if name != "arguments":
        return dict(values)
    left_out = _KNOWN_ARGUMENTS | _SAMPLE_ARGUMENTS | set(now["guidance_arguments"])
    # As they come back from the store.
    found = {key: value for key, value in values.items() if key not in left_out}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _is_same(name: str, before: Any, after: Any) -> bool:
    if before == after or (name == "ip_adapter_scale" and {before, after} == {None, 1.0}):
        return True
    if name in {"model", "ip_adapter"} and before and after:
        paths = [Path(str(value).partition(":")[0]).expanduser() for value in (before, after)]
        rests = [str(value).partition(":")[2] for value in (before, after)]
        is_there = all(path.exists() for path in paths)
        return is_there and rests[0] == rests[1] and paths[0].resolve() == paths[1].resolve()
    return bool(list(before) == list(after)) if _are_lists(before, after) else False


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, list | tuple) for value in values)


def _told(label: str, before: Any, after: Any) -> str:
    return f"{label} {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if _are_lists(value):
        text = ",".join(str(part) for part in value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:19]}…{text[-20:]}"


def _device_type(device: Any) -> str | None:
    return None if device is None else str(device).partition(":")[0]
