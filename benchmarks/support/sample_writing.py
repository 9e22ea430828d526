"""A sample's arrays on their way to the disk: raw into one file, and through the capture's writer."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import zarr

from i2am.capture.writer.layer_writer import write_layers
from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.staging import StagingArea
from support.synthetic_run import open_layer

__all__ = ["Step", "time_way", "write_ours", "write_raw"]

Step = dict[str, dict[str, torch.Tensor]]  # layer, array -> (head, token[, channel]), float16


def time_way(way: Callable[[Path], None], folder: Path | None) -> tuple[float, list[int]]:
    """Return the seconds of one way to write until all is on the disk, and the size of each file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        start = time.perf_counter()
        way(Path(place))
        sizes = list(sync(Path(place)))
        return time.perf_counter() - start, sizes


def write_raw(slabs: list[torch.Tensor], place: Path) -> None:
    """Write the same bytes into one file."""
    with (place / "raw").open("wb", buffering=0) as file:
        for slab in slabs:
            file.write(slab.numpy().data)


def write_ours(steps: list[Step], threads: int, place: Path) -> None:
    """Write through the capture's writer."""
    parent = ObjectFolder(zarr.create_group(place / "layers.zarr").store_path)
    staging = StagingArea(layers=len(steps[0]), threads=threads)
    layers = {name: open_layer(parent, name, arrays, staging) for name, arrays in steps[0].items()}
    for position, step in enumerate(steps):
        for name, layer in layers.items():
            layer.append(position, "conditional", step[name])
        staging.flush()  # As after each call of a denoiser.
    for layer in layers.values():
        layer.close(("conditional",))
    write_layers(parent, layers.values(), staging)
    staging.close()


def sync(folder: Path) -> Iterator[int]:
    """Bring all files to the disk, and return the size of each."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            yield path.stat().st_size
