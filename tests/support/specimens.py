"""Small stores as the product itself writes them, of every kind, and older ones of the same layout.

Two folders: ``new`` and ``old``. In each a run of four samples and its maps in both conventions. What
lies at a path of ``new`` lies at the same path of ``old``, with the same sizes and other values: it
was captured with other seeds and pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image

from i2am.analysis import analyze_run
from i2am.capture import capture
from tests.support.tiny_pipelines import families
from tests.support.tiny_pipelines.families import Family

__all__ = [
    "MAPS",
    "RUN",
    "SAMPLES",
    "Specimens",
    "analyze_samples",
    "capture_sample",
    "write_specimens",
]

RUN = "run.zarr"
SAMPLES = ("factors", "logits", "maps", "twin")
# By name, what `analyze_run` is asked for. Maps of one token's map each do not exist of maps.
MAPS: Mapping[str, Mapping[str, Any]] = {
    "maps.zarr": {"time_groups": 2, "samples": SAMPLES},
    "official.zarr": {
        "time_groups": 2,
        "samples": [name for name in SAMPLES if name != "maps"],
        "convention": "official",
    },
}

_SCALES = (0.7, 0.4, 0.9, 0.2, 0.5, 0.6)  # of the adapter, by step
_ADAPTED_LAYERS = ["mid_block*", "up_blocks.0.attentions.0*"]
_JOINT_LAYERS = ["transformer_blocks.0.*", "single_transformer_blocks.0.*"]
_SIZE_PX = (16, 32)


@dataclass(frozen=True)
class Specimens:
    """Where the stores lie.

    Parameters
    ----------
    new, old : Path
        Each holds `RUN` and the stores of `MAPS`.
    """

    new: Path
    old: Path


def write_specimens(folder: Path) -> Specimens:
    """Write all stores below a folder, which takes some seconds."""
    found = Specimens(folder / "new", folder / "old")
    for seed, root in enumerate((found.new, found.old)):
        for sample in SAMPLES:
            capture_sample(root / RUN, sample, seed)
        for maps in MAPS:
            analyze_samples(root / RUN, root / maps)
    return found


def capture_sample(run: Path, sample: str, seed: int = 0) -> None:
    """Capture one of `SAMPLES` into a run; seed 0 is that of the new stores."""
    if sample in {"logits", "maps"}:
        _capture_joint(_joint(), run, sample, seed)
    else:
        _capture_adapted(_adapted(), run, sample, seed + 2 * (sample == "twin"))


def analyze_samples(run: Path, maps: Path) -> None:
    """Analyze a run into one of `MAPS`, by its name; what is complete there is skipped."""
    analyze_run(run, maps, progress=False, **MAPS[maps.name])


@cache
def _adapted() -> Family:
    return families.ip_adapter("full", images=2)


@cache
def _joint() -> Family:
    family = families.flux_kontext()
    family.call.pop("true_cfg_scale")  # One branch is enough here.
    return family


def _capture_adapted(family: Family, run: Path, sample: str, seed: int) -> None:
    """Factors of two references, each with a mask, both guidance branches, a scale by step, a box."""
    masks = [_mask(*_SIZE_PX, seed), 255 - _mask(*_SIZE_PX, seed)]
    pictures = [Image.fromarray(mask) for mask in masks]
    prepared = IPAdapterMaskProcessor().preprocess(pictures, *_SIZE_PX)[:, 0][None]
    family.pipeline.set_ip_adapter_scale(_SCALES[0])
    options: Any = {"guidance": "both", "representation": "factors", "layers": _ADAPTED_LAYERS}
    with capture(family.pipeline, run, sample=sample, **options) as recording:
        family.run(
            len(_SCALES),
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=_change_scale,
            cross_attention_kwargs={"ip_adapter_masks": [prepared]},
        )
        recording.add_provenance(seed=seed, guidance_scale=7.5)
        recording.add_images(
            generated=_picture(*_SIZE_PX, seed),
            reference=_picture(8, 8, seed + 1),
            reference_1=_picture(8, 8, seed + 2),
            source=_picture(*_SIZE_PX, seed + 3),
            inpainting_mask=masks[0],
            reference_mask=_mask(8, 8, seed),
            boxes={"generated": (0, 4, 16, 28), "reference": (1, 1, 7, 7)},
        )


def _change_scale(pipeline: Any, step: int, _timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
    pipeline.set_ip_adapter_scale(_SCALES[min(step + 1, len(_SCALES) - 1)])
    return kept


def _capture_joint(family: Family, run: Path, kind: Any, seed: int) -> None:
    """Logits or maps in float32, with what the softmax covers beside the reference."""
    options: Any = {"representation": kind, "dtype": "float32", "layers": _JOINT_LAYERS}
    with capture(family.pipeline, run, sample=kind, **options) as made:
        family.run(6, generator=torch.Generator().manual_seed(seed))
        made.add_provenance(seed=seed)
        made.add_images(
            generated=_picture(16, 16, seed),
            reference=_picture(16, 24, seed + 1),
            inpainting_mask=_mask(16, 16, seed),
        )


def _picture(height: int, width: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _mask(height: int, width: int, seed: int) -> np.ndarray[Any, Any]:
    """Return a mask whose upper or lower half is white, in the middle columns."""
    mask = np.zeros((height, width), np.uint8)
    rows = slice(height // 2) if seed % 2 else slice(height // 2, None)
    mask[rows, width // 4 : 3 * width // 4] = 255
    return mask
