"""IP-Adapters as people have them: several, switched off in layers or on the way, of other makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import zarr
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import families, parts
from tests.support.tiny_pipelines.families import noise_image
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.parts import WIDTH

BLANK = np.zeros((16, 32, 3), np.uint8)
SQUARE = np.zeros((8, 8, 3), np.uint8)  # as the references
ONE_BLOCK = {"up": {"block_0": [0.0, 1.0]}}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def layers(store: Path) -> dict[str, Any]:
    group: Any = zarr.open_group(store, mode="r")["a/layers"]
    return dict(group.groups())


def test_each_of_two_adapters_keeps_its_number_where_the_other_is_off(store: Path) -> None:
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


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        pytest.param(ONE_BLOCK, 0.7, "scale 0 at every step, got 0.7", id="spread"),
        pytest.param(0.7, ONE_BLOCK, "scale 0.7 at every step, got 0", id="withdrawn"),
        pytest.param(0.7, 0.3, "scale 0.7 at every step, got 0.3", id="faded"),
    ],
)
def test_a_scale_that_changes_on_the_way_is_refused(
    first: Any, later: Any, message: str, store: Path
) -> None:
    family = families.ip_adapter("full")
    family.pipeline.set_ip_adapter_scale(first)

    def change(pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipeline.set_ip_adapter_scale(later)
        return values

    with (
        pytest.raises(CaptureError, match=f"{message}, at layer .* changed on the way. Set it"),
        capture(family.pipeline, store, sample="a"),
    ):
        family.run(4, callback_on_step_end=change)
    # The way out that the message tells.
    family.pipeline.set_ip_adapter_scale(first)
    with capture(family.pipeline, store, sample="b", steps=[0, 1]) as recording:
        family.run(4, callback_on_step_end=change)
        recording.add_images(generated=BLANK, reference=SQUARE)
    assert zarr.open_group(store, mode="r")["b/step"][...].tolist() == [0, 1]  # type: ignore[index, union-attr]


def test_masks_are_refused(store: Path) -> None:
    family = families.ip_adapter("full", images=2)
    left = Image.fromarray(np.array([[255] * 16 + [0] * 16] * 16, np.uint8))
    right = ImageOps.invert(left)
    masks = IPAdapterMaskProcessor().preprocess([left, right], height=16, width=32)
    given = {"ip_adapter_masks": [masks.reshape(1, 2, 16, 32)]}
    family.pipeline.set_ip_adapter_scale([[0.7, 0.7]])
    with (
        pytest.raises(CaptureError, match="Expected an IP-Adapter without masks, got masks, at"),
        capture(family.pipeline, store, sample="a"),
    ):
        family.run(2, cross_attention_kwargs=given)


class OriginalProcessor(nn.Module):
    """As the adapters' own library has it: one projection, for the last tokens of the states."""

    def __init__(self, width: int, states_width: int, tokens: int) -> None:
        super().__init__()
        self.scale, self.num_tokens = 1.0, tokens
        self.to_k_ip = nn.Linear(states_width, width, bias=False)
        self.to_v_ip = nn.Linear(states_width, width, bias=False)
        self.scores: list[torch.Tensor] = []

    def __call__(
        self, attention: Any, hidden_states: Any, encoder_hidden_states: Any, *_: Any, **__: Any
    ) -> Any:
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.view(*states.shape[:2], attention.heads, -1).transpose(1, 2)

        text = encoder_hidden_states[:, : -self.num_tokens]
        image = encoder_hidden_states[:, -self.num_tokens :]
        query, image_key = heads(attention.to_q(hidden_states)), heads(self.to_k_ip(image))
        attend = functional.scaled_dot_product_attention
        mixed = attend(query, heads(attention.to_k(text)), heads(attention.to_v(text)))
        mixed = mixed + self.scale * attend(query, image_key, heads(self.to_v_ip(image)))
        self.scores.append(query @ image_key.mT * query.shape[-1] ** -0.5)
        return attention.to_out[1](attention.to_out[0](mixed.transpose(1, 2).flatten(2)))


def original() -> tuple[Any, dict[str, Any]]:
    """Return a pipeline with the original processors, and its call."""
    torch.manual_seed(0)
    unet = parts.unet()
    unet.set_attn_processor(
        {
            name: OriginalProcessor(
                unet.get_submodule(name[: -len(".processor")]).inner_dim, WIDTH, 4
            )
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
    states = torch.randn(1, 11, WIDTH)
    call = {"prompt_embeds": states, "negative_prompt_embeds": -states, "height": 16, "width": 32}
    return parts.quiet(pipeline), call


def test_the_original_librarys_processors_are_captured(store: Path) -> None:
    pipeline, call = original()
    with capture(pipeline, store, sample="a", dtype="float32") as recording:
        pipeline(num_inference_steps=2, output_type="latent", **call)
        recording.add_images(generated=BLANK, reference=SQUARE)
    found = layers(store)
    assert len(found) == 4
    for name, layer in found.items():
        own = layer.attrs["i2am"]
        assert (own["reference_grid"], own.get("weight", 1.0)) == (None, 1.0)
        processor = pipeline.unet.get_submodule(name).processor
        expected = torch.stack(processor.scores)[:, 1]  # the conditional row
        np.testing.assert_allclose(stored_logits(layer), expected.detach().numpy(), atol=2e-6)


def test_an_original_adapter_that_is_off_is_refused(store: Path) -> None:
    pipeline, _ = original()
    for processor in pipeline.unet.attn_processors.values():
        if isinstance(processor, OriginalProcessor):
            processor.scale = 0.0
    with pytest.raises(CaptureError, match="Expected an IP-Adapter that is switched on"):
        capture(pipeline, store, sample="a")
