"""JoyImage-Edit and GLM-Image: a cache that is filled beforehand, and samples with other pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.support.explicit_attention import explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import language_guided, models
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH
from tests.support.tiny_pipelines.small_images import small_images

SQUARE = np.zeros((8, 8, 3), np.uint8)
GLM_LAYER = "layers/transformer_blocks.0.attn1"


@pytest.fixture(autouse=True)
def _small_images() -> Iterator[None]:
    with small_images():
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.fixture
def glm() -> Family:
    torch.manual_seed(0)
    return language_guided.glm_image()


def record(own: Family, store: Path, samples: Any = "a", **options: Any) -> None:
    given, references = options.pop("given", {}), options.pop("references", 1)
    pictures: dict[str, Any] = {
        f"reference_{i}" if i else "reference": SQUARE for i in range(references)
    }
    with capture(own.pipeline, store, sample=samples, dtype="float32", **options) as recording:
        own.run(2, **given)
        for sample in samples:
            recording.add_images(sample=sample, generated=own.blank(), **pictures)


def test_glm_image_reads_no_reference_where_it_is_unconditional(glm: Family, store: Path) -> None:
    with pytest.raises(CaptureError, match=r"got the unconditional one, which does not"):
        record(glm, store, guidance="both")


def test_calls_that_fill_the_cache_are_no_steps(glm: Family, store: Path) -> None:
    record(glm, store, "p", references=2)
    with capture(glm.denoiser, store, sample="d", dtype="float32") as recording:
        glm.run(2)
        recording.add_images(generated=glm.blank(), reference=SQUARE, reference_1=SQUARE)
    by_pipeline, by_denoiser = (models.opened(store / name / GLM_LAYER) for name in "pd")
    assert len(stored_logits(by_denoiser)) == 2
    assert np.array_equal(stored_logits(by_pipeline), stored_logits(by_denoiser))


def test_a_prompt_with_pictures_of_its_own_has_its_own_keys(glm: Family, store: Path) -> None:
    # As many tokens, and another shape.
    both = {
        "prompt": ["a", "b"],
        "image": [[noise_image(64, width=32)], [noise_image(32, width=64)]],
    }
    with pytest.raises(CaptureError, match=r"Expected pictures in the same places for every image"):
        record(glm, store, ["a", "b"], given=both)
    both["image"] = [[noise_image(32, 1, width=64)], [noise_image(32, 2, width=64)]]
    alone = {"prompt": "b", "image": [noise_image(32, 2, width=64)]}
    latents = noise(2, 4, 4, 8)
    record(glm, store, ["c", "d"], given=both | {"latents": latents}, steps=1)
    record(glm, store, "e", given=alone | {"latents": latents[1:]}, steps=1)
    found = [stored_logits(models.opened(store / name / GLM_LAYER)) for name in "cde"]
    assert np.allclose(found[1], found[2], atol=1e-5)
    assert not np.allclose(found[0], found[2], atol=1e-3)


def test_a_cache_from_before_the_capture_is_refused(glm: Family, store: Path) -> None:
    cache = GlmImageKVCache(num_layers=2)

    def call(text: int, plan: int, timestep: float) -> None:
        glm.denoiser(
            hidden_states=noise(1, 4, 4, 8),
            encoder_hidden_states=noise(1, text, WIDTH) if text else torch.zeros(1, 0, WIDTH),
            prior_token_id=torch.zeros(1, plan, dtype=torch.long),
            prior_token_drop=torch.zeros(1, plan, dtype=torch.bool),
            timestep=torch.tensor([timestep]),
            target_size=torch.tensor([[32, 64]]),
            crop_coords=torch.zeros(1, 2),
            kv_caches=cache,
        )

    cache.set_mode("write")
    call(0, 8, 0.0)
    with (
        pytest.raises(CaptureError, match=r"got a cache that was filled before it"),
        capture(glm.denoiser, store, sample="a"),
    ):
        cache.set_mode("read")
        call(5, 8, 900.0)


def test_samples_with_pictures_of_other_sizes_are_refused(store: Path) -> None:
    torch.manual_seed(0)
    own = language_guided.joy_edit_plus()
    given = {"prompt": ["a", "b"], "images": [[noise_image(64)], [noise_image(32, 1, width=96)]]}
    with pytest.raises(CaptureError, match=r"Expected pictures in the same places for every image"):
        record(own, store, ["a", "b"], given=given)


def test_patches_that_pad_a_sample_come_before_its_text(store: Path) -> None:
    torch.manual_seed(0)
    own = language_guided.joy_edit_plus()
    shapes = [[(1, 2, 3), (1, 4, 4)], [(1, 2, 3), (1, 2, 4)]]  # of the two branches
    valid = torch.ones(2, 5, dtype=torch.long)
    with (
        explicit_attention(own.denoiser) as kept,
        capture(own.denoiser, store, sample="a", dtype="float32", edges=["text->generated"]) as to,
    ):
        own.denoiser(
            noise(2, 22, 4, 1, 2, 2), torch.full((2,), 500.0), noise(2, 5, WIDTH), valid, shapes
        )
        to.add_images(generated=own.blank(), reference=SQUARE)
    layer = models.opened(store / "a" / "layers/double_blocks.0.attn")
    scores = kept["double_blocks.0.attn"][0].scores[1].detach()
    assert np.allclose(stored_logits(layer)[0], scores[:, :6, 6:14], atol=1e-5)
    assert layer["text_key"].shape[2] == 5
    read = layer["query"][0] @ layer["text_key"][0].swapaxes(-1, -2) * layer.attrs["i2am"]["scale"]
    assert np.allclose(read, scores[:, :6, 22:27], atol=1e-5)
