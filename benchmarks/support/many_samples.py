"""Manifests and runs of as many samples as one likes, made from the shipped model's demo."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i2am.capture import DEMO_MANIFEST
from i2am.schemas import read_manifest
from i2am.storage.inventory import with_digest

__all__ = ["link_samples", "sample_name", "write_listed_samples", "write_manifest"]

_PATHS = ("source", "mask", "reference", "reference_mask")


def sample_name(number: int) -> str:
    """Return the name of a sample; names sort as their numbers do."""
    return f"sample-{number:06d}"


def write_manifest(path: Path, count: int, *, own_files: bool = False) -> Path:
    """Write a manifest of `count` rows as CSV, JSON Lines or Parquet, and return its path.

    Parameters
    ----------
    path : Path
        Its name chooses the format.
    count : int
    own_files : bool
        Whether each row names pictures of its own, which are empty files but for the first row's;
        else the demo's, by turns.
    """
    rows = list(_iter_rows(path.parent / "pictures" if own_files else None, count))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _iter_rows(folder: Path | None, count: int) -> Iterator[dict[str, Any]]:
    shipped = read_manifest(DEMO_MANIFEST)
    for number in range(count):
        row = shipped[number % len(shipped)]
        files = {column: getattr(row, column) for column in _PATHS}
        if folder is not None:
            files = {column: _own_file(folder, number, files[column]) for column in _PATHS}
        box = " ".join(f"{side:g}" for side in row.box or ())
        yield {
            "sample": sample_name(number),
            **{column: str(file) for column, file in files.items()},
            "box": box,
            "category": f"category {number % 7}",
        }


def _own_file(folder: Path, number: int, shipped: Path) -> Path:
    path = folder / f"{sample_name(number)}-{shipped.name}"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        if number:
            path.touch()
        else:
            shutil.copyfile(shipped, path)
    return path


def link_samples(store: Path, count: int) -> None:
    """Give a store as many samples: hard links to the first one's files, but for their own metadata."""
    first = next(path for path in sorted(store.iterdir()) if path.is_dir())
    for number in range(1, count):
        if not (sample := store / sample_name(number)).exists():
            shutil.copytree(first, sample, copy_function=os.link)
            # The digest covers the name.
            document = json.loads((first / "zarr.json").read_text(encoding="utf-8"))
            (sample / "zarr.json").unlink()
            (sample / "zarr.json").write_bytes(with_digest(document, sample.name))


def write_listed_samples(run: Path, out: Path, count: int) -> None:
    """Write a run of complete samples of which only their own metadata exist, as a listing reads it.

    Parameters
    ----------
    run : Path
        A run with one sample or more: theirs is the provenance, but for seed and batch.
    out : Path
    count : int
    """
    out.mkdir()
    shutil.copyfile(run / "zarr.json", out / "zarr.json")
    first = next(path for path in sorted(run.iterdir()) if path.is_dir())
    document = json.loads((first / "zarr.json").read_text(encoding="utf-8"))
    own = document["attributes"]["i2am"]
    for number in range(count):
        folder = out / sample_name(number)
        folder.mkdir()
        own |= {"seed": number, "batch": [folder.name]}
        (folder / "zarr.json").write_bytes(with_digest(document, folder.name))
