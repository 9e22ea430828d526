"""Models as people have them: adapted, fused, sliced, compiled, offloaded, cached, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from peft import LoraConfig

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.capture.families.test_families import compare
from tests.support.explicit_attention import explicit_attention
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.families import Family

pytestmark = [
    pytest.mark.filterwarnings("ignore:Mismatch dtype"),  # autocast, in layer norms
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
]
BLANK = np.zeros((8, 8, 3), np.uint8)
CROSS = "reference-inpaint"
JOINT = "flux-kontext"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.fixture(autouse=True)
def _default_backend() -> Iterator[None]:
    """Choose the native backend afterwards: a model's choice is also the whole process's."""
    yield
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


def build(name: str) -> Family:
    torch.manual_seed(0)
    return FAMILIES[name]()


def record(family: Family, store: Path, **options: Any) -> Any:
    with capture(family.pipeline, store, sample="one", overwrite=True, **options) as recording:
        output = family.run(2)
        recording.add_images(generated=family.blank(), reference=BLANK)
    return output


def adapt(family: Family) -> None:
    family.denoiser.add_adapter(
        LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False)
    )


def adapt_and_fuse(family: Family) -> None:
    adapt(family)
    family.denoiser.fuse_lora()


def fuse_projections(family: Family) -> None:
    family.denoiser.fuse_qkv_projections()


def slice_attention(family: Family) -> None:
    family.denoiser.set_attention_slice(1)


def offload(family: Family) -> None:
    if diffusers.__version__.startswith("0.38.") and not torch.accelerator.is_available():
        pytest.skip("diffusers 0.38 offloads from an accelerator alone")
    family.denoiser.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )


def use_math_backend(family: Family) -> None:
    family.denoiser.set_attention_backend("_native_math")


def use_flex_backend(family: Family) -> None:
    family.denoiser.set_attention_backend("flex")


SITUATIONS: dict[str, tuple[str, Callable[[Family], None]]] = {
    "LoRA": (CROSS, adapt),
    "LoRA in joint attention": (JOINT, adapt),
    "LoRA, fused": (CROSS, adapt_and_fuse),
    "fused projections": (CROSS, fuse_projections),
    "fused projections in joint attention": (JOINT, fuse_projections),
    "offloaded": (CROSS, offload),
    "offloaded joint attention": (JOINT, offload),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_captured_attention_is_that_of_the_model_as_it_is(situation: str, store: Path) -> None:
    name, change = SITUATIONS[situation]
    family = build(name)
    plain = family.run(2)
    change(family)
    before = family.run(2)
    if "LoRA" in situation:
        assert not torch.allclose(before, plain), "the adapter does something"
    assert torch.equal(before, record(family, store))
    if "fused projections" not in situation or name == JOINT:
        with explicit_attention(family.denoiser) as kept:
            record(family, store, dtype="float32")
        assert compare(family, store, kept) < 1e-5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CROSS, fuse_projections),
        (CROSS, slice_attention),
        (JOINT, use_math_backend),
        (JOINT, use_flex_backend),
    ],
)
def test_another_kernel_gives_the_same_capture(
    name: str, change: Callable[[Family], None], store: Path
) -> None:
    family = build(name)
    with explicit_attention(family.denoiser) as kept:
        family.run(2)
    change(family)
    before = family.run(2)
    assert torch.equal(before, record(family, store, dtype="float32"))
    # The kernels round differently, and the second step sees what the first made of it.
    assert compare(family, store, kept) < 1e-4


@pytest.mark.parametrize("name", [CROSS, JOINT])
@pytest.mark.parametrize("how", ["around", "in place", "blocks"])
def test_a_compiled_model_still_captures(name: str, how: str, store: Path) -> None:
    family = build(name)
    with explicit_attention(family.denoiser) as kept:
        family.run(2)
    denoiser = family.denoiser
    if how == "in place":
        denoiser.compile(backend="eager")
    elif how == "blocks" and name == JOINT:
        denoiser.compile_repeated_blocks(backend="eager")
    else:
        part = "unet" if name == CROSS else "transformer"
        family.pipeline.register_modules(**{part: torch.compile(denoiser, backend="eager")})
    before = family.run(1)
    record(family, store, dtype="float32")
    assert compare(family, store, kept) < 1e-4
    assert torch.allclose(before, family.run(1), atol=1e-5)


@pytest.mark.parametrize("name", [CROSS, JOINT])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_as_attention_got_it(
    name: str, dtype: torch.dtype, store: Path
) -> None:
    family = build(name)
    with torch.autocast("cpu", dtype):
        before = family.run(2)
        with explicit_attention(family.denoiser) as kept:
            record(family, store, dtype="float32")
        assert torch.equal(before, record(family, store.with_name("other.zarr")))
    for calls in kept.values():
        for call in calls:
            assert call.scores.dtype == dtype
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]  # of the witness's own product
    assert compare(family, store, {n: [c.as_float() for c in k] for n, k in kept.items()}) < (
        tolerance
    )


def test_a_cached_model_is_an_error_that_says_so(store: Path) -> None:
    family = build("wan-image-to-video")
    family.denoiser.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with pytest.raises(CaptureError, match=r"call disable_cache\(\)"):
        record(family, store)


def test_an_adapter_that_is_switched_off_in_a_block_is_left_out(store: Path) -> None:
    family = build("ip-adapter-full-face")
    family.pipeline.set_ip_adapter_scale({"up": {"block_0": [0.0, 0.5]}})
    record(family, store)
    layers = dict(models.opened(store / "one" / "layers").groups())
    assert [name.split(".")[0] for name in layers] == ["up_blocks"]
    assert [layer.attrs["i2am"]["weight"] for layer in layers.values()] == [0.5]


def test_a_sample_without_any_layer_is_never_complete(store: Path) -> None:
    family = build("ip-adapter-full-face")
    with pytest.raises(CaptureError, match="Expected heads from 0 to 1, which the layers"):
        record(family, store, layers="down*", heads=[7])
    family.pipeline.set_ip_adapter_scale({"up": {"block_0": [0.0, 0.5]}})
    with pytest.raises(CaptureError, match="switched on, got a scale of 0 in every layer that is"):
        record(family, store, layers="down*")
    assert not store.exists()


def test_an_adapter_that_is_switched_off_is_an_error(store: Path) -> None:
    family = build("ip-adapter")
    family.pipeline.set_ip_adapter_scale(0.0)
    with pytest.raises(CaptureError, match=r"got a scale of 0 in every layer .*\. Call set_"):
        record(family, store)
    assert not store.exists()


def test_two_captures_in_two_threads_do_not_mix(store: Path) -> None:
    pair = {name: build(name) for name in (JOINT, "flux-redux")}
    alone = {}
    for name, family in pair.items():
        alone[name] = record(family, store / name)
    barrier = threading.Barrier(2)
    together: dict[str, Any] = {}

    def work(name: str) -> None:
        barrier.wait()
        together[name] = record(pair[name], store / f"{name}-2")

    threads = [threading.Thread(target=work, args=(name,)) for name in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, output in alone.items():
        assert torch.equal(output, together[name])
        first, second = (
            models.opened(store / place / "one" / "layers") for place in (name, f"{name}-2")
        )
        for layer, group in first.groups():
            for array in group.array_keys():
                assert np.array_equal(group[array][...], second[layer][array][...])
