"""Qwen-Image 2.1: with and without its cache, and with the kernel that takes all tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21FlexAttnProcessor

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.capture.families.test_families import compare
from tests.support.explicit_attention import explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import joint, models
from tests.support.tiny_pipelines.family import Family

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")
SQUARE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def family(**options: Any) -> Family:
    torch.manual_seed(0)
    own = joint.qwen21()
    own.call.update(options)
    return own


def record(own: Family, store: Path, sample: str = "one", **options: Any) -> Any:
    with capture(own.pipeline, store, sample=sample, dtype="float32", **options) as recording:
        output = own.run(2)
        recording.add_images(generated=own.blank(), reference=SQUARE)
    return output


def test_a_run_without_the_cache_is_captured_alike(store: Path) -> None:
    own = family(use_kv_cache=False)
    with explicit_attention(own.denoiser) as kept:
        record(own, store)
    assert compare(own, store, kept) < 1e-5


@pytest.mark.parametrize("has_cache", [True, False])
def test_the_kernel_of_all_tokens_gives_the_same(has_cache: bool, store: Path) -> None:
    own = family(use_kv_cache=has_cache)
    record(own, store, "plain", representation="logits")
    own.denoiser.set_attn_processor(QwenImage21FlexAttnProcessor())
    before = own.run(2)
    assert torch.equal(before, record(own, store, "flex", representation="logits"))
    for name in models.opened(store / "plain" / "layers"):
        plain, flex = (
            models.opened(store / sample / "layers" / name) for sample in ("plain", "flex")
        )
        for array in ("logits", "logsumexp"):
            # The kernels round differently, and the second step sees what the first made of it.
            assert np.allclose(plain[array][...], flex[array][...], atol=1e-4)


def test_steps_that_read_the_cache_alone_can_be_kept(store: Path) -> None:
    own = family()
    record(own, store, "all")
    record(own, store, "last", steps=[1])
    layer = "layers/transformer_blocks.1.attn.reference_1"
    every, last = (
        stored_logits(models.opened(store / sample / layer)) for sample in ("all", "last")
    )
    assert np.array_equal(every[1:], last)


def split_slots(call: dict[str, Any]) -> dict[str, Any]:
    slots = call["img_mask"].clone()
    slots[:, 1], slots[:, 2] = True, False  # The first picture's slots with a word between them.
    return call | {"img_mask": slots}


def without_pictures(call: dict[str, Any]) -> dict[str, Any]:
    slots = torch.tensor([[False] * 2 + [True] * 2])
    return call | {
        "img_mask": slots,
        "img_shapes": [[(1, 2, 4)]],
        "hidden_states": call["hidden_states"][:, -8:],
        "encoder_hidden_states": call["encoder_hidden_states"][:, :2],
        "encoder_hidden_states_mask": None,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (split_slots, r"Expected the 4×4 tokens of picture 0 in one run, got 4, at img_mask"),
        (without_pictures, r"got none in the call of the denoiser. Call QwenImage21Pipeline with"),
    ],
)
def test_a_call_that_cannot_be_placed_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str, store: Path
) -> None:
    own, calls = family(), []
    hook = own.denoiser.register_forward_pre_hook(
        lambda _module, _args, options: calls.append(options), with_kwargs=True
    )
    own.run(1)
    hook.remove()
    given = change(calls[0] | {"kv_cache": None, "kv_cache_mode": None})
    with (
        pytest.raises(CaptureError, match=message),
        capture(own.denoiser, store, sample="a"),
        torch.no_grad(),
    ):
        own.denoiser(**given)
