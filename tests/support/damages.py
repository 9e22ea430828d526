"""Damages of every kind of file of a store: each a name, a place, and what does it.

A row of a table is an action; `damages` pairs each with every kind of file that it fits, and draws
which file of the kind it hits, and at which byte. Nothing here reads a store through i2am: what is
damaged must not depend on how it is read.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from tests.support.specimens import MAPS, RUN, Specimens

__all__ = ["Damage", "damages"]

METADATA = "zarr.json"
_BLOCK_BYTES = 512  # What a disk loses at once.
_INDEX_ENTRY = struct.Struct("<QQ")
_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1
# Sorted by its name the levels of a direction, and the coordinates that say where a map lies.
_LEVELS = ("ulam", "tlam", "hlam", "llam")
_PIXELS = ("x", "y", "reference_x", "reference_y")


class _Unfit(Exception):
    """This file cannot be damaged so, or would be as it was."""


@dataclass(frozen=True)
class Damage:
    """Something that happens to a store.

    Parameters
    ----------
    action, kind : str
        What happens, to which kind of file.
    store : str
        The store's name.
    sample : str or None
        Whose file is hit first; None for the store's own.
    path : str
        Of the file or folder that is hit, below the store.
    is_quick : bool
        Whether the quick check has to find it.
    apply : callable (folder of the stores) -> None
    """

    action: str
    kind: str
    store: str
    sample: str | None
    path: str
    is_quick: bool
    apply: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.kind} of {self.store}: {self.action} ({self.path})"


@dataclass(frozen=True)
class _File:
    """A file of a store, and the stores that others may be taken from."""

    stores: Specimens
    store: str
    path: PurePosixPath

    @property
    def sample(self) -> str | None:
        return self.path.parts[0] if len(self.path.parts) > 1 else None

    @property
    def is_metadata(self) -> bool:
        return self.path.name == METADATA

    @cached_property
    def node(self) -> PurePosixPath:
        """The group or array that it belongs to."""
        if self.is_metadata:
            return self.path.parent
        parts = self.path.parts
        last = max(i for i, part in enumerate(parts) if part == "c")
        return PurePosixPath(*parts[:last])

    @cached_property
    def metadata(self) -> Any:
        """Of the node, as it was written."""
        return json.loads((self.stores.new / self.store / self.node / METADATA).read_text())

    @cached_property
    def kind(self) -> str:
        """A word for the node, and whether this is its metadata."""
        kind = self._array() if self.metadata["node_type"] == "array" else self._group()
        return f"{METADATA} of {kind}" if self.is_metadata else kind

    def _group(self) -> str:
        parts = self.node.parts
        if len(parts) < 2:
            return ("root", "sample")[len(parts)]
        return parts[1] if len(parts) == 2 and parts[1] in {"images", "layers"} else _inner(parts)

    def _array(self) -> str:
        name, parent = self.node.name, self.node.parts[1]
        if self.store == RUN:
            if parent == "images":
                return "mask" if "mask" in name else "image"
            return name
        if name in _LEVELS:
            return "level"
        return "pixels" if name in _PIXELS else "span" if name.endswith("_step") else name

    def size(self) -> int:
        return (self.stores.new / self.store / self.path).stat().st_size


def _inner(parts: tuple[str, ...]) -> str:
    return "layer" if parts[1] == "layers" else "direction"


def damages(specimens: Specimens, seed: int) -> Iterator[Damage]:
    """Yield every action with every kind of file that it fits, in an order that the seed draws."""
    rng = random.Random(seed)
    files = [
        _File(specimens, store, PurePosixPath(path.relative_to(specimens.new / store)))
        for store in (RUN, *MAPS)
        for path in sorted((specimens.new / store).rglob("*"))
        if path.is_file()
    ]
    by_kind: dict[tuple[str, str], list[_File]] = {}
    for file in files:
        by_kind.setdefault((file.store, file.kind), []).append(file)
    pairs = [(kind, row) for kind, own in by_kind.items() for row in _rows(own[0])]
    rng.shuffle(pairs)
    for kind, (action, is_quick, hit) in pairs:
        # Some files of a kind do not fit: no other file is of their size, say.
        for file in rng.sample(by_kind[kind], len(by_kind[kind])):
            draw = random.Random(f"{seed} {action} {file.store}/{file.path}")
            try:
                where, do = hit(file, files, draw)
            except _Unfit:
                continue
            yield Damage(
                action, kind[1], file.store, file.sample, str(where), is_quick, _in(file.store, do)
            )
            break


# What an action returns: the path that it hits, below the store, and what does it there.
_Hit = tuple[PurePosixPath, Callable[[Path], None]]
_Row = tuple[str, bool, Callable[[_File, list[_File], random.Random], _Hit]]


def _in(store: str, do: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: do(folder / store)


def _rows(file: _File) -> list[_Row]:
    """Return the actions that fit a kind of file, from one of its files."""
    if not file.is_metadata:
        sharded = file.metadata["codecs"][0]["name"] == "sharding_indexed"
        return [*_BYTES, *_EXCHANGES, *(_SHARDS if sharded else ())]
    rows = [*_TEXTS, *_EXCHANGES, *_KEYS, *_FOLDERS.get(file.kind.rpartition(" ")[2], ())]
    if file.metadata["node_type"] == "array":
        rows += [*_ARRAYS, *_ARRAY_FOLDERS]
    return rows + _attribute_rows(file)


# --- Bytes of a file.


def _bytes(change: Callable[[bytes, random.Random], bytes]) -> Any:
    """Return an action that replaces a file's bytes by others."""

    def hit(file: _File, _files: list[_File], rng: random.Random) -> _Hit:
        before = (file.stores.new / file.store / file.path).read_bytes()
        after = change(before, rng)
        if after == before:
            raise _Unfit

        def do(store: Path) -> None:
            (store / file.path).write_bytes(after)

        return file.path, do

    return hit


def _flipped(content: bytes, at: int, rng: random.Random) -> bytes:
    """Return the content with some bits of one byte flipped."""
    if not -len(content) <= at < len(content):
        raise _Unfit
    changed = bytearray(content)
    changed[at] ^= rng.randrange(1, 256)
    return bytes(changed)


def _without_a_block(content: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(content)) // _BLOCK_BYTES * _BLOCK_BYTES
    lost = content[begin : begin + _BLOCK_BYTES]
    return content[:begin] + bytes(len(lost)) + content[begin + len(lost) :]


def _deleted(file: _File, _files: list[_File], _rng: random.Random) -> _Hit:
    return file.path, lambda store: (store / file.path).unlink()


def _made_a_folder(file: _File, _files: list[_File], _rng: random.Random) -> _Hit:
    def do(store: Path) -> None:
        (store / file.path).unlink()
        (store / file.path).mkdir()

    return file.path, do


_CUTS: list[_Row] = [
    ("cut short by a byte", True, _bytes(lambda old, _: old[:-1])),
    ("cut to half", True, _bytes(lambda old, _: old[: len(old) // 2])),
    ("emptied", True, _bytes(lambda _old, _: b"")),
    ("deleted", True, _deleted),
    ("replaced by a folder", True, _made_a_folder),
    ("a byte appended", True, _bytes(lambda old, rng: old + rng.randbytes(1))),
    ("written twice", True, _bytes(lambda old, _: old + old)),
    ("full of zeros", False, _bytes(lambda old, _: bytes(len(old)))),
    ("other bytes of the same number", False, _bytes(lambda old, rng: rng.randbytes(len(old)))),
]
_BYTES: list[_Row] = [
    ("first byte flipped", False, _bytes(lambda old, rng: _flipped(old, 0, rng))),
    ("last byte flipped", False, _bytes(lambda old, rng: _flipped(old, -1, rng))),
    (
        "a byte flipped",
        False,
        _bytes(lambda old, rng: _flipped(old, rng.randrange(len(old)), rng)),
    ),
    ("a block of zeros", False, _bytes(_without_a_block)),
    *_CUTS,
]
_TEXTS: list[_Row] = [
    ("a byte flipped", True, _bytes(lambda old, rng: _flipped(old, rng.randrange(len(old)), rng))),
    ("a brace too many", True, _bytes(lambda old, _: old + b"}")),
    ("a space appended", True, _bytes(lambda old, _: old + b" ")),
    ("a list instead", True, _bytes(lambda _old, _: b"[]")),
    ("null instead", True, _bytes(lambda _old, _: b"null")),
    ("text instead", True, _bytes(lambda _old, _: b'"zarr"')),
    ("deep nesting instead", True, _bytes(lambda _old, _: b"[" * 5000 + b"]" * 5000)),
    *((name, True, hit) for name, _, hit in _CUTS),
]


# --- Shards: their chunks, the index, and checksums.


def _in_shard(place: Callable[[bytes, Any, random.Random], int]) -> Any:
    def hit(file: _File, _files: list[_File], rng: random.Random) -> _Hit:
        content = (file.stores.new / file.store / file.path).read_bytes()
        changed = _flipped(content, place(content, file.metadata, rng), rng)
        return file.path, lambda store: _write(store / file.path, changed)

    return hit


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _index_span(content: bytes, metadata: Any) -> tuple[int, int]:
    """Return where the index begins, and where it ends: its checksum follows."""
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    inner = metadata["codecs"][0]["configuration"]
    counts = (a // b for a, b in zip(shard, inner["chunk_shape"], strict=True))
    length = math.prod(counts) * _INDEX_ENTRY.size
    if inner.get("index_location") == "start":
        return 0, length
    end = len(content) - _CHECKSUM_BYTES
    return end - length, end


def _index(content: bytes, metadata: Any) -> list[tuple[int, int]]:
    """Return offset and length of each chunk that a shard holds."""
    begin, end = _index_span(content, metadata)
    return [e for e in _INDEX_ENTRY.iter_unpack(content[begin:end]) if e[0] != _ABSENT]


def _in_index(content: bytes, metadata: Any, rng: random.Random) -> int:
    return rng.randrange(*_index_span(content, metadata))


def _in_checksum_of_index(content: bytes, metadata: Any, rng: random.Random) -> int:
    return _index_span(content, metadata)[1] + rng.randrange(_CHECKSUM_BYTES)


def _at_end_of_chunk(content: bytes, metadata: Any, rng: random.Random) -> int:
    """Return a place in the last bytes of a chunk, which are its checksum where it has one."""
    offset, length = rng.choice(_index(content, metadata))
    return offset + length - 1 - rng.randrange(_CHECKSUM_BYTES)


def _in_padding(content: bytes, metadata: Any, _rng: random.Random) -> int:
    """Return a place in what the last chunk has beyond the array's end."""
    chunk = metadata["codecs"][0]["configuration"]["chunk_shape"]
    axis = metadata["dimension_names"].index("step")
    if metadata["shape"][axis] % chunk[axis] == 0:
        raise _Unfit
    offset, length = _index(content, metadata)[-1]
    return offset + length - 2 * _CHECKSUM_BYTES


_SHARDS: list[_Row] = [
    ("a byte flipped in the index", False, _in_shard(_in_index)),
    ("a byte flipped in the index's checksum", False, _in_shard(_in_checksum_of_index)),
    ("a byte flipped at the end of a chunk", False, _in_shard(_at_end_of_chunk)),
    ("a byte flipped in the padding", False, _in_shard(_in_padding)),
]


# --- Files that take another's place.


def _exchanged(is_other: Callable[[_File, _File], bool]) -> Any:
    """Return an action that swaps a file with another one of its store, of the same size if any is."""

    def hit(file: _File, files: list[_File], rng: random.Random) -> _Hit:
        root = file.stores.new / file.store
        mine = (root / file.path).read_bytes()
        others = [
            other
            for other in files
            if other.store == file.store
            and other.path != file.path
            and other.is_metadata == file.is_metadata
            and is_other(file, other)
            and (root / other.path).read_bytes() != mine
        ]
        others = [other for other in others if other.size() == len(mine)] or others
        if not others:
            raise _Unfit
        other = rng.choice(others)
        theirs = (root / other.path).read_bytes()

        def do(store: Path) -> None:
            (store / file.path).write_bytes(theirs)
            (store / other.path).write_bytes(mine)

        return file.path, do

    return hit


def _older(file: _File, _files: list[_File], _rng: random.Random) -> _Hit:
    new, old = (root / file.store / file.path for root in (file.stores.new, file.stores.old))
    if not old.is_file() or new.read_bytes() == (content := old.read_bytes()):
        raise _Unfit
    return file.path, lambda store: _write(store / file.path, content)


def _is_same_array(one: _File, other: _File) -> bool:
    return one.node == other.node


def _is_same_sample(one: _File, other: _File) -> bool:
    return one.sample == other.sample and one.node != other.node


def _is_same_place(one: _File, other: _File) -> bool:
    return one.path.parts[1:] == other.path.parts[1:] and one.sample != other.sample


_EXCHANGES: list[_Row] = [
    ("swapped with another of the array", True, _exchanged(_is_same_array)),
    ("swapped with another of the sample", True, _exchanged(_is_same_sample)),
    ("swapped with that of another sample", True, _exchanged(_is_same_place)),
    ("replaced by an older one", True, _older),
]


# --- Keys of a zarr.json.


def _edited(change: Callable[[Any, random.Random], object]) -> Any:
    """Return an action that edits a file's JSON in place."""

    def hit(file: _File, _files: list[_File], rng: random.Random) -> _Hit:
        content = json.loads(json.dumps(file.metadata))
        try:
            change(content, rng)
        except (KeyError, IndexError, TypeError) as e:
            raise _Unfit from e
        if content == file.metadata:
            raise _Unfit
        text = json.dumps(content, indent=2).encode()
        return file.path, lambda store: _write(store / file.path, text)

    return hit


def _remove_key(content: Any, rng: random.Random) -> None:
    del content[rng.choice(sorted(content))]


def _set(*path: str | int) -> Callable[[Any], Callable[[Any, random.Random], None]]:
    """Return what sets the value at a path to another, or to what a function makes of it."""

    def to(value: Any) -> Callable[[Any, random.Random], None]:
        def change(content: Any, _rng: random.Random) -> None:
            for step in path[:-1]:
                content = content[step]
            content[path[-1]] = value(content[path[-1]]) if callable(value) else value

        return change

    return to


def _keyed(name: str, path: str, value: Any) -> _Row:
    return name, True, _edited(_set(*path.split("/"))(value))


_KEYS: list[_Row] = [
    ("a key removed", True, _edited(_remove_key)),
    _keyed("zarr_format 2", "zarr_format", 2),
    _keyed("another node type", "node_type", lambda was: "array" if was == "group" else "group"),
    _keyed("no attributes", "attributes", {}),
    _keyed("attributes of another type", "attributes", 3),
]

_SAME_SIZE = {
    "float16": "int16",
    "float32": "int32",
    "float64": "int64",
    "int64": "uint64",
    "uint8": "int8",
    "bool": "uint8",
}


def _turn(values: list[Any]) -> list[Any]:
    return values[1:] + values[:1]


def _without_checksums(codecs: list[Any]) -> list[Any]:
    kept = [codec for codec in codecs if codec["name"] != "crc32c"]
    for codec in kept:
        inner = codec.get("configuration", {})
        if "codecs" in inner:
            inner["codecs"] = _without_checksums(inner["codecs"])
    return kept


_ARRAYS: list[_Row] = [
    _keyed("shape permuted", "shape", _turn),
    _keyed("shape longer", "shape", lambda was: [was[0] + 1, *was[1:]]),
    _keyed("shape shorter", "shape", lambda was: [was[0] - 1, *was[1:]]),
    _keyed("dims permuted", "dimension_names", _turn),
    _keyed("a dim renamed", "dimension_names", lambda was: [*was[:-1], "zzz"]),
    _keyed("no dims", "dimension_names", None),
    _keyed("another dtype of that size", "data_type", lambda was: _SAME_SIZE[was]),
    _keyed("another dtype", "data_type", lambda was: "float64" if was != "float64" else "int8"),
    _keyed("an unknown dtype", "data_type", "r7"),
    _keyed("another fill value", "fill_value", lambda was: "x" if isinstance(was, str) else 1),
    _keyed("no codecs", "codecs", []),
    _keyed("another byte order", "codecs/0/configuration/endian", "big"),
    _keyed("codecs without checksums", "codecs", _without_checksums),
    _keyed("an unknown codec", "codecs", lambda was: [*was, {"name": "zzz"}]),
    _keyed(
        "other chunks",
        "chunk_grid/configuration/chunk_shape",
        lambda was: [max(1, was[0] // 2), *was[1:]],
    ),
    _keyed(
        "another separator",
        "chunk_key_encoding/configuration/separator",
        lambda was: "." if was == "/" else "/",
    ),
]


def _other(value: Any) -> Any:
    """Return another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return 2 * value + 1
        case str():
            return f"{value}x"
        case None:
            return 1
        case [first, *rest] if isinstance(first, int | float):
            return value[::-1] if value != value[::-1] else [first + 1, *rest]
        case list():
            return [*value, value[0]] if value else [1]
        case dict():
            return {**value, "zzz": 1}
    raise _Unfit


# What is a wrong label though its value is a known one.
_KNOWN_OTHERS: dict[str, dict[Any, Any]] = {
    "status": {"complete": "running"},
    "convention": {"i2am": "official", "official": "i2am"},
    "normalisation": {"mass": "density", "density": "mass"},
    "block": {"up": "down", "down": "up", "mid": "up"},
    "representation": {"factors": "logits", "logits": "factors", "maps": "logits"},
    "kind": {"run": "maps", "maps": "run", "capture": "maps"},
}


def _attribute_rows(file: _File) -> list[_Row]:
    """Return for each attribute of a node that it is changed, and that it is removed."""
    rows: list[_Row] = []
    own = file.metadata["attributes"]
    for parent, values in (("attributes", own), ("attributes/i2am", own.get("i2am", {}))):
        for name, value in values.items():
            if parent == "attributes" and name == "i2am":
                continue
            others = _KNOWN_OTHERS.get(name, {})
            path = f"{parent}/{name}"
            changed = others.get(value) if isinstance(value, str) else None
            rows.append(_keyed(f"{name} changed", path, changed or _other))
            rows.append((f"{name} removed", True, _edited(_drop(path))))
    return rows


def _drop(path: str) -> Callable[[Any, random.Random], None]:
    *parents, last = path.split("/")

    def change(content: Any, _rng: random.Random) -> None:
        for step in parents:
            content = content[step]
        del content[last]

    return change


# --- Whole folders: by the node whose folder they are.


def _folder(do: Callable[[Path, Path], None], *, partner: str | None = None) -> Any:
    """Return an action on a node's folder, and on that of a node with the same parent, if any."""

    def hit(file: _File, files: list[_File], rng: random.Random) -> _Hit:
        others = [
            other.node
            for other in files
            if other.is_metadata
            and other.store == file.store
            and other.kind == file.kind
            and other.node != file.node
            and (
                partner == "sample"
                or (other.node.parent == file.node.parent) == (partner == "parent")
            )
        ]
        if partner is not None and not others:
            raise _Unfit
        other = rng.choice(others) if partner is not None else file.node

        def act(store: Path) -> None:
            do(store / file.node, store / other)

        return file.node, act

    return hit


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name(f"{one.name}.aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _remove(one: Path, _other: Path) -> None:
    shutil.rmtree(one)


def _copy_beside(one: Path, _other: Path) -> None:
    shutil.copytree(one, one.with_name(f"{one.name}_copy"))


def _remove_chunks(one: Path, _other: Path) -> None:
    shutil.rmtree(one / "c")


_GONE: _Row = ("its folder deleted", True, _folder(_remove))
_COPIED: _Row = ("its folder copied beside it", True, _folder(_copy_beside))
_SWAPPED: _Row = (
    "its folder swapped with its neighbour's",
    True,
    _folder(_swap, partner="parent"),
)
_FOLDERS: dict[str, tuple[_Row, ...]] = {
    "sample": (("its folder swapped with another's", True, _folder(_swap, partner="sample")),),
    "images": (_GONE,),
    "layers": (_GONE,),
    "layer": (_GONE, _COPIED, _SWAPPED),
    "direction": (_GONE, _COPIED, _SWAPPED),
}
_ARRAY_FOLDERS: tuple[_Row, ...] = (
    _GONE,
    _COPIED,
    _SWAPPED,
    ("its folder swapped with another's", True, _folder(_swap, partner="elsewhere")),
    ("all its chunks deleted", True, _folder(_remove_chunks)),
)
