"""Where the references of joint attention lie, by causation: which picture and which part of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from i2am.schemas import Box
from tests.support.geometry import View, cell, outside, peak, record, strongest, whitened
from tests.support.tiny_pipelines import edits, joint, language_guided, modular
from tests.support.tiny_pipelines.family import Family, noise_image
from tests.support.tiny_pipelines.small_images import small_images

SQUARE, WIDE = (64, 64), (75, 101)
# What is left of the wide one in multiples of 16, cut from its middle.
CROPPED = Box(5, 2, 69, 98)
COVERING = Box(20 * 75 / 72, 0, 52 * 75 / 72, 101)
F1, F2 = 60 / 69, 60 / 78  # pixels of a picture in one of those that it is enlarged to
MARGIN = 4.0  # pixels; how far such an enlargement looks beyond its crop


def second(build: Callable[[], Family], *, has_other_way: bool = False) -> View:
    """Return a view whose picture is the second of two references."""
    first = noise_image(64)
    family = build()
    return View(
        family,
        lambda picture: {"image": [first, picture]},
        "reference_1",
        has_other_way=has_other_way,
        output=family.output,
    )


def single(build: Callable[[], Family]) -> View:
    family = build()
    return View(family, lambda picture: {"image": picture}, output=family.output)


def omnigen() -> View:
    """Return a view of the picture that comes first in the prompt and second among the pictures."""
    torch.manual_seed(3)  # Other random convolutions of its VAE mix more than a token's neighbours.
    family = edits.omnigen()
    prompt = "<img><|image_2|></img> on <img><|image_1|></img>"
    other = noise_image(32)
    return View(family, lambda picture: {"prompt": prompt, "input_images": [other, picture]})


def joy_plus() -> View:
    first = noise_image(64)
    family = language_guided.joy_edit_plus()
    return View(family, lambda picture: {"images": [first, picture]}, "reference_1")


def painted_over() -> View:
    return View(joint.flux2_inpaint(), lambda picture: {"image": picture}, has_other_way=True)


def inpainting_reference() -> View:
    family = joint.flux2_inpaint()
    return View(family, lambda picture: {"image_reference": picture}, "reference_1")


VIEWS: dict[str, tuple[Callable[[], View], tuple[int, int], Box]] = {
    "FLUX.2": (lambda: second(lambda: joint.flux2("Flux2")), WIDE, CROPPED),
    "FLUX.2 Klein": (lambda: second(joint.flux2), SQUARE, Box.whole(*SQUARE)),
    "FLUX.2 Klein KV": (lambda: second(lambda: joint.flux2("Flux2KleinKV")), WIDE, CROPPED),
    "FLUX.2 inpainting": (painted_over, WIDE, Box.whole(*WIDE)),
    "FLUX.2 inpainting, reference": (inpainting_reference, WIDE, CROPPED),
    "Qwen-Image-Layered": (lambda: single(joint.qwen_layered), (32, 96), Box.whole(32, 96)),
    "Qwen-Image 2.1": (lambda: second(joint.qwen21), (32, 64), Box.whole(32, 64)),
    "LongCat": (lambda: single(edits.longcat), (32, 96), Box.whole(32, 96)),
    "FIBO-Edit": (lambda: second(edits.fibo_edit), WIDE, Box.whole(*WIDE)),
    # One picture covers the 64 × 80 pixels of the result, 69 high; of two, this one 64 × 144, 78 high.
    "FIBO 2, one": (lambda: single(edits.fibo2), (60, 70), Box(2 * F1, 0, 66 * F1, 70)),
    "FIBO 2": (lambda: second(edits.fibo2), (60, 112), Box(7 * F2, 0, 71 * F2, 112)),
    "Z-Image": (lambda: second(edits.z_image, has_other_way=True), WIDE, CROPPED),
    "FLUX.3": (lambda: second(modular.flux3), WIDE, CROPPED),
    # One picture alone is padded to 80 × 112 pixels.
    "FLUX.3, one": (lambda: single(modular.flux3), WIDE, Box(-2, -5, 78, 107)),
    # Wide ones come to 32 × 96 pixels: this one, 72 × 96 high and wide, loses 20 above and below.
    "JoyImage-Edit": (lambda: single(language_guided.joy_edit), WIDE, COVERING),
    "JoyImage-Edit-Plus": (joy_plus, WIDE, COVERING),
    "GLM-Image": (lambda: second(language_guided.glm_image), WIDE, Box.whole(*WIDE)),
    "OmniGen": (omnigen, (75, 101), Box(5, 2, 69, 98)),
}


@pytest.fixture(autouse=True)
def _small_images() -> Iterator[None]:
    with small_images():
        yield


@functools.cache
def view_of(name: str) -> View:
    torch.manual_seed(0)
    return VIEWS[name][0]()


@pytest.mark.parametrize("name", VIEWS)
def test_a_token_lies_where_the_picture_moves_it(name: str, tmp_path: Path) -> None:
    view, (_, size, expected) = view_of(name), VIEWS[name]
    picture = noise_image(size[0], 5, size[1])
    store = tmp_path / "run.zarr"
    before = record(view, picture, store, "before")
    assert np.allclose(before.box, expected)
    if min(expected.y0, expected.x0) >= 0 and not expected.is_whole(*size):
        margin = MARGIN if expected.y0 % 1 else 0
        after = record(view, outside(picture, before.box, margin), store, "outside")
        assert np.array_equal(before.tokens, after.tokens)
        assert before.is_same_output(after) != view.has_other_way
    rows, columns = before.tokens.shape[:2]
    for place in ((0, columns - 1), (rows * 2 // 3, columns // 3)):
        own = cell(before.box, (rows, columns), place)
        after = record(view, whitened(picture, own), store, f"token-{place[0]}")
        assert not before.is_same_output(after)
        found = strongest(before, after)
        assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= 1
        y, x = peak(before, after)
        assert abs(y - (own.y0 + own.y1) / 2) <= 1.01 * own.height
        assert abs(x - (own.x0 + own.x1) / 2) <= 1.01 * own.width
