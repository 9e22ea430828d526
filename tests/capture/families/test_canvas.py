"""Canvases: which tokens a part has, where it lies on a stored picture, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from i2am.capture import Profile, RunningCall, SeenPart, capture
from i2am.capture.families.canvas import Picture, box_tokens, canvas, canvas_part, picture_grid
from i2am.capture.families.lookup import find_profile
from i2am.capture.profiles.preparation import CanvasPart
from i2am.schemas import Box, CaptureError
from tests.support.research.canvases import (
    SkipAttnProcessor,
    catvton,
    diptych,
    hidream_e1,
    visualcloze,
)
from tests.support.research.models import Research, noise
from tests.support.tiny_pipelines import families, models
from tests.support.tiny_pipelines.families import noise_image

PICTURE = noise_image(32, 1, width=24)
RIGHT = (0, 0.5, 1, 1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def indices(part: tuple[float, ...], grid: tuple[int, int], start: int = 0) -> list[int]:
    tokens, (height, width) = box_tokens(Box(*part), Picture(grid, start), "a layer")
    found: list[int] = torch.arange(start + grid[0] * grid[1])[tokens].tolist()
    assert len(found) == height * width
    return found


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        pytest.param((0, 0, 0.5, 1), range(6), id="upper half"),
        pytest.param((0.5, 0, 1, 1), range(6, 12), id="lower half"),
        pytest.param(RIGHT, [3, 4, 5, 9, 10, 11], id="right half"),
        pytest.param((0, 1 / 3, 0.5, 2 / 3), [2, 3], id="a third, which is not exact"),
        pytest.param((0.5, 5 / 6, 1, 1), [11], id="the last token"),
    ],
)
def test_the_tokens_of_a_part_follow_each_other_row_by_row(part: Any, expected: Any) -> None:
    assert indices(part, (2, 6)) == list(expected)
    assert indices(part, (2, 6), start=7) == [7 + index for index in expected]


@pytest.mark.parametrize(
    ("part", "grid"), [((0, 0.5, 1, 1), (4, 7)), ((0, 0, 0.5, 1), (3, 4)), ((0, 0, 0.1, 1), (4, 4))]
)
def test_an_edge_inside_a_token_is_refused(part: Any, grid: Any) -> None:
    message = r"that end where tokens do, got \(0, .* of \d×\d tokens, at layer 'up.attn1'"
    with pytest.raises(CaptureError, match=message):
        box_tokens(Box(*part), Picture(grid), "up.attn1")


@pytest.mark.parametrize("part", [(0, 0, 1), (0, 0.5, 1, 0.5), (0, 0, 2, 1), (-1, 0, 1, 1), "left"])
def test_what_is_no_part_is_refused_before_the_model_runs(part: Any) -> None:
    unet = catvton().denoiser
    with pytest.raises(CaptureError, match=r"Expected a part \(y0, x0, y1, x1\) of the canvas"):
        list(canvas(unet, target=part, reference=RIGHT))
    with pytest.raises(CaptureError, match="in fractions of it"):
        list(canvas(unet, target=RIGHT, reference=[RIGHT, part]))


def test_a_canvas_whose_levels_do_not_divide_is_refused_unless_they_are_left_out(
    store: Path,
) -> None:
    """Of 20 rows the second level has 10, five in each half; of 14 it has 7, and the edge is in one."""
    research = catvton()
    research.target.garment = noise(1, 4, 8, 12)

    def run(height: int) -> None:
        rows = torch.zeros(1, 9, height, 12)
        with torch.no_grad():
            research.denoiser(rows, 5, None)

    pictures: dict[str, Any] = {"generated": np.zeros((4, 8, 3)), "reference": np.zeros((4, 8, 3))}
    with capture(research.denoiser, store, sample="a") as recording:
        run(20)
        recording.add_images(**pictures, boxes={"generated": (0, 0, 4, 8)})
    match = r"got \(0, 0, 0.5, 1\) of 7×6 tokens, at layer 'down_blocks.1"
    with pytest.raises(CaptureError, match=match), capture(research.denoiser, store, sample="b"):
        run(14)
    with capture(research.denoiser, store, sample="c", layers="up_blocks.1*") as recording:
        run(14)
        recording.add_images(**pictures)


# --- Where the generated part lies on what is stored.


@pytest.mark.parametrize(
    ("size", "box"),
    [
        pytest.param((32, 48), [0, 24, 32, 48], id="the canvas"),
        pytest.param((64, 96), [0, 48, 64, 96], id="the canvas, enlarged"),
        pytest.param((32, 24), None, id="the part"),
        pytest.param((64, 48), None, id="the part, enlarged"),
    ],
)
def test_the_canvas_or_its_generated_part_may_be_stored(size: Any, box: Any, store: Path) -> None:
    research = diptych(diffusers.FluxFillPipeline, "icedit")
    with capture(research.target, store, sample="a", profile="icedit") as recording:
        research.sample(1)
        recording.add_images(generated=np.zeros((*size, 3), np.uint8), reference=PICTURE)
    assert box_of(store, "generated") == box
    assert box_of(store, "reference") is None


def test_a_painted_diptych_is_stored_as_the_pipeline_returns_it(store: Path) -> None:
    research = diptych(diffusers.FluxFillPipeline, "icedit")
    with capture(research.target, store, sample="a", profile="icedit") as recording:
        (image,) = research.sample(1, output_type="pil")
        recording.add_images(generated=image, reference=PICTURE)
    assert box_of(store, "generated") == [0, 24, 32, 48]


def test_a_picture_of_neither_shape_is_refused(store: Path) -> None:
    research = diptych(diffusers.FluxFillPipeline, "icedit")
    with capture(research.target, store, sample="a", profile="icedit") as recording:
        research.sample(1)
        message = "in the shape of its 8×6 patches, or the canvas, of 8×12, got 32×32 px.*boxes="
        with pytest.raises(CaptureError, match=message) as caught:
            recording.add_images(generated=noise_image(32))
        assert len(str(caught.value)) <= 300
        with pytest.raises(CaptureError, match="in the shape of its 8×6 tokens, as nothing tells"):
            recording.add_images(reference=noise_image(32))
        recording.add_images(
            generated=noise_image(32), reference=PICTURE, boxes={"generated": (0, 16, 32, 32)}
        )
    assert box_of(store, "generated") == [0, 16, 32, 32]


def test_a_quarter_has_the_shape_of_its_canvas_so_nothing_tells_which_is_stored() -> None:
    part = CanvasPart((8, 6), Box(0.5, 0.5, 1, 1))
    assert part.box(32, 24) is None
    assert CanvasPart((8, 6), Box(0.5, 0, 1, 1)).box(64, 24) == (32, 0, 64, 24)


def test_a_canvas_that_was_pasted_into_a_crop_is_the_crops_part() -> None:
    """As with diffusers' padding_mask_crop: 40 × 20 pixels at (10, 30) of a picture 100 × 200."""
    original = noise_image(100, width=200)
    variables = {
        "crops_coords": (30, 10, 50, 50),
        "original_image": original,
        "init_image": torch.zeros(1, 3, 64, 32),
    }
    found = canvas_part(RunningCall(None, variables, grid=(8, 2)), target=RIGHT)
    assert found == SeenPart(100, 200, Box(10, 40, 50, 50))


def box_of(store: Path, image: str) -> Any:
    found = dict(models.opened(store / "a" / "images")[image].attrs)
    return found.get("i2am", {}).get("box")


# --- Which models it serves, and which not.


def test_a_unet_that_skips_its_cross_attention_is_catvtons_and_no_other() -> None:
    unet = catvton().denoiser
    assert find_profile(unet).name == "catvton"
    modules: Any = unet.modules()
    for module in modules:
        if isinstance(getattr(module, "processor", None), SkipAttnProcessor):
            module.set_processor(diffusers.models.attention_processor.AttnProcessor2_0())
    assert find_profile(unet).name == "unet"


def test_catvtons_kin_that_joins_its_parts_sideways_is_refused() -> None:
    paints: Any = find_profile(catvton().target).paints
    call = RunningCall(None, {"concat_dim": -2}, grid=(8, 12))
    assert paints(call) == CanvasPart((8, 12), Box(0, 0, 0.5, 1))
    with pytest.raises(CaptureError, match="got them joined along concat_dim=-1"):
        paints(RunningCall(None, {"concat_dim": -1}, grid=(8, 12)))


def test_a_sequence_of_several_pictures_is_no_canvas(store: Path) -> None:
    family = families.flux_kontext()
    message = "Expected one canvas, row by row, got 40 tokens.*'flux' of Kontext's"
    with (
        pytest.raises(CaptureError, match=message),
        capture(family.pipeline, store, sample="a", profile="icedit"),
    ):
        family.run(1)


def test_ids_in_another_order_are_no_canvas() -> None:
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(2.0), torch.arange(3.0))
    assert picture_grid(ids) == (2, 3)
    for wrong in (ids.flip(0), ids[:5], ids[:, [0, 2, 1]], torch.cat([ids, ids])):
        with pytest.raises(CaptureError, match="Expected one canvas, row by row"):
            picture_grid(wrong)


def test_a_layer_with_more_keys_than_the_canvas_has_tokens_is_refused(store: Path) -> None:
    """Another network's tokens: nobody knows whose the rest would be."""
    family = families.reference_only()
    halves = Profile("halves", (), partial(canvas, target=(0, 0, 0.5, 1), reference=(0.5, 0, 1, 1)))
    halves = Profile(**{**vars(halves), "calls": ("conditional",) * 2})
    message = "Expected 4×8 queries, got 64, at layer"
    with (
        pytest.raises(CaptureError, match=message),
        capture(family.pipeline, store, sample="a", profile=halves),
    ):
        family.run(1)


def refuse(research: Research, store: Path, message: str, **options: Any) -> None:
    with (
        pytest.raises(CaptureError, match=message) as caught,
        capture(research.target, store, sample="a", **options),
    ):
        research.sample(2)
    assert len(str(caught.value)) <= 330


@pytest.mark.parametrize("guided", [True, False])
def test_the_steps_in_which_hidream_refines_have_no_reference(guided: bool, store: Path) -> None:
    research = hidream_e1()
    refined = "Expected 3 rows .* got 2" if guided else "Expected step 1 of|one that refines"
    for sample, steps, message in (("a", None, refined), ("b", [1], refined)):
        with (
            pytest.raises(CaptureError, match=message),
            capture(research.target, store, sample=sample, steps=steps),
        ):
            research.sample(2, guided, refined=1)
    with capture(research.target, store, sample="c", steps=[0]) as recording:
        research.sample(2, guided, refined=1)
        recording.add_images(**research.pictures())


def test_what_visualcloze_cannot_tell_is_refused(store: Path) -> None:
    research = visualcloze()
    pipeline: Any = research.target
    square = noise_image(24)
    pipeline.rows = [[square] * 3, [None, None, square]]
    refuse(research, store, "Expected one picture to be generated, got 2 of 3 in the last row")
    research = visualcloze()
    transformer = research.denoiser
    call = {
        "hidden_states": noise(1, 12, 24),
        "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": noise(1, 6, 16),
        "pooled_projections": noise(1, 16),
        "img_ids": torch.zeros(12, 3),
        "txt_ids": torch.zeros(6, 3),
    }
    message = "Expected a running call of VisualClozeGenerationPipeline"
    with (
        pytest.raises(CaptureError, match=message),
        capture(transformer, store, sample="a", profile="visualcloze"),
    ):
        transformer(**call)


def test_visualclozes_second_stage_is_another_sampling(store: Path) -> None:
    research = visualcloze(diffusers.VisualClozePipeline)
    pipeline: Any = research.target
    with (
        pytest.raises(CaptureError, match="Expected one sampling under a sample's name"),
        capture(pipeline, store, sample="a"),
    ):
        pipeline.generation_pipe.text_encoder = None
        told = noise(1, 6, 16), noise(1, 16), torch.zeros(6, 3)
        pipeline.upsampling_pipe.encode_prompt = lambda **_: told
        pipeline(
            task_prompt="",
            content_prompt="",
            image=pipeline.rows,
            num_inference_steps=2,
            upsampling_height=16,
            upsampling_width=16,
            generator=torch.Generator().manual_seed(0),
        )
