"""Frames that are given as the reference: two denoisers in turn, tokens at their own timesteps, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

from i2am.capture import GenerationSettings, SampleInputs, capture
from i2am.capture.families.first_frame import VideoTokens
from i2am.capture.families.lookup import find_profile
from i2am.schemas import CaptureError
from tests.support.explicit_attention import Attended, explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import models, videos
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.family import Family, noise_image

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # in a scheduler
STEPS = 4
SIZE = videos.HEIGHT * videos.WIDTH_PX
SQUARE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def build(name: str) -> Family:
    torch.manual_seed(0)
    return FAMILIES[name]()


def shared_steps() -> Family:
    """Return Wan 2.2, whose first transformer runs at two of four steps."""
    return build("wan-2.2")


def record(
    family: Family, store: Path, call: dict[str, Any] | None = None, **options: Any
) -> torch.Tensor:
    """Capture a run of four steps, and return its latents."""
    target = options.pop("target", family.pipeline)
    with capture(target, store, sample="one", dtype="float32", **options) as recording:
        output: torch.Tensor = family.run(STEPS, **(call or {}))
        recording.add_images(generated=family.blank(), reference=SQUARE)
    return output


def layers_of(store: Path, sample: str = "one") -> dict[str, Any]:
    return dict(models.opened(store / sample / "layers").groups())


def first_frame_logits(calls: list[Attended], row: int = 0) -> Any:
    """Return the logits of the later frames over the first, of one row, dims (call, head, P, R)."""
    return torch.stack([call.scores[row][:, SIZE:, :SIZE] for call in calls]).numpy()


def hooks_of(family: Family) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for denoiser in family.denoisers
        for module in denoiser.modules()
    )


# --- Two denoisers that share the steps.


@pytest.mark.parametrize(("number", "own"), [(0, slice(0, 2)), (1, slice(2, 4))])
def test_the_steps_of_each_denoiser_are_what_it_computed(
    number: int, own: slice, store: Path
) -> None:
    family = shared_steps()
    with explicit_attention(family.denoisers[number]) as kept:
        record(family, store)
    assert models.opened(store / "one")["step"][...].tolist() == [0, 1, 2, 3]
    for name, layer in layers_of(store).items():
        assert len(kept[name]) == 4, "two steps, each conditional and unconditional"
        expected = first_frame_logits(kept[name][::2])
        assert np.allclose(stored_logits(layer)[own], expected, atol=1e-5)


def test_both_branches_and_another_scale_for_the_late_steps(store: Path) -> None:
    family = shared_steps()
    with explicit_attention(*family.denoisers) as kept:
        output = record(family, store, {"guidance_scale_2": 1.5}, guidance="both")
    assert not torch.equal(output, family.run(STEPS)), "the scale does something"
    sample = models.opened(store / "one")
    assert sample["guidance"][...].tolist() == ["unconditional", "conditional"]
    for name, layer in layers_of(store).items():
        for branch in (0, 1):  # Called in turn, the conditional one first.
            expected = first_frame_logits(kept[name][1 - branch :: 2])
            assert np.allclose(stored_logits(layer, branch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kept", "first"), [(None, [0, 2]), ([2, 3], [None, 2]), ([0], [0, None]), (3, [0, 3])]
)
def test_provenance_says_at_which_kept_step_each_denoiser_begins(
    kept: Any, first: list[int | None], store: Path
) -> None:
    record(shared_steps(), store, steps=kept)
    attributes = models.opened(store / "one").attrs["i2am"]
    assert attributes["denoiser_first_steps"] == first
    assert attributes["steps"] == STEPS


def test_late_steps_alone_are_the_second_denoisers(store: Path) -> None:
    family = shared_steps()
    with explicit_attention(family.denoisers[1]) as kept:
        record(family, store, steps=[2, 3])
    assert models.opened(store / "one")["step"][...].tolist() == [2, 3]
    for name, layer in layers_of(store).items():
        expected = first_frame_logits(kept[name][::2])
        assert np.allclose(stored_logits(layer), expected, atol=1e-5)


def test_the_hooks_are_gone_from_both_denoisers_also_between_two_samples(store: Path) -> None:
    family = shared_steps()
    pristine, before = hooks_of(family), family.run(STEPS)
    with capture(family.pipeline, store, sample="one") as recording:
        first = family.run(STEPS)
        recording.add_images(generated=family.blank(), reference=SQUARE)
        attached = hooks_of(family)
        recording.next_sample("two")
        assert hooks_of(family) == attached > pristine
        second = family.run(STEPS)
        recording.add_images(generated=family.blank(), reference=SQUARE)
    assert torch.equal(before, first)
    assert torch.equal(before, second)
    assert hooks_of(family) == pristine
    one, two = (layers_of(store, sample) for sample in ("one", "two"))
    assert one.keys() == two.keys()
    for name, layer in one.items():
        assert np.array_equal(stored_logits(layer), stored_logits(two[name]))


@pytest.mark.parametrize("how", ["around", "in place"])
def test_a_compiled_second_denoiser_still_captures(how: str, store: Path) -> None:
    family = shared_steps()
    with explicit_attention(*family.denoisers) as kept:
        family.run(STEPS)
    second = family.pipeline.transformer_2
    if how == "in place":
        second.compile(backend="eager")
    else:
        family.pipeline.register_modules(transformer_2=torch.compile(second, backend="eager"))
    record(family, store)
    for name, layer in layers_of(store).items():
        expected = first_frame_logits(kept[name][::2])
        assert np.allclose(stored_logits(layer), expected, atol=1e-4)


def test_one_of_two_denoisers_can_be_captured_alone(store: Path) -> None:
    family = shared_steps()
    with explicit_attention(family.denoisers[0]) as kept:
        record(family, store, target=family.denoisers[0])
    sample = models.opened(store / "one")
    assert sample["timestep"][...].tolist() == [1000.0, 667.0]
    for name, layer in layers_of(store).items():
        expected = first_frame_logits(kept[name][::2])
        assert np.allclose(stored_logits(layer), expected, atol=1e-5)


# --- Tokens with timesteps of their own.


@pytest.mark.parametrize("name", ["wan-2.2-5b", "ltx", "ltx-2"])
@pytest.mark.parametrize("is_bare", [False, True], ids=["pipeline", "denoiser"])
def test_of_tokens_with_timesteps_of_their_own_the_noisiest_counts(
    name: str, is_bare: bool, store: Path
) -> None:
    family = build(name)
    record(family, store, target=family.denoiser if is_bare else family.pipeline)
    found = models.opened(store / "one")["timestep"][...]
    assert found == pytest.approx(family.pipeline.scheduler.timesteps.numpy())


def test_of_several_videos_each_is_its_own_row(store: Path) -> None:
    family = build("ltx")
    two = {
        name: torch.cat([value, value.roll(1, -1)])
        for name, value in family.call.items()
        if isinstance(value, torch.Tensor)
    }
    with (
        explicit_attention(family.denoiser) as kept,
        capture(family.pipeline, store, sample=["a", "b"], dtype="float32") as recording,
    ):
        family.run(STEPS, **two)
        for sample in ("a", "b"):
            recording.add_images(sample=sample, generated=family.blank(), reference=SQUARE)
    for row, sample in enumerate(("a", "b")):
        for name, layer in layers_of(store, sample).items():
            # Unconditional rows come first.
            expected = first_frame_logits(kept[name], 2 + row)
            assert np.allclose(stored_logits(layer), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["wan-2.2", "wan-2.2-5b"])
def test_of_several_videos_of_one_call_in_turn_each_is_its_own_row(name: str, store: Path) -> None:
    family = build(name)
    with (
        explicit_attention(*family.denoisers) as kept,
        capture(family.pipeline, store, sample=["a", "b"], dtype="float32") as recording,
    ):
        family.run(STEPS, num_videos_per_prompt=2)
        for sample in ("a", "b"):
            recording.add_images(sample=sample, generated=family.blank(), reference=SQUARE)
    for row, sample in enumerate(("a", "b")):
        for path, layer in layers_of(store, sample).items():
            expected = first_frame_logits(kept[path][::2], row)
            assert np.allclose(stored_logits(layer), expected, atol=1e-5)


def test_calls_that_guide_alone_are_not_kept(store: Path) -> None:
    family = build("ltx-2")
    calls = {"spatio_temporal_guidance_blocks": [0], "stg_scale": 2.0}
    with explicit_attention(family.denoiser) as kept:
        record(family, store, calls)
    assert len(kept["transformer_blocks.0.attn1"]) == 2 * STEPS, "one of three skips its attention"
    assert len(kept["transformer_blocks.1.attn1"]) == 3 * STEPS
    for name, layer in layers_of(store).items():
        guided = [call for call in kept[name] if len(call.scores) == 2]
        assert np.allclose(stored_logits(layer), first_frame_logits(guided, 1), atol=1e-5)


def test_without_guidance_by_text_the_first_call_of_a_step_counts(store: Path) -> None:
    family = build("ltx-2")
    calls: dict[str, Any] = {"guidance_scale": 1.0, "audio_guidance_scale": 1.0}
    calls |= {"spatio_temporal_guidance_blocks": [0]}
    with explicit_attention(family.denoiser) as kept:
        record(family, store, calls)
    for name, layer in layers_of(store).items():
        first = kept[name][:: len(kept[name]) // STEPS]
        assert np.allclose(stored_logits(layer), first_frame_logits(first), atol=1e-5)


def test_a_condition_that_is_no_longer_given_is_refused_and_the_steps_before_are_kept(
    store: Path,
) -> None:
    family = build("ltx-conditions")
    condition = LTXVideoCondition(noise_image(32), frame_index=0, strength=0.1)
    family.call["conditions"] = [condition]
    family = replace(family, frames=2)
    with pytest.raises(
        CaptureError, match=r"3 that are all generated.* leave out late ones with steps="
    ):
        record(family, store)
    record(family, store, steps=[0, 1], overwrite=True)
    assert all(layer.attrs["i2am"]["frames"] == 2 for layer in layers_of(store).values())


def test_a_condition_of_less_strength_stays_given_in_ltx_2(store: Path) -> None:
    family = build("ltx-2-conditions")
    family.call["conditions"] = [LTX2VideoCondition(noise_image(32), strength=0.1, crf=0)]
    family = replace(family, frames=2)
    record(family, store)
    assert models.opened(store / "one")["step"][...].tolist() == [0, 1, 2, 3]


# --- What is not a first frame.


def _ltx_conditions(*conditions: LTXVideoCondition) -> Family:
    family = build("ltx-conditions")
    family.call["conditions"] = list(conditions)
    return family


def _without_conditions() -> Family:
    family = build("ltx-conditions")
    del family.call["conditions"]
    return family


def _ltx2_conditions(*conditions: LTX2VideoCondition) -> Family:
    family = build("ltx-2-conditions")
    family.call["conditions"] = list(conditions)
    return family


def _of_frames(name: str, frames: int) -> Family:
    family = build(name)
    family.call["num_frames"] = frames
    return family


PICTURE = noise_image(32)
FIVE = [noise_image(32, seed) for seed in range(5)]
REFUSED: dict[str, tuple[Callable[[], Family], str]] = {
    "one frame of Wan 2.2": (
        lambda: _of_frames("wan-2.2", 1),
        "besides the given one, got 1 in all",
    ),
    "one frame of LTX": (lambda: _of_frames("ltx", 1), "besides the given one, got 1 in all"),
    "one frame of Hunyuan": (lambda: _of_frames("hunyuan-video", 1), "got 1 in all"),
    "LTX in another order": (
        lambda: _ltx_conditions(
            LTXVideoCondition(PICTURE, frame_index=8), LTXVideoCondition(PICTURE, frame_index=0)
        ),
        r"in the order of their frames, got \[1, 1\] at frames \[8, 0\]",
    ),
    "LTX-2 in another order": (
        lambda: _ltx2_conditions(
            LTX2VideoCondition(PICTURE, index=-1, crf=0), LTX2VideoCondition(PICTURE, crf=0)
        ),
        r"at frames \[2, 0\]",
    ),
    "an LTX condition of several frames": (
        lambda: _ltx_conditions(LTXVideoCondition(video=FIVE)),
        r"Expected single pictures as conditions.* got \[5\]",
    ),
    "an LTX-2 condition of several frames": (
        lambda: _ltx2_conditions(LTX2VideoCondition(FIVE)),
        r"Expected single pictures as conditions.* got \[5\]",
    ),
    "a condition without strength": (
        lambda: _ltx_conditions(
            LTXVideoCondition(PICTURE, strength=0.0), LTXVideoCondition(PICTURE, frame_index=8)
        ),
        r"with strengths \[0.0, 1.0\]",
    ),
    "a condition that LTX-2 leaves out": (
        lambda: _ltx2_conditions(
            LTX2VideoCondition(PICTURE, crf=0), LTX2VideoCondition(PICTURE, index=7, crf=0)
        ),
        r"at frames \[0, 7\]",
    ),
    "LTX without a condition": (_without_conditions, "3 that are all generated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_for_certain_is_refused(case: str, store: Path) -> None:
    make, message = REFUSED[case]
    family = make()
    with pytest.raises(CaptureError, match=message) as caught:
        record(family, store)
    assert len(str(caught.value)) <= 300
    assert models.opened(store / "one").attrs["i2am"]["status"] == "failed"


def text_to_video() -> Any:
    torch.manual_seed(0)
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=videos.wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=videos.wan22("5B").denoiser,
    )


@pytest.mark.parametrize("is_expanded", [False, True])
def test_a_video_of_text_alone_has_no_reference(is_expanded: bool, store: Path) -> None:
    pipeline = text_to_video()
    pipeline.register_to_config(expand_timesteps=is_expanded)
    with pytest.raises(CaptureError, match="got WanPipeline with WanTransformer3DModel"):
        capture(pipeline, store, sample="a")
    call = {name: value for name, value in build("wan-2.2-5b").call.items() if name != "image"}
    message = "Expected a frame that is given, got 3 that are all generated"
    for target, profile in ((pipeline.transformer, None), (pipeline, "wan-first-frame")):
        with (
            pytest.raises(CaptureError, match=message),
            capture(target, store, sample="a", overwrite=True, profile=profile),
        ):
            pipeline(num_inference_steps=1, output_type="latent", **call)


def test_a_frame_that_is_given_in_part_is_refused(store: Path) -> None:
    family = build("wan-2.2-5b")
    denoiser, (height, width) = family.denoiser, (videos.HEIGHT, videos.WIDTH_PX)
    timestep = torch.full((1, 3 * SIZE), 900.0)
    timestep[:, : SIZE // 2] = 0
    with (
        pytest.raises(CaptureError, match="Expected frames that are given whole"),
        capture(denoiser, store, sample="a"),
        torch.no_grad(),
    ):
        denoiser(
            torch.randn(1, 4, 3, 2 * height, 2 * width), timestep, family.call["prompt_embeds"]
        )


def test_latents_that_are_given_instead_of_the_image_have_no_known_size(store: Path) -> None:
    family = build("ltx")
    family.call["image"] = None
    latents = torch.randn(1, 3 * SIZE, 4)
    with capture(family.pipeline, store, sample="one") as recording:
        family.run(1, latents=latents)
        with pytest.raises(CaptureError, match="its 2×4 tokens, as nothing tells how it was"):
            recording.add_images(reference=noise_image(32))
        recording.add_images(generated=family.blank(), reference=noise_image(32, width=64))


# --- Which profile.


def _pipeline_of(name: str) -> Any:
    return build(name).pipeline


TARGETS: dict[str, tuple[Callable[[], Any], str]] = {
    "Wan 2.1": (lambda: _pipeline_of("wan-image-to-video"), "wan-image-to-video"),
    "Wan 2.1's transformer": (lambda: build("wan-image-to-video").denoiser, "wan-image-to-video"),
    "Wan 2.2": (lambda: _pipeline_of("wan-2.2"), "wan-first-frame"),
    "Wan 2.2's transformer": (lambda: build("wan-2.2").denoiser, "wan-first-frame"),
    "Wan 2.2 5B": (lambda: _pipeline_of("wan-2.2-5b"), "wan-first-frame"),
    "Wan VACE": (lambda: _pipeline_of("wan-vace"), "wan-vace"),
    "LTX": (lambda: _pipeline_of("ltx"), "ltx-first-frame"),
    "LTX's transformer": (lambda: build("ltx").denoiser, "ltx-first-frame"),
    "LTX-2": (lambda: _pipeline_of("ltx-2-conditions"), "ltx-first-frame"),
    "HunyuanVideo": (lambda: _pipeline_of("hunyuan-video"), "hunyuan-first-frame"),
    "HunyuanVideo 1.5": (lambda: _pipeline_of("hunyuan-video-1.5"), "hunyuan-1.5"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_profile_is_found_by_what_the_denoiser_holds(case: str) -> None:
    make, profile = TARGETS[case]
    assert find_profile(make()).name == profile


def animate() -> Any:
    with torch.device("meta"):
        return diffusers.WanAnimateTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, num_layers=1, inject_face_latents_blocks=1
        )


def test_wan_animate_is_refused_with_the_reason() -> None:
    with pytest.raises(
        CaptureError, match=r"\(Wan-Animate\), which may read .* in several samplings"
    ):
        find_profile(animate())


def test_vace_without_an_image_is_refused(store: Path) -> None:
    family = build("wan-vace")
    family.call["reference_images"] = None
    with pytest.raises(CaptureError, match="Expected a frame that is given, got 3 that are all"):
        record(family, store)


def test_hunyuan_without_an_image_is_refused() -> None:
    transformer = build("hunyuan-video").denoiser
    transformer.register_to_config(image_condition_type=None)
    with pytest.raises(CaptureError, match="got HunyuanVideoTransformer3DModel"):
        find_profile(transformer)


def test_wan_2_1_has_the_first_frame_as_a_second_road(store: Path) -> None:
    family = build("wan-image-to-video")
    with explicit_attention(family.denoiser) as kept:
        record(replace(family, frames=2), store, profile="wan-first-frame")
    layers = layers_of(store)
    assert sorted(layers) == ["blocks.0.attn1", "blocks.1.attn1"]
    for name, layer in layers.items():
        attributes = layer.attrs["i2am"]
        assert attributes["reference_grid"] == [1, 2]
        expected = torch.stack([c.scores[0][:, 2:, :2] for c in kept[name][::2]]).numpy()
        assert np.allclose(stored_logits(layer), expected, atol=1e-5)


def test_hunyuan_1_5_has_the_first_frame_as_a_second_road(store: Path) -> None:
    family = build("hunyuan-video-1.5")
    with explicit_attention(family.denoiser) as kept:
        record(replace(family, frames=2), store, profile="hunyuan-first-frame")
    for name, layer in layers_of(store).items():
        assert layer.attrs["i2am"]["generated_grid"] == [2 * videos.HEIGHT, videos.WIDTH_PX]
        scores = torch.stack([call.scores[0] for call in kept[name][::2]])
        expected = scores[:, :, SIZE : 3 * SIZE, :SIZE].numpy()
        assert np.allclose(stored_logits(layer), expected, atol=1e-5)


def test_hunyuan_1_5_of_text_alone_is_refused(store: Path) -> None:
    parts = build("hunyuan-video-1.5").pipeline.components
    names = ("image_encoder", "feature_extractor")
    pipeline = diffusers.HunyuanVideo15Pipeline(
        **{k: v for k, v in parts.items() if k not in names}
    )
    with pytest.raises(CaptureError, match="got HunyuanVideo15Pipeline"):
        capture(pipeline, store, sample="a")
    call = {k: v for k, v in build("hunyuan-video-1.5").call.items() if k != "image"}
    with (
        pytest.raises(CaptureError, match="Expected SigLIP's tokens of a picture, got zeros"),
        capture(pipeline.transformer, store, sample="a"),
    ):
        pipeline(num_inference_steps=1, output_type="latent", height=32, width=64, **call)


# --- A manifest's row, and the tokens themselves.


@pytest.mark.parametrize(
    ("name", "side"), [("wan-2.2", 32), ("ltx", 32), ("hunyuan-video-latent-concat", 32)]
)
def test_what_is_generated_of_a_row_are_the_frames_after_the_first(name: str, side: int) -> None:
    family = build(name)
    profile = find_profile(family.pipeline)
    assert profile.generate is not None
    arguments = {key: value for key, value in family.call.items() if key != "image"}
    settings = GenerationSettings(steps=1, arguments=arguments | {"num_frames": 13})
    (image,) = profile.generate(
        family.pipeline, [SampleInputs(None, None, PICTURE, seed=1)], settings
    )
    assert image.size == (64, 3 * side)


def test_tokens_are_a_slice_where_frames_follow_each_other_and_indices_elsewhere() -> None:
    video = VideoTokens(4, 1, 2, given=(1,), start=5)
    assert list(video.generated) == [0, 2, 3]
    found = video.tokens(video.generated)
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [5, 6, 9, 10, 11, 12]
    assert video.tokens(range(1, 2)) == slice(7, 9)
    assert VideoTokens(4, 1, 2, given=(0, 3)).generated == range(1, 3)
    assert not VideoTokens(1, 1, 2).generated
