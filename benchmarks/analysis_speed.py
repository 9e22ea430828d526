"""How near the analysis comes to the machine's limit, on one block and on a whole sample.

    python benchmarks/analysis_speed.py [--rounds N] [--dir DIR] [--json FILE] [--quick]

One block: both directional maps of 8 heads, by our kernel, compiled and with NumPy alone, by two
softmaxes and means in NumPy and in PyTorch, and beside them the block's matrix product alone, which
nobody goes without. All on one core, from factors in float16 as they are stored, by turns within each
round.

A whole sample: the layers of Stable Diffusion 1.5 at 512 px, 50 steps, from the store on disk to
maps on disk with `analyze_run`; beside it the kernel alone on the same blocks in memory.

One question: what one patch reads, over all layers, steps and heads, from `sram()` to its values, on that
sample and on the run that ships with the viewer; the files are in the page cache.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import dask
import numpy as np
import torch
from support.figures import Figures, at_least, at_most, benchmark_parser
from support.kernel_block import Block
from support.synthetic_run import HEADS, STEPS, Layer, layers, write_run
from support.turns import ratios_of, take_turns, timed
from threadpoolctl import threadpool_limits

from i2am import DEMO_RUN
from i2am.analysis import analyze_run, open_run, sram
from i2am.analysis.kernel.arithmetic import use_arithmetic
from i2am.analysis.kernel.logits import AttentionLogits, FactoredLogits, StoredLogits
from i2am.analysis.kernel.softmax import directional_means
from i2am.schemas.dims import STEP

OURS, LIMIT = "ours", "matrix product alone"
# Patches, tokens, channels of a head, and bars: what others take / what ours takes. The finest layer of
# Stable Diffusion 1.5 with 257 reference tokens, a coarser one, and one of a virtual try-on model.
BLOCKS: dict[tuple[int, int, int], dict[str, float]] = {
    (4096, 257, 40): {
        "ours, NumPy alone": 1.5,
        "NumPy, two softmaxes": 4,
        "PyTorch, two softmaxes": 6,
        LIMIT: 0.62,
    },
    (1024, 257, 80): {"ours, NumPy alone": 1.4},
    (3072, 3072, 40): {"ours, NumPy alone": 1.3},
}
END_TO_END_BAR = 0.65
QUESTION_BARS_MS = {"the shipped run": 20, "Stable Diffusion 1.5's size": 150}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="of a block")
    options = parser.parse_args(arguments)
    rounds, steps = (1, 2) if options.quick else (options.rounds, STEPS)
    figures = Figures("analysis_speed", options)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, threadpool_limits(1):
        compare_blocks(figures, rounds, dict(list(BLOCKS.items())[: 1 if options.quick else None]))
        run = write_run(Path(folder) / "run.zarr", steps=steps)
        with use_arithmetic("compiled"):
            measure_sample(figures, run, steps, rounds=1 if options.quick else 3)
        measure_question(figures, run, rounds)


def compare_blocks(
    figures: Figures, rounds: int, blocks: Mapping[tuple[int, int, int], Mapping[str, float]]
) -> None:
    """Record what each block takes in each way, and the ratios within the rounds."""
    title = f"{HEADS} heads, patches × tokens × channels, one core, rounds: {rounds}"
    with figures.section("one-block", title) as section:
        for shape, bars in blocks.items():
            block, name = Block(*shape), " × ".join(map(str, shape))
            ways: dict[str, Callable[[], None]] = {
                OURS: partial(block.ours, "compiled"),
                "ours, NumPy alone": partial(block.ours, "numpy"),
                "NumPy, two softmaxes": block.numpy,
                "PyTorch, two softmaxes": block.torch,
                LIMIT: block.product,
            }
            times = take_turns({way: partial(timed, work) for way, work in ways.items()}, rounds)
            limit = 1e3 * statistics.median(times[LIMIT])
            section.add(name, OURS, [1e3 * s for s in times[OURS]], "ms", limit=limit)
            for way in (way for way in ways if way != OURS):
                bar = at_least(bars[way]) if way in bars else None
                section.add(name, f"{way} / ours", ratios_of(times[way], times[OURS]), bar=bar)


def measure_sample(figures: Figures, run: Path, steps: int, rounds: int) -> None:
    """Record what a sample takes from store to store, beside the kernel alone on its blocks."""
    gigabytes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e9
    title = f"A sample of {gigabytes:.2f} GB, {steps} steps; seconds of a core, rounds: {rounds}"
    with figures.section("store-to-store", title) as section:
        for threads in (1, os.cpu_count() or 1):
            alone, ends = [], []
            with ThreadPoolExecutor(threads) as pool, dask.config.set(pool=pool):
                for _ in range(rounds):
                    alone.append(
                        sum(kernel_seconds(run, layer, threads, pool) for layer in layers())
                    )
                    ends.append(threads * analyse(run, run.with_name("maps.zarr")))
            name, ratios = f"threads: {threads}", ratios_of(alone, ends)
            section.add(name, "the kernel alone", alone, "s")
            section.add(name, "store to store", ends, "s", limit=statistics.median(alone))
            section.add(name, "fraction", ratios, bar=at_least(END_TO_END_BAR))


def measure_question(figures: Figures, run: Path, rounds: int) -> None:
    """Record what it takes to ask one patch of a run."""
    runs = dict(zip(QUESTION_BARS_MS, (DEMO_RUN, run), strict=True))
    title = f"sram() of a patch, all layers, steps and heads; rounds: {rounds}"
    with figures.section("one-question", title) as section:
        for name, path in runs.items():
            sample = next(iter(open_run(path).values()))
            places = iter(np.random.default_rng(0).integers(8, 56, (rounds + 1, 2)).tolist())
            found = [
                1e3 * timed(lambda: sram(sample, generated=tuple(next(places))).compute())  # noqa: B023
                for _ in range(rounds + 1)
            ][1:]  # The first one reads the files from the disk.
            section.add(name, "time", found, "ms", bar=at_most(QUESTION_BARS_MS[name]))


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


def analyse(run: Path, out: Path) -> float:
    """Return the seconds that a run's maps take, from store to store."""
    shutil.rmtree(out, ignore_errors=True)
    return timed(lambda: analyze_run(run, out, progress=False))


if __name__ == "__main__":
    main()
