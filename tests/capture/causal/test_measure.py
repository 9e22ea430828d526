"""Effects of regions, layers and edges: against closed forms, and against single cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from i2am.capture import cut, load_pipeline
from i2am.capture.causal.forced import chosen_steps
from i2am.capture.causal.measure import EffectOptions, MeasuredEffects, knock_out
from i2am.capture.causal.patches import change_of_patches, strength
from i2am.schemas import CaptureError, SchemaError
from tests.support.joint_toy import GRID, TEXT, JointToy, toy_profile

GENERATED = slice(TEXT, TEXT + GRID[0] * GRID[1])
FIRST = slice(GENERATED.stop, GENERATED.stop + 6)  # the first reference's tokens, 3×2
SHARES = {
    ("text", "text"): (0.5, 0.25, 0.25),
    ("generated", "text"): (0.1, 0.05, 0.05),
    ("generated", "reference_0"): (0.05, 0.1, 0.15, 0.2, 0.1, 0.1),
    ("generated", "reference_1"): (0.025, 0.025, 0.025, 0.025),
    ("reference", "reference_0"): (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}


class ToyCall:
    """Paints with a toy: its latents are what the generated patches get."""

    most = 64
    most_references = 0

    def __init__(self, toy: JointToy, noise: float = 0) -> None:
        self.toy, self.noise = toy, noise

    def __call__(self, count: int, references: Any = None) -> torch.Tensor:
        latents = JointToy.latents().expand(count, -1, -1)
        latents = latents + self.noise * torch.arange(count)[:, None, None]
        found: torch.Tensor = self.toy(latents, 1.0)[:, GENERATED]
        return found.transpose(1, 2).reshape(count, 2, *GRID)


def measured(call: ToyCall, **options: Any) -> MeasuredEffects:
    pictures = {"reference": (30, 20), "reference_1": (20, 20)}
    return knock_out(call.toy, call, pictures=pictures, profile=toy_profile(), **options)


def test_the_effect_of_a_region_in_one_layer_is_what_renormalising_its_softmax_gives() -> None:
    effects = measured(ToyCall(JointToy([SHARES])), regions=(3, 2), batch=4)
    shares = np.zeros(FIRST.stop + 4)
    shares[:TEXT] = SHARES["generated", "text"]
    shares[FIRST] = SHARES["generated", "reference_0"]
    shares[FIRST.stop :] = SHARES["generated", "reference_1"]
    tokens = JointToy.latents()[0].numpy()

    def output(left_out: Any) -> Any:
        kept = shares.copy()
        kept[left_out] = 0
        return kept @ tokens / kept.sum()

    for region in range(6):
        change = output(FIRST.start + region) - output([])
        expected = np.sqrt(np.mean(change**2))  # the same for every patch
        np.testing.assert_allclose(effects["region"][region], expected, rtol=1e-4)
    everything = output(slice(FIRST.start, None)) - output([])
    np.testing.assert_allclose(effects["ceiling"], np.sqrt(np.mean(everything**2)), rtol=1e-4)
    np.testing.assert_allclose(effects["layer"][0], effects["ceiling"], rtol=1e-4)
    np.testing.assert_allclose(effects.share("layer"), [1], rtol=1e-4)
    assert effects["floor"].max() < 1e-5 * effects["ceiling"].max()
    assert effects.boxes[1].tolist() == [0, 10, 10, 20]
    assert effects.layers == ("blocks.0",)


def test_edges_are_cut_apart_and_together_they_are_the_ceiling() -> None:
    reads = SHARES | {
        ("text", "text"): (0.25, 0.25, 0.0),
        ("text", "reference_0"): (0.5, 0.0, 0.0, 0.0, 0.0, 0.0),
    }
    toy = ToyCall(JointToy([reads, reads]))
    edges = ("reference->generated", "reference->text", "text->generated")
    effects = measured(toy, regions=(1, 1), edges=edges, per=["edge"])
    assert effects.edges == edges
    assert effects["edge"].shape == (3, *GRID)
    both = painted_with(toy, edges=edges[:2]) - painted_with(toy)
    np.testing.assert_allclose(effects["ceiling"], change_of_patches(both, GRID), rtol=1e-4)
    alone = painted_with(toy, edges=edges[1]) - painted_with(toy)
    np.testing.assert_allclose(effects["edge"][1], change_of_patches(alone, GRID), rtol=1e-4)
    assert "region" not in effects.arrays
    assert "layer" not in effects.arrays


def painted_with(call: ToyCall, **options: Any) -> Any:
    if not options:
        return call(1)[0].numpy()
    with cut(call.toy, profile=toy_profile(), **options):
        return call(1)[0].numpy()


def test_images_from_another_noise_are_refused() -> None:
    message = "painted from the same noise to be the same"
    with pytest.raises(CaptureError, match=message):
        measured(ToyCall(JointToy([SHARES]), noise=0.5), regions=(1, 1), batch=3)

    class Restless(ToyCall):
        """Paints something else in every call."""

        def __call__(self, count: int, references: Any = None) -> torch.Tensor:
            self.noise += 1
            return super().__call__(count) + self.noise

    with pytest.raises(CaptureError, match=message):
        measured(Restless(JointToy([SHARES])), regions=(1, 1), batch=1)


def test_regions_of_a_reference_without_a_size_are_refused() -> None:
    call = ToyCall(JointToy([SHARES]))
    with pytest.raises(CaptureError, match="Expected the reference, of which regions are cut"):
        knock_out(call.toy, call, profile=toy_profile())


@pytest.fixture(scope="module")
def pipeline() -> Any:
    pipe = load_pipeline("i2am-tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def call() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    reference, source = (
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
        for _ in range(2)
    )
    mask = Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 12))
    return {
        "image": source,
        "mask_image": mask,
        "example_image": reference,
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
    }


def test_the_direct_effect_is_the_total_one_where_there_is_one_step(
    pipeline: Any, call: dict[str, Any]
) -> None:
    own = pipeline.scheduler
    # From pure noise to the image at once.
    pipeline.scheduler = DDIMScheduler.from_config(
        own.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    try:
        effects = knock_out(pipeline, call, regions=(2, 2), forced=True, seed=1, batch=4)
    finally:
        pipeline.scheduler = own
    assert effects.direct_steps == (0,)
    for name in ("region", "layer", "ceiling"):
        largest = effects[name].max()
        np.testing.assert_allclose(effects[f"direct_{name}"], effects[name], atol=1e-4 * largest)


def test_direct_effects_are_those_of_single_steps_on_the_untouched_trajectory(
    pipeline: Any, call: dict[str, Any]
) -> None:
    call |= {"num_inference_steps": 2}
    effects = knock_out(pipeline, call, regions=(1, 1), per=["layer"], forced=True, batch=2)
    assert effects.direct_steps == (0, 1)
    seen: list[Any] = []

    def see(_module: Any, arguments: Any, options: Any, output: Any) -> None:
        seen.append((arguments, options, output.sample))

    handle = pipeline.unet.register_forward_hook(see, with_kwargs=True)
    pipeline(**call, generator=torch.Generator().manual_seed(0))
    handle.remove()
    squares: Any = 0
    for number, (arguments, options, clean) in enumerate(list(seen)):
        with torch.no_grad(), cut(pipeline.unet, layers="up_blocks.1.attentions.1*"):
            other = pipeline.unet(*arguments, **options).sample
        alpha = pipeline.scheduler.alphas_cumprod[int(arguments[1])]
        change = (1 - alpha) ** 0.5 * (other - clean)[0]  # of x0, from a velocity
        squares = squares + np.square(change_of_patches(change.numpy(), (16, 16)))
        assert number < 2
    np.testing.assert_allclose(
        effects["direct_layer"][6], np.sqrt(squares / 2), rtol=1e-3, atol=1e-5
    )
    assert effects.layers[6].startswith("up_blocks.1.attentions.1")


def test_another_number_of_images_a_call_changes_rounding_alone(
    pipeline: Any, call: dict[str, Any]
) -> None:
    call |= {"guidance_scale": 2.0}
    several, alone = (
        knock_out(pipeline, call, regions=(2, 1), per=["region"], occlusion=True, batch=batch)
        for batch in (3, 1)
    )
    for name in several.arrays:
        largest = several["ceiling"].max()
        np.testing.assert_allclose(several[name], alone[name], atol=1e-4 * largest, err_msg=name)
    assert several["region"].max() > 100 * several["floor"].max()
    assert alone.pictures == 1 + 2 + 2 + 2  # untouched, floor and ceiling, regions, occlusions


def test_adaptive_regions_tile_the_reference_and_each_is_measured_by_itself(
    pipeline: Any, call: dict[str, Any]
) -> None:
    effects = knock_out(pipeline, call, regions=(8, 8), per=["region"], adaptive=True, batch=17)
    covered = np.zeros((64, 64), int)
    for y0, x0, y1, x1 in effects.boxes.astype(int):
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()
    sizes = (effects.boxes[:, 2] - effects.boxes[:, 0]).tolist()
    assert sizes.count(16) == 12
    assert sizes.count(8) == 16
    assert effects.boxes.tolist() == sorted(effects.boxes.tolist())
    # As when they are measured in a grid of their size.
    fixed = knock_out(pipeline, call, regions=(4, 4), per=["region"], batch=17)
    numbers = {tuple(box): number for number, box in enumerate(fixed.boxes.tolist())}
    kept = [numbers.pop(tuple(box)) for box in effects.boxes.tolist() if tuple(box) in numbers]
    large = [one for one, size in zip(effects["region"], sizes, strict=True) if size == 16]
    np.testing.assert_allclose(large, fixed["region"][kept], atol=1e-5)
    weakest_split = min(strength(fixed["region"][number]) for number in numbers.values())
    assert weakest_split >= max(strength(one) for one in large)


def test_curves_begin_with_nothing_cut_and_go_by_the_order(
    pipeline: Any, call: dict[str, Any]
) -> None:
    boxes: list[Any] = []

    def orders(given: Any) -> dict[str, list[int]]:
        boxes.extend(given.tolist())
        return {"last first": [3, 2, 1, 0]}

    effects = knock_out(pipeline, call, regions=(2, 2), per=["region"], orders=orders, batch=6)
    assert boxes == [[0, 0, 32, 32], [0, 32, 32, 64], [32, 0, 64, 32], [32, 32, 64, 64]]
    assert effects.orders == {"last first": (3, 2, 1, 0)}
    assert effects.counts == (0, 1, 2, 3, 4)
    deletion, insertion = effects["deletion"][0], effects["insertion"][0]
    np.testing.assert_allclose(deletion[0], 0, atol=1e-5)
    np.testing.assert_allclose(insertion[-1], 0, atol=1e-5)
    np.testing.assert_allclose(deletion[1], effects["region"][3], atol=1e-5)
    np.testing.assert_allclose(insertion[3], effects["region"][0], atol=1e-5)
    np.testing.assert_array_equal(deletion[4], insertion[0])
    alone = knock_out(pipeline, call, regions=(2, 2), per=[], orders=orders, batch=6)
    assert sorted(alone.arrays)[:2] == ["ceiling", "ceiling_pixels"]
    assert not any("region" in name for name in alone.arrays)
    np.testing.assert_allclose(alone["deletion"], effects["deletion"], atol=1e-5)
    np.testing.assert_array_equal(alone.boxes, effects.boxes)


def test_an_order_that_misses_a_region_is_refused(pipeline: Any, call: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"each of 4 regions once, got \[0, 1\]"):
        knock_out(pipeline, call, regions=(2, 2), per=["region"], orders=lambda _: {"a": [0, 1]})


def test_to_hide_a_part_of_a_plain_picture_changes_nothing(
    pipeline: Any, call: dict[str, Any]
) -> None:
    call["example_image"] = Image.new("RGB", (64, 64), (90, 120, 200))
    effects = knock_out(pipeline, call, regions=(2, 1), per=["region"], occlusion=True, batch=4)
    assert effects["occlusion"].max() < 1e-5 * effects["ceiling"].max()
    assert effects["region"].max() > 0.01 * effects["ceiling"].max()


def test_nothing_is_left_on_the_model(pipeline: Any, call: dict[str, Any]) -> None:
    parts = (pipeline.vae, pipeline.unet, pipeline.scheduler, *pipeline.unet.modules())

    def state() -> list[Any]:
        return [(set(vars(part)), len(getattr(part, "_forward_hooks", ()))) for part in parts]

    def painted() -> Any:
        return np.asarray(pipeline(**call, generator=torch.Generator().manual_seed(0)).images[0])

    image = painted()
    before = state()
    options: dict[str, Any] = {"regions": (2, 2), "forced": True, "occlusion": True}
    knock_out(pipeline, call, **options)
    assert state() == before
    with pytest.raises(ValueError, match="Expected height"):
        knock_out(pipeline, call | {"height": 1}, **options)
    assert state() == before
    np.testing.assert_array_equal(painted(), image)


def test_steps_of_direct_effects_spread_over_the_run() -> None:
    assert chosen_steps(6, 4) == [0, 2, 3, 5]
    assert chosen_steps(1, 4) == [0]


@pytest.mark.parametrize("regions", [(2, 2), (8, 4), (12, 12)])
def test_a_grid_that_cannot_be_adaptive_is_refused_before_any_image(regions: Any) -> None:
    with pytest.raises(SchemaError, match="Expected a grid of 4×4, 8×8, 16×16 … for adaptive"):
        EffectOptions(regions=regions, adaptive=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": (3, 3), "adaptive": True}, "4×4, 8×8, 16×16 … for adaptive regions, got 3×3"),
        ({"regions": (0, 3)}, r"Expected a grid \(height, width\) from 1 on"),
        ({"regions": (100, 1)}, "Expected regions of a pixel or more, got 100×1"),
        ({"edges": ["text->generated"]}, "Expected an edge that begins at the reference"),
        ({"edges": ["reference->image"]}, "Expected a known edge"),
        ({"per": ["head"]}, "Expected a known per, got 'head'"),
        ({"batch": 0}, "at batch"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    pipeline: Any, call: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        knock_out(pipeline, call, **options)
