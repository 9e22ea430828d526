"""Measure whether the shipped model counts as trained, on objects that training never saw.

    python examples/tiny_model/evaluate.py [--model DIR] [--untrained] [--pictures held-out.png]

Prints three figures as JSON: how often the painted object is nearer to the truth than one painted
from a wrong reference; how often the peak of a painted patch's SRAM lies at its true source,
against a uniform choice; how much higher R2G is inside the mask. Attention goes the way of any
user's: captured into a store, opened from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from compositions import SIZE_PX, Batch, Compositions, read_objects
from make_demo import to_picture
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from i2am.analysis import analyze, open_run
from i2am.capture import SHIPPED_MODEL, capture, load_pipeline
from i2am.capture.pipelines.tiny_model import build_pipeline

HERE = Path(__file__).parent
STEPS, GUIDANCE_SCALE, BATCH = 25, 3.0, 20
REACH = 1.5  # reference tokens, Chebyshev distance from a token's centre to the true source
SEED = 2024  # of the compositions; training uses 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SHIPPED_MODEL, help="default: the one that ships")
    parser.add_argument("--untrained", action="store_true", help="random denoiser and encoder")
    parser.add_argument("--cases", type=int, default=200, help="for painting; default 200")
    parser.add_argument("--captured", type=int, default=60, help="for attention; default 60")
    parser.add_argument("--pictures", type=Path, help="write a sheet of results here")
    parser.add_argument("--rows", type=int, default=10, help="of the sheet; default 10")
    arguments = parser.parse_args()
    pipeline = load_pipeline(arguments.model)
    if arguments.untrained:
        torch.manual_seed(0)
        fresh = build_pipeline(tuple(pipeline.unet.config.block_out_channels))
        pipeline.register_modules(unet=fresh.unet, reference_encoder=fresh.reference_encoder)
    objects = read_objects(HERE / "held-out.zip", held_out=True)
    pairs = Compositions(objects, seed=SEED)
    figures = measure_attention(pipeline, pairs, arguments.captured)
    figures |= measure_painting(pipeline, pairs, arguments.cases)
    print(json.dumps(figures, indent=1))
    if arguments.pictures:
        write_sheet(pipeline, pairs, arguments.pictures, arguments.rows)


def paint(pipeline: Any, batch: Batch, reference: torch.Tensor, start: int) -> torch.Tensor:
    """Return painted pictures (N, 3, y, x) in [-1, 1]; composition i gets noise i."""
    noise = [torch.Generator().manual_seed(start + i) for i in range(len(reference))]
    painted = pipeline(
        example_image=reference,
        image=batch.composite,
        mask_image=batch.mask,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=noise,
        output_type="pt",
    ).images
    return torch.as_tensor(painted).cpu() * 2 - 1


def iter_batches(pairs: Compositions, count: int) -> Iterator[tuple[int, Batch]]:
    for start in tqdm(range(0, count, BATCH), unit="batch", file=sys.stderr):
        yield start, pairs.batch(start, min(start + BATCH, count))


def measure_painting(pipeline: Any, pairs: Compositions, count: int) -> dict[str, Any]:
    """Compare the L1 distance to the truth inside the mask, right against wrong reference."""
    wins, distances = [], []
    for start, batch in iter_batches(pairs, count):
        found = []
        for reference in (batch.reference, batch.reference.roll(1, dims=0)):
            painted = paint(pipeline, batch, reference, start)
            error = (painted - batch.composite).abs().mean(1, keepdim=True) * batch.mask
            found.append(error.sum((1, 2, 3)) / batch.mask.sum((1, 2, 3)))
        wins += (found[0] < found[1]).tolist()
        distances += torch.stack(found, 1).tolist()
    right, wrong = np.mean(distances, axis=0).round(4).tolist()
    share = round(float(np.mean(wins)), 4)
    return {"nearer_than_wrong_reference": share, "l1_right": right, "l1_wrong": wrong}


def measure_attention(pipeline: Any, pairs: Compositions, count: int) -> dict[str, Any]:
    """Measure correspondence, layer by layer and averaged, and R2G inside against outside."""
    hits: dict[str, list[float]] = {}
    chances: dict[str, list[float]] = {}
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for start, batch in iter_batches(pairs, count):
            record(pipeline, batch, start, Path(folder) / "run.zarr")
        run = open_run(Path(folder) / "run.zarr")
        for index, (_, sample) in enumerate(tqdm(sorted(run.items()), file=sys.stderr)):
            batch = pairs.batch(index, index + 1)
            for layer, found in correspondence(sample, batch).items():
                hits.setdefault(layer, []).extend(found[0])
                chances.setdefault(layer, []).extend(found[1])
            ulam = analyze(sample)["r2g/ulam"].to_numpy()
            area = functional.interpolate(batch.mask, ulam.shape, mode="area")[0, 0].numpy()
            inside, outside = (np.average(ulam, weights=w) for w in (area, 1 - area))
            ratios.append(inside / outside)
    table = {
        layer: {
            "hit": round(float(np.mean(hits[layer])), 3),
            "chance": round(float(np.mean(chances[layer])), 4),
            "times_chance": round(float(np.mean(hits[layer]) / np.mean(chances[layer])), 2),
        }
        for layer in hits
    }
    return {"correspondence": table, "r2g_inside_to_outside": round(float(np.mean(ratios)), 2)}


def record(pipeline: Any, batch: Batch, start: int, store: Path) -> None:
    names = [f"{start + i:04d}" for i in range(len(batch.mask))]
    with capture(pipeline, store, sample=names, dtype="float16") as recording:
        painted = paint(pipeline, batch, batch.reference, start)
        for i, name in enumerate(names):
            recording.add_images(
                sample=name,
                generated=to_picture(painted[i : i + 1].clamp(-1, 1)),
                reference=to_picture(batch.reference[i : i + 1]),
            )


def correspondence(sample: xr.DataTree, batch: Batch) -> dict[str, tuple[list[bool], list[float]]]:
    """Return for each layer, and for "all layers", hits and chances of the object's patches."""
    maps = {name: reference_maps(layer) for name, layer in sample["layers"].children.items()}
    finest = max(m.shape[0] for m in maps.values())
    repeated = [
        m.repeat(finest // m.shape[0], 0).repeat(finest // m.shape[1], 1) for m in maps.values()
    ]
    maps["all layers"] = np.mean(repeated, axis=0)
    return {name: score(m, batch) for name, m in maps.items()}


def reference_maps(layer: xr.DataTree) -> np.ndarray:
    """Return SRAMs of all patches, dims (y, x, reference_y, reference_x): mean over step, head."""
    own = layer.attrs["i2am"]
    query, key = (layer[n].to_numpy().astype(np.float32) for n in ("query", "key"))
    logits = own["scale"] * query @ key.swapaxes(-1, -2)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mean = (weights / weights.sum(-1, keepdims=True)).mean((0, 1))[:, own["special_tokens"] :]
    maps: np.ndarray = mean.reshape(*own["generated_grid"], *own["reference_grid"])
    return maps


def score(maps: np.ndarray, batch: Batch) -> tuple[list[bool], list[float]]:
    rows, columns, *grid = maps.shape
    alpha = functional.interpolate(batch.alpha, (rows, columns), mode="area")[0, 0].numpy()
    top, left, side = batch.box[0].tolist()
    tokens = np.stack(np.meshgrid(*(np.arange(g) for g in grid), indexing="ij"), -1)
    hits, chances = [], []
    for y, x in np.argwhere(alpha > 0.5):
        centre = (np.array([y, x]) + 0.5) * (SIZE_PX / rows)
        source = (centre - [top, left]) / side * grid - 0.5
        is_near = np.abs(tokens - source).max(-1) <= REACH
        hits.append(bool(is_near.flat[maps[y, x].argmax()]))
        chances.append(float(is_near.mean()))
    return hits, chances


def write_sheet(pipeline: Any, pairs: Compositions, path: Path, rows: int) -> None:
    """Write a sheet: reference, masked source, painted, truth, one composition a row or column."""
    batch = pairs.batch(0, rows)
    painted = paint(pipeline, batch, batch.reference, 0).clamp(-1, 1)
    masked = batch.composite * (1 - batch.mask)
    lines = [torch.cat(list(c), dim=2) for c in (batch.reference, masked, painted, batch.composite)]
    sheet = to_picture(torch.cat(lines, dim=1)[None])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path)
    print(f"Rows: reference, masked source, painted, truth. Wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
