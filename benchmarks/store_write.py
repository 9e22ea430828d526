"""How near the capture's writer comes to the raw rate of the disk, and what codecs do to it.

Real queries, keys and logits: of the shipped model, and of a UNet of Stable Diffusion 1.5's size
with random weights (its conditional branch at 2 steps; more steps are these, each scaled a little, so
that no two are alike). The first tables compare codecs on chunks of the capture's own shape, on one
thread. Then a sample of 50 steps is written by turns: raw (one file, sequentially), through the
capture's writer with several numbers of threads, and through zarr's own codec pipeline and that of
`zarrs`, if it is installed, into the same shards. All rates are bytes of the arrays over the time
until everything is on the disk (fsync).

    python benchmarks/store_write.py [--dir DIR] [--rounds N] [--json FILE] [--quick]
"""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import zarr
from numcodecs import Blosc, Zstd
from support.figures import Figures, at_least, benchmark_parser
from support.models import build_model
from support.sample_writing import Step, time_way, write_ours, write_raw
from support.turns import ratios_of, take_turns, timed

from i2am.capture.writer import sharded_array
from i2am.capture.writer.sharded_array import MAX_CHUNK_STEPS, plan_shards
from i2am.capture.writer.staging import MAX_SHARD_BYTES
from i2am.capture.writer.zarr_objects import Array

BAR, CHECKSUMS_BAR = 0.7, 0.97
OURS = "capture's writer, 2 threads"  # the default number
CODECS: dict[str, Any] = {
    "none (chosen)": None,
    "lz4": Blosc("lz4", 5, Blosc.NOSHUFFLE),
    "lz4, shuffle": Blosc("lz4", 5, Blosc.SHUFFLE),
    "lz4, bit-shuffle": Blosc("lz4", 5, Blosc.BITSHUFFLE),
    "zstd 1": Zstd(1),
    "zstd 1, shuffle": Blosc("zstd", 1, Blosc.SHUFFLE),
    "zstd 1, bit-shuffle": Blosc("zstd", 1, Blosc.BITSHUFFLE),
}
ROUNDED_BITS = 7
PIPELINES = {
    "zarr's own pipeline": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    figures = Figures("store_write", options)
    large = read_steps("sd15", 2, quick=options.quick)
    small = read_steps("tiny", MAX_CHUNK_STEPS, quick=options.quick)
    steps = multiply(large, MAX_CHUNK_STEPS if options.quick else 50)
    chunks = {
        f"{model}, {array}": chunk
        for model, steps in (("SD-1.5 size", steps), ("shipped model", small))
        for array in ("query", "key", "logits")
        if (chunk := find_chunk(steps, array)) is not None
    }
    compare_codecs(figures, chunks)
    compare_writers(figures, steps, 1 if options.quick else options.rounds, options.dir)


def read_steps(kind: Any, steps: int, *, quick: bool) -> list[Step]:
    """Run a model and return what its cross-attention had, the conditional branch of each step."""
    model = build_model(kind, "cpu", quick=quick)
    found: dict[str, dict[str, list[torch.Tensor]]] = {}

    def keep(name: str, array: str, heads: int, _module: Any, _inputs: Any, output: Any) -> None:
        split = output[-1].detach().unflatten(-1, (heads, -1)).transpose(0, 1)
        found.setdefault(name, {}).setdefault(array, []).append(split.half().contiguous())

    handles = [
        getattr(module, projection).register_forward_hook(partial(keep, name, array, module.heads))
        for name, module in model.pipeline.unet.named_modules()
        if name.endswith("attn2")
        for projection, array in (("to_q", "query"), ("to_k", "key"))
    ]
    model.generate(steps)
    for handle in handles:
        handle.remove()
    count = len(next(iter(found.values()))["query"])
    return [
        {name: stored_as(arrays["query"][n], arrays["key"][n]) for name, arrays in found.items()}
        for n in range(count)
    ]


def stored_as(query: torch.Tensor, key: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return logits where they are smaller than queries and keys, as the capture does."""
    if query.shape[1] * key.shape[1] >= (query.shape[1] + key.shape[1]) * query.shape[2]:
        return {"query": query, "key": key}
    logits = query.float() @ key.float().mT * query.shape[2] ** -0.5
    return {"logits": logits.half()}


def multiply(steps: list[Step], count: int) -> list[Step]:
    """Return so many steps that are like these but differ; keys stay, as they do in a model."""

    def vary(number: int, layer: str) -> dict[str, torch.Tensor]:
        arrays = steps[number % len(steps)][layer]
        varied = {name: (a.float() * (1 + number / 99)).half() for name, a in arrays.items()}
        return varied | ({"key": steps[0][layer]["key"]} if "key" in varied else {})

    return [{layer: vary(number, layer) for layer in steps[0]} for number in range(count)]


def find_chunk(steps: list[Step], array: str) -> Array | None:
    """Return a chunk of the capture's own shape, from the first layer that has such an array."""
    for layer, arrays in steps[0].items():
        if array in arrays:
            # Keys that never change are stored once.
            chosen = steps[: 1 if array == "key" else MAX_CHUNK_STEPS]
            values = np.stack([step[layer][array].numpy() for step in chosen])
            layout = plan_shards(len(values), values.shape[1:], values.itemsize)
            return np.ascontiguousarray(values[:, :, : layout.chunk[2]])
    return None


def compare_codecs(figures: Figures, chunks: dict[str, Array]) -> None:
    """Record what each codec makes of each chunk."""
    found: dict[tuple[str, str], tuple[float, float, float]] = {}
    for rounded, (name, codec) in itertools.product((False, True), CODECS.items()):
        if codec is None and rounded:
            continue
        label = f"{name}, rounded to {ROUNDED_BITS} bits" if rounded else name
        for kind, chunk in chunks.items():
            found[label, kind] = try_codec(codec, round_off(chunk) if rounded else chunk)
    tables = (
        ("bytes", "Bytes before over bytes after", ""),
        ("encode", "To encode, on one thread", "MB/s"),
        ("decode", "To decode, on one thread", "MB/s"),
    )
    for index, (name, title, unit) in enumerate(tables):
        with figures.section(f"codec-{name}", f"{title}; rounded values are lossy") as section:
            for (label, kind), values in found.items():
                section.add(label, kind, values[index], unit)


def try_codec(codec: Any, chunk: Array) -> tuple[float, float, float]:
    """Return ratio and MB/s of encoding and decoding a chunk."""
    if codec is None:
        return 1.0, rate(chunk.nbytes, chunk.copy), rate(chunk.nbytes, chunk.copy)
    encoded = codec.encode(chunk)
    encode = rate(chunk.nbytes, lambda: codec.encode(chunk))
    return chunk.nbytes / len(encoded), encode, rate(chunk.nbytes, lambda: codec.decode(encoded))


def round_off(values: Array) -> Array:
    """Keep the leading bits of float16's ten, to the nearest."""
    drop = 10 - ROUNDED_BITS
    bits = values.view(np.uint16) + np.uint16(1 << (drop - 1))
    return (bits >> drop << drop).view(np.float16)


def rate(size_bytes: int, work: Callable[[], object]) -> float:
    """Return MB/s, the median of several times."""
    return size_bytes / 1e6 / statistics.median(timed(work) for _ in range(30))


def compare_writers(figures: Figures, steps: list[Step], rounds: int, folder: Path | None) -> None:
    """Record the rate of each way to write a sample, and its ratio to the raw rate."""
    slabs = [
        a for step in steps for arrays in step.values() for n, a in arrays.items() if n != "key"
    ]
    size_mb = sum(slab.numpy().nbytes for slab in slabs) / 1e6
    ways: dict[str, Callable[[Path], None]] = {"raw": partial(write_raw, slabs)}
    for threads in (1, 2, 4):
        ways[f"capture's writer, {threads} threads"] = partial(write_ours, steps, threads)
    for name, pipeline in PIPELINES.items():
        if name != "zarrs" or importlib.util.find_spec("zarrs"):
            ways[name] = partial(write_with_zarr, steps, pipeline)
    turns = {name: partial(time_way, way, folder) for name, way in ways.items()}
    found = take_turns(turns, rounds, warm_up=0)
    seconds = {name: [took for took, _ in each] for name, each in found.items()}
    title = f"{len(steps)} steps, {size_mb:.0f} MB of arrays, until all is on the disk; rounds: {rounds}"
    with figures.section("writers", title) as section:
        limit = size_mb / statistics.median(seconds["raw"])
        for name, times in seconds.items():
            own_limit = None if name == "raw" else limit
            section.add(name, "rate", [size_mb / s for s in times], "MB/s", limit=own_limit)
            bar = at_least(BAR) if name == OURS else None
            section.add(name, "over raw", ratios_of(seconds["raw"], times), bar=bar)
            sizes = found[name][-1][1]
            section.add(name, "files", len(sizes))
            section.add(name, "size", sum(sizes) / 1e6, "MB")
    places = {"on this disk": folder}
    if (memory := Path("/dev/shm")).is_dir():
        places["in memory"] = memory
    title = f"The capture's writer with checksums, over it without; pairs: {2 * rounds}"
    with figures.section("checksums", title) as section:
        for name, place in places.items():
            bar = at_least(CHECKSUMS_BAR) if place == folder else None
            section.add(name, "rate", compare_checksums(steps, 2 * rounds, place), bar=bar)


def compare_checksums(steps: list[Step], pairs: int, folder: Path | None) -> list[float]:
    """Return the rate with checksums over that without, of each pair; by turns each one is first."""
    ways = [partial(write_ours, steps, 2), partial(write_unchecked, steps)]
    ratios = []
    for number in range(pairs):
        order = (0, 1) if number % 2 else (1, 0)
        took = {which: time_way(ways[which], folder)[0] for which in order}
        ratios.append(took[1] / took[0])
    return ratios


def write_unchecked(steps: list[Step], place: Path) -> None:
    """Write through the capture's writer, which puts zeros in the place of all checksums."""
    with patch.object(sharded_array, "crc32c", SimpleNamespace(crc32c=lambda _content: 0)):
        write_ours(steps, 2, place)


def write_with_zarr(steps: list[Step], pipeline: str, place: Path) -> None:
    """Write the same arrays into the same shards by assignment, on two threads."""
    gathered = threading.local()
    with zarr.config.set({"codec_pipeline.path": pipeline}), ThreadPoolExecutor(2) as pool:
        parent = zarr.create_group(place / "layers.zarr")
        list(pool.map(lambda work: work(gathered), assignments(parent, steps)))


def assignments(parent: zarr.Group, steps: list[Step]) -> Iterator[Callable[[Any], None]]:
    """Return the work of each shard; it wants what belongs to its thread."""
    for name, arrays in steps[0].items():
        for array in arrays.keys() - {"key"}:
            slab = arrays[array].numpy()
            whole = round(MAX_SHARD_BYTES / slab.nbytes / MAX_CHUNK_STEPS) * MAX_CHUNK_STEPS
            layout = plan_shards(min(whole, len(steps)), slab.shape, slab.itemsize)
            stored = parent.create_array(
                f"{name}/{array}",
                shape=(len(steps), *slab.shape),
                chunks=layout.chunk,
                shards=layout.shape,
                dtype=slab.dtype,
                compressors=None,
            )
            for first in range(0, len(steps), layout.steps):
                part = [s[name][array].numpy() for s in steps[first : first + layout.steps]]
                yield partial(assign, stored, first, part)


def assign(array: Any, first: int, slabs: list[Array], gathered: Any) -> None:
    """Write one shard, from memory that was used before, as the capture's writer does."""
    size_bytes = sum(slab.nbytes for slab in slabs)
    if len(getattr(gathered, "bytes", b"")) < size_bytes:
        gathered.bytes = np.empty(size_bytes, np.uint8)
    values = gathered.bytes[:size_bytes].view(slabs[0].dtype).reshape(-1, *slabs[0].shape)
    array[first : first + len(slabs)] = np.stack(slabs, out=values)


if __name__ == "__main__":
    main()
