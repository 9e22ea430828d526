"""Bad input as a table: what is given, how the command is called, what it says, and its exit code.

Each case is called in a folder of its own that holds `run.zarr` and `maps.zarr`, the pictures
`a.png` and `m.png` (a mask), the manifest `good.csv`, the text `notes.txt` and the empty folder
`empty`; `make` adds what the case is about.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from i2am.capture.pipelines.load import SHIPPED_MODEL_PATH

__all__ = ["BadInput", "iter_bad_inputs"]

Make = Callable[[Path], object]

_CAPTURE = ("capture", "--out", "new.zarr", "--steps", "1", "--device", "cpu")
_HEADER = "sample,source,mask,reference"
_ROW = "a,a.png,m.png,a.png"
_FIELDS = {"sample": "a", "source": "a.png", "mask": "m.png", "reference": "a.png"}


@dataclass(frozen=True)
class BadInput:
    """One case.

    Parameters
    ----------
    what : str
        What is wrong, and of what.
    call : tuple of str
        Arguments of `i2am`.
    message : str
        A regular expression of what is said on standard error.
    code : int
        Exit code.
    make : callable, optional
        Makes the input in the case's folder.
    """

    what: str
    call: tuple[str, ...]
    message: str
    code: int = 1
    make: Make | None = None


def iter_bad_inputs() -> Iterator[BadInput]:
    """Yield every case."""
    yield from _manifest_files()
    yield from _manifest_texts()
    yield from _manifest_values()
    yield from _parquet_manifests()
    yield from _pictures()
    yield from _models()
    yield from _options()
    yield from _outputs()
    yield from _stores()


# --- Manifests.


def _with_manifest(what: str, name: str, make: Make | None, message: str) -> BadInput:
    call = (*_CAPTURE, "--model", "i2am-tiny", "--manifest", name)
    return BadInput(f"manifest: {what}", call, message, 1, make)


def _holding(name: str, content: str | bytes) -> Make:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def _manifest_files() -> Iterator[BadInput]:
    """Files that are no manifest at all."""
    text = f"{_HEADER}\n{_ROW}\n"
    for what, name, content, message in (
        ("UTF-16", "x.csv", text.encode("utf-16"), "Expected UTF-8 text, got something else at x"),
        ("UTF-16, unmarked", "x.csv", text.encode("utf-16-le"), "NUL characters, as UTF-16 has"),
        ("UTF-32", "x.csv", text.encode("utf-32"), "Expected UTF-8 text"),
        ("Latin-1", "x.csv", text.replace("a,", "é,").encode("latin-1"), "Expected UTF-8 text"),
        ("UTF-16 as JSON", "x.jsonl", "{}".encode("utf-16"), "Expected UTF-8 text"),
        ("NUL bytes", "x.csv", b"\0" * 99, "NUL characters"),
        ("a NUL in a name", "x.csv", text.replace("\na,", "\na\0,"), "NUL characters"),
        ("a picture", "x.csv", b"\x89PNG\r\n\x1a\n\xff", "Expected UTF-8 text"),
        ("a picture as JSON", "x.jsonl", b"\x89PNG\r\n\x1a\n", "Expected UTF-8 text"),
        ("a picture as Parquet", "x.parquet", b"\x89PNG", "Expected a Parquet file, got something"),
        ("Parquet's marks alone", "x.parquet", b"PAR1PAR1", "Expected a Parquet file, got someth"),
        ("another kind", "x.xlsx", b"PK", r"Expected a \.csv, \.jsonl or \.parquet manifest"),
        ("empty", "x.csv", b"", "got faults in x.csv: no rows"),
        ("empty JSON", "x.jsonl", b"", "got faults in x.jsonl: no rows"),
        ("a header alone", "x.csv", _HEADER, "got faults in x.csv: no rows"),
        ("commas alone", "x.csv", ",,,\n,,,\n", "no column 'sample' in the header"),
    ):
        yield _with_manifest(what, name, _holding(name, content), message)
    for what, name, make in (
        ("a folder", "empty", None),
        ("a pipe", "x.csv", lambda folder: os.mkfifo(folder / "x.csv")),
        ("an endless device", "x.csv", lambda folder: (folder / "x.csv").symlink_to("/dev/zero")),
        ("a link to itself", "x.csv", lambda folder: (folder / "x.csv").symlink_to("x.csv")),
        ("a link to nothing", "x.csv", lambda folder: (folder / "x.csv").symlink_to("gone.csv")),
        ("a name without characters", "", None),
        ("a name with a NUL", "x\0.csv", None),
        ("a name that is too long", "x" * 300 + ".csv", None),
        ("a URL", "s3://bucket/x.csv", None),
    ):
        call = (*_CAPTURE, "--model", "i2am-tiny", "--manifest", name)
        message = "argument --manifest: expected a file, found none at "
        yield BadInput(f"manifest: {what}", call, message, 2, make)


def _manifest_texts() -> Iterator[BadInput]:
    """Tables that can be read in several ways, or would be read beyond any bound."""
    deep = 100_000
    for what, name, content, message in (
        (
            "a long field",
            "x.csv",
            f"{_HEADER},l\n{_ROW},{'x' * 10**6}",
            "Expected a CSV table, got",
        ),
        ("an open quote", "x.csv", f'{_HEADER}\n"{_ROW}\n', "got 'a,a.png,m.png,a.png"),
        (
            "a column twice",
            "x.csv",
            f"{_HEADER},sample\n{_ROW},b",
            "'sample' stands more than once",
        ),
        ("more fields than columns", "x.csv", f"{_HEADER}\n{_ROW},x\n", "more fields than columns"),
        ("fewer fields", "x.csv", f"{_HEADER}\na,a.png\n", "row 2, column 'reference': field requ"),
        ("no column of samples", "x.csv", "name,reference\na,a.png\n", "no column 'sample' in the"),
        ("a line of 17 million", "x.jsonl", b" " * (2**24 + 1), "lines of at most 16,777,216 char"),
        ("deep JSON", "x.jsonl", "[" * deep, r"row 1: expected a JSON object.*\(nested too deep\)"),
        ("deep objects", "x.jsonl", '{"a":' * deep, r"expected a JSON object.*\(nested too deep\)"),
        ("a JSON list", "x.jsonl", '[{"sample": "a"}]', "row 1: expected a JSON object, got '"),
        ("JSON of many lines", "x.jsonl", '{\n"sample": "a"}', "row 1: expected a JSON object"),
        ("a JSON key twice", "x.jsonl", '{"sample": 1, "sample": 2}', "'sample' stands in it more"),
        ("NaN in JSON", "x.jsonl", '{"sample": NaN}', "NaN is no JSON: write null where there"),
        ("infinity in JSON", "x.jsonl", '{"l": -Infinity}', "-Infinity is no JSON"),
        ("5000 digits", "x.jsonl", '{"seed": %s}' % ("9" * 5000), "Exceeds the limit .* digits"),
    ):
        yield _with_manifest(what, name, _holding(name, content), message)


def _manifest_values() -> Iterator[BadInput]:
    """Rows with a field that nobody can use, or that no store can hold."""
    long = "x" * 10**6
    integer = "column 'seed': input should be a valid integer"
    box = "column 'box': expected x, y, width and height in pixels"
    for field, value, message in (
        ("sample", "a/b", "got 'a/b'. Rename the sample"),
        ("sample", "..", "got '..'. Rename the sample"),
        ("sample", ".hidden", "got '.hidden'. Rename"),
        ("sample", "zarr.json", "got 'zarr.json'. Rename"),
        ("sample", "a b", "got 'a b'. Rename"),
        ("sample", "\x1b[31mred", r"got '\\x1b\[31mred'. Rename"),
        ("sample", "a\u202eb", r"got 'a\\u202eb'. Rename"),
        ("sample", "e\u0301", "Rename the sample"),
        ("sample", "\ud800", "column 'sample': expected Unicode text, got half of a character"),
        ("sample", long, "column 'sample': expected text of at most 131,072 characters"),
        (
            "sample",
            "x" * 300,
            "Expected a sample name of at most 200 bytes, got 300|at most 200 by",
        ),
        ("sample", 7, "column 'sample': input should be a valid string, got 7"),
        ("sample", True, "column 'sample': input should be a valid string, got True"),
        ("sample", ["a"], r"column 'sample': input should be a valid string, got \['a'\]"),
        ("sample", None, "column 'sample': field required"),
        ("reference", None, "column 'reference': field required"),
        ("reference", "gone.png", "column 'reference': no file at .*gone.png"),
        ("reference", "empty", "column 'reference': no file at .*empty"),
        ("reference", "x" * 300, "column 'reference': no file at .*xxx"),
        ("reference", "x/" * 3000, "column 'reference': no file at .*…"),
        ("reference", "a\0.png", "column 'reference': no file at"),
        ("reference", "https://example.org/a.png", "column 'reference': no file at"),
        ("reference", 7, "column 'reference': input is not a valid path"),
        ("reference", ["a.png"], "column 'reference': input is not a valid path"),
        ("reference", "\ud800.png", "column 'reference': expected Unicode text"),
        ("mask", "gone.png", "column 'mask': no file at .*gone.png"),
        ("reference_1", 7, "column 'reference_1': expected a path, got 7"),
        ("reference_2", "a.png", "expected reference_1, reference_2 … without a gap"),
        ("seed", 2**64, "column 'seed': expected a seed of 64 bits, got 18446744073709551616"),
        ("seed", str(2**64), "column 'seed': expected a seed of 64 bits, got 18446744073709551616"),
        ("seed", -(2**63) - 1, "column 'seed': expected a seed of 64 bits"),
        ("seed", 10**400, "seed of 64 bits, got one of more than 40 digits"),
        ("seed", True, "column 'seed': expected a whole number, got True"),
        ("seed", 1.5, integer),
        ("seed", 1e300, "column 'seed': expected a whole number, got 1e"),
        ("seed", "1.5", integer),
        ("seed", "1e5", integer),
        ("seed", "0x10", integer),
        ("seed", "nan", integer),
        ("seed", [], integer),
        ("seed", {}, integer),
        ("box", "1,2,3", box),
        ("box", "1,2,0,4", box),
        ("box", "1e400,0,1,1", box),
        ("box", [True, True, True, True], box),
        ("box", [1, 2, 3, 10**400], box),
        ("box", {"x": 1}, box),
        ("prompt", 7, "column 'prompt': input should be a valid string"),
        ("prompt", "\udcff", "column 'prompt': expected Unicode text"),
        (
            "prompt",
            long,
            "column 'prompt': expected text of at most 131,072 characters, got 1,000,0",
        ),
        ("label", long, "column 'label': expected text of at most 131,072 characters"),
        ("label", ["\ud800"], "column 'label': expected Unicode text"),
        ("label", _nested(40), "column 'label': expected values nested at most 16 deep"),
        ("\ud800", 1, "expected Unicode text, got half of a character"),
    ):
        text = json.dumps({**_FIELDS, field: value})
        what = f"{field!a} of {value!a:.30}, {len(text)} characters"
        yield _with_manifest(what, "x.jsonl", _holding("x.jsonl", text), message)
    twice = f"{_HEADER}\n{_ROW}\n{_ROW}\n"
    message = "row 3: sample 'a' stands in row 2 already"
    yield _with_manifest("a sample twice", "x.csv", _holding("x.csv", twice), message)
    infinite = json.dumps(_FIELDS | {"label": 0}).replace("0}", "1e999}")
    message = "column 'label': expected a finite number, got inf"
    yield _with_manifest("an infinite label", "x.jsonl", _holding("x.jsonl", infinite), message)


def _nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def _parquet_manifests() -> Iterator[BadInput]:
    def table(**columns: Any) -> Make:
        fields = {**{name: [value] for name, value in _FIELDS.items()}, **columns}
        return lambda folder: pq.write_table(pa.table(fields), folder / "x.parquet")

    def damaged(folder: Path) -> None:
        pq.write_table(pa.table({"sample": ["a"] * 999, "reference": ["a"] * 999}), folder / "x.pq")
        data = bytearray((folder / "x.pq").read_bytes())
        data[40:140] = bytes(range(100, 200))
        (folder / "x.parquet").write_bytes(data)

    def cut(folder: Path) -> None:
        table()(folder)
        data = (folder / "x.parquet").read_bytes()
        (folder / "x.parquet").write_bytes(data[: len(data) // 2])

    def repeated(folder: Path) -> None:
        columns = [pa.array([name]) for name in ("a", "b", "a.png")]
        found = pa.Table.from_arrays(columns, names=["sample", "sample", "reference"])
        pq.write_table(found, folder / "x.parquet")

    def unfolding(folder: Path) -> None:
        many = pa.nulls(60_000_000)
        pq.write_table(pa.table({"sample": many, "reference": many}), folder / "x.parquet")

    no_text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    plain = "expected text, a number, a truth value or a date, got bytes. Write the column as text"
    for what, make, message in (
        ("a label of bytes", table(label=[b"\xff"]), f"column 'label': {plain}"),
        ("a sample of bytes", table(sample=[b"a"]), f"column 'sample': {plain}"),
        ("a path of bytes", table(reference=[b"a.png"]), f"column 'reference': {plain}"),
        ("a list of bytes", table(label=[[b"a"]]), f"column 'label': {plain}"),
        ("NaN as a label", table(label=[float("nan")]), "expected a finite number, got nan. Leave"),
        ("NaN as a seed", table(seed=[float("nan")]), "expected a finite number, got nan"),
        ("a truth value as a seed", table(seed=[True]), "expected a whole number, got True"),
        ("a duration as a seed", table(seed=[timedelta(1)]), "input should be a valid integer"),
        ("a number as a sample", table(sample=[7]), "input should be a valid string, got 7"),
        ("an empty column", table(reference=pa.nulls(1)), "column 'reference': field required"),
        ("text that is none", table(label=no_text), "Expected a Parquet file, got something else"),
        ("a damaged file", damaged, "Expected a Parquet file, got something else"),
        ("a file cut off", cut, "Expected a Parquet file, got something else"),
        ("a column twice", repeated, "column 'sample' stands more than once"),
        (
            "120 million fields",
            unfolding,
            "at most 100,000,000 fields, got 60,000,000 rows of 2 col",
        ),
    ):
        yield _with_manifest(f"Parquet, {what}", "x.parquet", make, message)


# --- Pictures.


def _pictures() -> Iterator[BadInput]:
    """Yield files that are no image; none is found at the first row when the model is loaded."""
    failed = r"sample 'bad' failed: SchemaError: "
    no_image = failed + "Expected an image, got something else at .*x.png"
    too_large = failed + "Expected an image of at most 100 megapixels, got "
    files: list[tuple[str, bytes, str]] = [
        ("without bytes", b"", no_image),
        ("a text", b"hello", no_image),
        ("cut off", _image("PNG")[:-60], no_image),
        ("a PNG's first bytes", _image("PNG")[:30], no_image),
        ("a JPEG cut off", _image("JPEG")[:400], no_image),
        ("a PNG without pixels", _png(64, 64), no_image),
        ("a PNG of no size", _png(0, 64), no_image),
        ("30,000 × 30,000 px", _png(30_000, 30_000, bits=1), too_large),
        ("12,000 × 12,000 px", _png(12_000, 12_000, bits=1), too_large + "12000 × 12000 px, at"),
        ("2³¹ px a side", _png(2**31 - 1, 2**31 - 1), too_large),
        ("a PPM of 10¹⁰ px", b"P6\n100000 100000\n255\n", too_large),
        (
            "a GIF of 65,535 px a side",
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0),
            ".*",
        ),
        ("a text chunk that unfolds", _png(64, 64, chunk=(b"zTXt", b"k\0\0")), no_image),
        ("a profile that unfolds", _png(64, 64, chunk=(b"iCCP", b"k\0\0")), no_image),
        ("a program for Ghostscript", _EPS, failed + "Expected an image of pixels, got EPS"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", no_image),
        ("PDF", b"%PDF-1.4\n", no_image),
        ("TIFF without a directory", b"II*\0\x08\0\0\0", no_image),
        ("TIFF without sizes", b"II*\0\x08\0\0\0\1\0" + b"\xff" * 12 + b"\0" * 4, no_image),
        ("HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 99, no_image),
        ("a table", b"sample,reference\na,a.png\n", no_image),
    ]
    for what, data, message in files:
        yield _with_picture(what, "reference", partial(Path.write_bytes, data=data), message)
    for field in ("source", "mask", "reference_mask"):
        yield _with_picture("a text", field, lambda path: path.write_bytes(b"hello"), no_image)
        message = too_large + "30000 × 30000 px|" + too_large
        data = _png(30_000, 30_000, bits=1)
        yield _with_picture(
            "30,000 px a side", field, partial(Path.write_bytes, data=data), message
        )
    values = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 7
    for what, array, message in (
        ("classes", values, "Expected a mask of two values"),
        ("nothing", np.zeros((64, 64), np.uint8), "Expected a mask that marks a part of its image"),
        ("another shape", np.eye(32, 64, dtype=np.uint8) * 255, "Expected a mask of the shape of"),
    ):
        yield _with_picture(
            f"a mask of {what}",
            "mask",
            Image.fromarray(array).save,
            failed + message,
        )
    nothing = "got faults in x.csv: row 2, column 'reference': no file at"
    for what, make in (
        ("a pipe", os.mkfifo),
        ("a folder", Path.mkdir),
        ("an endless device", lambda path: path.symlink_to("/dev/zero")),
        ("a link to itself", lambda path: path.symlink_to("x.png")),
        ("a link to nothing", lambda path: path.symlink_to("gone.png")),
    ):
        yield _with_picture(what, "reference", make, nothing)


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"


def _with_picture(what: str, column: str, make: Callable[[Path], object], message: str) -> BadInput:
    def make_both(folder: Path) -> None:
        make(folder / "x.png")
        fields = {**_FIELDS, "sample": "bad", column: "x.png"}
        (folder / "x.csv").write_text(",".join(fields) + "\n" + ",".join(fields.values()) + "\n")

    call = (*_CAPTURE, "--model", "i2am-tiny", "--manifest", "x.csv")
    return BadInput(f"{column}: {what}", call, message, 1, make_both)


def _image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(file, kind)
    return file.getvalue()


def _png(
    width: int, height: int, *, bits: int = 8, chunk: tuple[bytes, bytes] | None = None
) -> bytes:
    """Return a grey PNG with fewer pixels than it says; a `chunk` unfolds to 100 MB."""

    def part(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    sizes = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", part(b"IHDR", sizes)]
    if chunk is not None:
        parts.append(part(chunk[0], chunk[1] + zlib.compress(b"A" * 10**8)))
    return b"".join([*parts, part(b"IDAT", zlib.compress(b"\0" * 99)), part(b"IEND", b"")])


# --- Models.


def _with_model(
    what: str, make: Make | None, message: str, *options: str, model: str = "model"
) -> BadInput:
    call = (*_CAPTURE, "--manifest", "good.csv", "--model", model, *options)
    return BadInput(f"model: {what}", call, message, 1, make)


def _models() -> Iterator[BadInput]:
    neither = "Expected a model's hub id or directory, got .*, which is neither"
    for what, model, message in (
        ("nowhere", "nosuch", neither),
        ("a slip of the finger", "i2am-tyni", "Did you mean 'i2am-tiny'"),
        ("a file", "a.png", neither),
        (
            "no name",
            "",
            "Expected a model's hub id or directory, got ''|model_index.json, got none",
        ),
        (
            "an empty folder",
            "empty",
            "Expected a diffusers directory with model_index.json, got none",
        ),
        ("a store", "run.zarr", "Expected a diffusers directory with model_index.json, got none"),
        (
            "a name of nobody's home",
            "~nobody-of-this-name/x",
            "Expected a diffusers pipeline in sa",
        ),
        ("a NUL", "x\0", "Expected a|embedded null"),
        ("a name that is too long", "x" * 5000, "Expected a"),
        ("a URL", "https://example.org/model", "which is neither"),
    ):
        yield _with_model(what, None, message, model=model)
    unnamed = "Expected a model_index.json that names its pipeline in '_class_name', got none"
    no_json = r"Expected a model_index.json, got no JSON \("
    broken = "Expected a diffusers pipeline in safetensors, got "
    for what, text, message in (
        ("half of it", '{"_class_name":', no_json),
        ("nothing", "", no_json),
        ("binary", b"\xff\xfe\0", no_json),
        ("deep", "[" * 100_000, no_json + "too deep a nesting"),
        ("a list", "[]", unnamed),
        ("null", "null", unnamed),
        ("a number", "5", unnamed),
        ("an empty object", "{}", unnamed),
        ("a class that is a list", '{"_class_name": ["a", "b"]}', unnamed),
        ("an unknown class", '{"_class_name": "NoSuchPipeline"}', broken),
        ("a class of another package", '{"_class_name": "os.system"}', broken),
        ("no parts", '{"_class_name": "StableDiffusionPipeline"}', broken),
        ("a number for a part", '{"_class_name": "StableDiffusionPipeline", "unet": 5}', broken),
        (
            "parts that are programs",
            '{"_class_name": "StableDiffusionPipeline", "vae": ["subprocess", "Popen"]}',
            broken,
        ),
        ("no parts of Paint-by-Example", '{"_class_name": "PaintByExamplePipeline"}', broken),
        ("no parts of ours", '{"_class_name": "ReferenceInpaintPipeline"}', broken),
    ):

        def make(folder: Path, text: str | bytes = text) -> None:
            (folder / "model").mkdir()
            data = text.encode() if isinstance(text, str) else text
            (folder / "model" / "model_index.json").write_bytes(data)

        yield _with_model(f"its index is {what}", make, message)
    weights = "unet/diffusion_pytorch_model.safetensors"
    for what, change, message, options in (
        ("weights cut off", lambda m: _halve(m / weights), broken, ()),
        ("weights without bytes", lambda m: (m / weights).write_bytes(b""), broken, ()),
        ("weights that are text", lambda m: (m / weights).write_bytes(b"x" * 999), broken, ()),
        (
            "a header of 2⁶⁴ bytes",
            lambda m: (m / weights).write_bytes(b"\xff" * 8 + b"{}"),
            broken,
            (),
        ),
        ("no weights", lambda m: (m / weights).unlink(), broken, ()),
        (
            "a pickle alone",
            lambda m: (m / weights).rename(m / "unet/diffusion_pytorch_model.bin"),
            "Expected weights in safetensors, got a pickle at .*which could run code. If you trust",
            (),
        ),
        (
            "a pickle that is none",
            lambda m: (m / weights).rename(m / "unet/diffusion_pytorch_model.bin"),
            broken,
            ("--allow-pickle",),
        ),
        ("a part's config null", lambda m: (m / "unet/config.json").write_text("null"), broken, ()),
        (
            "a part's config deep",
            lambda m: (m / "vae/config.json").write_text("[" * 10**5),
            broken,
            (),
        ),
        ("no scheduler", lambda m: shutil.rmtree(m / "scheduler"), broken, ()),
        ("another width", _with_other_width, broken, ()),
    ):

        def make_changed(folder: Path, change: Callable[[Path], object] = change) -> None:
            shutil.copytree(SHIPPED_MODEL_PATH, folder / "model")
            change(folder / "model")

        yield _with_model(what, make_changed, message, *options)
    for device, message in (
        ("xyz", "Expected a device that torch can use, got 'xyz'"),
        ("meta", r"Expected a device that torch can use, got 'meta' \(it holds no values\)"),
        ("cpu:99999999999999999999", "Expected a device that torch can use"),
    ):
        call = ("--manifest", "good.csv", "--model", "i2am-tiny", "--device", device)
        yield BadInput(f"device {device}", (*_CAPTURE, *call), message)


def _halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _with_other_width(model: Path) -> None:
    config = json.loads((model / "unet/config.json").read_text())
    config["block_out_channels"] = [32, 32]
    (model / "unet/config.json").write_text(json.dumps(config))


# --- Options.


def _options() -> Iterator[BadInput]:
    digits = "9" * 5000
    grid, whole = "argument --grid: expected a grid N or HxW", "expected a whole number from 1 on"
    numbers = "expected numbers as a list A,B,… or a range"
    seed, memory = "argument --seed: expected a whole number", "expected an amount of memory such"
    steps = "argument --keep-steps: expected every N-th step as N"
    for call, option, value, message in (
        ("analyze", "--grid", "0x0", grid),
        ("analyze", "--grid", "8X8", grid),
        ("analyze", "--grid", "²x²", grid),
        ("analyze", "--grid", "\u0663x\u0663", grid),
        ("analyze", "--grid", f"{digits}x1", f"{grid}.*…"),
        ("analyze", "--grid", f"1x{10**12}", grid),
        ("analyze", "--time-groups", "0", whole),
        ("analyze", "--time-groups", digits, "a whole number from 1 on to 1,000,000,000, got"),
        ("analyze", "--time-groups", "1_000", whole),
        ("analyze", "--workers", "100000", "expected at most 1024 processes of one machine"),
        ("analyze", "--workers", digits, whole),
        (
            "analyze",
            "--steps",
            "0:1000000000",
            "expected at most 100,000 numbers, got 1,000,000,000",
        ),
        ("analyze", "--steps", f"0:{digits}", numbers),
        ("analyze", "--steps", digits, numbers),
        ("analyze", "--heads", "0:1000000000", "expected at most 100,000 numbers"),
        ("analyze", "--heads", "-1", numbers),
        ("analyze", "--samples", "", "expected a sample's name, got ''"),
        ("analyze", "--samples", ".", "expected a sample's name, got '.'"),
        ("analyze", "--samples", "a\0", r"expected a sample's name, got 'a\\x00'"),
        ("analyze", "--samples", "../x", "expected a sample's name"),
        ("score", "--samples", ".", "expected a sample's name"),
        ("score", "--penalty", "1e400", "expected a number, got '1e400'"),
        ("score", "--confidence", "nan", "expected a number between 0 and 1"),
        ("average", "--samples", "..", "expected a sample's name"),
        ("figure", "--samples", "", "expected a sample's name"),
        ("figure", "--kinds", "nosuch", "expected a known value, got 'nosuch'"),
        ("compare", "--samples", ".", "expected a sample's name"),
        ("compare", "--confidence", "1", "expected a number between 0 and 1"),
        ("view", "--sample", ".", "expected a sample's name"),
        ("capture", "--seed", digits, f"{seed}.*…"),
        ("capture", "--seed", "1.5", seed),
        ("capture", "--seed", "\uff11\uff12", seed),
        ("capture", "--batch-size", digits, whole),
        ("capture", "--shard", f"0/{digits}", "expected I/N with I from 0 to N - 1"),
        ("capture", "--shard", "²/3", "expected I/N with I from 0 to N - 1"),
        ("capture", "--memory", "9" * 400, memory),
        ("capture", "--memory", "\u0661MB", memory),
        ("capture", "--keep-steps", digits, steps),
        ("capture", "--keep-steps", f"{digits}:", steps),
        ("capture", "--keep-heads", "0:1000000000000", numbers),
        ("capture", "--keep-heads", "0:100000001", "expected at most 100,000 numbers"),
        ("capture", "--guidance-scale", "nan", "expected a number, got 'nan'"),
        ("capture", "--argument", "=1", "expected NAME=VALUE"),
        ("capture", "--argument", "x" * 5000, "expected NAME=VALUE, got .*…"),
    ):
        yield BadInput(
            f"{call} {option} {value[:20]!a}{value[-1:]}", _call(call, option, value), message, 2
        )
    for call, option, value, message in (
        (
            "analyze",
            "--grid",
            "100000x100000",
            "a grid of at most 16,777,216 cells, such as 4096x4096",
        ),
        ("analyze", "--grid", "1x1000000000", "a grid of at most 16,777,216 cells"),
        ("analyze", "--steps", "9999", "Expected steps from"),
        ("analyze", "--layers", "x" * 5000, "Expected a layer's name or pattern, got .*…"),
        ("analyze", "--layers", "", "Expected a layer's name or pattern"),
        ("analyze", "--guidance", "", "Expected a guidance branch"),
        ("analyze", "--scheduler", "x", "Expected a Dask scheduler that answers|scheduler"),
        ("score", "--penalty", "-1", "Expected a penalty of 0 or more, got -1.0, at penalty"),
        ("score", "--threshold", "1", "Expected a threshold of normalised attention"),
        ("score", "--threshold", "-0.1", "Expected a threshold of normalised attention"),
        ("average", "--by", "\0", "Expected a column"),
        ("average", "--by", "x" * 5000, "Expected a column .*…"),
        ("figure", "--samples", "frist", "Did you mean 'first'"),
        ("capture", "--seed", str(2**64), "Expected a seed of 64 bits, got 18446744073709551616"),
        ("capture", "--seed", str(-(2**63) - 1), "Expected a seed of 64 bits"),
        ("capture", "--steps", "1001", "Expected at most 1000 steps, with which DDIMScheduler"),
        ("capture", "--argument", "num_inference_steps=2000", "at most 1000 steps|which is filled"),
        ("capture", "--argument", "generator=1", "got 'generator', which is filled"),
        ("capture", "--argument", "__class__=1", "Expected an argument of .* got '__class__'"),
        ("capture", "--argument", f"eta={digits}", "Expected a number for 'eta'"),
        ("capture", "--argument", f"eta={'[' * 10**5}", "Expected a number for 'eta' .*…"),
        ("capture", "--profile", "", "Expected a known profile, got ''"),
        ("capture", "--profile", "\0", "Expected a known profile"),
        ("capture", "--layers", "[", r"layers that match '\['"),
        ("capture", "--ip-adapter", "\0", "takes an IP-Adapter, got ReferenceInpaint"),
    ):
        yield BadInput(f"{call} {option} {value!a:.25}", _call(call, option, value), message)


def _call(command: str, *options: str) -> tuple[str, ...]:
    store = {
        "score": ("maps.zarr",),
        "average": ("maps.zarr", "--out", "new.zarr"),
        "view": ("run.zarr",),
        "compare": ("run.zarr", "run.zarr"),
        "capture": ("--model", "i2am-tiny", "--manifest", "good.csv", "--out", "new.zarr"),
    }.get(command, ("run.zarr", "--out", "new.zarr"))
    name, value = options
    return (
        command,
        *store,
        f"{name}={value}" if value.startswith("-") else name,
        *(() if value.startswith("-") else (value,)),
    )


# --- Where to write.

_WRITERS = {
    "capture": ("--model", "i2am-tiny", "--manifest", "good.csv", "--out"),
    "analyze": ("run.zarr", "--out"),
    "average": ("maps.zarr", "--out"),
    "compare": ("run.zarr", "run.zarr", "--out"),
    "score": ("maps.zarr", "--out"),
    "figure": ("run.zarr", "--kinds", "overview", "--out"),
    "report": ("run.zarr", "--out"),
    "demo": ("--out",),
}
_NO_URL = {
    name: [
        ("a URL", "s3://bucket/x", 2, "argument --out: expected a local path, got the URL 's3://")
    ]
    for name in ("compare", "score", "figure", "report", "demo")
}
_SUFFIXES = {"score": ".csv", "report": ".html"}


def _outputs() -> Iterator[BadInput]:
    inside = "Expected a place outside of stores, got one inside the store "
    for command, arguments in _WRITERS.items():
        suffix = _SUFFIXES.get(command, "")

        def case(
            what: str,
            out: str,
            message: str,
            code: int = 1,
            make: Make | None = None,
            call: Iterable[str] = (command, *arguments),
        ) -> BadInput:
            return BadInput(f"{call!r:.0}{what}", (*call, out), message, code, make)

        for what, out, code, message in (
            ("inside a run", f"run.zarr/x{suffix}", 1, f"{inside}.*run.zarr, at"),
            ("inside a sample", f"run.zarr/first/x{suffix}", 1, f"{inside}.*run.zarr/first, at"),
            (
                "inside a store, by ..",
                f"empty/../maps.zarr/x{suffix}",
                1,
                f"{inside}.*maps.zarr, at",
            ),
            ("a NUL", f"x\0{suffix}", 2, r"expected a path of visible characters, got 'x\\x00"),
            ("nothing", "", 2, "argument --out: expected a path of visible characters, got ''"),
            ("a line break", f"x\n{suffix}", 2, "expected a path of visible characters"),
            ("too long", "x" * 300 + suffix, 1, "File name too long'?, at x.*…"),
            *_NO_URL.get(command, ()),
            ("below a file", f"notes.txt/x{suffix}", 1, "a file, at notes.txt|notes.txt"),
        ):
            yield case(f"{command} --out {what}", out, message, code)
        yield case(
            f"{command} --out of format 2",
            f"old.zarr/x{suffix}",
            f"{inside}.*old.zarr, at",
            make=_old_store,
        )
        yield case(
            f"{command} --out through a link",
            f"link/x{suffix}",
            inside,
            make=lambda folder: (folder / "link").symlink_to(folder / "run.zarr"),
        )
        yield case(
            f"{command} --out a link to itself",
            f"loop{suffix}",
            "got 'Too many levels of symbolic links', at loop",
            make=partial(_link_to_itself, name=f"loop{suffix}"),
        )
    for command, out, message in (
        ("analyze", "run.zarr", "Expected a maps store to write to, got a run store, at run.zarr"),
        ("average", "run.zarr", "got something else, at run.zarr. Name another output"),
        ("compare", "run.zarr", f"{inside}.*run.zarr, at run.zarr"),
        ("figure", "run.zarr", f"{inside}.*run.zarr, at run.zarr"),
        ("demo", "run.zarr", f"{inside}.*run.zarr, at run.zarr"),
        ("report", "run.zarr", "Expected a file, got a folder, at run.zarr"),
        ("capture", "maps.zarr", "Expected a run, got maps at maps.zarr"),
        ("capture", "notes.txt", "notes.txt"),
        ("capture", "empty/../run.zarr/first", f"{inside}|Expected a run, got capture"),
        ("demo", "notes.txt", "Expected a folder, got a file, at notes.txt"),
        ("report", "/dev/null", "Expected a file, got a device, pipe or socket, at /dev/null"),
        ("analyze", "/dev/null", "/dev/null"),
        ("report", "/proc/x.html", "/proc"),
        ("analyze", "/proc/x", "/proc/x"),
        ("average", "s3://bucket/x", "Expected a local folder for the averages, got a URL"),
        ("analyze", "s3://bucket/x", "Expected a local folder for the maps, got a URL"),
        ("capture", "foo://bar", "foo://bar"),
    ):
        call = (command, *_WRITERS[command], out)
        yield BadInput(f"{command} --out {out}", call, message)


def _link_to_itself(folder: Path, name: str) -> None:
    (folder / name).symlink_to(name)


def _old_store(folder: Path) -> None:
    (folder / "old.zarr").mkdir()
    (folder / "old.zarr" / ".zgroup").write_text('{"zarr_format": 2}')


# --- Stores.


def _stores() -> Iterator[BadInput]:
    for command in ("analyze", "score", "average", "figure", "report", "view", "info", "validate"):
        for store, code, message in (
            ("gone.zarr", 2, "expected a store, found none at 'gone.zarr'"),
            ("", 2, "expected a store, found none at ''"),
            ("x" * 300, 2, "expected a store, found none at"),
            ("x\0", 2, "expected a store, found none at"),
            ("notes.txt", 1, "Expected a store, got a file, at notes.txt"),
            ("empty", 1, "Expected a Zarr store, got an empty folder, at empty"),
            ("run.zarr/first", 1, "got a sample's group"),
            ("run.zarr/first/images/generated", 1, "got a Zarr array"),
            ("file:///nowhere/x.zarr", 1, "Expected a store, got nothing, at /nowhere/x.zarr"),
            ("foo://bar", 1, "foo://bar"),
        ):
            if command in {"info", "validate"} and store == "run.zarr/first":
                continue  # They tell of one sample, too.
            yield BadInput(f"{command} of {store!a:.40}", (command, store), message, code)
    for command, call, message in (
        ("score", ("run.zarr",), "Expected a maps store, got a run store at run.zarr"),
        ("average", ("run.zarr",), "Expected a maps store, got a run store at run.zarr"),
        ("analyze", ("maps.zarr", "--out", "new"), "Expected a run store, got a maps store"),
        ("figure", ("maps.zarr", "--out", "new"), "Expected a run store, got a maps store"),
        ("report", ("maps.zarr", "--out", "new"), "Expected a run store, got a maps store"),
        ("report", ("run.zarr", "--scores", "a.png"), "Expected|scores"),
        ("compare", ("run.zarr", "notes.txt"), "Expected a store, got a file, at notes.txt"),
    ):
        yield BadInput(f"{command} of {' '.join(call)}", (command, *call), message)
