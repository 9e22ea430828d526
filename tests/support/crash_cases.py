"""Commands that write stores, as they are interrupted: what was there before, and what is done.

Each writes into one folder and reads its inputs elsewhere, so that the same command can be given
again on whatever that folder holds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from i2am.analysis import analyze_run, average_maps, open_run
from i2am.capture import CaptureOptions, capture, capture_manifest
from tests.support.manifests import write_manifest
from tests.support.synthetic_run import SyntheticLayer, write_run
from tests.support.tiny_pipelines import models

__all__ = ["CASES", "WITHOUT_FSYNC", "CrashCase"]

# Two of the shipped model's layers: fewer files, and with one file for each thing all the same.
_OPTIONS: dict[str, Any] = {"layers": ["down_blocks.1*", "up_blocks.0.attentions.0*"]}


@dataclass(frozen=True)
class CrashCase:
    """A command to be interrupted.

    Parameters
    ----------
    name : str
    prepare : callable (inputs, out) -> None
        Makes the inputs, and what lies in the out folder before.
    command : callable (inputs, out) -> None
        What is interrupted, and done again.
    keeps_old : bool
        Whether what was complete before must not be lost: maps can be computed again.
    also : callable (inputs, out) -> None, optional
        What gives samples that are right, too, after the command was given again.
    """

    name: str
    prepare: Callable[[Path, Path], None]
    command: Callable[[Path, Path], None]
    keeps_old: bool = True
    also: Callable[[Path, Path], None] | None = None


# --- Captures.


def _make_manifest(inputs: Path, _out: Path) -> None:
    write_manifest(inputs, ("a", "b"))


def _capture(
    inputs: Path, out: Path, *, seed: int = 5, overwrite: bool = False, size: int = 1
) -> None:
    summary = capture_manifest(
        "i2am-tiny", inputs / "rows.csv", out / "run.zarr", steps=1, seed=seed, batch_size=size,
        options=CaptureOptions(overwrite=overwrite, **_OPTIONS), shard=(0, 1), progress=False,
    )  # fmt: skip
    assert not summary.failed, summary.failed


def _captured(inputs: Path, out: Path) -> None:
    _make_manifest(inputs, out)
    _capture(inputs, out, seed=0)


class _OutgrowsFloat16:
    """Makes a layer's queries too large for float16 at a pipeline's last step."""

    def __init__(self, pipeline: Any, steps: int) -> None:
        self._left = steps
        layer = next(m for n, m in pipeline.unet.named_modules() if n.endswith("attn2.to_q"))
        self.handle = layer.register_forward_hook(self)

    def __call__(self, _layer: Any, _inputs: Any, found: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        return found if self._left else found * 1e8


def _capture_in_one_block(_inputs: Path, out: Path, *, durable: bool = True) -> None:
    store, pipeline = out / "run.zarr", _pipeline()
    steps = 7  # more than a shard of five: the first is written as float16
    done = set(open_run(store)) if (store / "zarr.json").exists() else set()
    names = [name for name in ("a", "b") if name not in done]
    if not names:
        return
    with capture(
        pipeline, store, sample=names[0], memory_bytes=2**16, durable=durable
    ) as recording:
        for name in names:
            if name != names[0]:
                recording.next_sample(name)
            outgrows = _OutgrowsFloat16(pipeline, steps)
            image = models.run(pipeline, steps)[0]
            outgrows.handle.remove()
            inputs = models.noise_images(models.size_of(pipeline))
            recording.add_images(generated=image, reference=inputs["example_image"])


def _pipeline() -> Any:
    return models.paint_by_example()


# --- Analyses.

_LAYER = SyntheticLayer("down", (4, 4), (2, 2), heads=1, channels=4)


def _make_run(inputs: Path, created: str = "2026-01-01T00:00:00Z", seed: int = 0) -> None:
    shutil.rmtree(inputs / "run.zarr", ignore_errors=True)
    run = write_run(inputs / "run.zarr", ["a", "b"], [_LAYER], steps=2, seed=seed)
    for metadata in run.glob("*/zarr.json"):
        text = json.loads(metadata.read_text())
        text["attributes"]["i2am"]["created"] = created
        metadata.write_text(json.dumps(text))


def _analyze(inputs: Path, out: Path, **options: Any) -> None:
    analyze_run(inputs / "run.zarr", out / "maps.zarr", progress=False, **options)


def _analyzed(inputs: Path, out: Path) -> None:
    _make_run(inputs)
    _analyze(inputs, out)


def _captured_anew(inputs: Path, out: Path) -> None:
    _analyzed(inputs, out)
    _make_run(inputs, "2026-02-02T00:00:00Z", seed=1)


def _average(inputs: Path, out: Path) -> None:
    average_maps(
        inputs / "maps.zarr", levels="ulam", out=out / "maps.average.zarr", overwrite=True
    ).close()


def _analyzed_elsewhere(inputs: Path, _out: Path) -> None:
    _make_run(inputs)
    _analyze(inputs, inputs)


def _averaged(inputs: Path, out: Path) -> None:
    _analyzed_elsewhere(inputs, out)
    _average(inputs, out)
    shutil.rmtree(inputs / "maps.zarr")
    _make_run(inputs, seed=1)
    _analyze(inputs, inputs)


# What fsync is for: never among the cases.
WITHOUT_FSYNC = CrashCase(
    "capture without fsync",
    lambda _i, _o: None,
    lambda i, o: _capture_in_one_block(i, o, durable=False),
)

CASES: Sequence[CrashCase] = (
    CrashCase("capture", _make_manifest, _capture),
    CrashCase(
        "capture, two in one call",
        _make_manifest,
        lambda i, o: _capture(i, o, size=2),
        also=_capture,  # One that was left alone is captured alone: its last bits are others.
    ),
    CrashCase("capture --overwrite", _captured, lambda i, o: _capture(i, o, overwrite=True)),
    CrashCase("capture in one block, beyond float16", lambda _i, _o: None, _capture_in_one_block),
    CrashCase("analyze", lambda i, _o: _make_run(i), _analyze, keeps_old=False),
    CrashCase("analyze after a new capture", _captured_anew, _analyze, keeps_old=False),
    CrashCase(
        "analyze --overwrite",
        _analyzed,
        lambda i, o: _analyze(i, o, time_groups=1, overwrite=True),
        keeps_old=False,
    ),
    CrashCase("average", _analyzed_elsewhere, _average, keeps_old=False),
    CrashCase("average --overwrite", _averaged, _average, keeps_old=False),
)
