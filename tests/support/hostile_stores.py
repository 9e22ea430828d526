"""Stores as a stranger may send them, each made from a sound one by a single change.

Also a sweep for `make faults`: every change is refused with a StoreError by all that reads it.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zarr
from numcodecs.zstd import Zstd

from i2am.analysis import describe_store, open_maps, open_run
from i2am.schemas import StoreError, find_faults
from tests.support.synthetic_run import SyntheticLayer, write_run

__all__ = ["HOSTILE", "LAYER", "QUERY", "Hostile", "read_all", "refusal", "sweep", "write_victim"]

Node = dict[str, Any]
SAMPLE = "shirt"
LAYER = f"{SAMPLE}/layers/down.attn2"
QUERY = f"{LAYER}/query"
STEP = f"{SAMPLE}/step"
LABELS = f"{SAMPLE}/guidance"
REGION = f"{LAYER}/region"
IMAGE = f"{SAMPLE}/images/generated"


class Hostile(NamedTuple):
    """One change of a sound run, and what the refusal tells."""

    name: str
    change: Callable[[Path], object]
    told: str


def write_victim(path: Path) -> Path:
    """Write the sound run that all changes are made to: texts, shards, compressed chunks."""
    layer = SyntheticLayer("down.attn2", (4, 4), (2, 2), masked=True)
    write_run(path, [SAMPLE], [layer], guidance=True)
    root: Any = zarr.open_group(path, mode="r+")
    values = root[QUERY][...]
    del root[QUERY]
    root[LAYER].create_array(
        "query",
        data=values,
        chunks=(1, 2, *values.shape[2:]),
        shards=values.shape,
        compressors=zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle"),
        dimension_names=["guidance", "step", "head", "generated", "channel"],
    )
    values = root[IMAGE][...]
    del root[IMAGE]
    blosc = zarr.codecs.BloscCodec(cname="lz4")
    names = ["y", "x", "rgb"]
    root[f"{SAMPLE}/images"].create_array(
        "generated", data=values, chunks=values.shape, compressors=blosc, dimension_names=names
    )
    return path


def read_all(path: Path) -> None:
    """Read everything of a run or a maps store: as validation does, and all values."""
    list(find_faults(describe_store(path)))
    own = json.loads((path / "zarr.json").read_bytes())["attributes"]["i2am"]["kind"]
    opened = open_run(path) if own == "run" else open_maps(path)
    for name in opened:
        opened[name].load()


def refusal(path: Path) -> str | None:
    """Return with what words a store is refused; None where all of it is read."""
    try:
        read_all(path)
    except StoreError as e:
        return str(e)
    return None


def sweep(seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    """Yield what was tried and what became of it; `seed` and `rounds` change nothing."""
    with tempfile.TemporaryDirectory() as folder:
        sound = write_victim(Path(folder) / "sound.zarr")
        for hostile in HOSTILE:
            path = Path(folder) / "hostile.zarr"
            shutil.copytree(sound, path, symlinks=True)
            hostile.change(path)
            yield f"hostile store: {hostile.name}", "refused" if refusal(path) else "UNDETECTED"
            shutil.rmtree(path)


def _node(key: str, change: Callable[[Node], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = path / key / "zarr.json"
        node = json.loads(file.read_bytes())
        change(node)
        file.write_text(json.dumps(node))

    return apply


def _set(key: str, **fields: Any) -> Callable[[Path], None]:
    return _node(key, lambda node: node.update(fields))


def _codecs(*codecs: Any, key: str = REGION) -> Callable[[Path], None]:
    return _set(key, codecs=list(codecs))


def _sharding(**fields: Any) -> Callable[[Path], None]:
    return _node(QUERY, lambda node: node["codecs"][0]["configuration"].update(fields))


def _grid(key: str, shape: list[Any], chunk: list[Any]) -> Callable[[Path], None]:
    def change(node: Node) -> None:
        node["shape"] = shape
        node["chunk_grid"]["configuration"]["chunk_shape"] = chunk

    return _node(key, change)


def _raw(key: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: _write(path / key, content)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _object(path: Path, key: str) -> Path:
    (found,) = (one for one in (path / key / "c").rglob("*") if one.is_file())
    return found


def _chunk(key: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = _object(path, key)
        file.write_bytes(change(file.read_bytes()))

    return apply


def _replaced(key: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of an array's object, or of another file."""

    def apply(path: Path) -> None:
        file = path / key if (path / key).is_file() else _object(path, key)
        file.unlink()
        make(file)

    return apply


def _link_to(target: str) -> Callable[[Path], object]:
    return lambda file: file.symlink_to(target)


def _outside(key: str) -> Callable[[Path], None]:
    """Move a folder or a file out of the store, and leave a link."""

    def apply(path: Path) -> None:
        elsewhere = Path(tempfile.mkdtemp(dir=path.parent)) / "it"
        (path / key).rename(elsewhere)
        (path / key).symlink_to(elsewhere)

    return apply


def _socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # The name of a socket must be short.
    try:
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(file.name)
    finally:
        os.chdir(here)


def _extra(name: str, **fields: Any) -> Callable[[Path], None]:
    """Add a coordinate of the sample that nobody asked for."""
    node = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": "float64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": ["extra"],
    } | fields
    return _raw(f"{SAMPLE}/{name}/zarr.json", json.dumps(node).encode())


def _regular(*chunk: int) -> Node:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def _many_extras(path: Path) -> None:
    for number in range(10):
        _extra(f"extra{number}", shape=[2**22], chunk_grid=_regular(2**22))(path)


def _blosc(announced: int, own: int | None = None) -> Callable[[bytes], bytes]:
    def change(chunk: bytes) -> bytes:
        size = len(chunk) if own is None else own
        return (
            chunk[:4]
            + struct.pack("<I", announced)
            + chunk[8:12]
            + struct.pack("<I", size)
            + chunk[16:]
        )

    return change


def _texts(content: bytes) -> Callable[[bytes], bytes]:
    return lambda _: bytes(Zstd().encode(content))


def _old_format(path: Path) -> None:
    """Turn a sample into Zarr format 2, with a filter that runs what it reads."""
    for file in (path / SAMPLE).rglob("zarr.json"):
        file.unlink()
    _write(path / SAMPLE / ".zgroup", b'{"zarr_format": 2}')
    (path / "zarr.json").unlink()
    _write(path / ".zgroup", b'{"zarr_format": 2}')
    own = {"i2am": {"kind": "run", "schema": 1}}
    _write(path / ".zattrs", json.dumps(own).encode())


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(tempfile.gettempdir()) / "i2am-was-here",)


def _pickle_filter(path: Path) -> None:
    """A step coordinate of Zarr format 2 whose filters are vlen-utf8 and pickle."""
    shutil.rmtree(path / STEP)
    array = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C",
        "compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    _write(path / STEP / ".zarray", json.dumps(array).encode())
    _write(path / STEP / ".zattrs", b'{"_ARRAY_DIMENSIONS": ["step"]}')
    _write(path / STEP / "0", pickle.dumps(_Payload()))
    _old_format(path)


_LITTLE: Node = {"name": "bytes", "configuration": {"endian": "little"}}
_INDEX: list[Node] = [_LITTLE, {"name": "crc32c"}]
_ZSTD: Node = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
_DEEP = b"[" * 100_000 + b"]" * 100_000
_NESTED = (
    b'{"zarr_format": 3, "node_type": "group", "attributes": {"a":' + b"[" * 90 + b"]" * 90 + b"}}"
)

HOSTILE: tuple[Hostile, ...] = (
    # The text of zarr.json.
    Hostile("no JSON", _raw(f"{LAYER}/zarr.json", b"{"), "metadata in JSON"),
    Hostile("empty", _raw(f"{LAYER}/zarr.json", b""), "metadata in JSON"),
    Hostile("no UTF-8", _raw(f"{LAYER}/zarr.json", b"\xff\xfe\x00"), "metadata in JSON"),
    Hostile("a list", _raw(f"{LAYER}/zarr.json", b"[]"), "metadata that are a mapping"),
    Hostile("null", _raw(f"{LAYER}/zarr.json", b"null"), "metadata that are a mapping"),
    Hostile("nested 100,000 times", _raw(f"{LAYER}/zarr.json", _DEEP), "nesting without end"),
    Hostile("nested 90 times", _raw(f"{LAYER}/zarr.json", _NESTED), "nested at most 32"),
    Hostile("a number of 5,000 digits", _raw(f"{LAYER}/zarr.json", b"1" * 5000), "metadata in JSON"),
    Hostile("17 MiB", _raw(f"{LAYER}/zarr.json", b" " * 17 * 2**20), "16,777,216 bytes"),
    # What kind of node it is.
    Hostile("format 2 inside", _set(LAYER, zarr_format=2), "zarr_format 3"),
    Hostile("format 4", _set(LAYER, zarr_format=4), "zarr_format 3"),
    Hostile("format true", _set(LAYER, zarr_format=True), "zarr_format 3"),
    Hostile("another node_type", _set(LAYER, node_type="table"), "node_type"),
    Hostile("attributes as a list", _set(LAYER, attributes=[]), "attributes that are a mapping"),
    Hostile("an unknown field", _set(LAYER, hooks=["x"]), "the fields of a Zarr group"),
    Hostile("a field of arrays", _set(LAYER, codecs=[]), "the fields of a Zarr group"),
    Hostile("a whole store of format 2", _old_format, "Zarr format 2"),
    Hostile("format 2 with pickles", _pickle_filter, "Zarr format 2"),
    # Data types, fill values, names.
    Hostile("objects", _set(STEP, data_type="object"), "a data_type"),
    Hostile("pickled objects", _set(STEP, data_type="|O"), "a data_type"),
    Hostile("bytes", _set(LABELS, data_type="variable_length_bytes"), "a data_type"),
    Hostile("a structure", _set(STEP, data_type={"name": "struct"}), "a data_type"),
    Hostile("complex numbers", _set(QUERY, data_type="complex128"), "a data_type"),
    Hostile("void of a gigabyte", _set(STEP, data_type="r8000000000"), "a data_type"),
    Hostile("no data type", _node(STEP, lambda node: node.pop("data_type")), "a data_type"),
    Hostile("a fill value of text", _set(STEP, fill_value="zero"), "a fill_value"),
    Hostile("a fill value of a list", _set(QUERY, fill_value=[0]), "a fill_value"),
    Hostile("a fill value too large", _set(STEP, fill_value=2**80), "a fill_value"),
    Hostile("names for other dims", _set(STEP, dimension_names=["a", "b"]), "dimension_names"),
    Hostile("names that are numbers", _set(STEP, dimension_names=[1]), "dimension_names"),
    # Codecs.
    Hostile("pickle as a codec", _codecs({"name": "pickle"}), "codec bytes"),
    Hostile("a codec of numcodecs", _codecs(_LITTLE, {"name": "numcodecs.lzma"}), "codec blosc"),
    Hostile("a pickle of numcodecs", _codecs({"name": "numcodecs.pickle"}), "codec bytes"),
    Hostile("gzip", _codecs(_LITTLE, {"name": "gzip", "configuration": {"level": 1}}), "codec blosc"),
    Hostile("no codec", _codecs(), "a list of codecs"),
    Hostile("a codec that is a text", _codecs("bytes"), "codec bytes"),
    Hostile("codecs that are a mapping", _set(REGION, codecs={}), "a list of codecs"),
    Hostile("two compressors", _codecs(_LITTLE, _ZSTD, _ZSTD), "at most one compressor"),
    Hostile("a compressor first", _codecs(_ZSTD, _LITTLE), "codec bytes"),
    Hostile("texts as numbers", _codecs({"name": "vlen-utf8"}), "codec bytes"),
    Hostile("no byte order", _codecs({"name": "bytes"}), "endian"),
    Hostile("zstd without end", _codecs(_LITTLE, {"name": "zstd", "configuration": {"level": 99}}), "level of zstd"),
    Hostile("a foreign option", _codecs(_LITTLE, {"name": "zstd", "configuration": {"dict": 1}}), "configuration of zstd"),
    Hostile("blosc by another name", _codecs(_LITTLE, {"name": "blosc", "configuration": {"cname": "x"}}), "cname"),
    Hostile("shards in shards", _sharding(codecs=[{"name": "sharding_indexed"}]), "codec bytes"),
    Hostile("an index without checksum", _sharding(index_codecs=[_LITTLE]), "index with a checksum"),
    Hostile("an index that is compressed", _sharding(index_codecs=[*_INDEX, _ZSTD]), "index with a checksum"),
    Hostile("an index in the middle", _sharding(index_location="middle"), "index_location"),
    Hostile("chunks that do not fit", _sharding(chunk_shape=[1, 3, 2, 16, 8]), "whole chunks"),
    Hostile("chunks of nothing", _sharding(chunk_shape=[1, 0, 2, 16, 8]), "chunk_shape from 1"),
    Hostile("a transformer", _set(QUERY, storage_transformers=[{"name": "x"}]), "storage_transformers"),
    Hostile("another grid", _set(STEP, chunk_grid={"name": "rectangular"}), "chunk_grid regular"),
    Hostile("other keys", _set(STEP, chunk_key_encoding={"name": "v2"}), "chunk_key_encoding"),
    Hostile(
        "keys that lead out",
        _set(STEP, chunk_key_encoding={"name": "default", "configuration": {"separator": "/../"}}),
        "separator",
    ),
    # Shapes.
    Hostile("a negative shape", _set(STEP, shape=[-4]), "shape from 0"),
    Hostile("a shape of fractions", _set(STEP, shape=[4.0]), "shape from 0"),
    Hostile("a shape of true", _set(STEP, shape=[True]), "shape from 0"),
    Hostile("a shape of 2**80", _set(STEP, shape=[2**80]), "shape from 0"),
    Hostile("ten thousand dimensions", _set(STEP, shape=[1] * 10_000), "at most 8 whole"),
    Hostile("chunks of other dimensions", _grid(STEP, [4], [4, 4]), "of 1 dimensions"),
    # Memory.
    Hostile("4e9 coordinates", _extra("huge", shape=[4 * 10**9], chunk_grid=_regular(2**20)), "a coordinate of at most"),
    Hostile("coordinates, many times", _many_extras, "coordinates of at most 268,435,456 bytes"),
    Hostile("a chunk of 8 GB", _extra("huge", shape=[1, 10**9], chunk_grid=_regular(1, 10**9), dimension_names=["a", "b"]), "chunks of at most"),
    Hostile("ten petabytes", _grid(IMAGE, [10**8, 10**8, 1], [1024, 1024, 1]), "16,777,216 chunks"),
    Hostile("10**15 chunks along a dim", _grid(IMAGE, [10**15, 1, 1], [1, 1, 1]), "16,777,216 chunks"),
    Hostile("an index of gigabytes", _node(QUERY, lambda node: (
        node.update(shape=[2, 4, 2, 2**20, 2**10]),
        node["chunk_grid"]["configuration"].update(chunk_shape=[2, 4, 2, 2**20, 2**10]),
        node["codecs"][0]["configuration"].update(chunk_shape=[1, 1, 1, 1, 1]),
    )), "shards of at most"),
    Hostile("a blosc bomb", _chunk(IMAGE, _blosc(2**31 - 1)), "announces 2,147,483,647"),
    Hostile("blosc beyond its end", _chunk(IMAGE, _blosc(32 * 32 * 3, 2**30)), "bytes as it announces"),
    Hostile("blosc blocks of nothing", _chunk(IMAGE, lambda c: c[:8] + bytes(4) + c[12:]), "blocks of"),
    Hostile("no blosc", _chunk(IMAGE, lambda c: b"\x07" + c[1:]), "that blosc compressed"),
    Hostile("a blosc bomb in a shard", _chunk(QUERY, lambda c: _blosc(2**31 - 1, struct.unpack_from("<I", c, 12)[0])(c)), "announces 2,147,483,647"),
    Hostile("a zstd bomb", _chunk(STEP, lambda c: c[:4] + b"\xe0" + struct.pack("<Q", 2**40) + c[6:]), "an object of|announces 1,099"),
    Hostile("zstd without a size", _chunk(STEP, lambda c: c[:4] + b"\x00" + c[5:]), "announces its size"),
    Hostile("no zstd", _chunk(STEP, lambda _: b"GIF89a" * 4), "that zstd compressed"),
    Hostile("a bomb of zeros", _chunk(STEP, lambda _: bytes(Zstd().encode(bytes(2**28)))), "an object of|announces 268,"),
    Hostile("four billion texts", _chunk(LABELS, _texts(struct.pack("<I", 2**32 - 1) + b"a" * 40)), "2 texts in a chunk"),
    Hostile("a text without end", _chunk(LABELS, _texts(struct.pack("<III", 2, 2**31, 5) + b"a" * 40)), "texts inside their chunk"),
    Hostile("fewer texts than told", _chunk(LABELS, _texts(struct.pack("<II", 2, 4) + b"abcd")), "2 texts in a chunk"),
    Hostile("no text", _chunk(LABELS, _texts(struct.pack("<II", 2, 1) + b"\xff" + struct.pack("<I", 0))), "text in UTF-8"),
    Hostile("a bomb of texts", _chunk(LABELS, _texts(bytes(2**27))), "at most"),
    # Objects.
    Hostile("a missing shard", _replaced(QUERY, lambda _: None), "one that is missing"),
    Hostile("a missing image", _replaced(IMAGE, lambda _: None), "one that is missing"),
    Hostile("an empty shard", _chunk(QUERY, lambda _: b""), "an object of"),
    Hostile("a chunk with a tail", _chunk(IMAGE, lambda c: c + bytes(10**6)), "an object of"),
    Hostile("a device without end", _replaced(IMAGE, _link_to("/dev/zero")), "leads out of it"),
    Hostile("a pipe", _replaced(IMAGE, os.mkfifo), "a pipe"),
    Hostile("a pipe as metadata", _replaced(f"{LAYER}/zarr.json", os.mkfifo), "a pipe"),
    Hostile("a socket", _replaced(IMAGE, _socket), "a pipe, a device"),
    Hostile("a link to a file elsewhere", _replaced(IMAGE, _link_to("/etc/passwd")), "leads out of it"),
    Hostile("a link up", _replaced(IMAGE, _link_to("../../../../../../../../etc/passwd")), "leads out of it"),
    Hostile("a layer elsewhere", _outside(LAYER), "leads out of it"),
    Hostile("chunks elsewhere", _outside(f"{QUERY}/c"), "leads out of it"),
    Hostile("metadata elsewhere", _outside(f"{QUERY}/zarr.json"), "leads out of it"),
    Hostile("a control character in a name", lambda path: (path / LAYER).rename(path / f"{LAYER}\x1b[2J"), "without control"),
    Hostile("a line break in a name", lambda path: (path / LAYER).rename(path / f"{LAYER}\nok"), "without control"),
)  # fmt: skip
