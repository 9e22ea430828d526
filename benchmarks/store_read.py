"""What three readers of a capture read, and how long it takes, for several shapes of chunks.

The readers: a full pass over all layers; one layer at one step (a map on the screen); one patch at
every layer, step and head (a click on the generated image). The sample has the layers of Stable
Diffusion 1.5, see `support/synthetic_run.py`. Bytes are what the store was asked for; times are those of
plain zarr with the files in the page cache. Then what it costs that every chunk's checksum is looked at.

    python benchmarks/store_read.py [--dir DIR] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import zarr
from support.ratios import format_ratio, ratios_of
from support.synthetic_run import STEPS, write_layers_of_sample
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore, WrapperStore

from i2am.capture.writer import sharded_array as codec
from i2am.capture.writer.object_folder import ObjectFolder

SHAPES = {
    "320 KiB, 5 steps (chosen)": (320 * 2**10, 5),
    "128 KiB, 5 steps": (2**17, 5),
    "2 MiB, 5 steps": (2**21, 5),
    "320 KiB, 10 steps": (320 * 2**10, 10),
    "a whole step": (2**30, 1),
}


PIPELINES: dict[str, dict[str, Any]] = {
    "zarr": {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"},
    "zarrs": {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"},
}


class CountingStore(WrapperStore[Any]):
    """A store that counts what is read from it."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.read_bytes = self.requests = 0

    async def get(self, *arguments: Any, **options: Any) -> Any:
        """Read, and count what came."""
        found = await super().get(*arguments, **options)
        self.requests += 1
        self.read_bytes += 0 if found is None else len(found)
        return found


def read_all(sample: zarr.Group) -> None:
    """Read every array, a row of shards at a time."""
    for _, layer in sample.groups():
        for _, array in layer.arrays():
            stride = (array.shards or array.chunks)[0]
            for start in range(0, array.shape[0], stride):
                array[start : start + stride]


def read_one_step(sample: zarr.Group) -> None:
    """Read the largest layer at one step."""
    layer: Any = sample["up.64.0"]
    layer["query"][layer["query"].shape[0] // 2]
    layer["key"][:]


def read_one_patch(sample: zarr.Group) -> None:
    """Read what the attention of one patch takes, at every layer, step and head."""
    for _, found in sample.groups():
        layer: Any = found
        if "logits" in layer:
            layer["logits"][:, :, layer["logits"].shape[2] // 2]
        else:
            layer["query"][:, :, layer["query"].shape[2] // 2]
            layer["key"][:]


READERS: dict[str, Callable[[zarr.Group], None]] = {
    "full pass": read_all,
    "one layer and step": read_one_step,
    "one patch, all layers and steps": read_one_patch,
}


def measure(
    place: Path, reader: Callable[[zarr.Group], None], repeats: int
) -> tuple[float, int, float]:
    """Return MB read, requests and the best time in s."""
    seconds = []
    for _ in range(repeats):
        store = CountingStore(LocalStore(place, read_only=True))
        sample = zarr.open_group(store, mode="r")
        start = time.perf_counter()
        reader(sample)
        seconds.append(time.perf_counter() - start)
    return store.read_bytes / 1e6, store.requests, min(seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--quick", action="store_true", help="only whether it works")
    options = parser.parse_args(arguments)
    names = "".join(f" | {name}" for name in READERS)
    print(f"| chunk | files, MB{names} |\n|---|---{'|---' * len(READERS)}|")
    for name, (chunk_bytes, chunk_steps) in SHAPES.items():
        codec.CHUNK_BYTES, codec.MAX_CHUNK_STEPS = chunk_bytes, chunk_steps
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            place = Path(folder) / "layers.zarr"
            parent = ObjectFolder(zarr.create_group(place).store_path)
            write_layers_of_sample(parent, 9 if options.quick else STEPS)
            sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
            cells = [f"{len(sizes)}, {sum(sizes) / 1e6:.0f}"]
            for reader in READERS.values():
                read_mb, requests, seconds = measure(place, reader, 1 if options.quick else 3)
                cells.append(f"{read_mb:.1f} MB in {requests} reads, {seconds:.2f} s")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            if name == next(iter(SHAPES)):
                checked = compare_checksums(place, 1 if options.quick else 7)
    print(f"\n{checked}")


def compare_checksums(place: Path, rounds: int) -> str:
    """Return the ratio of a full pass with checksums to one without, by zarr and by zarrs."""
    lines = []
    for reader, settings in PIPELINES.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _, is_checked in itertools.product(range(rounds), (True, False)):
            with ExitStack() as stack:
                stack.enter_context(
                    zarr.config.set(settings | {"codec_pipeline.validate_checksums": is_checked})
                )
                if not is_checked:
                    stack.enter_context(patch.object(Crc32cCodec, "_decode_sync", _cut_off))
                sample = zarr.open_group(place, mode="r")
                start = time.perf_counter()
                read_all(sample)
                seconds[is_checked].append(time.perf_counter() - start)
        ratios = ratios_of(seconds[False], seconds[True])
        lines.append(f"{reader}: rate with checksums over that without {format_ratio(ratios)}.")
    return "\n".join(lines)


def _cut_off(_codec: Crc32cCodec, found: Any, _spec: Any) -> Any:
    """Leave out a chunk's checksum without a look at it."""
    return found[:-4]


if __name__ == "__main__":
    main()
