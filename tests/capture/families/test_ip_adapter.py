"""IP-Adapters as people have them: several, switched off in layers or on the way, of other makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import zarr
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from i2am.analysis import analyze, describe_store, open_run, summarise_store
from i2am.capture import capture
from i2am.schemas import CaptureError, find_faults
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import families, parts
from tests.support.tiny_pipelines.families import Family, noise_image
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.parts import WIDTH

BLANK = np.zeros((16, 32, 3), np.uint8)
SQUARE = np.zeros((8, 8, 3), np.uint8)  # as the references
ONE_BLOCK = {"up": {"block_0": [0.0, 1.0]}}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def layers(store: Path, sample: str = "a") -> dict[str, Any]:
    group: Any = zarr.open_group(store, mode="r")[f"{sample}/layers"]
    return dict(group.groups())


def style_and_face() -> Family:
    """Return a pipeline with a plain adapter and a full-face one."""
    torch.manual_seed(5)
    family = families.ip_adapter("full")
    pipeline = family.pipeline
    pipeline.unload_ip_adapter()
    pipeline.image_encoder = parts.clip(CLIPVisionModelWithProjection)
    pipeline.feature_extractor = parts.clip_processor()
    style, face = checkpoint(pipeline.unet, "plain", WIDTH), checkpoint(pipeline.unet, "full", 32)
    pipeline.load_ip_adapter(
        [style, face], subfolder="", weight_name=["", ""], image_encoder_folder=None
    )
    return family


def test_each_of_two_adapters_keeps_its_number_where_the_other_is_off(store: Path) -> None:
    family = style_and_face()
    pipeline = family.pipeline
    pipeline.set_ip_adapter_scale([ONE_BLOCK, 0.6])
    # Two pictures of style, so that the face is the third reference.
    pictures = [[noise_image(32, 1), noise_image(32, 3)], noise_image(32, 2)]
    with capture(pipeline, store, sample="a") as recording:
        family.run(2, ip_adapter_image=pictures)
        recording.add_images(
            generated=BLANK, reference=SQUARE, reference_1=SQUARE, reference_2=SQUARE
        )
    found: dict[tuple[int, int, float], int] = {}
    for name, layer in layers(store).items():
        own = layer.attrs["i2am"]
        index = own["reference_index"]
        tokens = layer["key"].shape[-2] if "key" in layer else layer["logits"].shape[-1]
        assert name.endswith(f".attn2.reference_{index}" if index else ".attn2")
        kind = (index, tokens, own.get("weight", 1.0))
        found[kind] = found.get(kind, 0) + 1
    assert found == {(0, 4, 1.0): 1, (1, 4, 1.0): 1, (2, 17, 0.6): 4}


def changing(scales: Sequence[Any]) -> dict[str, Any]:
    """Return a call that sets the scale of each step after the one before."""

    def change(pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipeline.set_ip_adapter_scale(scales[min(step + 1, len(scales) - 1)])
        return values

    return {"callback_on_step_end": change}


def record(
    family: Family, store: Path, scales: Sequence[Any], sample: str = "a", **options: Any
) -> dict[str, Any]:
    """Capture a run whose scale changes, a step each, and return its layers."""
    family.pipeline.set_ip_adapter_scale(scales[0])
    with capture(family.pipeline, store, sample=sample, **options) as recording:
        family.run(len(scales), **changing(scales))
        recording.add_images(generated=BLANK, reference=SQUARE)
    return layers(store, sample)


@pytest.mark.parametrize("representation", ["auto", "maps"])
def test_a_scale_that_changes_is_stored_by_step(representation: Any, store: Path) -> None:
    family = families.ip_adapter("plain")
    scales = [0.7, {"up": 0.5, "mid": 0.7, "down": 0.7}, -0.25, 1.0]
    family.pipeline.set_ip_adapter_scale(1.0)
    found = record(family, store, scales, representation=representation)
    assert len(found) == 4
    for name, layer in found.items():
        second = 0.5 if name.startswith("up") else 0.7
        assert layer["weight"].metadata.dimension_names == ("step",)
        assert layer["weight"].dtype == np.float32
        np.testing.assert_array_equal(
            layer["weight"][:], np.array([0.7, second, -0.25, 1], np.float32)
        )
        assert "weight" not in layer.attrs["i2am"]
    assert not list(find_faults(describe_store(store)))
    # The maps are those of the attention: its weight is told, not applied.
    maps: Any = analyze(open_run(store)["a"])
    np.testing.assert_allclose(maps["r2g/volume"].sum(["y", "x"]), 1, rtol=1e-4)
    shown = summarise_store(store)["layers"]
    assert all("; weight -0.25 to 1, by step" in line for line in shown)
    # Of the steps that are kept alone: they have one weight, which then is an attribute.
    kept = record(family, store, [0.7, 0.7, 0.25], "b", steps=[0, 1])
    for layer in kept.values():
        assert ("weight" in layer, layer.attrs["i2am"]["weight"]) == (False, 0.7)


@pytest.mark.parametrize(
    ("first", "later", "came"),
    [
        pytest.param(ONE_BLOCK, 0.7, "got none before at layer 'down_blocks", id="spread"),
        pytest.param(0.7, ONE_BLOCK, "got none there at layer 'down_blocks", id="withdrawn"),
    ],
)
def test_layers_that_join_or_leave_on_the_way_are_refused(
    first: Any, later: Any, came: str, store: Path
) -> None:
    family = families.ip_adapter("full")
    zero = dict.fromkeys(("down", "mid", "up"), 0.0)
    family.pipeline.set_ip_adapter_scale(zero)

    def scale(pattern: Any) -> Any:
        return pattern if isinstance(pattern, float) else zero | pattern

    scales = [scale(first)] * 2 + [scale(later)] * 2
    match = f"{came}.*switched on or off before kept step 2.*with steps="
    with pytest.raises(CaptureError, match=match):
        record(family, store, scales)
    # At the last step, too, after which nothing runs.
    with pytest.raises(CaptureError, match=match):
        record(family, store, scales[:3])
    # The ways out that the message tells.
    for sample, steps, pattern in (("b", [0, 1], first), ("c", [2, 3], later)):
        found = record(family, store, scales, sample, steps=steps)
        assert len(found) == (4 if pattern == 0.7 else 1)
        assert zarr.open_group(store, mode="r")[f"{sample}/step"][...].tolist() == steps  # type: ignore[index, union-attr]
    (found,) = record(family, store, scales, "d", layers="up*.1.transformer*").values()
    assert found["weight"].shape == (4,)


def test_an_adapter_that_is_switched_on_later_is_captured_from_there(store: Path) -> None:
    family = families.ip_adapter("full")
    off = "Expected an IP-Adapter that is switched on, got a scale of 0 in every layer .* at step"
    with pytest.raises(CaptureError, match=f"{off} 0. Call set_ip_adapter_scale before"):
        record(family, store, [0.0, 0.0, 0.7, 0.7])
    assert not store.exists()
    with pytest.raises(CaptureError, match=f"{off} 1. Call .* with steps="):
        record(family, store, [0.0, 0.0, 0.7, 0.7], steps=[1, 2, 3])
    assert len(record(family, store, [0.0, 0.0, 0.7, 0.5], "b", steps=[2, 3])) == 4


def test_layers_that_are_all_off_are_refused_where_others_are_on(store: Path) -> None:
    family = families.ip_adapter("full")
    family.pipeline.set_ip_adapter_scale(0.0)
    with pytest.raises(CaptureError, match="0 in every layer that is captured, at step 0"):
        record(family, store, [ONE_BLOCK], layers="down*")


def test_a_bare_denoiser_with_an_adapter_is_read_as_in_its_pipeline(store: Path) -> None:
    """Not as one whose own cross-attention reads the reference: that is the text's."""
    family = families.ip_adapter("plain")
    for sample, target in (("a", family.pipeline), ("b", family.denoiser)):
        with capture(target, store, sample=sample) as recording:
            family.run(2)
            recording.add_images(generated=BLANK, reference=SQUARE)
    one, other = layers(store, "a"), layers(store, "b")
    assert sorted(one) == sorted(other)
    for name, layer in one.items():
        np.testing.assert_array_equal(stored_logits(layer), stored_logits(other[name]))


class OriginalProcessor(nn.Module):
    """As the adapters' own library has it: one projection, for the last tokens of the states."""

    def __init__(self, width: int, states_width: int, tokens: int) -> None:
        super().__init__()
        self.scale, self.num_tokens, self.selected = 1.0, tokens, True
        self.to_k_ip = nn.Linear(states_width, width, bias=False)
        self.to_v_ip = nn.Linear(states_width, width, bias=False)
        self.scores: list[torch.Tensor] = []

    def query(self, attention: Any, hidden_states: Any) -> torch.Tensor:
        found: torch.Tensor = attention.to_q(hidden_states)
        return found

    def __call__(
        self, attention: Any, hidden_states: Any, encoder_hidden_states: Any, *_: Any, **__: Any
    ) -> Any:
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.view(*states.shape[:2], attention.heads, -1).transpose(1, 2)

        text = encoder_hidden_states[:, : -self.num_tokens]
        image = encoder_hidden_states[:, -self.num_tokens :]
        query = heads(self.query(attention, hidden_states))
        attend = functional.scaled_dot_product_attention
        mixed = attend(query, heads(attention.to_k(text)), heads(attention.to_v(text)))
        if not self.selected:
            return attention.to_out[1](attention.to_out[0](mixed.transpose(1, 2).flatten(2)))
        image_key = heads(self.to_k_ip(image))
        mixed = mixed + self.scale * attend(query, image_key, heads(self.to_v_ip(image)))
        self.scores.append(query @ image_key.mT * query.shape[-1] ** -0.5)
        return attention.to_out[1](attention.to_out[0](mixed.transpose(1, 2).flatten(2)))


class FaceIDProcessor(OriginalProcessor):
    """As the library has it for FaceID: with a LoRA of its own, also for the queries."""

    def __init__(self, width: int, states_width: int, tokens: int) -> None:
        super().__init__(width, states_width, tokens)
        self.lora_scale, self.to_q_lora = 0.5, nn.Linear(width, width, bias=False)

    def query(self, attention: Any, hidden_states: Any) -> torch.Tensor:
        added: torch.Tensor = self.to_q_lora(hidden_states)
        return super().query(attention, hidden_states) + self.lora_scale * added


def original(
    kind: type[OriginalProcessor] = OriginalProcessor, tokens: int = 4
) -> tuple[Any, dict[str, Any]]:
    """Return a pipeline with the original processors, and its call."""
    torch.manual_seed(0)
    unet = parts.unet()
    unet.set_attn_processor(
        {
            name: kind(unet.get_submodule(name[: -len(".processor")]).inner_dim, WIDTH, tokens)
            if name.endswith("attn2.processor")
            else AttnProcessor2_0()
            for name in unet.attn_processors
        }
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=parts.vae(),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=parts.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    states = torch.randn(1, 7 + tokens, WIDTH)
    call = {"prompt_embeds": states, "negative_prompt_embeds": -states, "height": 16, "width": 32}
    return parts.quiet(pipeline), call


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        pytest.param(OriginalProcessor, 4, id="one image"),
        pytest.param(OriginalProcessor, 8, id="two images, whose tokens the library appends alike"),
        pytest.param(OriginalProcessor, 16, id="InstantID"),
        pytest.param(FaceIDProcessor, 4, id="FaceID"),
    ],
)
def test_the_original_librarys_processors_are_captured(
    kind: type[OriginalProcessor], tokens: int, store: Path
) -> None:
    pipeline, call = original(kind, tokens)
    with capture(pipeline, store, sample="a", dtype="float32") as recording:
        pipeline(num_inference_steps=2, output_type="latent", **call)
        recording.add_images(generated=BLANK, reference=SQUARE)
    found = layers(store)
    assert len(found) == 4
    for name, layer in found.items():
        own = layer.attrs["i2am"]
        assert (own["reference_grid"], own.get("weight", 1.0)) == (None, 1.0)
        processor = pipeline.unet.get_submodule(name).processor
        assert (
            layer["logits" if "logits" in layer else "key"].shape[-1 if "logits" in layer else -2]
            == tokens
        )
        expected = torch.stack(processor.scores)[:, 1]  # the conditional row
        np.testing.assert_allclose(stored_logits(layer), expected.detach().numpy(), atol=2e-6)


def test_a_lora_of_a_processors_own_is_refused_where_it_is_not_an_adapters(store: Path) -> None:
    unet = parts.unet()
    attention: Any = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    attention.set_processor(FaceIDProcessor(32, WIDTH, 4))
    del attention.processor.to_k_ip
    message = "got FaceIDProcessor, which adds a Linear to them. Load the LoRA into the layers"
    with pytest.raises(CaptureError, match=message):
        capture(unet, store, sample="a", profile="unet")


def test_an_original_adapter_that_is_off_is_refused(store: Path) -> None:
    pipeline, _ = original()
    for processor in pipeline.unet.attn_processors.values():
        if isinstance(processor, OriginalProcessor):
            processor.scale = 0.0
    with pytest.raises(CaptureError, match="Expected an IP-Adapter that is switched on"):
        capture(pipeline, store, sample="a")


def test_a_processor_that_leaves_its_adapter_out_is_off(store: Path) -> None:
    """As InstantStyle's, whose scale says nothing then."""
    pipeline, call = original()
    for name, processor in pipeline.unet.attn_processors.items():
        if isinstance(processor, OriginalProcessor):
            processor.selected = name.startswith("up")
    with capture(pipeline, store, sample="a") as recording:
        pipeline(num_inference_steps=2, output_type="latent", **call)
        recording.add_images(generated=BLANK, reference=SQUARE)
    assert {name.split(".")[0] for name in layers(store)} == {"up_blocks"}


def test_a_processor_without_a_scale_is_refused(store: Path) -> None:
    pipeline, _ = original()
    for processor in pipeline.unet.attn_processors.values():
        if isinstance(processor, OriginalProcessor):
            del processor.scale
    with pytest.raises(CaptureError, match="processor with a scale, got OriginalProcessor without"):
        capture(pipeline, store, sample="a")
