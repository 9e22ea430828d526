"""Where the tokens lie, by causation: outside a box nothing counts, and a token's place moves it."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from i2am.capture import capture
from i2am.schemas import Box, CaptureError
from tests.support.geometry import Captured, View, cell, outside, peak, record, strongest, whitened
from tests.support.tiny_pipelines import families, models, parts, videos
from tests.support.tiny_pipelines.families import noise_image
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.small_images import small_images

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # in a scheduler
SHAPES = {"square": (32, 32), "wide": (32, 96), "tall": (100, 40)}
# The middle that CLIP's processor cuts out, by hand: the shorter side becomes 32 pixels, of 80 that
# are left of the tall one's 100 it keeps 32 from the 24th on, and each stands for 1.25 of its pixels.
CLIP = {"square": Box(0, 0, 32, 32), "wide": Box(0, 32, 32, 64), "tall": Box(30, 0, 70, 40)}
# The middle that covers a canvas of 32 × 64 pixels, by hand: the square becomes 64 × 64, the wide one stays
# as it is, and the tall one becomes 160 × 64.
COVER = {"square": Box(8, 0, 24, 32), "wide": Box(0, 16, 32, 80), "tall": Box(40, 0, 60, 40)}
# The whole picture with margins, by hand: 4 rows of 100 are lost to a multiple of 8, and the tall one stands
# in the middle of 64 × 128 pixels as 64 × 26, the wide one lies there as 42 × 128.
MARGINS = {
    "square": Box(0, -16, 32, 48),
    "wide": Box(-11 * 32 / 42, 0, 53 * 32 / 42, 96),
    "tall": Box(0, -51 * 40 / 26, 100, 77 * 40 / 26),
}
WHOLE = {name: Box.whole(*size) for name, size in SHAPES.items()}
# There random convolutions mix what the layer compares, or the later frames' queries have seen the picture,
# too; where the keys lie is told by themselves.
MIXED = {"reference-only", "Wan 2.2", "Wan 2.2, last frame"}
MARGIN = 2.5  # pixels; how far the resize of the tall picture looks beyond its crop


@pytest.fixture(autouse=True)
def _small_images() -> Iterator[None]:
    with small_images():
        yield


def rebuilt(kind: Any, pipeline: Any, **others: Any) -> Any:
    """Return a pipeline of another class with the same parts, or others."""
    accepted = inspect.signature(kind.__init__).parameters
    given = {name: getattr(pipeline, name, None) for name in pipeline.components} | others
    if "requires_safety_checker" in accepted:
        given |= {"safety_checker": None, "requires_safety_checker": False}
    return parts.quiet(kind(**{name: part for name, part in given.items() if name in accepted}))


def full_face() -> View:
    family = families.ip_adapter("full")
    return View(family, lambda picture: {"ip_adapter_image": picture})


def second_image() -> View:
    family = families.ip_adapter("full", images=2)
    pictures = family.call["ip_adapter_image"][0]
    return View(
        family, lambda picture: {"ip_adapter_image": [[pictures[0], picture]]}, "reference_1"
    )


def wan(*, last: bool = False) -> View:
    family = families.wan(last_frame=last)
    argument, image = ("last_image", "reference_1") if last else ("image", "reference")
    return View(family, lambda picture: {argument: picture}, image, has_other_way=True)


def redux() -> View:
    family = families.flux_redux()
    prior = families.redux_prior()
    return View(family, lambda picture: dict(prior(picture)))


def reference_only() -> View:
    """As the community's: the reference is resized to the size of the generated image."""
    family = families.reference_only()

    def call(picture: Image.Image) -> dict[str, Any]:
        resized = np.asarray(picture.convert("L").resize((16, 8)), np.float32) / 255
        return {"reference_latents": torch.from_numpy(resized).expand(1, 4, 8, 16)}

    return View(family, call)


def of_argument(build: Callable[[], Any], argument: str = "image") -> View:
    return View(build(), lambda picture: {argument: picture})


def qwen_plus() -> View:
    family = families.qwen_edit(plus=True)
    return View(family, lambda picture: {"image": [noise_image(32), picture]}, "reference_1")


def first_frame(family: Any, **options: Any) -> View:
    """A video of 4 × 8 tokens, of the picture or with it as its last frame."""
    argument = options.pop("argument", "image")
    larger = {side: 2 * family.call[side] for side in ("height", "width")}
    return View(family, lambda picture: larger | {argument: picture}, **options)


def second_of_vace() -> View:
    family = videos.vace(references=2)
    larger = {side: 2 * family.call[side] for side in ("height", "width")}
    return View(
        family,
        lambda picture: larger | {"reference_images": [noise_image(32), picture]},
        "reference_1",
    )


def condition(family: Any, kind: Any, place: str, at: int, **options: Any) -> View:
    """A video with two conditions, of which the second is at a later frame."""
    more = {"crf": 0} if kind is LTX2VideoCondition else {}
    larger = {side: 2 * family.call[side] for side in ("height", "width")}

    def call(picture: Image.Image) -> dict[str, Any]:
        pictures = (noise_image(32), picture)
        return larger | {
            "conditions": [
                kind(each, **{place: where}, **more)
                for each, where in zip(pictures, (0, at), strict=True)
            ]
        }

    return View(family, call, "reference_1", **options)


VIEWS: dict[str, tuple[Callable[[], View], dict[str, Box]]] = {
    "i2am-tiny": (lambda: of_argument(families.shipped_kind, "example_image"), WHOLE),
    "full-face": (full_face, CLIP),
    "full-face, second image": (second_image, CLIP),
    "Wan": (wan, CLIP),
    "Wan, last frame": (lambda: wan(last=True), CLIP),
    "Kontext": (lambda: of_argument(families.flux_kontext), WHOLE),
    "Redux": (redux, WHOLE),
    "Qwen edit": (lambda: of_argument(families.qwen_edit), WHOLE),
    "Qwen edit plus": (qwen_plus, WHOLE),
    "reference-only": (reference_only, WHOLE),
    "Wan 2.2": (lambda: first_frame(videos.wan22()), WHOLE),
    "Wan 2.2, last frame": (
        lambda: first_frame(
            videos.wan22(last_frame=True), argument="last_image", image="reference_1"
        ),
        WHOLE,
    ),
    "Wan 2.2 5B": (lambda: first_frame(videos.wan22("5B")), WHOLE),
    "LTX": (lambda: first_frame(videos.ltx()), WHOLE),
    "LTX, condition": (
        lambda: condition(videos.ltx(frames=(0, 8)), LTXVideoCondition, "frame_index", 8),
        WHOLE,
    ),
    "LTX-2": (lambda: first_frame(videos.ltx2()), WHOLE),
    "LTX-2, condition": (
        lambda: condition(videos.ltx2(indices=(0, 2)), LTX2VideoCondition, "index", 2, reach=2.5),
        COVER,
    ),
    "HunyuanVideo": (lambda: first_frame(videos.hunyuan()), WHOLE),
    "HunyuanVideo, further channels": (
        lambda: first_frame(videos.hunyuan("latent_concat")),
        WHOLE,
    ),
}
ONE_TOKEN: dict[str, tuple[Callable[[], View], dict[str, Box]]] = {
    "Paint-by-Example": (lambda: of_argument(families.paint_by_example, "example_image"), CLIP),
    "Image Variation": (lambda: of_argument(families.image_variation), CLIP),
}


@functools.cache
def view_of(name: str) -> View:
    torch.manual_seed(0)
    return (VIEWS | ONE_TOKEN)[name][0]()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", VIEWS | ONE_TOKEN)
def test_tokens_lie_over_the_box_and_what_is_outside_of_it_does_not_count(
    name: str, shape: str, tmp_path: Path
) -> None:
    view, expected = view_of(name), (VIEWS | ONE_TOKEN)[name][1][shape]
    picture = noise_image(SHAPES[shape][0], 5, SHAPES[shape][1])
    before = record(view, picture, tmp_path / "run.zarr", "before")
    assert before.box == expected
    if not expected.is_whole(*SHAPES[shape]):
        margin = max(view.reach, MARGIN if shape == "tall" else 0)
        changed = outside(picture, before.box, margin)
        assert changed.tobytes() != picture.tobytes()
        after = record(view, changed, tmp_path / "run.zarr", "outside")
        assert np.array_equal(before.tokens, after.tokens)
        assert before.is_same_output(after) != view.has_other_way
    grid = before.tokens.shape[0], before.tokens.shape[1]
    for place in sorted({(0, grid[1] - 1), (grid[0] * 2 // 3, grid[1] // 3)}):
        changed = whitened(picture, cell(before.box, grid, place))
        after = record(view, changed, tmp_path / "run.zarr", f"token-{place[0]}-{place[1]}")
        assert not before.is_same_output(after)
        found = strongest(before, after)
        assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= 1
        if before.sram is not None and name not in MIXED:
            check_peak(before, after, cell(before.box, grid, place))


def test_a_picture_is_cropped_to_the_videos_shape_before_its_encoder_sees_it(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    view, picture = of_argument(videos.hunyuan15), noise_image(32, 5, 96)
    before = record(view, picture, tmp_path / "run.zarr", "before")
    assert before.box == COVER["wide"]
    after = record(view, outside(picture, before.box, 0), tmp_path / "run.zarr", "outside")
    assert np.array_equal(before.tokens, after.tokens)
    assert before.is_same_output(after)
    for place in ((0, 5), (4, 1)):
        changed = whitened(picture, cell(before.box, (6, 6), place))
        found = strongest(before, record(view, changed, tmp_path / "run.zarr", f"at-{place[0]}"))
        assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_that_is_fitted_into_a_frame_has_margins_around_it(
    shape: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    view, (height, width) = second_of_vace(), SHAPES[shape]
    picture = noise_image(height, 5, width)
    before = record(view, picture, tmp_path / "run.zarr", "before")
    assert before.box == MARGINS[shape]
    grid = before.tokens.shape[0], before.tokens.shape[1]
    inside = [
        place
        for place in itertools.product(range(grid[0]), range(grid[1]))
        for own in [cell(before.box, grid, place)]
        if 0 < own.y0 + own.y1 < 2 * height and 0 < own.x0 + own.x1 < 2 * width
    ]
    for place in (inside[0], inside[-1]):
        changed = whitened(picture, cell(before.box, grid, place))
        after = record(view, changed, tmp_path / "run.zarr", f"token-{place[0]}-{place[1]}")
        assert not before.is_same_output(after)
        found = strongest(before, after)
        assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= 1


def check_peak(before: Captured, after: Captured, place: Box) -> None:
    """Check that the SRAM changed most within one token of a place."""
    y, x = peak(before, after)
    assert abs(y - (place.y0 + place.y1) / 2) <= 1.01 * place.height
    assert abs(x - (place.x0 + place.x1) / 2) <= 1.01 * place.width


def mask_of(size: tuple[int, int], rows: slice, columns: slice) -> Image.Image:
    values = np.zeros(size, np.uint8)
    values[rows, columns] = 255
    return Image.fromarray(values)


def inpaint(mask: Image.Image, pad: int) -> View:
    """An inpainting pipeline with a full-face adapter, whose queries see the source."""
    family = families.ip_adapter("full")
    unet = parts.unet(in_channels=9)
    family.pipeline.unload_ip_adapter()
    encoder = {
        "image_encoder": parts.clip(CLIPVisionModelWithProjection),
        "feature_extractor": parts.clip_processor(),
    }
    kind = diffusers.StableDiffusionInpaintPipeline
    pipeline = rebuilt(kind, family.pipeline, unet=unet, **encoder)
    weights = checkpoint(unet, "full", 32)
    pipeline.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    family = replace(family, pipeline=pipeline)
    given = {"mask_image": mask, "padding_mask_crop": pad, "height": 32, "width": 32}
    given["strength"] = 1.0
    return View(
        family, lambda picture: {"image": picture, **given}, "generated", "query", output="pil"
    )


CORNER = mask_of((128, 128), slice(96, 112), slice(96, 112))
BAND = mask_of((64, 128), slice(30, 34), slice(20, 110))


@pytest.mark.parametrize(
    ("mask", "pad", "expected", "places"),
    [
        # 8 pixels around the mask, as in the shared case.
        pytest.param(CORNER, 8, Box(88, 88, 120, 120), [(1, 6), (6, 1)], id="corner"),
        # 100 pixels wide, so that the square canvas is higher than the picture: 18 above and below.
        pytest.param(BAND, 5, Box(-18, 15, 82, 115), [(2, 6), (5, 0)], id="beyond the picture"),
    ],
)
def test_an_inpainting_crop_is_where_the_painted_patches_lie(
    mask: Image.Image, pad: int, expected: Box, places: list[tuple[int, int]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    view, store = inpaint(mask, pad), tmp_path / "run.zarr"
    source = noise_image(mask.height, 5, mask.width)
    before = record(view, source, store, "before")
    assert before.box == expected
    painted = np.abs(before.output[0].astype(int) - np.asarray(source)).max(-1) > 0
    rows, columns = np.nonzero(painted)
    assert expected.y0 <= rows.min() <= rows.max() < expected.y1
    assert expected.x0 <= columns.min() <= columns.max() < expected.x1
    elsewhere = record(view, outside(source, before.box, 0), store, "outside")
    assert np.array_equal(before.tokens, elsewhere.tokens)
    grid = before.tokens.shape[0], before.tokens.shape[1]
    for place in places:
        changed = whitened(source, cell(before.box, grid, place))
        after = record(view, changed, store, f"token-{place[0]}")
        found = strongest(before, after)
        assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= 1
        check_peak(before, after, cell(before.box, grid, place))


def test_a_crop_is_painted_while_the_reference_is_cropped_as_clip_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    view = inpaint(CORNER, 8)
    pipeline: Any = view.family.pipeline
    source, wide = noise_image(128), noise_image(32, 1, width=96)
    call = view.family.call | view.call(source) | {"ip_adapter_image": wide}
    with capture(pipeline, tmp_path / "run.zarr", sample="a") as recording:
        (image,) = pipeline(num_inference_steps=1, **call).images
        recording.add_images(generated=image, reference=wide, source=source, inpainting_mask=CORNER)
    assert boxes(tmp_path / "run.zarr") == {
        "generated": [88, 88, 120, 120],
        "reference": [0, 32, 32, 64],
        "source": None,
        "inpainting_mask": None,
    }


def test_a_crop_is_known_also_of_a_denoiser_that_its_pipeline_calls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    view, store = inpaint(CORNER, 8), tmp_path / "run.zarr"
    pipeline: Any = view.family.pipeline
    call = view.family.call | view.call(noise_image(128))
    wide, square = noise_image(32, 1, width=96), noise_image(32)
    with capture(pipeline.unet, store, sample="a", profile="ip-adapter") as recording:
        (image,) = pipeline(num_inference_steps=1, **call).images
        with pytest.raises(CaptureError, match="as nothing tells how it was prepared"):
            recording.add_images(reference=wide)
        recording.add_images(generated=image, reference=square)
    assert boxes(store) == {"generated": [88, 88, 120, 120], "reference": None}


def kontext_inpaint(argument: str) -> View:
    family = families.flux_kontext()
    pipeline = rebuilt(diffusers.FluxKontextInpaintPipeline, family.pipeline)
    given = {"mask_image": mask_of((64, 64), slice(40, 48), slice(8, 24)), "padding_mask_crop": 4}
    given |= {"image": noise_image(64), "strength": 1.0, "max_area": 64 * 64}
    return View(
        replace(family, pipeline=pipeline),
        lambda picture: given | {argument: picture},
        has_other_way=argument == "image",
        output="pil",
    )


def qwen_inpaint() -> View:
    family = families.qwen_edit()
    pipeline = rebuilt(diffusers.QwenImageEditInpaintPipeline, family.pipeline)
    given = {"mask_image": mask_of((32, 32), slice(8, 16), slice(16, 24)), "padding_mask_crop": 4}
    call = {name: value for name, value in family.call.items() if name not in ("height", "width")}
    return View(
        replace(family, pipeline=pipeline, call=call),
        lambda picture: given | {"image": picture, "strength": 1.0},
        has_other_way=True,  # Pasted into the picture.
        output="pil",
    )


@pytest.mark.parametrize(
    ("build", "side", "expected", "generated"),
    [
        # The mask and 4 pixels around it, 24 × 16, widened to a square; the crop is returned as it is.
        pytest.param(lambda: kontext_inpaint("image"), 64, Box(32, 4, 56, 28), None, id="Kontext"),
        pytest.param(
            lambda: kontext_inpaint("image_reference"),
            64,
            Box(32, 4, 56, 28),
            None,
            id="Kontext, reference",
        ),
        pytest.param(qwen_inpaint, 32, Box(4, 12, 20, 28), [4, 12, 20, 28], id="Qwen, pasted back"),
    ],
)
def test_the_crop_of_an_edited_picture_is_where_its_reference_tokens_lie(
    build: Callable[[], View], side: int, expected: Box, generated: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    view, store = build(), tmp_path / "run.zarr"
    picture = noise_image(side, 5)
    before = record(view, picture, store, "before")
    assert before.box == expected
    assert boxes(store, "before")["generated"] == generated
    after = record(view, outside(picture, before.box, 0), store, "outside")
    assert np.array_equal(before.tokens, after.tokens)
    grid = before.tokens.shape[0], before.tokens.shape[1]
    place = (1, grid[1] - 2)
    changed = whitened(picture, cell(before.box, grid, place))
    found = strongest(before, record(view, changed, store, "token"))
    assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= 1


def boxes(store: Path, sample: str = "a") -> dict[str, Any]:
    """Return the box of each stored image; None where there is none."""
    images = models.opened(store / sample / "images")
    return {name: dict(image.attrs).get("i2am", {}).get("box") for name, image in images.arrays()}
