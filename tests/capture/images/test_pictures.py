"""Every kind of picture is read as a browser shows it, or refused with what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2am.capture.images.pictures import Picture, read_picture
from i2am.schemas import SchemaError
from tests.support.picture_files import (
    FILES,
    GREEN,
    SHOWN,
    PictureFile,
    linear_profile,
    png_bytes,
)

RAMP = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
PLACE = "image 'reference'"


def _read(image: Any) -> np.ndarray[Any, Any]:
    """Return the values of a picture without notes."""
    picture = read_picture(image, PLACE)
    assert picture.notes == ()
    return picture.values


# --- Files.


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_a_file_is_read_as_a_browser_shows_it(file: PictureFile, tmp_path: Path) -> None:
    file.write(tmp_path / file.name)
    picture = read_picture(tmp_path / file.name, PLACE)
    assert picture.values.shape == file.shown.shape
    assert picture.values.dtype == np.uint8
    difference = np.abs(picture.values.astype(int) - file.shown.astype(int)).max()
    assert difference <= file.tolerance
    assert len(picture.notes) == len(file.notes)
    for note, part in zip(picture.notes, file.notes, strict=True):
        assert part in note
        assert str(tmp_path / file.name) in note


def test_rgb_of_a_file_stays_bit_for_bit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert np.array_equal(_read(tmp_path / "a.png"), noise)
    assert np.array_equal(_read(str(tmp_path / "a.png")), noise)


def test_a_file_that_ends_too_early_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SchemaError, match="Expected an image, got something else") as caught:
            read_picture(tmp_path / name, PLACE)
        assert str(tmp_path / name) in str(caught.value)
        assert "truncated" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8), 3.5, np.float32), "float values from 0 to 1, or .* got 3.5 to 3.5"),
        (np.full((8, 8), np.nan, np.float32), "got nan to nan"),
        (np.full((8, 8), 70_000, np.int32), "32-bit integers from 70000 to 70000"),
    ],
    ids=["high range", "not a number", "integers"],
)
def test_a_range_that_nobody_knows_is_refused(
    tmp_path: Path, values: np.ndarray[Any, Any], message: str
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(SchemaError, match=message) as caught:
        read_picture(tmp_path / "a.tiff", PLACE)
    assert str(tmp_path / "a.tiff") in str(caught.value)


def test_an_hdr_png_is_refused_and_one_that_says_srgb_is_read(tmp_path: Path) -> None:
    samples = SHOWN.astype(np.uint16) * 257
    (tmp_path / "pq.png").write_bytes(png_bytes(samples, 2, cICP=bytes([9, 16, 0, 1])))
    with pytest.raises(SchemaError, match=r"got HDR \(PQ\), at .*pq\.png"):
        read_picture(tmp_path / "pq.png", PLACE)
    (tmp_path / "srgb.png").write_bytes(png_bytes(samples, 2, cICP=bytes([1, 13, 0, 1])))
    assert np.array_equal(_read(tmp_path / "srgb.png"), SHOWN)


# --- PIL images: what a pipeline reads of them is what is stored, or it is told.


def test_a_pil_image_that_waits_to_be_turned_is_refused() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(SHOWN)
    image.info["exif"] = exif.tobytes()
    with pytest.raises(SchemaError, match=r"EXIF orientation 6\), at image 'reference'.*exif_tra"):
        read_picture(image, PLACE)


def test_a_pil_image_keeps_its_own_colours_whatever_its_profile() -> None:
    image = Image.fromarray(SHOWN)
    image.info["icc_profile"] = linear_profile("RGB ")
    assert np.array_equal(_read(image), SHOWN)


def test_a_frame_that_was_chosen_is_read(tmp_path: Path) -> None:
    green = Image.new("RGB", (8, 8), GREEN)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", save_all=True, append_images=[green])
    with Image.open(tmp_path / "a.png") as image:
        image.seek(1)
        assert _read(image)[0, 0].tolist() == list(GREEN)


@pytest.mark.parametrize(
    ("image", "shown", "note"),
    [
        (Image.new("RGBA", (8, 8), (9, 9, 9, 0)), 255, "may have seen what lies beneath"),
        (Image.fromarray(np.full((8, 8), 257 * 7, np.uint16)), 7, "may have cut it off"),
        (Image.new("F", (8, 8), 1.0), 255, "may have cut it off"),
    ],
    ids=["transparent", "16 bits", "floats"],
)
def test_what_a_pipeline_may_see_otherwise_is_told(
    image: Image.Image, shown: int, note: str
) -> None:
    picture = read_picture(image, PLACE)
    assert (picture.values == shown).all()
    assert len(picture.notes) == 1
    assert note in picture.notes[0]
    assert PLACE in picture.notes[0]


# --- Arrays and tensors.

FLOATS = (RAMP / 255).astype(np.float32)
CHANNELS_FIRST = np.moveaxis(RAMP, 2, 0)


@pytest.mark.parametrize(
    "array",
    [
        RAMP,
        RAMP.astype(np.uint16) * 257,
        FLOATS,
        FLOATS.astype(np.float64),
        CHANNELS_FIRST,
        RAMP[None],
        [RAMP],
        [Image.fromarray(RAMP)],
        RAMP[:, :, 0],
        RAMP[:, :, :1],
        RAMP[None, :, :, 0],
        np.dstack([RAMP, np.full((16, 16), 255, np.uint8)]),
        torch.from_numpy(RAMP),
        torch.from_numpy(FLOATS).permute(2, 0, 1)[None],
        torch.from_numpy(FLOATS).to(torch.float16).requires_grad_(),
        Picture(RAMP),
    ],
)
def test_an_array_of_any_common_form_is_the_same_picture(array: Any) -> None:
    assert np.array_equal(_read(array), RAMP)


def test_half_precision_as_diffusers_gives_it_is_within_a_level() -> None:
    found = _read(torch.from_numpy(FLOATS).to(torch.bfloat16))
    assert np.abs(found.astype(int) - RAMP).max() <= 1


def test_black_and_white_of_bools() -> None:
    assert _read(np.eye(8, dtype=bool))[0, :2].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 16, 16, 3), np.uint8), r"got uint8 \(2, 16, 16, 3\).*Give one image"),
        (np.zeros((5, 16, 7), np.uint8), r"got uint8 \(5, 16, 7\)"),
        (np.zeros((3, 16, 3), np.uint8), r"got uint8 \(3, 16, 3\)"),
        (np.zeros((4, 16, 4), np.uint8), r"got uint8 \(4, 16, 4\)"),
        (np.zeros((0, 16, 3), np.uint8), r"got uint8 \(0, 16, 3\)"),
        (np.zeros(16, np.uint8), r"got uint8 \(16,\)"),
        ([RAMP, RAMP], r"got uint8 \(2, 16, 16, 3\)"),
        (RAMP.astype(np.int64), r"got int64 from 0 to 255, at image 'reference'. Convert it to u"),
        (FLOATS * 2 - 1, r"got -1 to 1, at .*give image / 2 \+ 0.5"),
        (FLOATS * 255, r"got 0 to 255, at image 'reference'. Convert it to uint8"),
        (FLOATS * 12, r"got 0 to 12, at"),
        (FLOATS + np.nan, r"got nan to nan, at"),
        (object(), "got object, at"),
        (None, "got NoneType, at"),
        ([RAMP, RAMP[:8]], "Expected one image, got list .*, at image 'reference'"),
        (RAMP.astype(complex), "got complex128, at"),
    ],
)
def test_an_array_with_no_meaning_or_two_is_refused(array: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        read_picture(array, PLACE)
