"""Whether captured attention is the model's own on this device: tiny models, computed in the open.

Real classes of diffusers with random weights, each run once with every attention layer computing its
probabilities explicitly, and captured in that same run.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import zarr

from i2am.capture import capture
from support.failures import EXPECTED, reason_of
from tests.support.explicit_attention import Attended, explicit_attention
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.family import Family

diffusers.utils.logging.set_verbosity_error()  # Of dtypes that only tests give these models.

__all__ = ["COMPILED_BAR", "DTYPE_BARS", "Case", "cases", "check"]

# A half-precision model's own product of queries and keys is rounded, the captured one is not.
DTYPE_BARS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
COMPILED_BAR = (
    1e-3  # Beside another run, as a compiled layer cannot be opened: it rounds differently.
)
# Each has one reference, whose keys follow each other. The first two are tried in every way.
_FIRST = ("ip-adapter-full-face", "flux-kontext")
_OTHERS = (
    "reference-inpaint",
    "paint-by-example",
    "image-variation",
    "ip-adapter-sdxl",
    "kandinsky-2.2",
    "flux-redux",
    "wan-image-to-video",
)
_COMPILING_S = 45  # What compiling one for a GPU may take; others are known from those before.
_STEPS = 2
_PICTURE = np.zeros((8, 8, 3), np.uint8)


@dataclass(frozen=True)
class Case:
    """A tiny model, what it computes in, and how it is run."""

    family: str
    dtype: str
    how: Literal["as it is", "offloaded", "compiled"] = "as it is"

    def __str__(self) -> str:
        return f"{self.family}, {self.dtype}, {self.how}"

    def expected_s(self, device: str, longest_s: float) -> float:
        """Return how long this may take, from the longest case so far."""
        return _COMPILING_S if self.how == "compiled" and device != "cpu" else longest_s

    @property
    def bar(self) -> float:
        """The largest difference of a probability that is allowed."""
        return COMPILED_BAR if self.how == "compiled" else DTYPE_BARS[self.dtype]


def cases(*, quick: bool) -> Iterator[Case]:
    """Yield the cases, the most telling ones first."""
    for dtype in DTYPE_BARS:
        yield from (Case(family, dtype) for family in _FIRST)
    yield from (Case(family, "float16", "offloaded") for family in _FIRST)
    if not quick:
        for dtype in ("float16", "bfloat16", "float32"):
            yield from (Case(family, dtype) for family in _OTHERS)
    yield from (Case(family, "float32", "compiled") for family in _FIRST)


def check(case: Case, device: str, folder: Path) -> dict[str, Any]:
    """Return what came of a case: the largest difference, and whether the output stayed the same.

    What fails is reported with its reason: the others go on.
    """
    found = {**dataclasses.asdict(case), "bar": case.bar}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of dtypes and sizes that only tiny models have.
            worst, is_same = _run(case, device, folder / "equality.zarr")
    except EXPECTED as error:
        return {**found, "error": reason_of(error), "is_met": False}
    return {
        **found,
        "worst": worst,
        "output_is_same": is_same,
        "is_met": worst <= case.bar and is_same is not False,
    }


def _run(case: Case, device: str, store: Path) -> tuple[float, bool | None]:
    torch.manual_seed(0)
    family = _move(FAMILIES[case.family](), device, getattr(torch, case.dtype))
    if case.how == "compiled":
        with explicit_attention(family.denoiser) as kept:
            family.run(_STEPS)
        name = "unet" if hasattr(family.pipeline, "unet") else "transformer"
        backend = "inductor" if device != "cpu" else "eager"
        compiled = torch.compile(family.denoiser, backend=backend)
        family.pipeline.register_modules(**{name: compiled})
        _record(family, store)
        return _worst_difference(family, store, kept), None
    if case.how == "offloaded":
        _offload(family, device)
    before = family.run(_STEPS)
    is_same = bool(torch.equal(before, _record(family, store)))
    with explicit_attention(family.denoiser) as kept:
        _record(family, store)
    return _worst_difference(family, store, kept), is_same


def _move(family: Family, device: str, dtype: torch.dtype) -> Family:
    """Return a family on a device, with what its pipeline is called with."""

    def moved(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    family.pipeline.to(device, dtype)
    call = {name: moved(value) for name, value in family.call.items()}
    return dataclasses.replace(family, call=call)


def _offload(family: Family, device: str) -> None:
    """Keep weights on the CPU until their part of the model runs; alike on a CPU, to run the code."""
    if device != "cpu":
        family.pipeline.enable_model_cpu_offload(device=device)
        return
    cpu = torch.device("cpu")
    family.denoiser.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type="leaf_level"
    )


def _record(family: Family, store: Path) -> torch.Tensor:
    with capture(
        family.pipeline, store, sample="one", dtype="float32", overwrite=True
    ) as recording:
        output: torch.Tensor = family.run(_STEPS)
        recording.add_images(generated=family.blank(), reference=_PICTURE)
    return output


def _worst_difference(family: Family, store: Path, kept: dict[str, list[Attended]]) -> float:
    """Return the largest difference between stored and computed probabilities, both directions."""
    layers: Any = zarr.open_group(store, mode="r")["one/layers"]
    worst = [
        _difference(family, layer, [call.as_float() for call in kept[name]])
        for name, layer in layers.groups()
    ]
    if len(worst) != family.layers:
        msg = f"Expected {family.layers} layers of {family.profile}, got {len(worst)}."
        raise RuntimeError(msg)
    return max(worst)


def _difference(family: Family, layer: Any, calls: list[Attended]) -> float:
    logits = _stored_logits(layer)
    steps, _heads, patches, tokens = logits.shape
    width = family.other_keys(patches) + tokens
    reads = [call for call in calls if call.scores.shape[-1] == width][:: family.calls]
    if len(reads) != steps:
        msg = f"Expected {steps} steps of {width} keys, got {len(reads)}, at {layer.path}."
        raise RuntimeError(msg)
    queries = slice(family.queries_before, family.queries_before + patches)
    keys = slice(family.keys_before(patches), family.keys_before(patches) + tokens)
    # The last of a batch is conditional.
    scores, probabilities = (
        torch.stack([part[-1, :, queries, keys] for part in parts])
        for parts in zip(*((read.scores, read.probabilities) for read in reads), strict=True)
    )
    if "logsumexp" in layer:
        total = torch.from_numpy(layer["logsumexp"][...])[..., None]
    else:
        total = logits.logsumexp(-1, keepdim=True)
    forward = (logits - total).exp() - probabilities
    backward = logits.softmax(2) - scores.softmax(2)
    worst = max(forward.abs().max().item(), backward.abs().max().item())
    return worst if np.isfinite(worst) else np.inf


def _stored_logits(layer: Any) -> torch.Tensor:
    """Return float32 logits, dims (step, head, generated, reference)."""
    if "logits" in layer:
        return torch.from_numpy(layer["logits"][...])
    query, key = (torch.from_numpy(layer[name][...]) for name in ("query", "key"))
    logits: torch.Tensor = query @ key.transpose(-1, -2) * layer.attrs["i2am"]["scale"]
    return logits
