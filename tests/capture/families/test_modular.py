"""Modular pipelines: which branch a guider calls for, and how their pictures are prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.support.explicit_attention import explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import models, modular
from tests.support.tiny_pipelines.family import Family, noise_image
from tests.support.tiny_pipelines.small_images import small_images

SQUARE = np.zeros((8, 8, 3), np.uint8)
STEPS = 4
# After 7 tokens of text 6 patches of the target, then 16 of the reference.
PATCHES = (slice(None), slice(None), slice(7, 13), slice(13, 29))
FLUX_PATCHES = (slice(None), slice(None), slice(5, 11), slice(11, 27))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.fixture(autouse=True)
def _small_images() -> Iterator[None]:
    with small_images():
        yield


class UnconditionalFirst(diffusers.ClassifierFreeGuidance):  # type: ignore[misc] # untyped
    """A guider that calls in another order."""

    def prepare_inputs(self, data: Any) -> Any:
        return super().prepare_inputs(data)[::-1]


class Doubled(diffusers.ClassifierFreeGuidance):  # type: ignore[misc] # untyped
    """A guider that calls for the conditional prediction twice, as one for each half of the image."""

    def prepare_inputs(self, data: Any) -> Any:
        first, *others = super().prepare_inputs(data)
        return [first, first, *others]


def skipping(**options: Any) -> Any:
    config = diffusers.LayerSkipConfig(indices=[0], fqn="transformer_blocks")
    return diffusers.SkipLayerGuidance(
        skip_layer_config=config,
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        **options,
    )


def perturbed(**options: Any) -> Any:
    config = diffusers.LayerSkipConfig(
        indices=[0],
        fqn="transformer_blocks",
        skip_attention=False,
        skip_ff=False,
        skip_attention_scores=True,
    )
    return diffusers.PerturbedAttentionGuidance(
        perturbed_guidance_config=config,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        **options,
    )


def auto(**options: Any) -> Any:
    config = diffusers.LayerSkipConfig(indices=[0], fqn="transformer_blocks")
    return diffusers.AutoGuidance(auto_guidance_config=config, **options)


CFG = diffusers.ClassifierFreeGuidance
# For each guider the calls that it makes of 4 steps: conditional ones C, unconditional U, others x.
GUIDERS: dict[str, tuple[Callable[[], Any], str]] = {
    "guided": (lambda: CFG(3.0), "CUCUCUCU"),
    "off": (lambda: CFG(1.0), "CCCC"),
    "guided in the middle": (lambda: CFG(3.0, start=0.25, stop=0.75), "CCUCUC"),
    "guided at first": (lambda: CFG(3.0, stop=0.5), "CUCUCC"),
    "unconditional first": (lambda: UnconditionalFirst(3.0), "UCUCUCUC"),
    # Not at the first step.
    "skipping layers": (lambda: skipping(), "CUCUxCUxCUx"),
    "skipping layers alone": (lambda: skipping(guidance_scale=1.0), "CCxCxCx"),
    "perturbed": (lambda: perturbed(), "CUCUxCUxCUx"),
    "weakened": (lambda: auto(), "CxCxCxCx"),
}


def guided(guider: Any) -> Family:
    """Return a pipeline with a guider; diffusers skips layers of FLUX.2, and not of Qwen-Image."""
    torch.manual_seed(0)
    skips_layers = isinstance(guider, diffusers.SkipLayerGuidance | diffusers.AutoGuidance)
    own = modular.flux2() if skips_layers else modular.qwen_edit()
    own.pipeline.update_components(guider=guider)
    return own


def record(own: Family, store: Path, samples: Any = "a", **options: Any) -> None:
    given, target = options.pop("given", {}), options.pop("target", own.pipeline)
    with capture(target, store, sample=samples, dtype="float32", **options) as recording:
        own.run(STEPS, **given)
        for sample in samples:
            recording.add_images(sample=sample, generated=own.blank(), reference=SQUARE)


@pytest.mark.parametrize("name", GUIDERS)
@pytest.mark.parametrize("option", ["conditional", "both"])
def test_each_call_is_of_the_branch_that_the_guider_says(
    name: str, option: Any, store: Path
) -> None:
    make, expected = GUIDERS[name]
    own = guided(make())
    is_flux, layer = own.profile == "flux2", "transformer_blocks.1.attn"
    if is_flux:
        layer = "single_transformer_blocks.1.attn"
    every_step = {branch for branch in "CU" if expected.count(branch) == STEPS}
    is_refused = option == "both" and "U" in expected and "U" not in every_step
    with explicit_attention(own.denoiser) as kept:
        if is_refused:
            with pytest.raises(
                CaptureError, match=r"got none at step|got the unconditional one from"
            ):
                record(own, store, guidance=option)
            return
        record(own, store, guidance=option)
    sample = models.opened(store / "a")
    labels = {"C": "conditional", "U": "unconditional"}
    wanted = [labels[b] for b in "UC" if b in every_step and (option == "both" or b == "C")]
    assert (sample["guidance"][...].tolist() if "guidance" in sample else ["conditional"]) == wanted
    assert len(kept[layer]) == len(expected)
    for number, branch in enumerate(wanted):
        calls = [c for c, b in zip(kept[layer], expected, strict=True) if labels.get(b) == branch]
        patches = FLUX_PATCHES if is_flux else PATCHES
        scores = np.stack([call.scores[0] for call in calls])[patches]
        found = stored_logits(sample["layers"][layer], number if len(wanted) > 1 else None)
        assert np.allclose(found, scores, atol=1e-5)


def test_two_calls_of_one_branch_are_taken_for_parts_of_an_image(store: Path) -> None:
    own = guided(Doubled(3.0))
    message = (
        r"Expected one call .* for each guidance branch at step 0, got another one that is cond"
    )
    with pytest.raises(CaptureError, match=message):
        record(own, store)


def test_a_denoiser_alone_is_told_its_branches_by_the_pipeline_that_calls_it(store: Path) -> None:
    own = guided(UnconditionalFirst(3.0))
    layer = "transformer_blocks.1.attn"
    with explicit_attention(own.denoiser) as kept:
        record(own, store, target=own.denoiser, guidance="both")
    found = stored_logits(models.opened(store / "a/layers" / layer), 1)
    scores = np.stack([call.scores[0] for call in kept[layer][1::2]])
    assert np.allclose(found, scores[PATCHES], atol=1e-5)


def test_several_images_of_a_call_are_rows_of_each_branch(store: Path) -> None:
    own = guided(CFG(3.0))
    layer = "transformer_blocks.0.attn"
    with explicit_attention(own.denoiser) as kept:
        record(own, store, ["a", "b"], given={"num_images_per_prompt": 2})
    for row, sample in enumerate("ab"):
        found = stored_logits(models.opened(store / sample / "layers" / layer))
        scores = np.stack([call.scores[row] for call in kept[layer][::2]])
        assert np.allclose(found, scores[PATCHES], atol=1e-5)
    with pytest.raises(
        CaptureError, match=r"Expected 1 row .* got 2 = 2 images; this model gets its"
    ):
        record(own, store, "c", given={"num_images_per_prompt": 2})


def boxes(own: Family, store: Path, picture: Image.Image, **given: Any) -> dict[str, Any]:
    """Return the boxes of the generated image and of the reference, the picture, after a run."""
    with capture(own.pipeline, store, sample="a") as recording:
        if "decode" in own.pipeline.blocks.sub_blocks:
            given["output_type"] = "pil"
        call = own.call | {"image": picture} | given
        generator = torch.Generator().manual_seed(0)
        painted = own.pipeline(generator=generator, num_inference_steps=1, **call)[0]
        if isinstance(painted, torch.Tensor):
            painted = noise_image(*picture.size)  # It is not decoded.
        recording.add_images(generated=painted, reference=picture)
    images = models.opened(store / "a" / "images")
    return {
        name: dict(images[name].attrs).get("i2am", {}).get("box")
        for name in ("generated", "reference")
    }


def masked(size: tuple[int, int], rows: slice, columns: slice) -> Image.Image:
    values = np.zeros(size, np.uint8)
    values[rows, columns] = 255
    return Image.fromarray(values)


def edit_part() -> tuple[Family, dict[str, Any]]:
    own = modular.qwen_edit(decodes=False)  # The pipeline fails when it pastes the part back.
    call = {k: v for k, v in own.call.items() if k not in ("height", "width")} | {
        "output": "latents"
    }
    mask = masked((32, 32), slice(8, 16), slice(16, 24))
    return replace(own, call=call), {"mask_image": mask, "padding_mask_crop": 4, "strength": 1.0}


def inpaint_xl() -> tuple[Family, dict[str, Any]]:
    own = modular.sdxl()
    mask = masked((128, 128), slice(96, 112), slice(96, 112))
    given = {"mask_image": mask, "padding_mask_crop": 8, "height": 32, "width": 32}
    return own, given | {"strength": 1.0, "ip_adapter_image": [noise_image(32, width=96)]}


PREPARED: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    # Cropped in the middle to multiples of 16 pixels.
    "FLUX.2": (lambda: (modular.flux2(), {}, (75, 101)), None, [5, 2, 69, 98]),
    "Kontext": (lambda: (modular.kontext(), {}, (20, 90)), None, None),
    "Qwen": (lambda: (modular.qwen_edit(), {}, (20, 90)), None, None),
    # The mask and 4 pixels around it, 16 × 16.
    "Qwen, a part": (lambda: (*edit_part(), (32, 32)), [4, 12, 20, 28], [4, 12, 20, 28]),
    # One picture is padded to 80 × 112, the canvas that is painted, of which the picture comes back.
    "FLUX.3": (
        lambda: (modular.flux3(), {"height": None, "width": None}, (75, 101)),
        [-2, -5, 78, 107],
        [-2, -5, 78, 107],
    ),
    "FLUX.3, of a size": (lambda: (modular.flux3(), {}, (75, 101)), None, [-2, -5, 78, 107]),
}


@pytest.mark.parametrize("name", PREPARED)
def test_boxes_are_those_of_how_the_pictures_are_prepared(name: str, store: Path) -> None:
    torch.manual_seed(0)
    build, generated, reference = PREPARED[name]
    own, given, size = build()
    found = boxes(own, store, noise_image(size[0], width=size[1]), **given)
    assert found == {"generated": generated, "reference": reference}


def test_an_adapters_picture_is_cropped_and_the_part_that_is_painted_is_known(store: Path) -> None:
    torch.manual_seed(0)
    own, given = inpaint_xl()
    source = noise_image(128)
    with capture(own.pipeline, store, sample="a") as recording:
        (painted,) = own.pipeline(
            num_inference_steps=1, output_type="pil", **own.call | given | {"image": source}
        )
        recording.add_images(generated=painted, reference=given["ip_adapter_image"][0])
    images = models.opened(store / "a" / "images")
    assert images["generated"].attrs["i2am"]["box"] == [88, 88, 120, 120]
    assert images["reference"].attrs["i2am"]["box"] == [0, 32, 32, 64]


def test_what_nothing_tells_has_to_have_the_shape_of_its_tokens(store: Path) -> None:
    """A pipeline of the denoising blocks alone is given latents: how they came about is not known."""
    torch.manual_seed(0)
    own = modular.flux2()
    blocks = diffusers.Flux2KleinBaseAutoBlocks().sub_blocks["denoise"]
    pipeline = blocks.init_pipeline()
    parts_of = {
        name: getattr(own.pipeline, name) for name in ("transformer", "scheduler", "guider")
    }
    pipeline.update_components(**parts_of)
    call = {k: own.call[k] for k in ("prompt_embeds", "negative_prompt_embeds", "height", "width")}
    latents = [torch.randn(1, 4, 4, 6)]
    with capture(pipeline, store, sample="a") as recording:
        pipeline(image_latents=latents, num_inference_steps=1, output="latents", **call)
        with pytest.raises(CaptureError, match="as nothing tells how it was prepared"):
            recording.add_images(reference=noise_image(64))
        recording.add_images(generated=np.zeros((32, 48, 3)), reference=noise_image(64, width=96))
    assert models.opened(store / "a").attrs["i2am"]["profile"] == "flux2"
