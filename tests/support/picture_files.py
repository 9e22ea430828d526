"""Small files of every kind that people have, each with the RGB that a browser shows of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

__all__ = ["FILES", "PictureFile", "linear_profile"]

HEIGHT, WIDTH = 16, 24
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Values = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureFile:
    """A file of one kind.

    Parameters
    ----------
    name : str
        Its ending is the format's.
    write : callable (path)
    shown : array, uint8 (y, x, 3)
        Derived by hand.
    tolerance : int
        Of a format that loses, or of a rounded conversion.
    notes : tuple of str
        A part of each note that reading it must give.
    """

    name: str
    write: Callable[[Path], None]
    shown: Values
    tolerance: int = 0
    notes: tuple[str, ...] = ()


def quadrants(*colours: tuple[int, ...]) -> Values:
    """Return top left, top right, bottom left, bottom right in flat colours."""
    a, b, c, d = (np.full((HEIGHT // 2, WIDTH // 2, len(k)), k, np.uint8) for k in colours)
    return np.block([[[a], [b]], [[c], [d]]]) if len(colours[0]) == 1 else _stack(a, b, c, d)


def _stack(a: Values, b: Values, c: Values, d: Values) -> Values:
    return np.vstack([np.hstack([a, b]), np.hstack([c, d])])


def _grey(*levels: int) -> Values:
    return _stack(*(np.full((HEIGHT // 2, WIDTH // 2), level, np.uint8) for level in levels))


def _rgb(grey: Values) -> Values:
    return np.dstack([grey] * 3)


SHOWN = quadrants(RED, GREEN, BLUE, GREY)
LEVELS = _grey(0, 64, 128, 255)
SEE_THROUGH = "transparent and shown on white"
FIRST_FRAME = "Only the first of 2 frames"


def linear_profile(space: str) -> bytes:
    """Return an ICC profile of sRGB's primaries, or of grey, with values in linear light."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(map(number, values))

    linear = b"curv" + bytes(4) + struct.pack(">I", 0)
    text = b"linear\x00"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
    }
    if space == "GRAY":
        tags[b"kTRC"] = linear
    else:
        tags |= {
            b"rXYZ": xyz(0.4360747, 0.2225045, 0.0139322),
            b"gXYZ": xyz(0.3850649, 0.7168786, 0.0971045),
            b"bXYZ": xyz(0.1430804, 0.0606169, 0.7141733),
            **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), linear),
        }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        padded = tag + bytes(-len(tag) % 4)
        table += name + struct.pack(">II", offset + len(body), len(tag))
        body += padded
    size = 128 + 4 + len(table) + len(body)
    header = struct.pack(
        ">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", space.encode(), b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + number(0.9642) + number(1) + number(0.8249)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


def in_srgb(linear: Values) -> Values:
    """Return 8-bit linear light in sRGB, by the standard's formula."""
    light = linear / 255
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    found: Values = np.rint(shown * 255).astype(np.uint8)
    return found


def png_bytes(samples: NDArray[Any], colour_type: int, **chunks_before: bytes) -> bytes:
    """Return a PNG of 16 bits a channel, (y, x[, channel]), which PIL cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    height, width = samples.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    more = [(name.encode(), body) for name, body in chunks_before.items()]
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def _save(values: Any, mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    return lambda path: (image.convert(mode) if mode else image).save(path, **options)


def _turned(values: Values, orientation: int, **options: Any) -> Callable[[Path], None]:
    """Return what saves values so that EXIF's orientation turns them to what is meant."""
    back = {
        3: Image.Transpose.ROTATE_180,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _save(Image.fromarray(values).transpose(back[orientation]), exif=exif, **options)


def _palette() -> Image.Image:
    image = Image.fromarray(_grey(0, 1, 2, 3)).convert("L")
    found = Image.new("P", image.size)
    found.putdata(list(np.asarray(image).flatten()))
    found.putpalette([*RED, *GREEN, *BLUE, *GREY])
    return found


def _frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), WHITE)]}


def _with_gamma(path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 100_000))
    Image.fromarray(SHOWN).save(path, pnginfo=chunks)


def _files() -> Iterator[PictureFile]:
    lossy: dict[str, Any] = {"quality": 98, "subsampling": 0}
    alpha = _grey(255, 0, 128, 255)
    on_white = quadrants(RED, WHITE, (127, 127, 255), GREY)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    inks = quadrants((0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 127))
    cmyk = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear, linear_grey = linear_profile("RGB "), linear_profile("GRAY")
    blank = np.full_like(SHOWN, 255)

    yield PictureFile("rgb.png", _save(SHOWN), SHOWN)
    yield PictureFile("rgb.bmp", _save(SHOWN), SHOWN)
    yield PictureFile("rgb.jpg", _save(SHOWN, **lossy), SHOWN, 3)
    yield PictureFile("rgb.webp", _save(SHOWN, lossless=True), SHOWN)
    yield PictureFile("phone_6.jpg", _turned(SHOWN, 6, **lossy), SHOWN, 3)
    yield PictureFile("phone_8.png", _turned(SHOWN, 8), SHOWN)
    yield PictureFile("phone_3.tiff", _turned(SHOWN, 3), SHOWN)
    yield PictureFile("phone_5.webp", _turned(SHOWN, 5, lossless=True), SHOWN)
    yield PictureFile("grey.png", _save(LEVELS), _rgb(LEVELS))
    yield PictureFile("grey.jpg", _save(LEVELS, quality=98), _rgb(LEVELS), 3)
    yield PictureFile("one_bit.png", _save(_grey(0, 255, 255, 0), "1"), _rgb(_grey(0, 255, 255, 0)))
    yield PictureFile("grey_16.png", _save(LEVELS.astype(np.uint16) * 257), _rgb(LEVELS))
    yield PictureFile("grey_16.tiff", _save(LEVELS.astype(np.uint16) * 257), _rgb(LEVELS))
    rgb_16 = png_bytes(SHOWN.astype(np.uint16) * 257, 2)
    yield PictureFile("rgb_16.png", lambda path: _write(path, rgb_16), SHOWN)
    yield PictureFile("float.tiff", _save((LEVELS / 255).astype(np.float32)), _rgb(LEVELS))
    yield PictureFile("palette.png", _save(_palette()), SHOWN)
    yield PictureFile(
        "palette_clear.png",
        _save(_palette(), transparency=1),
        quadrants(RED, WHITE, BLUE, GREY),
        notes=(SEE_THROUGH,),
    )
    yield PictureFile(
        "palette_soft.png",
        _save(_palette(), transparency=bytes([255, 0, 128, 255])),
        on_white,
        notes=(SEE_THROUGH,),
    )
    yield PictureFile(
        "grey_alpha.png",
        _save(Image.merge("LA", [Image.fromarray(LEVELS), Image.fromarray(alpha)])),
        _rgb(_grey(0, 255, 191, 255)),
        notes=(SEE_THROUGH,),
    )
    yield PictureFile(
        "cut_out.png", _save(np.dstack([SHOWN, alpha])), on_white, notes=(SEE_THROUGH,)
    )
    yield PictureFile(
        "cut_out.webp",
        _save(np.dstack([SHOWN, alpha]), lossless=True, exact=True),
        on_white,
        notes=(SEE_THROUGH,),
    )
    yield PictureFile(
        "all_clear.png",
        _save(np.dstack([noise, np.zeros_like(alpha)])),
        blank,
        notes=(f"100.0% of the picture is {SEE_THROUGH}",),
    )
    yield PictureFile("opaque.png", _save(np.dstack([SHOWN, np.full_like(alpha, 255)])), SHOWN)
    yield PictureFile(
        "colour_key.png",
        _save(SHOWN, transparency=GREEN),
        quadrants(RED, WHITE, BLUE, GREY),
        notes=(SEE_THROUGH,),
    )
    yield PictureFile("inks.jpg", _save(cmyk, **lossy), SHOWN, 4)
    yield PictureFile("inks.tiff", _save(cmyk), SHOWN, 1)
    yield PictureFile("srgb.png", _save(SHOWN, icc_profile=srgb), SHOWN)
    yield PictureFile("linear.png", _save(SHOWN, icc_profile=linear), in_srgb(SHOWN), 2)
    yield PictureFile(
        "linear_alpha.png",
        _save(np.dstack([SHOWN, _grey(255, 0, 255, 255)]), icc_profile=linear),
        in_srgb(quadrants(RED, WHITE, BLUE, GREY)),
        2,
        notes=(SEE_THROUGH,),
    )
    yield PictureFile(
        "linear_palette.png",
        _save(_palette(), transparency=bytes([255, 0, 255, 255]), icc_profile=linear),
        in_srgb(quadrants(RED, WHITE, BLUE, GREY)),
        2,
        notes=(SEE_THROUGH,),
    )
    yield PictureFile(
        "linear_grey.png", _save(LEVELS, icc_profile=linear_grey), _rgb(in_srgb(LEVELS)), 2
    )
    yield PictureFile("broken_profile.png", _save(SHOWN, icc_profile=b"no profile"), SHOWN)
    yield PictureFile("gamma.png", _with_gamma, in_srgb(SHOWN), 1)
    yield PictureFile("moving.gif", _save(SHOWN, "RGB", **_frames()), SHOWN, notes=(FIRST_FRAME,))
    yield PictureFile("moving.png", _save(SHOWN, **_frames()), SHOWN, notes=(FIRST_FRAME,))
    yield PictureFile(
        "moving.webp", _save(SHOWN, lossless=True, **_frames()), SHOWN, notes=(FIRST_FRAME,)
    )
    yield PictureFile("pages.tiff", _save(SHOWN, **_frames()), SHOWN, notes=(FIRST_FRAME,))
    yield PictureFile("depth.mpo", _save(SHOWN, **_frames(), **lossy), SHOWN, 3)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


FILES = list(_files())
