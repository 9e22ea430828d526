"""Parts of sealed arrays are those that zarr reads, and no byte of them is another unnoticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from i2am.analysis.stores.sealed_chunks import SealedArray, is_sealed

SHAPE, CHUNK, SHARD = (7, 4, 11), (2, 4, 3), (4, 4, 12)
CHECKED: list[Any] = [BytesCodec(), Crc32cCodec()]


def write(path: Path, kind: str, dtype: str = "float32") -> Any:
    location: Any = kind.partition(" ")[2] or "start"
    shards = ShardingCodec(chunk_shape=CHUNK, codecs=CHECKED, index_location=location)
    codecs: Any = {"plain": CHECKED, "unchecked": [BytesCodec()]}.get(kind, [shards])
    array = zarr.create_array(
        path,
        shape=SHAPE,
        chunks=CHUNK if kind in {"plain", "unchecked"} else SHARD,
        dtype=dtype,
        serializer=codecs[0],
        compressors=codecs[1:],
        filters=None,
    )
    array[...] = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    return array


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("kind", ["plain", "shards start", "shards end"])
def test_every_selection_is_what_zarr_reads(kind: str, dtype: str, tmp_path: Path) -> None:
    array = write(tmp_path / "a", kind, dtype)
    assert is_sealed(array)
    sealed, rng = SealedArray(array), np.random.default_rng(0)
    for _ in range(20):
        selection: list[Any] = []
        for size in SHAPE:
            picked = np.sort(rng.choice(size, rng.integers(1, size + 1), replace=False))
            run = slice(int(picked[0]), int(picked[-1]) + 1)
            selection.append([picked, run, slice(None)][rng.integers(3)])
        found = sealed.oindex[tuple(selection)]
        np.testing.assert_array_equal(found, array.oindex[tuple(selection)])
        assert found.dtype == array.dtype


@pytest.mark.parametrize("kind", ["plain", "shards start", "shards end"])
def test_a_flipped_byte_is_found_wherever_it_is(kind: str, tmp_path: Path) -> None:
    array = write(tmp_path / "a", kind)
    file = tmp_path / "a/c/0/0/0"
    whole = file.read_bytes()
    everything = (slice(0, SHARD[0]), slice(None), slice(None))
    for at in range(0, len(whole), 13):
        changed = bytearray(whole)
        changed[at] ^= 0x10
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="checksum"):
            SealedArray(array).oindex[everything]
    for content in (b"", whole[:-1], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="checksum"):
            SealedArray(array).oindex[everything]


def test_only_the_chunks_that_hold_the_selection_are_read(tmp_path: Path) -> None:
    array = write(tmp_path / "a", "shards start")
    file = tmp_path / "a/c/0/0/0"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1  # In the last chunk's checksum.
    file.write_bytes(changed)
    assert SealedArray(array).oindex[0:1, 0:1, 0:1].item() == 0


def test_what_has_no_file_keeps_its_fill_value_and_a_pipe_is_no_file(tmp_path: Path) -> None:
    array = write(tmp_path / "a", "plain")
    file = tmp_path / "a/c/0/0/0"
    file.unlink()
    assert not SealedArray(array).oindex[0:2, 0:4, 0:3].any()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="no file of its own"):
        SealedArray(array).oindex[0:2, 0:4, 0:3]


def test_other_layouts_are_left_to_zarr(tmp_path: Path) -> None:
    assert not is_sealed(write(tmp_path / "a", "unchecked"))
    assert not is_sealed(zarr.create_array(tmp_path / "b", shape=(4,), dtype="f4"))
    assert not is_sealed(zarr.create_array({}, shape=(4,), dtype="f4", compressors=Crc32cCodec()))
