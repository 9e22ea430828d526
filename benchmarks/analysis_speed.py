"""How near the analysis comes to the machine's limit, on one block and on a whole sample.

    python benchmarks/analysis_speed.py [--rounds N] [--dir DIR] [--quick] [--workers]

One block: both directional maps of 8 heads, by our kernel, compiled and with NumPy alone, by two
softmaxes and means in NumPy and in PyTorch, and beside them the block's matrix product alone, which
nobody goes without. All on one core, from factors in float16 as they are stored, by turns within each
round.

A whole sample: the layers of Stable Diffusion 1.5 at 512 px, 50 steps, from the store on disk to
maps on disk with `analyze_run`; beside it the kernel alone on the same blocks in memory.

One question: what one patch reads, over all layers, steps and heads, from `sram()` to its values, on that
sample and on the run that ships with the viewer; the files are in the page cache.

``--workers`` analyses four samples by one worker process and by two.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
from support.ratios import format_ratio, ratios_of
from support.synthetic_run import HEADS, STEPS, Layer, layers, write_run
from threadpoolctl import threadpool_limits

from i2am.analysis import analyze_run, open_run, sram
from i2am.analysis.kernel.arithmetic import Choice, use_arithmetic
from i2am.analysis.kernel.logits import AttentionLogits, FactoredLogits, StoredLogits
from i2am.analysis.kernel.softmax import directional_means
from i2am.schemas.dims import STEP
from i2am.viewer.reader import DEMO_RUN

OURS = "ours"
# Patches, tokens, channels of a head, and bars: what others take / what ours takes. The finest layer of
# Stable Diffusion 1.5 with 257 reference tokens, a coarser one, and one of a virtual try-on model.
BLOCKS: dict[tuple[int, int, int], dict[str, float | None]] = {
    (4096, 257, 40): {
        "ours, NumPy alone": 1.5,
        "NumPy, two softmaxes": 4,
        "PyTorch, two softmaxes": 6,
        "matrix product alone": 0.62,
    },
    (1024, 257, 80): {"ours, NumPy alone": 1.4},
    (3072, 3072, 40): {"ours, NumPy alone": 1.3},
}
END_TO_END_BAR, WORKERS_BAR = 0.65, 1.8
QUESTION_BARS_MS = {"the shipped run": 20, "Stable Diffusion 1.5's size": 150}


class Block:
    """FactoredLogits of 8 heads in float16, noise with the statistics of queries and keys."""

    def __init__(self, patches: int, tokens: int, channels: int) -> None:
        rng = np.random.default_rng(0)
        self.query, self.key = (
            rng.standard_normal((HEADS, count, channels)).astype(np.float16)
            for count in (patches, tokens)
        )
        self.scale = channels**-0.5
        # For the product alone: float32 already, and memory that was touched before.
        self._queries, self._keys = (one.astype(np.float32) for one in (self.query, self.key))
        self._result = self._queries[0] @ self._keys[0].T

    def ours(self, arithmetic: Choice) -> None:
        """Make both maps by our kernel."""
        with use_arithmetic(arithmetic):
            directional_means(FactoredLogits(self.query, self.key, self.scale))

    def numpy(self) -> None:
        """Make both maps by two softmaxes in NumPy."""
        query, key = self.query.astype(np.float32), self.key.astype(np.float32)
        scores = np.matmul(query, key.swapaxes(1, 2)) * np.float32(self.scale)
        for axis in (1, 2):
            exponential = np.exp(scores - scores.max(axis, keepdims=True))
            exponential /= exponential.sum(axis, keepdims=True)
            exponential.mean(3 - axis)

    def torch(self) -> None:
        """Make both maps by two softmaxes in PyTorch."""
        query, key = torch.from_numpy(self.query).float(), torch.from_numpy(self.key).float()
        scores = query @ key.transpose(1, 2) * self.scale
        for dim in (1, 2):
            scores.softmax(dim).mean(3 - dim)

    def product(self) -> None:
        """Multiply queries and keys, head by head."""
        for query, key in zip(self._queries, self._keys, strict=True):
            np.matmul(query, key.T, out=self._result)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11, help="of a block")
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--quick", action="store_true", help="only whether it works")
    parser.add_argument("--workers", action="store_true", help="one worker process against two")
    options = parser.parse_args(arguments)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"torch {torch.__version__}, Dask {dask.__version__}"
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, threadpool_limits(1):
        steps = 2 if options.quick else STEPS
        if options.workers:
            compare_workers(Path(folder), steps)
            return
        for shape, bars in list(BLOCKS.items())[: 1 if options.quick else None]:
            compare_block(*shape, 1 if options.quick else options.rounds, bars)
        run = write_run(Path(folder) / "run.zarr", steps=steps)
        with use_arithmetic("compiled"):
            measure_sample(run, steps, rounds=1 if options.quick else 3)
        measure_question(run, 1 if options.quick else options.rounds)


def compare_block(
    patches: int, tokens: int, channels: int, rounds: int, bars: Mapping[str, float | None]
) -> None:
    """Print what one block takes in each way, and the ratios within the rounds."""
    block = Block(patches, tokens, channels)
    ways: dict[str, Callable[[], None]] = {
        OURS: partial(block.ours, "compiled"),
        "ours, NumPy alone": partial(block.ours, "numpy"),
        "NumPy, two softmaxes": block.numpy,
        "PyTorch, two softmaxes": block.torch,
        "matrix product alone": block.product,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = timed(way)
            if number:  # The first round warms up.
                times[name].append(seconds)
    print(f"\n{HEADS} heads, {patches} patches, {tokens} tokens, {channels} channels, one core")
    for name, seconds_of in times.items():
        print(f"  {name:26}{1e3 * statistics.median(seconds_of):9.1f} ms")
    for name in ways:
        if name != OURS:
            found = ratios_of(times[name], times[OURS])
            print(format_bar(f"{name} / ours", found, bars.get(name)))


def measure_sample(run: Path, steps: int, rounds: int) -> None:
    """Print what a sample takes from store to store, beside the kernel alone on its blocks."""
    gigabytes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e9
    print(f"\na sample of {gigabytes:.2f} GB, {steps} steps; seconds of a core")
    for threads in (1, os.cpu_count() or 1):
        alone, ends = [], []
        with ThreadPoolExecutor(threads) as pool, dask.config.set(pool=pool):
            for _ in range(rounds):
                alone.append(sum(kernel_seconds(run, layer, threads, pool) for layer in layers()))
                ends.append(threads * analyse(run, run.with_name("maps.zarr")))
        print(f"  threads: {threads}")
        print(f"  {'the kernel alone':26}{statistics.median(alone):9.1f} s")
        print(f"  {'store to store':26}{statistics.median(ends):9.1f} s")
        print(
            format_bar("the kernel alone / store to store", ratios_of(alone, ends), END_TO_END_BAR)
        )


def measure_question(run: Path, rounds: int) -> None:
    """Print what it takes to ask one patch of a run."""
    print("\none question: sram() of a patch, all layers, steps and heads")
    runs = dict(zip(QUESTION_BARS_MS, (DEMO_RUN, run), strict=True))
    for name, path in runs.items():
        sample = next(iter(open_run(path).values()))
        places = iter(np.random.default_rng(0).integers(8, 56, (rounds + 1, 2)).tolist())
        found = [
            1e3 * timed(lambda: sram(sample, generated=tuple(next(places))).compute())  # noqa: B023
            for _ in range(rounds + 1)
        ][1:]  # The first one reads the files from the disk.
        median, bar = statistics.median(found), QUESTION_BARS_MS[name]
        print(
            f"  {name}: {median:.0f} ms ({min(found):.0f}–{max(found):.0f}), bar ≤ {bar}: "
            f"{'met' if median <= bar else 'missed'}"
        )


def kernel_seconds(run: Path, layer: Layer, threads: int, pool: ThreadPoolExecutor) -> float:
    """Return what the kernel takes for all steps of a layer, by a block that is in memory.

    Of one core, while all threads do the same: cores share caches and memory, and some more.
    """
    arrays = open_run(run)["0"][f"layers/{layer.name}"].to_dataset()
    blocks = arrays["logits" if "logits" in arrays else "query"].chunksizes[STEP]
    block = arrays.isel({STEP: slice(0, blocks[0])}).load()
    flat = {name: one.to_numpy().reshape(-1, *one.shape[-2:]) for name, one in block.items()}
    logits: AttentionLogits
    if "logits" in flat:
        logits = StoredLogits(flat["logits"])
    else:
        logits = FactoredLogits(flat["query"], flat["key"], layer.channels**-0.5)
    work = [logits] * threads
    return timed(lambda: list(pool.map(directional_means, work))) * sum(blocks) / blocks[0]


def analyse(run: Path, out: Path, **options: Any) -> float:
    """Return the seconds that a run's maps take, from store to store."""
    shutil.rmtree(out, ignore_errors=True)
    return timed(lambda: analyze_run(run, out, progress=False, **options))


def compare_workers(folder: Path, steps: int) -> None:
    """Print by how much two worker processes are faster than one; their start is counted."""
    run = write_run(folder / "run.zarr", [str(number) for number in range(4)], steps=steps)
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(1 if steps < STEPS else 3):
        for workers, seconds_of in times.items():
            seconds_of.append(analyse(run, folder / "maps.zarr", workers=workers))
    for workers, seconds_of in times.items():
        print(f"  worker processes: {workers}{statistics.median(seconds_of):17.1f} s")
    print(format_bar("one / two", ratios_of(times[1], times[2]), WORKERS_BAR))


def timed(work: Callable[[], object]) -> float:
    """Return how long it took, in seconds."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def format_bar(what: str, found: Sequence[float], bar: float | None) -> str:
    """Return one line: the median, the range, and whether the bar is met."""
    median = statistics.median(found)
    line = f"  {what}: {format_ratio(found)}"
    return line if bar is None else f"{line}, bar ≥ {bar}: {'met' if median >= bar else 'missed'}"


if __name__ == "__main__":
    main()
