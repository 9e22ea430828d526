"""What three readers of a capture read, and how long it takes, for several shapes of chunks.

The readers: a full pass over all layers; one layer at one step (a map on the screen); one patch at
every layer, step and head (a click on the generated image). The sample has the layers of Stable
Diffusion 1.5, see `support/synthetic_run.py`. Bytes are what the store was asked for; times are those of
plain zarr with the files in the page cache. Then what it costs that every chunk's checksum is looked at.

    python benchmarks/store_read.py [--dir DIR] [--quick]
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import zarr
from support.figures import Figures, benchmark_parser
from support.synthetic_run import STEPS, write_layers_of_sample
from support.turns import ratios_of, timed
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


READERS: dict[str, tuple[str, Callable[[zarr.Group], None]]] = {
    "full-pass": ("A full pass", read_all),
    "one-step": ("One layer at one step", read_one_step),
    "one-patch": ("One patch at all layers and steps", read_one_patch),
}


def measure(
    place: Path, reader: Callable[[zarr.Group], None], repeats: int
) -> tuple[int, int, list[float]]:
    """Return bytes read, requests and seconds."""
    seconds = []
    for _ in range(repeats):
        store = CountingStore(LocalStore(place, read_only=True))
        sample = zarr.open_group(store, mode="r")
        seconds.append(timed(lambda: reader(sample)))  # noqa: B023
    return store.read_bytes, store.requests, seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = benchmark_parser(__doc__).parse_args(arguments)
    figures = Figures("store_read", options)
    steps, repeats = (9, 1) if options.quick else (STEPS, 3)
    sizes, found, checked = {}, {}, dict[str, list[float]]()
    for name, (chunk_bytes, chunk_steps) in SHAPES.items():
        codec.CHUNK_BYTES, codec.MAX_CHUNK_STEPS = chunk_bytes, chunk_steps
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            place = Path(folder) / "layers.zarr"
            parent = ObjectFolder(zarr.create_group(place).store_path)
            write_layers_of_sample(parent, steps)
            sizes[name] = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
            for reader, (_, read) in READERS.items():
                found[name, reader] = measure(place, read, repeats)
            checked = checked or compare_checksums(place, 1 if options.quick else 7)
    for reader, (what, _) in READERS.items():
        with figures.section(reader, f"{what} of a sample of {steps} steps") as section:
            for name in SHAPES:
                read_bytes, requests, seconds = found[name, reader]
                section.add(name, "files of the sample", len(sizes[name]))
                section.add(name, "size", sum(sizes[name]) / 1e6, "MB")
                section.add(name, "read", read_bytes / 1e6, "MB")
                section.add(name, "requests", requests)
                section.add(name, "time", seconds, "s")
    with figures.section("checksums", "A full pass with checksums, over one without") as section:
        for reader, ratios in checked.items():
            section.add(reader, "rate", ratios)


def compare_checksums(place: Path, rounds: int) -> dict[str, list[float]]:
    """Return the rate of a full pass with checksums over that without, by zarr and by zarrs."""
    found = {}
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
                seconds[is_checked].append(timed(lambda: read_all(sample)))  # noqa: B023
        found[reader] = ratios_of(seconds[False], seconds[True])
    return found


def _cut_off(_codec: Crc32cCodec, found: Any, _spec: Any) -> Any:
    """Leave out a chunk's checksum without a look at it."""
    return found[:-4]


if __name__ == "__main__":
    main()
