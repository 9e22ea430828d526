"""Models that look like others: what reads the reference is served and right, all else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import zarr
from torch import nn

from i2am.capture import Profile, capture, cross_attention
from i2am.capture.families.lookup import find_profile, register
from i2am.capture.profiles import profile as profiles
from i2am.capture.profiles.denoisers import find_denoisers
from i2am.schemas import CaptureError
from tests.support.compvis.models import (
    DDIMSampler,
    LatentDiffusion,
    cross_attentions,
    paint_by_example,
)
from tests.support.explicit_attention import Attended, explicit_attention
from tests.support.look_alikes import (
    TEXT,
    add_attention,
    adopted,
    foreign_class,
    foreign_unet,
    with_own_forward,
)
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import families, models, parts
from tests.support.tiny_pipelines.models import opened
from tests.support.tiny_pipelines.parts import WIDTH

BLANK = np.zeros((8, 8, 3), np.uint8)
OWN = "your own Profile (docs/how-to/own-models.md)"
GARMENT = "self-attention (attn1)"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


# --- What cannot be right is refused before the model runs.


def with_text_setting() -> Any:
    return parts.unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )


def with_more_attention() -> Any:
    unet = parts.unet()
    add_attention(unet, "mid_block.attentions.0.transformer_blocks.0.attn3")
    return unet


def stable_diffusion(**_: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=parts.vae(),
        text_encoder=None,
        tokenizer=None,
        unet=parts.unet(),
        scheduler=parts.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def namesake_with_adapter() -> nn.Module:
    unet = foreign_unet("research.unet")
    attention: Any = unet.get_submodule(TEXT[0])
    attention.processor = SimpleNamespace(to_k_ip=nn.Linear(8, 8), scale=1.0)
    return unet


def control_ldm() -> Any:
    model = paint_by_example()
    model.__class__ = type("ControlLDM", (LatentDiffusion,), {"__module__": "cldm.cldm"})
    model.learnable_vector = None  # type: ignore[assignment]
    return model


def on(pipeline: str, module: str, **held: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: adopted(pipeline, module, **{name: build() for name, build in held.items()})


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a reference network": (
        on("PersonPipeline", "research.pipeline", unet=parts.unet, referencenet=nn.Identity),
        (
            "PersonPipeline of 'research'",
            "with a reference network",
            GARMENT,
            "profile='garment-network' if",
        ),
    ),
    "a namesake of diffusers' UNet": (
        lambda: foreign_unet("research.unet"),
        ("not diffusers' own class", "Nearest profile: 'unet'. Give profile='unet' if"),
    ),
    "a namesake with an IP-Adapter": (
        namesake_with_adapter,
        ("UNet2DConditionModel of 'research', which is not diffusers' own class",),
    ),
    "a namesake of diffusers' FLUX": (
        lambda: foreign_unet("research.flux", name="FluxTransformer2DModel"),
        ("FluxTransformer2DModel of 'research'", "Nearest profile: 'flux'"),
    ),
    "a namesake of a served pipeline": (
        on("PaintByExamplePipeline", "research", unet=lambda: foreign_unet("research.unet")),
        ("PaintByExamplePipeline of 'research'", "Nearest profile: "),
    ),
    "a UNet with attention of its own": (
        with_more_attention,
        ("attention that diffusers' has not, at 'mid_block", "attn3'", "profile='unet'"),
    ),
    "a UNet with a forward of its own": (
        with_own_forward,
        ("TryOnUNet of 'tests', which has a forward of its own", "profile='unet'"),
    ),
    "a UNet that is set up for text": (
        with_text_setting,
        ("says that it reads text (addition_embed_type='text_time')", "profile='unet'"),
    ),
    "text-to-image": (
        stable_diffusion,
        ("may read text", "Load an IP-Adapter first", "'ip-adapter'", "profile='unet'"),
    ),
    "ControlNet of CompVis' code": (
        control_ldm,
        ("ControlLDM of 'cldm' with UNetModel", "profile='compvis'", "no text"),
    ),
    "an autoencoder": (parts.vae, ("got AutoencoderKL, which is near to none.",)),
}


@pytest.mark.parametrize(("build", "told"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_no_profile_knows_is_refused_in_three_lines(
    build: Callable[[], Any], told: tuple[str, ...], store: Path
) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(build(), store, sample="a")
    message = str(caught.value)
    for part in (*told, OWN):
        assert part in message
    assert len(message) <= 300
    assert not store.exists()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("stabilityai/some-model", "got str. Load the model first, as i2am.capture.load_pipeline"),
        (None, "got NoneType. Pass the module that is called at every step."),
        ([parts.unet], "got list. Pass the module"),
    ],
)
def test_what_is_no_model_is_refused(target: Any, told: str, store: Path) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(target, store, sample="a")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"profile": "unett"}, "got 'unett'. Did you mean 'unet'?"),
        ({"profile": "zzz"}, "got 'zzz'. Known: '"),
        ({"profile": ["unet"]}, "got ['unet']. Give a name, such as 'unet', or a Profile."),
        ({"profile": "flux"}, "that profile 'flux' reads, got none in UNet2DConditionModel. Give"),
        ({"profile": "wan-image-to-video"}, "got AttributeError: "),
        ({"layers": "upp*"}, "Expected layers that match 'upp*'"),
        ({"layers": []}, "Expected layers as patterns such as 'up_blocks.*', got [], at layers."),
        ({"layers": 3}, "got 3, at layers"),
        ({"layers": [3]}, "got [3], at layers"),
    ],
    ids=str,
)
def test_a_wrong_profile_or_pattern_is_told_in_three_lines(
    options: dict[str, Any], told: str, store: Path
) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(models.reference_inpaint(), store, sample="a", **options)
    assert told in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_of_two_denoisers_the_second_counts_where_they_share_the_steps() -> None:
    torch.manual_seed(0)
    family = families.wan()
    parts_of = family.pipeline.components | {"transformer_2": families.wan().denoiser}
    pipeline = diffusers.WanImageToVideoPipeline(**parts_of, boundary_ratio=0.5)
    assert find_denoisers(pipeline) == (pipeline.transformer, pipeline.transformer_2)
    assert find_denoisers(pipeline, "transformer_2") == (pipeline.transformer_2,)
    alone = diffusers.WanImageToVideoPipeline(**parts_of)  # Which takes the first at every step.
    assert find_denoisers(alone) == (alone.transformer,)
    assert find_profile(alone).name == "wan-image-to-video"


# --- What may be text is refused when it comes.


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (77, "got 77 as of CLIP's text encoder, at layer 'down_blocks"),
        (154, "got 154 as of CLIP's text encoder, at layer"),
        (81, "got 81 as of CLIP's text encoder with 4 of an IP-Adapter, at layer"),
    ],
)
@pytest.mark.parametrize("width", [768, 2048])
def test_a_text_encoders_tokens_are_stored_only_when_the_profile_is_named(
    tokens: int, width: int, told: str, store: Path
) -> None:
    unet = parts.unet(cross_attention_dim=width)
    with pytest.raises(CaptureError) as caught, capture(unet, store, sample="a"):
        call(unet, tokens)
    message = str(caught.value)
    assert told in message
    for way_out in ("Capture the pipeline", "profile='unet'", OWN):
        assert way_out in message
    assert len(message) <= 300
    assert status(store, "a") == "failed"
    check_bare(unet, store, tokens, profile="unet")


def test_text_in_a_bare_unet_of_compvis_is_refused_unless_the_profile_is_named(store: Path) -> None:
    unet = paint_by_example().model.diffusion_model
    arguments = torch.zeros(1, 9, 16, 16), torch.tensor([1]), torch.zeros(1, 77, 12)
    message = "got 77 as of CLIP's text encoder, at layer 'input_blocks.*profile='compvis'"
    with pytest.raises(CaptureError, match=message), capture(unet, store, sample="a"):
        unet(*arguments)
    with capture(unet, store, sample="b", profile="compvis") as recording:
        unet(*arguments)
        recording.add_images(generated=BLANK, reference=BLANK)
    assert status(store, "b") == "complete"


def test_a_unet_that_is_called_without_a_context_is_refused(store: Path) -> None:
    unet = parts.unet(cross_attention_dim=32)  # As wide as the layers: they take their own input.
    message = "Expected queries and keys of every layer, got none at step 0"
    with pytest.raises(CaptureError, match=message), capture(unet, store, sample="a"):
        unet(torch.zeros(1, 4, 8, 8), 5, None)


# --- What reads the reference is served, and right.


@pytest.mark.parametrize(
    ("tokens", "grid"), [(1, None), (257, [16, 16]), (256, [16, 16]), (7, None)]
)
def test_a_bare_unet_of_diffusers_is_served(
    tokens: int, grid: list[int] | None, store: Path
) -> None:
    layers = check_bare(parts.unet(), store, tokens)
    assert {str(layer.attrs["i2am"]["reference_grid"]) for layer in layers} == {str(grid)}


def test_a_class_that_derives_from_a_served_one_is_served(store: Path) -> None:
    unet = parts.unet()
    unet.__class__ = foreign_class("MyUNet", "mine.unet", diffusers.UNet2DConditionModel)
    check_bare(unet, store, 257)
    pipeline = models.paint_by_example()
    pipeline.__class__ = foreign_class("MyPipeline", "mine", diffusers.PaintByExamplePipeline)
    assert find_profile(pipeline).name == "paint-by-example"


def test_a_compiled_bare_unet_is_served() -> None:
    unet: Any = nn.Module()
    unet._orig_mod = parts.unet()  # As torch.compile wraps it.
    assert find_profile(unet).name == "unet"


def test_a_bare_unet_of_stable_video_diffusion_is_served(store: Path) -> None:
    torch.manual_seed(0)
    unet = families.stable_video_diffusion().denoiser
    with explicit_attention(unet) as kept, capture(unet, store, sample="a", dtype="float32") as run:
        latents, context = torch.randn(1, 3, 8, 8, 16), torch.randn(1, 1, WIDTH)
        with torch.no_grad():
            unet(latents, 5, context, torch.zeros(1, 3))
        run.add_images(generated=BLANK, reference=BLANK)
    layers = dict(opened(store / "a" / "layers").groups())
    assert len(layers) == 8
    for name, layer in layers.items():
        (calls,) = kept[name]
        found = stored_logits(layer)[0]
        expected = calls.scores.numpy()  # (frame or position, head, query, token)
        if "temporal" in name:
            expected = expected.transpose(1, 2, 0, 3).reshape(found.shape)
        else:
            expected = expected.transpose(1, 0, 2, 3).reshape(found.shape)
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_anydoor_is_served_by_its_encoder_and_text_is_not(store: Path) -> None:
    model: Any = paint_by_example()
    model.__class__ = foreign_class("ControlLDM", "cldm.cldm", LatentDiffusion)
    unet = model.model.diffusion_model
    unet.__class__ = foreign_class("ControlledUnetModel", "cldm.cldm", type(unet))
    model.learnable_vector = None
    model.cond_stage_model = foreign_class("FrozenDinoV2Encoder", "ldm.modules", nn.Module)()
    tokens = torch.randn(1, 257, 12)
    model.exemplars = lambda batch: tokens.repeat(batch, 1, 1)
    with capture(model, store, sample="a", dtype="float32") as recording:
        DDIMSampler(model).sample(2)
        recording.add_images(generated=BLANK, reference=BLANK)
    for name, attention in cross_attentions(model).items():
        layer = opened(store / "a" / "layers" / name)
        assert layer.attrs["i2am"]["reference_grid"] == [16, 16]
        expected = torch.cat(attention.scores)
        np.testing.assert_allclose(stored_logits(layer), expected, atol=2e-6)


def test_a_profile_of_ones_own_serves_what_ours_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_profiles", dict(profiles._profiles))
    mine = Profile("mine", ("UNet2DConditionModel",), cross_attention)
    unet = foreign_unet("research.unet")
    with pytest.raises(CaptureError):
        find_profile(unet)
    assert find_profile(unet, mine) is mine
    assert find_profile(register_and_return(mine, unet)) is mine


def register_and_return(mine: Profile, unet: nn.Module) -> nn.Module:
    register(mine)
    return unet


def call(unet: Any, tokens: int) -> None:
    noise = torch.Generator().manual_seed(tokens)
    width = unet.config.cross_attention_dim
    context = torch.randn(1, tokens, width, generator=noise)
    with torch.no_grad():
        unet(torch.randn(1, 4, 8, 16, generator=noise), 5, context)


def check_bare(unet: Any, store: Path, tokens: int, **options: Any) -> list[Any]:
    """Capture one call and compare each layer with the witness; return the layers."""
    with (
        explicit_attention(unet) as kept,
        capture(unet, store, sample="one", dtype="float32", **options) as recording,
    ):
        call(unet, tokens)
        recording.add_images(generated=BLANK, reference=BLANK)
    layers = dict(opened(store / "one" / "layers").groups())
    assert set(layers) == {name for name in kept if name.endswith("attn2")}
    for name, layer in layers.items():
        calls: list[Attended] = kept[name]
        assert calls[0].scores.shape[-1] == tokens
        np.testing.assert_allclose(stored_logits(layer)[0], calls[0].scores[0], atol=3e-6)
    return list(layers.values())


def status(store: Path, sample: str) -> str:
    group: Any = zarr.open_group(store, mode="r")[sample]
    found: str = group.attrs["i2am"]["status"]
    return found
