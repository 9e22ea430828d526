"""FLUX.2: a cache of the references' keys, and how its references are prepared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from PIL import Image

from i2am.capture import capture
from i2am.capture.families.flux2 import area_resized
from i2am.schemas import Box, CaptureError
from tests.support.geometry import View, outside, record
from tests.support.tiny_pipelines import joint, models
from tests.support.tiny_pipelines.family import Family, noise_image

BLANK = np.zeros((32, 48, 3), np.uint8)
SQUARE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def family(kind: str = "Flux2KleinKV") -> Family:
    torch.manual_seed(0)
    return joint.flux2(kind)


def keys(store: Path, sample: str, layer: str) -> Any:
    return models.opened(store / sample / "layers" / layer)["key"][...]


def test_cached_keys_are_those_of_the_first_step_also_where_that_is_not_kept(store: Path) -> None:
    own = family()
    options: dict[str, Any] = {"dtype": "float32", "representation": "factors"}
    for sample, kept in (("all", None), ("later", range(1, 3))):
        with capture(own.pipeline, store, sample=sample, steps=kept, **options) as recording:
            own.run(3)
            recording.add_images(generated=BLANK, reference=SQUARE)
    for layer in ("single_transformer_blocks.0.attn", "transformer_blocks.0.attn.reference_1"):
        every = keys(store, "all", layer)
        assert every.ndim == 3, "keys that never change are stored once"
        assert np.array_equal(every, keys(store, "later", layer))


def test_a_cache_from_before_the_capture_is_refused(store: Path) -> None:
    own, calls = family(), []
    hook = own.denoiser.register_forward_pre_hook(
        lambda _module, _args, options: calls.append(options), with_kwargs=True
    )
    own.run(2)
    hook.remove()
    made = own.denoiser(**calls[0])[1]  # The pipeline empties its own at the end.
    with (
        pytest.raises(
            CaptureError, match=r"got a cache that was made before it. Begin the capture"
        ),
        capture(own.denoiser, store, sample="a"),
        torch.no_grad(),
    ):
        own.denoiser(**calls[1] | {"kv_cache": made})


@pytest.mark.parametrize("kind", ["Flux2", "Flux2Klein", "Flux2KleinKV"])
def test_a_call_without_a_picture_is_refused(kind: str, store: Path) -> None:
    own = family(kind)
    message = r"Expected reference tokens, got none .* Call a pipeline of FLUX.2 with an image"
    with pytest.raises(CaptureError, match=message), capture(own.pipeline, store, sample="a"):
        own.run(2, image=None)


@pytest.mark.parametrize("size", [(1400, 900), (1024, 1024), (700, 1900)])
def test_a_large_picture_is_made_smaller_as_the_pipeline_does_it(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    resized = Flux2ImageProcessor._resize_if_exceeds_area(picture)
    assert area_resized(picture) == (resized.height, resized.width)


def test_the_crop_that_is_painted_over_is_where_the_first_reference_lies(store: Path) -> None:
    torch.manual_seed(0)
    own = joint.flux2_inpaint()
    mask = np.zeros((64, 96), np.uint8)
    mask[16:32, 48:64] = 255
    given = {"mask_image": Image.fromarray(mask), "padding_mask_crop": 8}
    view = View(
        replace(own, call=own.call | given),
        lambda picture: {"image": picture},
        has_other_way=True,
        output="pil",
    )
    picture = noise_image(64, 5, 96)
    before = record(view, picture, store, "before")
    # The mask and 8 pixels around it, 32 × 32, widened to the shape of the picture, 2 : 3.
    assert before.box == Box(8, 32, 40, 80)
    boxes = models.opened(store / "before" / "images")["generated"].attrs["i2am"]["box"]
    assert boxes == [8, 32, 40, 80]
    after = record(view, outside(picture, before.box, 0), store, "outside")
    assert np.array_equal(before.tokens, after.tokens)


def test_each_of_several_pictures_is_that_of_its_own_image(store: Path) -> None:
    torch.manual_seed(0)
    own = joint.flux2_inpaint()
    text = {
        name: own.call[name].repeat(2, 1, 1) for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    pictures = [noise_image(64, 1, width=96), noise_image(64, 2, width=96)]
    with capture(own.pipeline, store, sample=["a", "b"], representation="factors") as recording:
        own.run(1, image_reference=pictures, **text)
        for sample, picture in zip("ab", pictures, strict=True):
            recording.add_images(
                sample=sample, generated=own.blank(), reference=noise_image(64), reference_1=picture
            )
    layer = "transformer_blocks.0.attn.reference_1"
    assert not np.array_equal(keys(store, "a", layer), keys(store, "b", layer))
