"""Filling a pipeline's call: which argument takes which input, and that the images are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image

from i2am.capture.pipelines.call import (
    GenerationSettings,
    SampleInputs,
    call_arguments,
    check_call,
    generate,
    guidance_scale_of,
    image_arguments,
    is_unguided,
    is_video,
    most_steps,
    output_size,
    steps_of,
    supports_batches,
    takes_several_references,
)
from i2am.capture.pipelines.call_argument import check_argument
from i2am.capture.pipelines.reference_inpaint import ReferenceInpaintPipeline
from i2am.schemas import CaptureError
from tests.support.tiny_pipelines import families, models, pipelines
from tests.support.tiny_pipelines.catalogue import FAMILIES

OWN = {"image": "source", "mask_image": "mask"}
SOURCE = {"image": "source"}
SHOWN = {"image": "reference"}
COUNT = "num_images_per_prompt"


def _class(name: str) -> Any:
    """Return a pipeline without parts: its arguments are known before it has any."""
    kind = getattr(diffusers, name)
    return kind.__new__(kind)


def _noise(seed: int, size_px: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8))


def _sample(seed: int, size_px: int, prompt: str | None = None) -> SampleInputs:
    mask = np.zeros((size_px, size_px), np.uint8)
    mask[: size_px // 2] = 255
    return SampleInputs(
        _noise(seed, size_px), Image.fromarray(mask), _noise(seed + 10, 64), prompt, seed
    )


def _difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


# --- Arguments by name.


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("PaintByExamplePipeline", OWN | {"example_image": "reference"}),
        ("FluxKontextInpaintPipeline", OWN | {"image_reference": "reference"}),
        ("FluxKontextPipeline", SHOWN),
        ("QwenImageEditPipeline", SHOWN),
        ("QwenImageEditPlusPipeline", SHOWN),
        ("WanImageToVideoPipeline", SHOWN),
        ("StableVideoDiffusionPipeline", SHOWN),
        ("StableDiffusionImageVariationPipeline", SHOWN),
    ],
)
def test_the_reference_goes_where_the_argument_names_say(
    pipeline: str, expected: dict[str, str]
) -> None:
    assert image_arguments(_class(pipeline)) == expected


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("StableDiffusionPipeline", {}),
        ("StableDiffusionImg2ImgPipeline", SOURCE),
        ("StableDiffusionInpaintPipeline", OWN),
        ("StableDiffusionXLPipeline", {}),
        ("StableDiffusionXLImg2ImgPipeline", SOURCE),
        ("StableDiffusionXLInpaintPipeline", OWN),
    ],
)
def test_with_an_adapter_the_reference_is_its_image(
    pipeline: str, expected: dict[str, str]
) -> None:
    found = _class(pipeline)
    adapted = pipelines.image_variation().unet
    adapted.encoder_hid_proj = torch.nn.Identity()  # Which an adapter brings along.
    found.unet = adapted
    assert image_arguments(found) == expected | {"ip_adapter_image": "reference"}


@pytest.mark.parametrize(
    ("pipeline", "prompt", "message"),
    [
        (
            "StableDiffusionInpaintPipeline",
            True,
            "no argument for one. Load an IP-Adapter with --ip-",
        ),
        ("FluxFillPipeline", True, "got FluxFillPipeline, which has no argument for one. Call it"),
        (
            "FluxKontextPipeline",
            False,
            "Expected a prompt for FluxKontextPipeline, got none. Add a column 'prompt'",
        ),
        ("KandinskyV22Pipeline", False, "also needs 'image_embeds' from another pipeline"),
        ("KandinskyV22InpaintPipeline", False, "also needs 'image_embeds' from another pipeline"),
    ],
)
def test_a_pipeline_that_a_manifest_cannot_call_says_what_is_missing(
    pipeline: str, prompt: bool, message: str
) -> None:
    found = _class(pipeline)
    if "Stable" in pipeline:
        found.unet = pipelines.image_variation().unet
    with pytest.raises(CaptureError) as caught:
        check_call(found, GenerationSettings(), has_prompt=prompt)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strenght": 1}, "got 'strenght'. Did you mean 'strength'?"),
        ({"image": 1}, "got 'image', which is filled. Omit it."),
        ({"generator": None}, "got 'generator', which is filled. Omit it."),
        ({"return_dict": False}, "got return_dict=False. Omit it."),
        ({"guidance_scale": 1}, "got 'guidance_scale', which is filled. Omit it."),
    ],
)
def test_an_argument_that_is_unknown_or_filled_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    settings = GenerationSettings(1, 2.0, arguments)
    with pytest.raises(CaptureError) as caught:
        check_call(_class("FluxKontextInpaintPipeline"), settings, has_prompt=True)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("pipeline", "wanted", "default"),
    [
        ("PaintByExamplePipeline", "guidance_scale", 5.0),
        ("FluxKontextPipeline", "guidance_scale", 3.5),
        ("QwenImageEditPipeline", "true_cfg_scale", 4.0),
        ("StableVideoDiffusionPipeline", "max_guidance_scale", 3.0),
    ],
)
def test_the_guidance_scale_is_known_by_whatever_name(
    pipeline: str, wanted: str, default: float
) -> None:
    found = _class(pipeline)
    assert guidance_scale_of(found, GenerationSettings()) == default
    assert guidance_scale_of(found, GenerationSettings(guidance_scale=2)) == 2
    settings = GenerationSettings(guidance_scale=2, arguments={wanted: 3})
    with pytest.raises(CaptureError, match=f"got '{wanted}', which is filled"):
        check_call(found, settings, has_prompt=True)


def test_the_size_is_the_arguments_or_the_signatures_or_the_models() -> None:
    wan, pbe = _class("WanImageToVideoPipeline"), models.paint_by_example()
    assert output_size(wan, GenerationSettings()) == (832, 480)
    wider = GenerationSettings(arguments={"width": 640})
    assert output_size(wan, wider) == (640, 480)
    assert output_size(pbe, GenerationSettings()) == (16, 16)


# --- Real pipelines.

KIND = {
    # Pixels of source, mask and image; frames that the model denoises.
    "paint-by-example": ((16, 16), 1),
    "reference-inpaint": ((64, 64), 1),
    "image-variation": ((32, 16), 1),
    "ip-adapter": ((32, 16), 1),
    "ip-adapter-sdxl": ((32, 16), 1),
    "flux-kontext": ((16, 16), 1),
    "flux2": ((48, 32), 1),
    "flux2-klein-kv": ((48, 32), 1),
    "qwen-image-edit": ((24, 16), 1),
    "qwen-image-edit-plus": ((24, 16), 1),
    "wan-image-to-video": ((32, 16), 3),
}


def _settings(family: families.Family) -> GenerationSettings:
    """Return the family's call without what a manifest fills; text comes as embeddings."""
    filled = {*image_arguments(family.pipeline), "generator"}
    return GenerationSettings(2, None, {k: v for k, v in family.call.items() if k not in filled})


@pytest.mark.parametrize("kind", KIND)
def test_every_family_paints_from_the_reference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Qwen's pipelines scale every reference to a megapixel, whatever the model's size.
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda *_: (32, 32, None))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda *_: (32, 32))
    torch.manual_seed(0)
    family = FAMILIES[kind]()
    (width, height), frames = KIND[kind]
    settings = _settings(family)
    assert output_size(family.pipeline, settings) == (width, height)
    assert is_video(family.pipeline) == (frames > 1)
    sample = _sample(0, max(width, height))
    assert sample.source is not None
    other = SampleInputs(sample.source, sample.mask, _noise(99, 64), seed=0)
    (image,) = generate(family.pipeline, [sample], settings)
    (again,) = generate(family.pipeline, [sample], settings)
    (changed,) = generate(family.pipeline, [other], settings)
    size = sample.source.size if kind == "paint-by-example" else (width, frames * height)
    assert image.size == size
    assert _difference(image, again) == 0
    assert _difference(image, changed) > 0


@pytest.mark.parametrize("kind", ["paint-by-example", "reference-inpaint", "image-variation"])
def test_a_sample_does_not_depend_on_its_batch_mates(kind: str) -> None:
    pipeline = {
        "paint-by-example": models.paint_by_example,
        "reference-inpaint": models.reference_inpaint,
        "image-variation": pipelines.image_variation,
    }[kind]()
    settings = GenerationSettings(2)
    samples = [_sample(seed, models.size_of(pipeline)) for seed in range(3)]
    assert supports_batches(pipeline)
    together = generate(pipeline, samples, settings)
    alone = [generate(pipeline, [sample], settings)[0] for sample in samples]
    assert max(map(_difference, together, alone)) <= 2  # Sums come in another order.
    assert min(_difference(together[0], other) for other in together[1:]) > 50


def test_of_several_reference_images_a_call_takes_the_samples_one_by_one(tmp_path: Path) -> None:
    pipeline = pipelines.inpaint(tmp_path)
    pipelines.save_adapter(tmp_path, pipeline.unet)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="models", weight_name="adapter.safetensors")
    assert not supports_batches(pipeline)
    assert not supports_batches(_class("QwenImageEditPlusPipeline"))


def test_a_picture_that_is_painted_over_and_read_first_is_not_taken_for_the_reference() -> None:
    with pytest.raises(
        CaptureError, match="got Flux2KleinInpaintPipeline, which reads the picture"
    ):
        image_arguments(_class("Flux2KleinInpaintPipeline"))
    assert takes_several_references(_class("Flux2KleinPipeline"))


def test_a_prompt_comes_from_the_row_or_else_from_the_arguments(tmp_path: Path) -> None:
    pipeline = pipelines.inpaint(tmp_path)
    pipelines.save_adapter(tmp_path, pipeline.unet)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="models", weight_name="adapter.safetensors")

    def paint(own: str | None, **arguments: Any) -> Image.Image:
        settings = GenerationSettings(2, None, arguments)
        return generate(pipeline, [_sample(0, 16, own)], settings)[0]

    hat = paint("a hat")
    assert _difference(hat, paint(None, prompt="a hat")) == 0
    assert _difference(hat, paint("a hat", prompt="a shoe")) == 0
    assert _difference(hat, paint("a shoe")) > 0
    assert _difference(hat, paint("a hat", negative_prompt="a shoe")) > 0
    with pytest.raises(CaptureError, match="Expected a prompt for StableDiffusionInpaintPipeline"):
        paint(None)


def test_several_images_of_a_row_are_refused_with_the_arithmetic() -> None:
    pipeline = models.paint_by_example()
    message = (
        r"got num_images_per_prompt=2: 1 row × 2 = 2 images of 1 name. Give each image a row of its "
        "own, with its seed"
    )
    with pytest.raises(CaptureError, match=message):
        generate(pipeline, [_sample(0, 16)], GenerationSettings(1, None, {COUNT: 2}))
    assert len(generate(pipeline, [_sample(0, 16)], GenerationSettings(1, None, {COUNT: 1}))) == 1


def test_a_pipeline_that_returns_too_many_images_is_an_error() -> None:
    pipeline = models.paint_by_example()
    sample = _sample(0, 16)
    generated = pipeline(
        sample.reference, sample.source, sample.mask, num_inference_steps=1, output_type="pil"
    )
    pipeline.__class__ = type("Twice", (type(pipeline),), {"__call__": _twice(generated)})
    with pytest.raises(CaptureError, match="one image for each of 1 samples, got 2"):
        generate(pipeline, [sample], GenerationSettings())


def _twice(generated: Any) -> Any:
    def __call__(self: Any, example_image: Any, image: Any, mask_image: Any, **_: Any) -> Any:
        generated.images = generated.images * 2
        return generated

    return __call__


@pytest.mark.parametrize(
    ("pipeline", "name", "value", "wanted"),
    [
        ("PaintByExamplePipeline", COUNT, "2", "a whole number"),
        ("PaintByExamplePipeline", COUNT, 1.5, "a whole number"),
        ("PaintByExamplePipeline", COUNT, True, "a whole number"),
        ("PaintByExamplePipeline", "eta", "much", "a number"),
        ("PaintByExamplePipeline", "height", [16], "a whole number"),
        ("StableDiffusionInpaintPipeline", "strength", "0,8", "a number"),
        ("StableDiffusionInpaintPipeline", "padding_mask_crop", "8px", "a whole number"),
        ("QwenImageEditPipeline", "true_cfg_scale", True, "a number"),
        ("FluxKontextPipeline", "prompt_2", 3, "a text"),
        ("ReferenceInpaintPipeline", "eta", "much", "a number"),
    ],
)
def test_a_value_of_another_type_than_the_signature_asks_for_is_refused(
    pipeline: str, name: str, value: object, wanted: str
) -> None:
    kind = ReferenceInpaintPipeline if pipeline.startswith("Ref") else getattr(diffusers, pipeline)
    with pytest.raises(CaptureError) as caught:
        check_argument(pipeline, call_arguments(kind.__new__(kind))[name], value)
    message = f"Expected {wanted} for {name!r} of {pipeline}'s call, got {value!r}. "
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("pipeline", "values"),
    [
        ("PaintByExamplePipeline", {"eta": 1, "height": None, COUNT: 1, "latents": 1}),
        (
            "StableDiffusionInpaintPipeline",
            {"strength": 0.8, "sigmas": [1.0, 0.5], "eta": np.float64(1)},
        ),
        ("StableDiffusionXLInpaintPipeline", {"original_size": [64, 64], "clip_skip": 1}),
        (
            "FluxKontextPipeline",
            {"max_area": 256, "prompt_2": "a hat", "prompt_embeds": torch.ones(1)},
        ),
        ("QwenImageEditPipeline", {"attention_kwargs": {"scale": 0.5}, "true_cfg_scale": 4}),
    ],
)
def test_a_value_that_the_signature_takes_or_says_nothing_of_is_passed_on(
    pipeline: str, values: dict[str, Any]
) -> None:
    for name, value in values.items():
        check_argument(pipeline, call_arguments(_class(pipeline))[name], value)


@pytest.mark.parametrize(
    ("pipeline", "settings", "is_alone"),
    [
        ("StableDiffusionPipeline", GenerationSettings(), False),
        ("StableDiffusionPipeline", GenerationSettings(guidance_scale=1.0), True),
        ("StableDiffusionPAGPipeline", GenerationSettings(guidance_scale=1.0), False),
        ("StableVideoDiffusionPipeline", GenerationSettings(guidance_scale=1.0), True),
        ("QwenImageEditPipeline", GenerationSettings(), True),
        (
            "QwenImageEditPipeline",
            GenerationSettings(arguments={"negative_prompt": " "}),
            False,
        ),
    ],
)
def test_a_call_that_has_one_branch_alone_is_known(
    pipeline: str, settings: GenerationSettings, is_alone: bool
) -> None:
    assert is_unguided(_class(pipeline), settings) == is_alone


@pytest.mark.parametrize(
    ("pipeline", "settings", "steps", "most"),
    [
        ("StableDiffusionPipeline", GenerationSettings(), 50, 50),
        ("StableDiffusionPipeline", GenerationSettings(7), 7, 7),
        ("StableDiffusionPipeline", GenerationSettings(arguments={"timesteps": [9, 5]}), 2, 2),
        ("StableDiffusionImg2ImgPipeline", GenerationSettings(10), 10, 8),
        (
            "StableDiffusionImg2ImgPipeline",
            GenerationSettings(arguments={"strength": 0.25, "num_inference_steps": 10}),
            10,
            3,
        ),
    ],
)
def test_the_steps_of_a_call_are_known_before_it(
    pipeline: str, settings: GenerationSettings, steps: int, most: int
) -> None:
    assert steps_of(_class(pipeline), settings) == steps
    assert most_steps(_class(pipeline), settings) == most
