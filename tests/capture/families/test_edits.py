"""Transformers that edit pictures: rows of a batch that differ, padding, and how pictures are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.bria_fibo2.image_processor import BriaFibo2ImageProcessor
from diffusers.pipelines.omnigen.processor_omnigen import crop_image
from PIL import Image

from i2am.capture import capture
from i2am.capture.families import omnigen
from i2am.capture.profiles.preparation import covered
from i2am.schemas import CaptureError
from tests.support.explicit_attention import explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import edits, language_guided, models
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH

SQUARE = np.zeros((8, 8, 3), np.uint8)
SEVERAL = r"Expected pictures in the same places for every image and guidance branch that is kept"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def built(build: Callable[[], Family]) -> Family:
    torch.manual_seed(0)
    return build()


def record(own: Family, store: Path, samples: Any = "a", **options: Any) -> None:
    given = options.pop("given", {})
    with capture(own.pipeline, store, sample=samples, dtype="float32", **options) as recording:
        own.run(2, **given)
        for sample in samples:
            recording.add_images(sample=sample, generated=own.blank(), reference=SQUARE)


def test_a_branch_without_the_picture_is_refused(store: Path) -> None:
    with pytest.raises(CaptureError, match=SEVERAL):
        record(built(edits.omnigen), store, guidance="both")


@pytest.mark.parametrize(
    ("second", "is_placed"),
    [("<img><|image_1|></img> on", True), ("a <img><|image_1|></img>", False)],
)
def test_prompts_that_name_the_picture_at_other_places_are_refused(
    second: str, is_placed: bool, store: Path
) -> None:
    own = built(edits.omnigen)
    given = {
        "prompt": ["<img><|image_1|></img> in", second],
        "input_images": [[noise_image(32)], [noise_image(32, 1)]],
    }
    if is_placed:
        record(own, store, ["a", "b"], given=given)
        layer = "layers/layers.0.self_attn"
        one, other = (stored_logits(models.opened(store / name / layer)) for name in "ab")
        assert not np.array_equal(one, other)
        return
    with pytest.raises(CaptureError, match=SEVERAL):
        record(own, store, ["a", "b"], given=given)


def test_a_longer_caption_moves_the_pictures_of_its_row(store: Path) -> None:
    own = built(edits.z_image)
    given = {"negative_prompt_embeds": [[noise(count, WIDTH) for count in (3, 2, 40, 1)]]}
    record(own, store, given=given)  # The conditional row has its own places.
    with explicit_attention(own.denoiser) as kept:
        record(own, store, given=given, overwrite=True)
    conditional = kept["layers.0.attention"][0].scores[0]
    keys = own.keys_of(6, 0)
    found = stored_logits(models.opened(store / "a" / "layers/layers.0.attention"))[0]
    assert np.allclose(found, conditional[:, 192:198, keys], atol=1e-5)
    with pytest.raises(CaptureError, match=SEVERAL):
        record(own, store, "b", given=given, guidance="both")


def test_a_padded_gist_comes_last_and_its_padding_is_no_text(store: Path) -> None:
    own = built(edits.fibo2)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, 4:] = False  # The second prompt's gist has 4 tokens of the first one's 8.
    words = noise(2, 2, 12, WIDTH)
    given = {"prompt_embeds": words, "prompt_embeds_mask": valid, "guidance_scale": 1.0}
    given["negative_prompt_embeds"] = None
    edges = ["text->generated", "reference->text"]
    with explicit_attention(own.denoiser) as kept:
        record(own, store, ["a", "b"], given=given, edges=edges, layers="layers.*")
    patches, references = 20, 72
    for row, (sample, gist) in enumerate((("a", 8), ("b", 4))):
        layer = models.opened(store / sample / "layers/layers.1.attention")
        scores = kept["layers.1.attention"][0].scores[row]
        start = patches + references
        read = (
            layer["query"][0] @ layer["text_key"][0].swapaxes(-1, -2) * layer.attrs["i2am"]["scale"]
        )
        assert np.allclose(read, scores[:, :patches, start : start + gist], atol=1e-5)
        assert np.allclose(
            stored_logits(layer)[0], scores[:, :patches, patches : patches + 36], atol=1e-5
        )
        own_sum = scores[:, start : start + gist].logsumexp(-1)
        assert np.allclose(layer["text_logsumexp"][0], own_sum, atol=1e-5)


def grey_ramp(width: int, height: int) -> Image.Image:
    """Return a picture whose red tells the column and whose green tells the row of each pixel."""
    values = np.zeros((height, width, 3), np.uint8)
    values[..., 0] = np.linspace(0, 255, width)
    values[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(values)


def shown(picture: Image.Image) -> tuple[float, float, float, float]:
    """Return the shares (y0, x0, y1, x1) of the ramp that a crop of it shows."""
    values = np.asarray(picture, float) / 255
    return (*values[0, 0, 1::-1], *values[-1, -1, 1::-1])


@pytest.mark.parametrize("size", [(75, 101), (300, 90), (20, 12), (130, 260)])
def test_pictures_are_cut_as_the_pipelines_do_it(size: tuple[int, int]) -> None:
    picture = grey_ramp(*size)
    height, width = picture.height, picture.width
    cut = crop_image(picture, 128)
    part = omnigen._cropped(picture, 128)
    assert part is not None
    box = part.box(height, width)
    assert box is not None
    expected = (box.y0 / height, box.x0 / width, box.y1 / height, box.x1 / width)
    assert np.allclose(shown(cut), expected, atol=0.05)
    processor = BriaFibo2ImageProcessor()
    cut = processor._resize_and_crop(picture, 64, 96)
    box = covered(picture, (96, 64)).box(height, width)
    assert box is not None
    expected = (box.y0 / height, box.x0 / width, box.y1 / height, box.x1 / width)
    assert np.allclose(shown(cut), expected, atol=0.05)


@pytest.mark.parametrize(
    ("build", "given", "pipeline"),
    [
        (edits.fibo_edit, {"image": None}, "BriaFiboEditPipeline"),
        (edits.fibo2, {"image": None}, "BriaFibo2Pipeline"),
        (edits.z_image, {"image": None}, "ZImageOmniPipeline"),
        (edits.omnigen, {"prompt": "a", "input_images": None}, "OmniGenPipeline"),
        (language_guided.joy_edit, {"image": None}, "JoyImageEditPipeline"),
        (language_guided.joy_edit_plus, {"images": None}, "JoyImageEditPlusPipeline"),
        (language_guided.glm_image, {"image": None}, "GlmImagePipeline"),
    ],
)
def test_a_call_without_a_picture_is_refused(
    build: Callable[[], Family], given: dict[str, Any], pipeline: str, store: Path
) -> None:
    own = built(build)
    message = rf"Expected reference tokens, got none .* Call {pipeline} with "
    with pytest.raises(CaptureError, match=message):
        record(own, store, given=given)
