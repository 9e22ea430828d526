"""A mask is read as its tool meant it, whatever its form; what has several meanings is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from i2am.capture.images.masks import Mask, fit_mask, read_mask
from i2am.schemas import SchemaError

MARKED = np.zeros((16, 32), np.uint8)
MARKED[4:12, 8:24] = 1
WHITE = MARKED * 255
PLACE = "image 'inpainting_mask'"
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0]
BORDER = [224, 224, 192]  # VOC's index 255.


def _indexed(indices: np.ndarray[Any, Any], palette: list[int]) -> Image.Image:
    image = Image.new("P", indices.shape[::-1])
    image.putdata(indices.flatten().tolist())
    image.putpalette(palette + [0] * (768 - len(palette)))
    return image


def _rgba(colour: Any, alpha: np.ndarray[Any, Any]) -> Image.Image:
    rgb = np.broadcast_to(np.asarray(colour, np.uint8), (*alpha.shape, 3))
    return Image.fromarray(np.dstack([rgb, alpha]))


def _opaque_white_on_hidden_noise() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    return _rgba(np.where(MARKED[:, :, None], 255, noise), WHITE)


MEANT: dict[str, Any] = {
    "bool": MARKED.astype(bool),
    "0 and 255": WHITE,
    "0 and 1": MARKED,
    "0 and 1 of int64": MARKED.astype(int),
    "0 and 255 of int64": WHITE.astype(int),
    "floats": MARKED.astype(np.float32),
    "soft floats": np.where(MARKED, 0.7, 0.2),
    "floats 0 and 255": WHITE.astype(np.float64),
    "16 bits": MARKED.astype(np.uint16) * 65535,
    "0 and 1 of 16 bits": MARKED.astype(np.uint16),
    "three equal channels": np.dstack([WHITE] * 3),
    "four channels, opaque": np.dstack([WHITE] * 3 + [WHITE | 255]),
    "channels first": np.stack([WHITE] * 3),
    "a channel of its own": WHITE[:, :, None],
    "a batch of one": WHITE[None, None],
    "tensor": torch.tensor(WHITE),
    "tensor of floats": torch.tensor(MARKED)[None, None].to(torch.bfloat16),
    "transposed": np.ascontiguousarray(WHITE.T).T,
    "L": Image.fromarray(WHITE),
    "L of 0 and 1": Image.fromarray(MARKED),
    "1": Image.fromarray(WHITE).convert("1"),
    "I;16": Image.fromarray(MARKED.astype(np.uint16) * 65535),
    "I": Image.fromarray(MARKED.astype(np.int32)),
    "F": Image.fromarray(MARKED.astype(np.float32)),
    "RGB": Image.fromarray(WHITE).convert("RGB"),
    "CMYK": Image.fromarray(WHITE).convert("RGB").convert("CMYK"),
    "VOC's palette": _indexed(MARKED, VOC),
    "VOC's palette, index 2": _indexed(MARKED * 2, VOC),
    "a palette without a colour for its index": _indexed(MARKED * 9, VOC),
    "a grey palette": Image.fromarray(WHITE).convert("P"),
    "a palette whose index 0 is white": _indexed(1 - MARKED, [255] * 3 + [0] * 3),
    "a palette with 255 alone": _indexed(WHITE, VOC + [0] * 756 + [255, 0, 0]),
    "alpha of white": _rgba([255] * 3, WHITE),
    "alpha of black": _rgba([0] * 3, WHITE),
    "alpha over hidden colours": _opaque_white_on_hidden_noise(),
    "alpha as bright as its grey": _rgba(WHITE[:, :, None], WHITE),
    "LA": Image.merge("LA", [Image.new("L", (32, 16), 255), Image.fromarray(WHITE)]),
    "alpha in an array": np.dstack([WHITE | 255] * 3 + [WHITE]),
    "a list of one": [Image.fromarray(WHITE)],
    "read before": Mask(WHITE),
}


@pytest.mark.parametrize("form", MEANT)
def test_each_form_of_a_mask_is_the_same_mask(form: str) -> None:
    mask = read_mask(MEANT[form], PLACE)
    assert mask.notes == ()
    assert mask.values.dtype == np.uint8
    assert mask.values.flags["C_CONTIGUOUS"]
    assert np.array_equal(mask.values, WHITE)


def _soft(radius: float) -> Image.Image:
    disc = Image.new("L", (64, 64))
    ImageDraw.Draw(disc).ellipse((12, 12, 52, 52), fill=255)
    return disc.filter(ImageFilter.GaussianBlur(radius))


@pytest.mark.parametrize("name", ["soft.png", "softer.png", "lossy.jpg", "smooth.png"])
def test_a_soft_or_lossy_mask_is_cut_at_half(tmp_path: Path, name: str) -> None:
    disc = _soft({"soft.png": 1, "softer.png": 5}.get(name, 0))
    if name == "smooth.png":  # Of four samples a pixel.
        disc = disc.resize((32, 32), Image.Resampling.BOX)
    disc.save(tmp_path / name)
    with Image.open(tmp_path / name) as file:
        wanted = np.asarray(file) > 127
    assert np.array_equal(read_mask(tmp_path / name, PLACE).values > 0, wanted)


def _border() -> np.ndarray[Any, Any]:
    indices = MARKED.copy()
    indices[3] = 255
    return indices


@pytest.mark.parametrize(
    ("image", "marked", "notes"),
    [
        pytest.param(MARKED * 15, MARKED, ["holds 0 and 15: 15 is marked"], id="one class"),
        pytest.param(
            _indexed(_border(), VOC + [0] * 756 + BORDER),
            MARKED,
            ["index 255 is taken as a border"],
            id="VOC's border",
        ),
        pytest.param(
            _indexed(np.where(np.arange(32) < 16, MARKED, MARKED * 2).astype(np.uint8), VOC),
            MARKED,
            ["Palette indices 1, 2 are all marked"],
            id="two classes",
        ),
        pytest.param(
            np.ones((4, 4), bool), np.ones((4, 4)), ["marks 100 % of its image"], id="full"
        ),
    ],
)
def test_a_reading_that_is_worth_a_word_is_noted(image: Any, marked: Any, notes: list[str]) -> None:
    mask = read_mask(image, PLACE)
    assert np.array_equal(mask.values > 0, marked)
    assert len(mask.notes) == len(notes)
    for note, part in zip(mask.notes, notes, strict=True):
        assert part in note
        assert PLACE in note


CLASSES = np.arange(24, dtype=np.uint8).repeat(4).reshape(8, 12)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(CLASSES % 3, "got the values 0, 1, 2, at", id="three classes"),
        pytest.param(
            CLASSES, r"got the values 0, 1, 2, 3, 4, 5, 6 … 23 \(24 in all\)", id="many classes"
        ),
        pytest.param(
            np.where(CLASSES == 23, 255, CLASSES), "got the values 0, 1, .* 255", id="ignored: 255"
        ),
        pytest.param(
            np.append(np.arange(151), [255] * 9).astype(np.uint8).reshape(8, 20),
            "got the values 0, 1, .* 255",
            id="150 classes, and 255",
        ),
        pytest.param(
            np.array([[0, 128, 255]], np.uint8).repeat(5, 0),
            "got the values 0, 128, 255",
            id="trimap",
        ),
        pytest.param(np.full((4, 4), 7, np.uint8), "got the values 7, at", id="one value"),
        pytest.param(np.array([[1, 2]] * 5), "got the values 1, 2, at", id="no background"),
        pytest.param(np.array([[-1, 0]] * 5), "got the values -1, 0, at", id="below 0"),
        pytest.param(MARKED * 2.5, "floats from 0 to 1, got 0 to 2.5, at", id="floats beyond"),
        pytest.param(MARKED * np.nan, "floats from 0 to 1, got nan to nan, at", id="NaN"),
        pytest.param(
            np.where(MARKED[:, :, None], [255, 0, 0], [0, 0, 255]).astype(np.uint8),
            r"got the colours \(0, 0, 255\), \(255, 0, 0\), at",
            id="coloured",
        ),
        pytest.param(
            _indexed(MARKED, [0, 0, 255, 128, 0, 0]),
            r"index 0 is the background, black, got the colours \(0, 0, 255\), \(128, 0, 0\), at",
            id="a palette's background",
        ),
        pytest.param(
            _rgba(np.dstack([CLASSES * 9] * 3), (CLASSES > 5).astype(np.uint8) * 255),
            "colours and transparency that both vary, at",
            id="a cut-out",
        ),
        pytest.param(
            _rgba(np.dstack([CLASSES * 9] * 3), CLASSES * 0),
            "colours and transparency that both vary, at",
            id="hidden colours alone",
        ),
        pytest.param(
            np.dstack([WHITE] * 4).astype(int), "four channels of uint8, got int64", id="integers"
        ),
        pytest.param(WHITE * 0, "got one that marks 0 %, at", id="empty"),
        pytest.param(np.full((4, 4), 0.4), "got one that marks 0 %, at", id="empty at half"),
        pytest.param(_rgba([255] * 3, WHITE * 0), "got one that marks 0 %, at", id="empty alpha"),
        pytest.param(_indexed(MARKED * 0, VOC), "got one that marks 0 %, at", id="empty palette"),
        pytest.param(np.zeros((2, 8, 8), np.uint8), r"got uint8 \(2, 8, 8\), at", id="two masks"),
    ],
)
def test_a_mask_with_several_meanings_or_none_is_refused(image: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        read_mask(image, PLACE)
    assert PLACE in str(caught.value)


def test_a_file_is_named_by_its_path_and_turned_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(WHITE).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "a.png", PLACE).values, WHITE)
    Image.fromarray(CLASSES).save(tmp_path / "b.png")
    with pytest.raises(SchemaError, match=str(tmp_path / "b.png")):
        read_mask(tmp_path / "b.png", PLACE)


# --- Its image's size.


def test_a_mask_of_the_same_shape_is_resized_without_new_values() -> None:
    fitted = fit_mask(Mask(WHITE), (32, 64), "the mask", "the source")
    assert np.array_equal(fitted.values, WHITE.repeat(2, 0).repeat(2, 1))


def test_a_side_that_was_rounded_is_the_same_shape() -> None:
    mask = Mask(np.full((667, 1000), 255, np.uint8))
    assert fit_mask(mask, (664, 1000), "a", "b").values.shape == (664, 1000)


def test_a_mask_of_another_shape_is_refused_with_both_sizes() -> None:
    message = r"shape of the source, 64 × 64 px, got 32 × 16 px, at m.png. Crop or pad"
    with pytest.raises(SchemaError, match=message):
        fit_mask(Mask(WHITE), (64, 64), "m.png", "the source")


def test_a_mask_of_which_nothing_is_left_when_it_is_small_is_refused() -> None:
    dot = np.zeros((64, 64), np.uint8)
    dot[0, 0] = 255
    with pytest.raises(SchemaError, match=r"marks 0 %, at m\.png, resized to 8 × 8 px"):
        fit_mask(Mask(dot), (8, 8), "m.png", "the source")
