"""Whose attention a row of the denoiser's batch is: right for each image and branch, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import zarr
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from transformers import CLIPVisionModelWithProjection

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.support.explicit_attention import Attended, explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import families, parts
from tests.support.tiny_pipelines.families import Family, noise_image
from tests.support.tiny_pipelines.ip_adapters import checkpoint

BLANK = np.zeros((16, 32, 3), np.uint8)
SQUARE = np.zeros((8, 8, 3), np.uint8)  # as the references
TOKENS = 17  # of the full-face adapter's reference; no other attention of the model has as many
C, U, P, IMAGE = "conditional", "unconditional", "perturbed", "image"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def adapted(kind: str = "StableDiffusionPipeline", unet: Any = None, **options: Any) -> Any:
    """Return a pipeline of a class of diffusers with a full-face IP-Adapter, and its call."""
    torch.manual_seed(0)
    family = families.ip_adapter("full")
    if kind == "StableDiffusionPipeline":
        return family.pipeline, family.call
    old, made = family.pipeline, getattr(diffusers, kind)
    accepted = inspect.signature(made.__init__).parameters
    given = {name: getattr(old, name, None) for name in old.components if name in accepted}
    given |= {name: value for name, value in options.items() if name in accepted}
    given |= {} if unet is None else {"unet": unet}
    if "requires_safety_checker" in accepted:
        given["requires_safety_checker"] = False
    pipeline = parts.quiet(made(**given))
    if unet is not None:
        pipeline.load_ip_adapter(
            checkpoint(unet, "full", 32), subfolder="", weight_name="", image_encoder_folder=None
        )
        pipeline.set_ip_adapter_scale(0.7)
    return pipeline, family.call


def run(
    pipeline: Any, call: dict[str, Any], store: Path, names: Sequence[str], **options: Any
) -> dict[str, list[Attended]]:
    """Capture one call, and return what its layers attended with, by an independent witness."""
    sample = names[0] if len(names) == 1 else list(names)
    generator = torch.Generator().manual_seed(0)
    with (
        explicit_attention(pipeline.unet) as kept,
        capture(pipeline, store, sample=sample, dtype="float32", **options) as recording,
    ):
        pipeline(num_inference_steps=3, generator=generator, output_type="latent", **call)
        for name in names:
            recording.add_images(sample=name, generated=BLANK, reference=SQUARE)
    return {
        layer: [c for c in calls if c.scores.shape[-1] == TOKENS] for layer, calls in kept.items()
    }


def check(
    store: Path, attended: dict[str, list[Attended]], rows: dict[str, dict[str, int]]
) -> None:
    """Compare each sample's branches with the rows of the witness that are theirs."""
    for sample, branches in rows.items():
        group: Any = zarr.open_group(store, mode="r")[sample]
        assert group.attrs["i2am"]["status"] == "complete"
        labels = group["guidance"][...].tolist() if "guidance" in group else [C]
        assert sorted(labels) == sorted(branches)
        layers = [name for name, _ in group["layers"].groups()]
        assert sorted(layers) == sorted(name for name, calls in attended.items() if calls)
        for layer in layers:
            for number, label in enumerate(labels):
                expected = np.stack([c.scores[branches[label]].numpy() for c in attended[layer]])
                branch = number if len(labels) > 1 else None
                found = stored_logits(group["layers"][layer], branch)
                np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("scale", "branches"), [(1.0, (C, P)), (5.0, (U, C, P))], ids=["alone", "with guidance"]
)
@pytest.mark.parametrize("option", ["conditional", "both"])
def test_perturbed_attention_guidance(
    scale: float, branches: tuple[str, ...], option: str, store: Path
) -> None:
    pipeline, call = adapted("StableDiffusionPAGPipeline", pag_applied_layers=["down"])
    call = call | {"guidance_scale": scale, "pag_scale": 3.0}
    attended = run(pipeline, call, store, "a", guidance=option)
    kept = {branch: row for row, branch in enumerate(branches) if option == "both" or branch == C}
    check(store, attended, {"a": kept})


def test_two_images_of_perturbed_attention_guidance(store: Path) -> None:
    pipeline, call = adapted("StableDiffusionPAGPipeline", pag_applied_layers=["down"])
    call = call | {"guidance_scale": 5.0, "pag_scale": 3.0, "num_images_per_prompt": 2}
    attended = run(pipeline, call, store, "ab", guidance="both")
    check(store, attended, {"a": {U: 0, C: 2, P: 4}, "b": {U: 1, C: 3, P: 5}})


@pytest.mark.parametrize(
    ("scale", "image_scale", "rows"),
    [
        (5.0, 1.5, {C: 0, IMAGE: 1, U: 2}),
        (1.0, 1.5, {C: 0}),
        (5.0, 0.5, {C: 0}),
    ],
    ids=["both guided", "no text guidance", "no image guidance"],
)
def test_image_guidance(
    scale: float, image_scale: float, rows: dict[str, int], store: Path
) -> None:
    torch.manual_seed(1)
    pipeline, call = adapted(
        "StableDiffusionInstructPix2PixPipeline",
        parts.unet(in_channels=8),
        image_encoder=parts.clip(CLIPVisionModelWithProjection),
        feature_extractor=parts.clip_processor(),
    )
    call = {k: v for k, v in call.items() if k not in ("height", "width")}
    call |= {
        "image": noise_image(16, width=32),
        "guidance_scale": scale,
        "image_guidance_scale": image_scale,
    }
    attended = run(pipeline, call, store, "a", guidance="both")
    check(store, attended, {"a": rows})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a class that goes away
def test_calls_that_serve_self_attention_guidance_are_left_out(store: Path) -> None:
    pipeline, call = adapted("StableDiffusionSAGPipeline")
    # With an adapter and text guidance at once, diffusers' own second call fails.
    call = call | {"guidance_scale": 1.0, "sag_scale": 0.75}
    attended = run(pipeline, call, store, "a")
    assert {len(calls) for calls in attended.values() if calls} == {6}  # two a step
    first = {layer: calls[::2] for layer, calls in attended.items()}
    check(store, first, {"a": {C: 0}})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a class that goes away
def test_tokens_that_a_pipeline_folds_into_the_batch_are_refused(store: Path) -> None:
    """With guidance, this old pipeline gives each branch half of one image's tokens."""
    torch.manual_seed(0)
    pipeline, call = adapted("StableDiffusionSAGPipeline")
    pipeline.unload_ip_adapter()
    pipeline.image_encoder = parts.clip(CLIPVisionModelWithProjection)
    pipeline.feature_extractor = parts.clip_processor()
    plus = checkpoint(pipeline.unet, "plus", 32)
    pipeline.load_ip_adapter(plus, subfolder="", weight_name="", image_encoder_folder=None)
    call = call | {"guidance_scale": 3.0, "sag_scale": 0.0, "output_type": "latent"}
    with (
        pytest.raises(CaptureError, match="Expected a batch of 2, got 2 of queries and 1 of keys"),
        capture(pipeline, store, sample="a", guidance="both"),
    ):
        pipeline(num_inference_steps=2, **call)


def test_guidance_that_is_cut_off_on_the_way(store: Path) -> None:
    pipeline, call = adapted()
    embeddings: list[dict[str, Any]] = []
    pipeline.unet.register_forward_pre_hook(
        lambda _module, _arguments, options: embeddings.append(options["added_cond_kwargs"]),
        with_kwargs=True,
    )

    def cut_off(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 0.0
            values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[-1]
            shared = embeddings[-1]["image_embeds"]
            shared[:] = [each.chunk(2)[-1] for each in shared]
        return values

    call = call | {
        "guidance_scale": 5.0,
        "callback_on_step_end": cut_off,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    attended = run(pipeline, call, store, "a")
    for calls in attended.values():  # The conditional row is the second, then the only one.
        calls[:1] = [Attended(c.scores[1:], c.probabilities[1:]) for c in calls[:1]]
    check(store, attended, {"a": {C: 0}})
    with pytest.raises(CaptureError, match="guidance was switched off during the run"):
        run(pipeline, call, store, "b", guidance="both")


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_each_name_gets_its_own_image(scale: float, store: Path) -> None:
    pipeline, call = adapted()
    call = call | {"guidance_scale": scale, "num_images_per_prompt": 2}
    attended = run(pipeline, call, store, "ab")
    conditional = 2 if scale > 1 else 0
    check(store, attended, {"a": {C: conditional}, "b": {C: conditional + 1}})


@pytest.mark.parametrize(
    "build", [families.paint_by_example, families.image_variation, families.kandinsky]
)
def test_two_images_under_one_name_are_refused(build: Callable[[], Family], store: Path) -> None:
    torch.manual_seed(0)
    family = build()
    message = r"= 1 sample name × 1 branch, got 2 = 2 images. Please name all 2 images"
    with pytest.raises(CaptureError, match=message), capture(family.pipeline, store, sample="a"):
        family.run(2, guidance_scale=1.0, num_images_per_prompt=2)
    sample: Any = zarr.open_group(store, mode="r")["a"]
    assert sample.attrs["i2am"]["status"] == "failed"


def test_one_guided_image_under_two_names_is_refused(store: Path) -> None:
    pipeline, call = adapted()
    message = (
        r"Expected 4 rows in the denoiser's batch = 2 sample names × 2 branches \(unconditional, "
        r"conditional\), got 2 = 1 image. Please generate the named images in one call, or"
    )
    with pytest.raises(CaptureError, match=message):
        run(pipeline, call, store, "ab")


def test_branches_that_are_called_in_turn_are_never_taken_for_rows(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda *_: (32, 32, None))
    torch.manual_seed(0)
    family = families.qwen_edit()
    message = r"got 2 = 2 images; this model gets its branches in calls of their own. Please name"
    with pytest.raises(CaptureError, match=message), capture(family.pipeline, store, sample="a"):
        family.run(2, num_images_per_prompt=2)


def test_a_second_call_of_the_pipeline_in_a_block_is_refused(store: Path) -> None:
    pipeline, call = adapted()
    with (
        pytest.raises(CaptureError, match=r"Expected one sampling .* got a second one after 2"),
        capture(pipeline, store, sample="a"),
    ):
        for _ in range(2):
            pipeline(num_inference_steps=2, output_type="latent", **call)


@pytest.mark.filterwarnings("ignore:__array")  # in a scheduler
def test_a_denoiser_whose_timesteps_repeat_is_refused_and_its_pipeline_is_not(store: Path) -> None:
    family = families.ip_adapter("full")
    pipeline = family.pipeline
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(
        use_karras_sigmas=True, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    with capture(pipeline, store, sample="pipeline", layers="mid*") as recording:
        family.run(100)
        recording.add_images(generated=BLANK, reference=SQUARE)
    timesteps: Any = zarr.open_group(store, mode="r")["pipeline/timestep"][...]  # type: ignore[index]
    assert len(timesteps) == 100
    assert len(set(timesteps.tolist())) < 100
    message = r"calls? of the denoiser at a timestep, .* Capture the pipeline instead"
    with (
        pytest.raises(CaptureError, match=message),
        capture(pipeline.unet, store, sample="unet", layers="mid*", profile="ip-adapter"),
    ):
        family.run(100)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a class that goes away
def test_an_image_that_is_painted_in_views_is_refused(store: Path) -> None:
    pipeline, call = adapted("StableDiffusionPanoramaPipeline")
    # It steps for each view.
    message = r"one step at timestep \d+, as the scheduler has, got 2: .* painted in parts"
    call |= {"width": 600, "guidance_scale": 1.0}
    with pytest.raises(CaptureError, match=message), capture(pipeline, store, sample="a"):
        pipeline(num_inference_steps=3, output_type="latent", **call)


def test_an_image_that_is_painted_in_tiles_is_refused(store: Path) -> None:
    """As PASD's own UNet loop does: each step calls the denoiser for every tile of the latent."""
    pipeline, call = adapted()

    def in_tiles(module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if is_outer[0]:
            is_outer[0] = False
            module(*arguments, **options)
            is_outer[0] = True

    is_outer = [True]
    pipeline.unet.register_forward_pre_hook(in_tiles, with_kwargs=True)
    with pytest.raises(CaptureError, match=r"got another one: the image may be painted in parts"):
        run(pipeline, call | {"guidance_scale": 1.0}, store, "a")
