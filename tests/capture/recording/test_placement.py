"""Boxes as the user gives them, as profiles tell them, and what is refused because nobody knows."""

from __future__ import annotations

import gc
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from i2am.analysis import describe_store
from i2am.capture import (
    CentreCrop,
    Profile,
    ReferenceLayout,
    Stretched,
    capture,
    cross_attention,
    query_grid_layout,
)
from i2am.capture.hooks.picture_log import PictureLog
from i2am.capture.profiles.preparation import encoded_pictures, filled_canvas
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import Box, CaptureError, SchemaError, find_faults
from tests.support.tiny_pipelines import families, models
from tests.support.tiny_pipelines.families import Family, noise_image

BLANK = np.zeros((16, 32, 3), np.uint8)
WIDE = noise_image(32, 3, width=96)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.fixture
def family() -> Family:
    torch.manual_seed(0)
    return families.ip_adapter("full")


def box_of(store: Path, image: str, sample: str = "a") -> Any:
    found = dict(models.opened(store / sample / "images")[image].attrs)
    return found.get("i2am", {}).get("box")


def test_a_wide_reference_has_the_box_of_clips_crop_also_when_it_is_added_before_or_afterwards(
    family: Family, store: Path
) -> None:
    pipeline: Any = family.pipeline
    before, processor = set(vars(pipeline.feature_extractor)), pipeline.feature_extractor
    for sample in ("before", "inside"):
        with capture(pipeline, store, sample=sample) as recording:
            if sample == "before":
                recording.add_images(reference=WIDE)
            family.run(1, ip_adapter_image=WIDE)
            recording.add_images(generated=BLANK)
            if sample == "inside":
                recording.add_images(reference=WIDE)
    with pytest.warns(UserWarning, match="stay incomplete"):  # noqa: SIM117
        with capture(pipeline, store, sample="afterwards") as recording:
            family.run(1, ip_adapter_image=WIDE)
    assert set(vars(processor)) == before
    gone = weakref.ref(family.denoiser)
    delattr(pipeline, "unet")
    gc.collect()
    assert gone() is None, "what is needed for the box does not hold the model"
    recording.add_images(generated=BLANK, reference=WIDE)
    for sample in ("before", "inside", "afterwards"):
        # The middle third, as CLIP's processor crops a picture three times as wide as high.
        assert box_of(store, "reference", sample) == [0, 32, 32, 64]
        assert box_of(store, "generated", sample) is None
        assert models.opened(store / sample).attrs["i2am"]["status"] == "complete"
    assert list(find_faults(describe_store(store))) == []


def test_two_samples_of_one_call_keep_the_boxes_of_their_own_pictures(store: Path) -> None:
    torch.manual_seed(0)
    pipeline = models.paint_by_example()
    pictures = [noise_image(96, 1, width=32), WIDE]
    inputs = models.noise_images(models.size_of(pipeline))
    with capture(pipeline, store, sample=["tall", "wide"]) as recording:
        images = pipeline(
            example_image=pictures,
            image=[inputs["image"]] * 2,
            mask_image=[inputs["mask_image"]] * 2,
            num_inference_steps=1,
        ).images
        for name, image, picture in zip(("tall", "wide"), images, pictures, strict=True):
            recording.add_images(sample=name, generated=image, reference=picture)
    assert box_of(store, "reference", "tall") == [32, 0, 64, 32]
    assert box_of(store, "reference", "wide") == [0, 32, 32, 64]


def test_the_users_box_goes_before_the_pipelines_and_a_whole_one_is_left_out(
    family: Family, store: Path
) -> None:
    with capture(family.pipeline, store, sample="a") as recording:
        family.run(1, ip_adapter_image=WIDE)
        recording.add_images(generated=BLANK[:8], boxes={"generated": (-4, 0, 12, 32)})
        recording.add_images(reference=WIDE, boxes={"reference": (0, 0, 32, 96)})
    assert box_of(store, "generated") == [-4, 0, 12, 32]
    assert box_of(store, "reference") is None


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"reference": (0, 4, 8, 4)}, r"Expected a box .* got \(0, 4, 8, 4\), at boxes\['ref"),
        ({"reference": (0, 4, 8)}, r"Expected a box .* got \(0, 4, 8\)"),
        ({"reference": None}, "Expected a box .* got None"),
        ({"reference": (0, 96, 32, 128)}, "has a part of the image, which has 32×96 px, got"),
        ({"reference_1": (0, 0, 8, 8)}, "added with them, got one of 'reference_1', at boxes"),
        ({"source": (0, 0, 8, 8)}, "Expected boxes of generated or reference images"),
    ],
)
def test_a_box_that_is_none_is_refused(
    boxes: dict[str, Any], message: str, family: Family, store: Path
) -> None:
    with capture(family.pipeline, store, sample="a") as recording:
        family.run(1)
        with pytest.raises(SchemaError, match=message):
            recording.add_images(reference=WIDE, source=WIDE, boxes=boxes)
        recording.add_images(generated=BLANK, reference=noise_image(32))


def refused(family: Family, store: Path, message: str, **images: Any) -> None:
    target = images.pop("target", family.pipeline)
    call = images.pop("call", {})
    with capture(target, store, sample="a", **images.pop("options", {})) as recording:
        family.run(1, **call)
        with pytest.raises(CaptureError, match=message) as caught:
            recording.add_images(**images)
        assert len(str(caught.value)) < 330, "three lines of a terminal"
        recording.add_images(
            generated=family.blank(), reference=WIDE, boxes={"reference": (0, 32, 32, 64)}
        )


def test_a_picture_of_another_shape_than_the_painted_patches_is_refused(
    family: Family, store: Path
) -> None:
    message = r"in the shape of its 4×8 patches, got 16×16 px, at image 'generated' of sample 'a'"
    refused(family, store, message, generated=noise_image(16))


def test_a_blank_picture_stands_in_for_one_of_any_shape(family: Family, store: Path) -> None:
    with capture(family.pipeline, store, sample="a") as recording:
        recording.add_images(reference=np.full((9, 40, 3), 255, np.uint8))
        family.run(1, ip_adapter_image=WIDE)
        recording.add_images(generated=BLANK[:, :16])
    assert box_of(store, "reference") is None
    assert box_of(store, "generated") is None


def test_one_frame_for_all_of_a_video_is_refused(store: Path) -> None:
    family = families.wan()
    family.call.update(height=64, width=64)
    message = r"of its 12×4 patches \(3 frames above one another\), got 64×64 px"
    refused(family, store, message, generated=noise_image(64))


def test_another_picture_than_the_models_call_had_is_refused(family: Family, store: Path) -> None:
    message = r"Expected the picture of 32×96 px that the model's call had, .* got 32×32 px, at"
    call = {"ip_adapter_image": WIDE}
    refused(family, store, message, call=call, reference=noise_image(32))


@pytest.mark.parametrize("how", ["a bare denoiser", "embeddings", "a tensor", "another processor"])
def test_a_square_of_tokens_is_not_laid_over_a_picture_that_is_none_unless_the_way_is_known(
    how: str, family: Family, store: Path
) -> None:
    pipeline: Any = family.pipeline
    call: dict[str, Any] = {"ip_adapter_image": WIDE}
    if how == "embeddings":
        found = pipeline.prepare_ip_adapter_image_embeds(WIDE, None, "cpu", 1, True)
        call = {"ip_adapter_image": None, "ip_adapter_image_embeds": found}
    elif how == "a tensor":
        call = {"ip_adapter_image": torch.zeros(1, 3, 32, 32)}
    elif how == "another processor":
        pipeline.feature_extractor = Squeezing(**vars(pipeline.feature_extractor))
    options: dict[str, Any] = {}
    target = pipeline
    if how == "a bare denoiser":
        target, options = pipeline.unet, {"profile": "ip-adapter"}
    message = (
        r"in the shape of its 4×4 tokens, as nothing tells how it was prepared, got 32×96 px, at "
        r"image 'reference' of sample 'a'\. Say what the model saw: add_images\(…, boxes="
    )
    refused(family, store, message, target=target, call=call, options=options, reference=WIDE)
    with capture(target, store, sample="square", **options) as recording:
        family.run(1, **call)
        recording.add_images(generated=BLANK, reference=noise_image(40))
    assert box_of(store, "reference", "square") is None


class Squeezing(CLIPImageProcessor):  # type: ignore[misc]
    """Prepares otherwise than its settings say."""


def test_what_has_no_places_needs_no_box(store: Path) -> None:
    torch.manual_seed(0)
    family = families.ip_adapter("plus")  # sixteen learned queries
    with capture(family.pipeline, store, sample="a") as recording:
        family.run(1, ip_adapter_image=WIDE)
        recording.add_images(generated=BLANK, reference=noise_image(40))
    assert box_of(store, "reference") is None


def test_a_profile_of_ones_own_says_how_it_prepares_pictures(store: Path) -> None:
    unet, tokens = models.reference_inpaint().unet, torch.randn(1, 257, 128)

    def run(sample: str, **facts: Any) -> None:
        profile = Profile("mine", (), cross_attention, **facts)
        square = np.zeros((8, 8, 3), np.uint8)
        with torch.no_grad(), capture(unet, store, sample=sample, profile=profile) as recording:
            unet(torch.zeros(1, 9, 16, 16), 10, encoder_hidden_states=tokens)
            recording.add_images(generated=square, reference=WIDE)

    with pytest.raises(CaptureError, match=r"16×16 tokens.* in the Profile: prepares=, or layout="):
        run("unknown")
    run("cropped", prepares=lambda _call: CentreCrop(224, 224))
    run("stretched", prepares=lambda _call: Stretched())
    run("each", prepares=lambda _call: [CentreCrop(256, 224)])
    assert box_of(store, "reference", "cropped") == [0, 32, 32, 64]
    assert box_of(store, "reference", "stretched") is None
    # Of 256 × 768 pixels the middle 224, each an eighth of a pixel.
    assert box_of(store, "reference", "each") == [2, 34, 30, 62]
    with pytest.raises(CaptureError, match="Expected a reference in the shape"):
        run("second", prepares=lambda _call: [])


def run_layout(store: Path, layout: Any, tokens: int = 144) -> Any:
    unet = families.ip_adapter("plain").denoiser
    unet.set_default_attn_processor()
    unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = None, None

    def find(denoiser: Any) -> Any:
        return cross_attention(denoiser, layout=layout)

    profile = Profile("mine", (), find)
    with torch.no_grad(), capture(unet, store, sample="a", profile=profile) as recording:
        unet(torch.zeros(1, 4, 18, 32), 10, encoder_hidden_states=torch.randn(1, tokens, 16))
        wide = noise_image(18, width=32)
        recording.add_images(generated=wide, reference=wide)
    (layer, *_) = (layer for _, layer in models.opened(store / "a/layers").groups())
    return layer.attrs["i2am"]["reference_grid"]


def test_tokens_on_the_queries_own_grid_lie_there_though_their_count_is_a_squares(
    store: Path,
) -> None:
    assert run_layout(store, query_grid_layout) == [9, 16]


def test_tokens_on_the_queries_own_grid_must_be_as_many(store: Path) -> None:
    with pytest.raises(CaptureError, match=r"Expected 9×16 reference tokens, .* got 100, at layer"):
        run_layout(store, query_grid_layout, tokens=100)


def test_a_square_that_was_guessed_from_their_count_is_refused(store: Path) -> None:
    with pytest.raises(CaptureError, match=r"in the shape of its 12×12 tokens, .* got 18×32 px"):
        run_layout(store, lambda tokens, _grid: ReferenceLayout(0, (12, tokens // 12)))


def test_a_layout_of_the_number_alone_still_works_and_warns(store: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"layout= gets the grid of the queries, too"):
        grid = run_layout(store, lambda tokens: ReferenceLayout(0, (tokens // 16, 16)))
    assert grid == [9, 16]


SIZES = [(32, 96), (96, 32), (100, 101), (48, 48), (37, 53), (20, 110), (64, 64)]
SETTINGS: dict[str, dict[str, Any]] = {
    "CLIP's own": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "a smaller crop": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 24}},
    "stretched first": {
        "size": {"height": 30, "width": 50},
        "crop_size": {"height": 33, "width": 32},
    },
    "not resized": {"do_resize": False, "crop_size": {"height": 45, "width": 44}},
    "not cropped": {"do_center_crop": False, "size": {"height": 24, "width": 24}},
    "as the call says": {"at_call": {"size": 32, "crop_size": 24}},
    "padded": {"size": {"shortest_edge": 32}, "crop_size": {"height": 45, "width": 48}},
}


@pytest.mark.filterwarnings("ignore:")  # of transformers, about colours and speed
@pytest.mark.parametrize("name", SETTINGS)
def test_the_box_is_where_the_real_processor_puts_positions(name: str) -> None:
    settings = dict(SETTINGS[name])
    at_call = settings.pop("at_call", {})
    processor = CLIPImageProcessor(do_rescale=False, do_normalize=False, **settings)
    for height, width in SIZES:
        # Red counts rows and green columns, from 2 on; blue tells padding, which is black.
        per_row, per_column = 250 // height, 250 // width
        rows, columns = np.mgrid[0:height, 0:width]
        coded = np.stack(
            [rows * per_row + 2, columns * per_column + 2, np.full_like(rows, 255)], axis=-1
        )
        log = PictureLog([processor])
        with ExitStack() as stack:
            log.watch(stack)
            coded_picture = Image.fromarray(coded.astype(np.uint8))
            seen = processor(coded_picture, return_tensors="np", **at_call)
        (known,) = encoded_pictures(RunningCall(None, {}, log.take()), 1) or [None]
        assert known is not None
        box = known.box(height, width)
        assert box is not None
        values = np.asarray(seen.pixel_values[0], np.float64)
        inner = values[2] == 255
        inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False
        y, x = np.meshgrid(*box.cell_centres(values.shape[1:]), indexing="ij")
        # Pixels next to padding are mixed with it.
        kept = _eroded(inner)
        assert kept.sum() > 50
        assert np.abs((values[0] - 2) / per_row + 0.5 - y)[kept].max() < 0.55
        assert np.abs((values[1] - 2) / per_column + 0.5 - x)[kept].max() < 0.55


def _eroded(inside: Any) -> Any:
    found = inside.copy()
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            found &= np.roll(inside, step, axis)
    return found


def test_a_crop_that_is_filled_up_to_its_canvas_reaches_beyond_its_picture() -> None:
    # 100 × 64 pixels in a square of 32: 32 × 20, with 6 filled rows above and below.
    box = filled_canvas((15, 0, 115, 64), 32, 32)
    assert box == pytest.approx(Box(-6 * 64 / 20, 15, 26 * 64 / 20, 115))
