"""What a chunk's bytes announce, checked before a decompressor believes them.

A compressed chunk says itself how much memory it needs: a few bytes may ask for gigabytes. The
metadata tell how much it can be, so whatever announces anything else is damaged or meant to harm.
"""

from __future__ import annotations

import struct
from typing import Final, NoReturn

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from i2am.schemas import StoreError
from i2am.storage.node_metadata import ArrayLayout, Encoding

__all__ = ["check_chunk", "check_shard", "needs_look"]

# A frame begins with these four bytes. One of a dictionary or with nothing in it does not.
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOSC_FORMAT: Final = 2
_BLOSC_HEADER_BYTES: Final = 16
_ABSENT: Final = 2**64 - 1


def needs_look(layout: ArrayLayout) -> bool:
    """Return whether an array's chunks announce sizes of their own; plain numbers do not."""
    return not layout.encoding.is_fixed_size


def check_chunk(chunk: memoryview, layout: ArrayLayout, place: str) -> None:
    """Check that a chunk announces no more than the values that it holds.

    Parameters
    ----------
    chunk : memoryview of bytes
    layout : ArrayLayout
        Of its array.
    place : str
        Where it lies, for messages.

    Raises
    ------
    StoreError
        If it announces another size, or more texts than it can hold.
    """
    encoding = layout.encoding
    if encoding.outer_checksum:
        chunk = chunk[:-4]  # Zarr verifies it.
    size = encoding.decompressed_bytes(layout.chunk_values)
    if encoding.compressor is not None:
        announced = _announced_bytes(chunk, encoding, place)
        if announced > size or (announced != size and not encoding.is_text):
            wanted = "at most " * encoding.is_text + f"{size:,} bytes"
            _refuse(f"a chunk of {wanted}", f"one that announces {announced:,}", place)
    if encoding.is_text:
        _check_texts(_decompressed(chunk, encoding, place), layout.chunk_values, place)


def check_shard(shard: memoryview, layout: ArrayLayout, place: str) -> None:
    """Check all chunks of a shard, as `check_chunk` does one.

    Raises
    ------
    StoreError
        If one of them lies outside the shard, or announces another size.
    """
    size = layout.index_bytes
    index = shard[:size] if layout.index_first else shard[len(shard) - size :]
    # Four bytes of checksum end it, which zarr verifies.
    entries = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    for start, length in entries.tolist():
        if start == _ABSENT:
            continue
        if start + length > len(shard) or length > layout.max_chunk_bytes:
            _refuse("chunks inside their shard", f"bytes {start} to {start + length}", place)
        check_chunk(shard[start : start + length], layout, place)


def _announced_bytes(chunk: memoryview, encoding: Encoding, place: str) -> int:
    if encoding.compressor == "blosc":
        return _blosc_bytes(chunk, place)
    return _zstd_bytes(chunk, place)


def _blosc_bytes(chunk: memoryview, place: str) -> int:
    """Return what a blosc chunk's header announces.

    Its 16 bytes: format, compressor's format, flags, bytes of an item; then, as 32-bit numbers from
    the lowest byte, the bytes before compression, of a block, and of the chunk itself.
    """
    if len(chunk) < _BLOSC_HEADER_BYTES or chunk[0] != _BLOSC_FORMAT:
        _refuse("a chunk that blosc compressed", "another", place)
    announced, block, own = struct.unpack_from("<III", chunk, 4)
    # The decompressor reads as many bytes as the header tells, whether they are there or not.
    if own != len(chunk):
        _refuse(f"a chunk of {own:,} bytes as it announces", f"{len(chunk):,}", place)
    if announced and not 0 < block <= announced:
        _refuse(f"blocks of 1 to {announced:,} bytes in a chunk", f"{block:,}", place)
    return int(announced)


def _zstd_bytes(chunk: memoryview, place: str) -> int:
    """Return what a zstd frame's header announces.

    After the four bytes that every frame begins with: a descriptor, whose bits 7 and 6 give the
    size of the announced size, 5 whether the byte for the window is left out, 1 and 0 the size of a
    dictionary's number; then window, dictionary's number, announced size (RFC 8878, section 3.1.1).
    """
    if len(chunk) < 6 or bytes(chunk[:4]) != _ZSTD_MAGIC:
        _refuse("a chunk that zstd compressed", "another", place)
    descriptor = chunk[4]
    is_single = bool(descriptor & 0x20)
    at = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    width = (int(is_single), 2, 4, 8)[descriptor >> 6]
    if width == 0 or len(chunk) < at + width:
        # It would be decompressed until it ends, however large that is.
        _refuse("a zstd chunk that announces its size", "one that does not", place)
    announced = int.from_bytes(chunk[at : at + width], "little")
    return announced + 256 if width == 2 else announced


def _decompressed(chunk: memoryview, encoding: Encoding, place: str) -> memoryview:
    """Return the bytes of texts; what they announce has been checked."""
    try:
        if encoding.compressor == "blosc":
            chunk = memoryview(Blosc().decode(bytes(chunk)))
        elif encoding.compressor == "zstd":
            chunk = memoryview(Zstd().decode(bytes(chunk)))
    except (RuntimeError, ValueError) as e:
        msg = f"Expected a chunk that can be decompressed, got '{e}', at {place}. {_WAY_OUT}"
        raise StoreError(msg) from e
    return chunk[:-4] if encoding.inner_checksum else chunk


def _check_texts(texts: memoryview, count: int, place: str) -> None:
    """Check texts as they are stored: their number in 4 bytes; before each its length in 4 bytes."""
    if len(texts) < 4 or (stored := struct.unpack_from("<I", texts)[0]) != count:
        found = "none" if len(texts) < 4 else f"{stored:,}"
        _refuse(f"{count:,} texts in a chunk", found, place)
    at = 4
    for number in range(count):
        if at + 4 > len(texts):
            _refuse(f"{count:,} texts in a chunk", f"{number:,}", place)
        (length,) = struct.unpack_from("<I", texts, at)
        at += 4 + length
        if at > len(texts):
            _refuse("texts inside their chunk", f"one of {length:,} bytes", place)
        try:
            str(texts[at - length : at], "utf-8")
        except UnicodeDecodeError as e:
            msg = f"Expected text in UTF-8, got other bytes, at {place}. {_WAY_OUT}"
            raise StoreError(msg) from e


_WAY_OUT: Final = "The object is damaged; get the store again, or do without the sample."


def _refuse(wanted: str, came: str, place: str) -> NoReturn:
    msg = f"Expected {wanted}, got {came}, at {place}. {_WAY_OUT}"
    raise StoreError(msg)
