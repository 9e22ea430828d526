"""What a ``zarr.json`` may say, checked before zarr takes it at its word.

A store may come from a stranger. Zarr builds whatever its metadata name: codecs of any installed
package, chunks of any size. Here is listed what stores of ours are made of; all else is refused,
with its place. What is bounded is what is allocated at once, never how large a run may be.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from i2am.schemas import StoreError
from i2am.schemas.text import safe_text

__all__ = ["MAX_METADATA_BYTES", "ArrayLayout", "Encoding", "checked_node"]

# A sample's lists its objects: a few hundred kB for the largest model.
MAX_METADATA_BYTES: Final = 16 * 2**20
_MAX_DEPTH: Final = 32
_MAX_DIMS: Final = 8
_MAX_SIZE: Final = 2**53
# As large as the largest picture that Pillow opens, which is stored in one chunk.
_MAX_CHUNK_BYTES: Final = 512 * 2**20
_MAX_CHUNKS_OF_SHARD: Final = 2**20
# What Dask keeps of a lazy array grows with the number of its chunks.
_MAX_CHUNKS: Final = 2**24
_MAX_CHUNKS_ALONG_DIM: Final = 2**20
# Arrays of one dimension are coordinates: they are read whole when a sample is opened.
_MAX_COORDINATE: Final = 2**22
_MAX_TEXTS: Final = 2**16
_MAX_TEXT_BYTES: Final = 16 * 2**20

_ITEM_BYTES: Final = {
    "bool": 1,
    **{f"{kind}{bits}": bits // 8 for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
}
_TEXT: Final = "string"
_GROUP_KEYS: Final = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}
_ARRAY_KEYS: Final = {
    *_GROUP_KEYS,
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "dimension_names",
    "storage_transformers",
}
_FLOAT_TEXTS: Final = re.compile(r"NaN|-?Infinity|0x[0-9a-fA-F]{1,16}")
_BLOSC_NAMES: Final = ("lz4", "lz4hc", "blosclz", "snappy", "zlib", "zstd")
_SHUFFLES: Final = ("noshuffle", "shuffle", "bitshuffle")
_INDEX_CODECS: Final = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]


@dataclass(frozen=True)
class Encoding:
    """How a chunk becomes bytes: numbers or texts, perhaps a compressor, perhaps checksums.

    Parameters
    ----------
    item_bytes : int
        Of a number; 0 for texts.
    compressor : "blosc", "zstd" or None
    inner_checksum, outer_checksum : bool
        Whether 4 bytes follow before the compressor, and after it.
    """

    item_bytes: int
    compressor: str | None
    inner_checksum: bool
    outer_checksum: bool

    @property
    def is_text(self) -> bool:
        """Whether values are texts, whose length only the chunk itself tells."""
        return self.item_bytes == 0

    @property
    def has_checksum(self) -> bool:
        """Whether damage to a chunk is found when it is read."""
        return self.inner_checksum or self.outer_checksum

    @property
    def is_fixed_size(self) -> bool:
        """Whether every chunk has the same number of bytes."""
        return self.compressor is None and not self.is_text

    def decompressed_bytes(self, values: int) -> int:
        """Return how many bytes a compressor has to give back; at most so many for texts."""
        if self.is_text:
            return min(4 + values * (4 + 2**12), _MAX_TEXT_BYTES)
        return values * self.item_bytes + 4 * self.inner_checksum

    def max_bytes(self, values: int) -> int:
        """Return how large a chunk of so many values can be at most."""
        size = self.decompressed_bytes(values)
        if self.compressor is not None:
            # Both leave as they are what does not get smaller, and add little to it.
            size += size // 64 + 1024
        return size + 4 * self.outer_checksum


@dataclass(frozen=True)
class ArrayLayout:
    """What an array's metadata tell of its objects.

    Parameters
    ----------
    shape : tuple of int
    object_shape : tuple of int
        Of what one object holds: a chunk, or a shard.
    chunk_shape : tuple of int
    encoding : Encoding
        Of a chunk.
    is_sharded : bool
    index_first : bool
        Whether a shard's index stands before its chunks.
    separator : str
        Between the numbers of an object's name.
    """

    shape: tuple[int, ...]
    object_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    encoding: Encoding
    is_sharded: bool = False
    index_first: bool = False
    separator: str = "/"

    @property
    def chunk_values(self) -> int:
        """Values of a chunk."""
        return math.prod(self.chunk_shape)

    @property
    def chunks_of_object(self) -> int:
        """Chunks of an object: one, unless it is a shard."""
        pairs = zip(self.object_shape, self.chunk_shape, strict=True)
        return math.prod(size // chunk for size, chunk in pairs)

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index and its checksum; 0 without shards."""
        return 16 * self.chunks_of_object + 4 if self.is_sharded else 0

    @property
    def max_chunk_bytes(self) -> int:
        """How large an encoded chunk can be."""
        return self.encoding.max_bytes(self.chunk_values)

    @property
    def max_object_bytes(self) -> int:
        """How large an object can be; a shard may hold a checksum of its chunks' checksums."""
        if not self.is_sharded:
            return self.max_chunk_bytes
        return self.chunks_of_object * self.max_chunk_bytes + 4 + self.index_bytes

    @property
    def min_object_bytes(self) -> int:
        """How small an object can be: chunks of a shard may be left out, its index may not."""
        if self.is_sharded:
            return self.index_bytes
        return self.max_chunk_bytes if self.encoding.is_fixed_size else 1

    @property
    def objects_along_dims(self) -> tuple[int, ...]:
        """Number of objects along each dimension."""
        pairs = zip(self.shape, self.object_shape, strict=True)
        return tuple(-(-size // one) for size, one in pairs)


def checked_node(raw: bytes, place: str) -> tuple[bytes, ArrayLayout | None]:
    """Return a node's metadata as zarr may read them, and the layout if it is an array.

    Parameters
    ----------
    raw : bytes
        Of a ``zarr.json``.
    place : str
        Where it lies, for messages.

    Raises
    ------
    StoreError
        If they are no JSON, of another Zarr format, name what stores of ours are not made of, or
        ask for more memory at once than any of ours needs.
    """
    node = _parsed(raw, place)
    if (version := node.get("zarr_format")) != 3 or isinstance(version, bool):
        _refuse("zarr_format 3", version, place, "Write it again in Zarr format 3.")
    kind = node.get("node_type")
    if kind not in ("group", "array"):
        _refuse("node_type 'group' or 'array'", kind, place)
    if unknown := sorted(set(node) - (_GROUP_KEYS if kind == "group" else _ARRAY_KEYS)):
        _refuse(f"the fields of a Zarr {kind}", unknown[0], place)
    if not isinstance(node.get("attributes", {}), dict):
        _refuse("attributes that are a mapping", node["attributes"], place)
    if "consolidated_metadata" in node:
        # Copies of other nodes' metadata, which nobody has checked. The nodes' own are read.
        del node["consolidated_metadata"]
        raw = json.dumps(node).encode()
    return raw, _layout(node, place) if kind == "array" else None


def _parsed(raw: bytes, place: str) -> dict[str, Any]:
    try:
        node = json.loads(raw)
    except (ValueError, RecursionError) as e:  # Not JSON, not UTF-8, a number of 5000 digits.
        reason = "nesting without end" if isinstance(e, RecursionError) else str(e)
        msg = f"Expected metadata in JSON, got '{safe_text(reason)}', at {place}. {_WAY_OUT}"
        raise StoreError(msg) from e
    if not isinstance(node, dict):
        _refuse("metadata that are a mapping", node, place)
    # To count is faster than to walk, and enough for nearly all.
    if raw.count(b"{") + raw.count(b"[") > _MAX_DEPTH and _is_deep(node):
        _refuse(f"metadata nested at most {_MAX_DEPTH} times", "more", place)
    return node


def _is_deep(node: Any) -> bool:
    level = [node]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _layout(node: Mapping[str, Any], place: str) -> ArrayLayout:
    if node.get("storage_transformers"):
        _refuse("no storage_transformers", node["storage_transformers"], place)
    shape = _sizes(node.get("shape"), "shape", place, least=0)
    item_bytes = _item_bytes(node.get("data_type"), place)
    _check_fill_value(node.get("fill_value"), node["data_type"], place)
    _check_dimension_names(node.get("dimension_names"), len(shape), place)
    grid = _configuration(node.get("chunk_grid"), {"regular": {"chunk_shape"}}, "chunk_grid", place)
    outer = _sizes(grid[1].get("chunk_shape"), "chunk_shape", place, count=len(shape))
    codecs = node.get("codecs")
    if not isinstance(codecs, list) or not codecs:
        _refuse("a list of codecs", codecs, place)
    separator = _separator(node.get("chunk_key_encoding"), place)
    if isinstance(codecs[0], dict) and codecs[0].get("name") == "sharding_indexed":
        layout = _sharded(codecs, shape, outer, item_bytes, separator, place)
    else:
        encoding = _encoding(codecs, item_bytes, place)
        layout = ArrayLayout(shape, outer, outer, encoding, separator=separator)
    _check_memory(layout, place)
    return layout


def _sharded(
    codecs: list[Any],
    shape: tuple[int, ...],
    shard: tuple[int, ...],
    item_bytes: int,
    separator: str,
    place: str,
) -> ArrayLayout:
    if len(codecs) != 1:
        _refuse("sharding_indexed as the only codec", f"{len(codecs)} codecs", place)
    known = {"sharding_indexed": {"chunk_shape", "codecs", "index_codecs", "index_location"}}
    _, own = _configuration(codecs[0], known, "codec", place)
    chunk = _sizes(own.get("chunk_shape"), "chunk_shape", place, count=len(shape))
    if any(whole % part for whole, part in zip(shard, chunk, strict=True)):
        _refuse(f"shards {shard} of whole chunks", chunk, place)
    if (index := own.get("index_codecs")) != _INDEX_CODECS:
        _refuse("a shard's index with a checksum, as Zarr writes it", index, place)
    if (location := own.get("index_location", "end")) not in ("start", "end"):
        _refuse("index_location 'start' or 'end'", location, place)
    inner = own.get("codecs")
    if not isinstance(inner, list) or not inner:
        _refuse("a list of codecs", inner, place)
    encoding = _encoding(inner, item_bytes, place)
    return ArrayLayout(shape, shard, chunk, encoding, True, location == "start", separator)


def _encoding(codecs: list[Any], item_bytes: int, place: str) -> Encoding:
    """Return what a chain of codecs does: values to bytes, then at most one compressor."""
    first = "bytes" if item_bytes else "vlen-utf8"
    names: list[str] = []
    for number, codec in enumerate(codecs):
        known = {"blosc", "zstd", "crc32c"} if number else {first}
        name, own = _configuration(
            codec, {each: _CODECS[each] for each in known}, "codec", place, is_optional=True
        )
        _check_codec(name, own, item_bytes, place)
        names.append(name)
    rest = names[1:]
    compressors = [name for name in rest if name != "crc32c"]
    if len(compressors) > 1:
        _refuse("at most one compressor", " and ".join(compressors), place)
    at = rest.index(compressors[0]) if compressors else len(rest)
    before, after = rest[:at], rest[at + 1 :]
    if len(before) > 1 or len(after) > 1:
        _refuse("one checksum", f"{rest.count('crc32c')}", place)
    if not compressors:  # There is no difference then.
        before, after = [], before
    return Encoding(item_bytes, compressors[0] if compressors else None, bool(before), bool(after))


_CODECS: Final[dict[str, set[str]]] = {
    "bytes": {"endian"},
    "vlen-utf8": set(),
    "crc32c": set(),
    "zstd": {"level", "checksum"},
    "blosc": {"typesize", "cname", "clevel", "shuffle", "blocksize"},
}


def _check_codec(name: str, own: Mapping[str, Any], item_bytes: int, place: str) -> None:
    if name == "bytes":
        endian = own.get("endian")
        if endian not in ("little", "big") and (endian is not None or item_bytes > 1):
            _refuse("endian 'little' or 'big'", endian, place)
    elif name == "zstd":
        _check_whole(own.get("level", 0), -(2**17), 22, "level of zstd", place)
        if not isinstance(own.get("checksum", False), bool):
            _refuse("checksum true or false", own["checksum"], place)
    elif name == "blosc":
        _check_whole(own.get("typesize", 1), 1, 255, "typesize of blosc", place)
        _check_whole(own.get("clevel", 5), 0, 9, "clevel of blosc", place)
        _check_whole(own.get("blocksize", 0), 0, 2**31 - 1, "blocksize of blosc", place)
        if (cname := own.get("cname", "zstd")) not in _BLOSC_NAMES:
            _refuse(f"cname {', '.join(_BLOSC_NAMES)}", cname, place)
        if (shuffle := own.get("shuffle", "noshuffle")) not in _SHUFFLES:
            _refuse(f"shuffle {', '.join(_SHUFFLES)}", shuffle, place)


def _check_memory(layout: ArrayLayout, place: str) -> None:
    """Refuse what would take more memory at once than any store of ours needs."""
    chunk_bytes = layout.encoding.decompressed_bytes(layout.chunk_values)
    if chunk_bytes > _MAX_CHUNK_BYTES:
        _refuse(f"chunks of at most {_MAX_CHUNK_BYTES:,} bytes", f"{chunk_bytes:,}", place)
    if (count := layout.chunks_of_object) > _MAX_CHUNKS_OF_SHARD:
        _refuse(f"shards of at most {_MAX_CHUNKS_OF_SHARD:,} chunks", f"{count:,}", place)
    along = [-(-n // c) for n, c in zip(layout.shape, layout.chunk_shape, strict=True)]
    if max(along, default=0) > _MAX_CHUNKS_ALONG_DIM or math.prod(along) > _MAX_CHUNKS:
        count = math.prod(along)
        _refuse(f"an array of at most {_MAX_CHUNKS:,} chunks", f"{count:,}", place)
    limit = _MAX_TEXTS if layout.encoding.is_text else _MAX_COORDINATE
    if (len(layout.shape) == 1 or layout.encoding.is_text) and math.prod(layout.shape) > limit:
        _refuse(f"a coordinate of at most {limit:,} values", f"{math.prod(layout.shape):,}", place)


def _item_bytes(data_type: Any, place: str) -> int:
    if data_type == _TEXT:
        return 0
    if not isinstance(data_type, str) or data_type not in _ITEM_BYTES:
        _refuse("a data_type of numbers or 'string'", data_type, place)
    return _ITEM_BYTES[data_type]


def _check_fill_value(value: Any, data_type: str, place: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if data_type == _TEXT:
        is_right = isinstance(value, str)
    elif data_type == "bool":
        is_right = isinstance(value, bool)
    elif data_type.startswith("float"):
        is_right = is_number or (isinstance(value, str) and bool(_FLOAT_TEXTS.fullmatch(value)))
    else:
        bits = 8 * _ITEM_BYTES[data_type]
        least = 0 if data_type.startswith("u") else -(2 ** (bits - 1))
        is_right = is_number and isinstance(value, int) and least <= value < least + 2**bits
    if not is_right:
        _refuse(f"a fill_value of {data_type}", value, place)


def _check_dimension_names(names: Any, ndim: int, place: str) -> None:
    if names is None:
        return
    is_right = isinstance(names, list) and len(names) == ndim
    if not is_right or not all(name is None or isinstance(name, str) for name in names):
        _refuse(f"dimension_names for {ndim} dimensions", names, place)


def _separator(stored: Any, place: str) -> str:
    name, own = _configuration(
        stored, {"default": {"separator"}}, "chunk_key_encoding", place, is_optional=True
    )
    separator = own.get("separator", "/")
    if separator not in ("/", "."):
        _refuse(f"separator '/' or '.' of chunk_key_encoding {name!r}", separator, place)
    return str(separator)


def _configuration(
    stored: Any,
    known: Mapping[str, set[str]],
    what: str,
    place: str,
    *,
    is_optional: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Return name and configuration of one of Zarr's extension points."""
    name = stored.get("name") if isinstance(stored, dict) else None
    if not isinstance(name, str) or name not in known or set(stored) - {"name", "configuration"}:
        _refuse(f"{what} {' or '.join(sorted(known))}", stored if name is None else name, place)
    own = stored.get("configuration", {} if is_optional else None)
    if own is None and is_optional:
        own = {}
    if not isinstance(own, dict) or set(own) - known[name]:
        _refuse(f"a configuration of {name}", own, place)
    return name, own


def _sizes(
    stored: Any, what: str, place: str, *, least: int = 1, count: int | None = None
) -> tuple[int, ...]:
    if not isinstance(stored, list) or len(stored) > _MAX_DIMS:
        _refuse(f"{what} of at most {_MAX_DIMS} whole numbers", stored, place)
    for size in stored:
        _check_whole(size, least, _MAX_SIZE, what, place)
    if count is not None and len(stored) != count:
        _refuse(f"{what} of {count} dimensions", stored, place)
    return tuple(stored)


def _check_whole(value: Any, least: int, most: int, what: str, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        _refuse(f"{what} from {least} to {most}", value, place)


_WAY_OUT: Final = "The store is damaged or not one of i2am; get it again, or do without the sample."
_SHOWN: Final = 60


def _refuse(wanted: str, came: Any, place: str, hint: str = _WAY_OUT) -> NoReturn:
    text = came if isinstance(came, str) else _short(came)
    shown = safe_text(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    msg = f"Expected {wanted}, got {shown!r}, at {place}. {hint}"
    raise StoreError(msg)


def _short(value: Any) -> str:
    """Return a value as text, without writing out what is long."""
    try:
        return json.dumps(value)[: _SHOWN + 1] if not isinstance(value, int) else f"{value:.6g}"
    except (ValueError, OverflowError, TypeError, RecursionError):
        return type(value).__name__
