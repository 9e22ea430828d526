"""IP-Adapters on FLUX and Stable Diffusion 3: several of them, off, and beside other references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.capture.families.test_families import compare
from tests.support.explicit_attention import explicit_attention
from tests.support.tiny_pipelines import families, joint_adapters, models
from tests.support.tiny_pipelines.family import Family, noise_image

SQUARE = np.zeros((8, 8, 3), np.uint8)
BLOCK = "transformer_blocks.0.attn"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def record(own: Family, store: Path, **options: Any) -> Any:
    given = options.pop("given", {})
    target = options.pop("target", own.pipeline)
    with capture(target, store, sample="one", dtype="float32", **options) as recording:
        own.run(2, **given)
        recording.add_images(generated=own.blank(), reference=SQUARE)
    return dict(models.opened(store / "one" / "layers").groups())


def weights(layers: dict[str, Any]) -> dict[str, float]:
    return {name: layer.attrs["i2am"].get("weight", 1.0) for name, layer in layers.items()}


def test_every_adapter_of_flux_has_its_own_softmax_weight_and_numbers(store: Path) -> None:
    torch.manual_seed(0)
    own = joint_adapters.flux_adapter(scales=(0.7, 0.4), images=(2, 1))
    with explicit_attention(own.denoiser) as kept:
        layers = record(own, store)
    assert weights(layers) == {
        f"transformer_blocks.{block}.attn{suffix}": weight
        for block in range(2)
        for suffix, weight in (("", 0.7), (".reference_1", 0.7), (".reference_2", 0.4))
    }
    # The joint attention, then that of each adapter, over its images together.
    first, second = (call for call in kept[BLOCK][:3] if call.scores.shape[-1] < 9)
    assert np.allclose(layers[BLOCK]["logits"][0], first.scores[0, ..., :4], atol=1e-5)
    assert np.allclose(
        layers[f"{BLOCK}.reference_1"]["logsumexp"][0], first.scores[0].logsumexp(-1), atol=1e-5
    )
    alone = layers[f"{BLOCK}.reference_2"]
    assert np.allclose(alone["logits"][0], second.scores[0], atol=1e-5)
    assert "logsumexp" not in alone


def test_an_adapter_of_flux_that_is_off_keeps_its_images_numbers(store: Path) -> None:
    torch.manual_seed(0)
    own = joint_adapters.flux_adapter(scales=(0.0, 0.4), images=(2, 1))
    assert weights(record(own, store)) == {
        f"transformer_blocks.{block}.attn.reference_2": 0.4 for block in range(2)
    }


def test_a_block_whose_adapter_is_off_is_left_out(store: Path) -> None:
    torch.manual_seed(0)
    flux, sd3 = joint_adapters.flux_adapter(images=(1,)), joint_adapters.sd3_adapter()
    flux.pipeline.set_ip_adapter_scale([[0.0, 0.5]])
    assert weights(record(flux, store)) == {"transformer_blocks.1.attn": 0.5}
    sd3.denoiser.transformer_blocks[0].attn2.processor.scale = 0.0
    found = weights(record(sd3, store, overwrite=True))
    assert found == {"transformer_blocks.0.attn": 0.6, "transformer_blocks.1.attn": 0.6}


@pytest.mark.parametrize("build", [joint_adapters.flux_adapter, joint_adapters.sd3_adapter])
def test_an_adapter_that_is_off_everywhere_is_refused(
    build: Callable[[], Family], store: Path
) -> None:
    torch.manual_seed(0)
    own = build()
    for processor in own.denoiser.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [0.0] if isinstance(processor.scale, list) else 0.0
    with pytest.raises(CaptureError, match=r"Expected an IP-Adapter that is switched on"):
        record(own, store)


def kontext_with_adapter() -> Family:
    own = families.flux_kontext()
    joint_adapters.load_flux_adapters(own.pipeline)
    own.call["ip_adapter_image"] = [noise_image(32)]
    return own


def test_beside_kontext_the_adapter_is_captured_where_it_is_named(store: Path) -> None:
    torch.manual_seed(0)
    own = kontext_with_adapter()
    with explicit_attention(own.denoiser) as kept:
        record(own, store)
    assert compare(own, store, kept) < 1e-5, "the picture that Kontext edits"
    with explicit_attention(own.denoiser) as kept:
        layers = record(own, store, profile="flux-ip-adapter", overwrite=True)
    call = next(call for call in kept[BLOCK] if call.scores.shape[-1] == 4)
    patches = 8 * 8 // 4
    assert np.allclose(layers[BLOCK]["logits"][0], call.scores[0, :, :patches], atol=1e-5)
    assert layers[BLOCK].attrs["i2am"]["generated_grid"] == [4, 4]


def redux_with_adapter() -> Family:
    own = families.flux_redux()
    joint_adapters.load_flux_adapters(own.pipeline)
    own.call["ip_adapter_image"] = [noise_image(32)]
    return own


def test_two_kinds_of_reference_have_to_be_told_apart(store: Path) -> None:
    message = (
        r"got one beside that of Kontext or Redux. Say which to capture: profile='flux-ip-adap"
    )
    torch.manual_seed(0)
    redux, kontext = redux_with_adapter(), kontext_with_adapter()
    for own, target in ((redux, redux.pipeline), (kontext, kontext.denoiser)):
        with pytest.raises(CaptureError, match=message):
            record(own, store, target=target, overwrite=True)
    assert len(record(redux, store, profile="flux", overwrite=True)) == 3
    assert list(record(redux, store, profile="flux-ip-adapter", overwrite=True)) == [BLOCK]


def test_each_of_several_prompts_reads_the_picture(store: Path) -> None:
    torch.manual_seed(0)
    own = joint_adapters.flux_adapter(images=(1,))
    given = {name: value for name, value in own.call.items() if name.endswith("embeds")}
    two = {name: torch.cat([value, value.roll(1, -1)]) for name, value in given.items()}
    with (
        explicit_attention(own.denoiser) as kept,
        capture(own.pipeline, store, sample=["a", "b"], dtype="float32") as recording,
    ):
        own.run(1, **two)
        for sample in "ab":
            recording.add_images(sample=sample, generated=own.blank(), reference=SQUARE)
    call = next(call for call in kept[BLOCK] if call.scores.shape[-1] == 4)
    for row, sample in enumerate("ab"):
        layer = models.opened(store / sample / "layers" / BLOCK)
        assert np.allclose(layer["logits"][0], call.scores[row], atol=1e-5)


def test_a_call_without_some_layers_is_not_captured(store: Path) -> None:
    torch.manual_seed(0)
    own = joint_adapters.sd3_adapter()
    skipping = {"skip_guidance_layers": [1], "skip_layer_guidance_start": -1.0}
    skipping |= {"skip_layer_guidance_stop": 1.0}
    with explicit_attention(own.denoiser) as kept:
        record(own, store, given=skipping)
    # Each step has another call, of the first block alone.
    assert len(kept["transformer_blocks.0.attn"]) == 2 * len(kept["transformer_blocks.1.attn"])
    layer = models.opened(store / "one" / "layers" / "transformer_blocks.0.attn")
    guided = [call for call in kept[BLOCK] if len(call.scores) == 2 and call.scores.shape[-1] == 28]
    for step, call in enumerate(guided):
        assert np.allclose(layer["logits"][step], call.scores[1, ..., 24:], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "box"),
    [
        # CLIP's processor cuts out the middle, SigLIP's resizes the picture whatever its shape.
        (lambda: joint_adapters.flux_adapter(images=(1,)), [0, 32, 32, 64]),
        (joint_adapters.sd3_adapter, None),
    ],
)
def test_the_part_that_the_encoder_saw_is_stored(
    build: Callable[[], Family], box: list[int] | None, store: Path
) -> None:
    torch.manual_seed(0)
    own, picture = build(), noise_image(32, width=96)
    with capture(own.pipeline, store, sample="one") as recording:
        given = [picture] if own.profile.startswith("flux") else picture
        own.run(1, ip_adapter_image=given)
        recording.add_images(generated=own.blank(), reference=picture)
    attributes = models.opened(store / "one" / "images")["reference"].attrs
    assert dict(attributes).get("i2am", {}).get("box") == box


def test_flux_without_an_adapter_is_served_as_before(store: Path) -> None:
    torch.manual_seed(0)
    own = joint_adapters.flux_adapter(kind=diffusers.FluxPipeline)
    own.pipeline.unload_ip_adapter()
    with (
        pytest.raises(CaptureError, match=r"Call FLUX Kontext with an image, or FLUX with the"),
        capture(own.pipeline, store, sample="a"),
    ):
        own.run(1, ip_adapter_image=None, negative_ip_adapter_image=None)
