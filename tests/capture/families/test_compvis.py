"""CompVis-style research code: both paths of the reference, every sampler, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.analysis import describe_store, open_run
from i2am.analysis.maps.official import official_plan
from i2am.analysis.stores.layers import select_layers
from i2am.capture import capture
from i2am.schemas import find_faults
from tests.support.compvis.checks import BUILDERS, DOWN, STEPS, UP, WARP, check_attention, record
from tests.support.compvis.layers import MemoryEfficientCrossAttention
from tests.support.compvis.models import (
    DDIMSampler,
    LatentDiffusion,
    PLMSSampler,
    cross_attentions,
    stableviton,
    timesteps,
)
from tests.support.tiny_pipelines.models import opened


@pytest.fixture(params=BUILDERS)
def model(request: pytest.FixtureRequest) -> LatentDiffusion:
    return BUILDERS[request.param]()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def witnessed(model: LatentDiffusion, attention: Any, samples: int) -> torch.Tensor:
    """Return a layer's own scores, dims (guidance, step, sample, head, generated, reference).

    Of a sampler that calls once a step, twice where each branch has its own call.
    """
    calls = attention.scores
    if "ControlLDM" in type(model).__name__:
        return torch.stack([torch.stack(calls[1::2]), torch.stack(calls[::2])])
    stacked = torch.stack(calls)
    return torch.stack([stacked[:, :samples], stacked[:, samples:]])


def test_captured_attention_is_what_the_layer_computed_for_each_image_and_guidance_branch(
    model: LatentDiffusion, store: Path
) -> None:
    names = ["a", "b"]
    record(model, store, DDIMSampler(model), 5.0, sample=names, guidance="both", dtype="float32")
    layers = cross_attentions(model)
    for place, name in enumerate(names):
        group = opened(store / name)
        assert set(dict(group["layers"].groups())) == set(layers)
        assert group["guidance"][...].tolist() == ["unconditional", "conditional"]
        for layer, attention in layers.items():
            expected = witnessed(model, attention, len(names))[:, :, place]
            check_attention(group["layers"][layer], expected, 1e-5)


def test_a_float16_capture_stays_within_its_precision_and_keeps_the_contract(
    model: LatentDiffusion, store: Path
) -> None:
    record(model, store, DDIMSampler(model))
    for name, attention in cross_attentions(model).items():
        layer = opened(store / "one" / "layers" / name)
        check_attention(layer, torch.cat(attention.scores), 2e-3)
    assert list(find_faults(describe_store(store))) == []


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_of_the_two_calls_that_plms_makes_at_one_timestep_the_last_is_kept(
    model: LatentDiffusion, store: Path, scale: float
) -> None:
    record(model, store, PLMSSampler(model), scale, dtype="float32")
    group = opened(store / "one")
    assert group["step"][...].tolist() == list(range(STEPS))
    assert group["timestep"][...].tolist() == timesteps(STEPS)
    for name, attention in cross_attentions(model).items():
        calls = attention.scores
        if scale > 1:
            is_apart = "ControlLDM" in type(model).__name__
            calls = calls[::2] if is_apart else [call[1:] for call in calls]
        assert len(calls) == STEPS + 1
        kept = torch.cat([calls[0], *calls[2:]])
        check_attention(group["layers"][name], kept, 1e-5)


def test_output_is_bit_identical_with_and_without_capture(
    model: LatentDiffusion, store: Path
) -> None:
    sampler = PLMSSampler(model)
    before = sampler.sample(STEPS, scale=5.0)
    assert torch.equal(before, record(model, store, sampler, 5.0))
    assert torch.equal(before, sampler.sample(STEPS, scale=5.0))


def hooked(model: torch.nn.Module) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    }


def test_only_the_denoising_unet_is_hooked_and_nothing_is_left_on_it(
    model: LatentDiffusion, store: Path
) -> None:
    image = np.zeros((*model.latent_size, 3), np.uint8)
    with capture(model, store, sample="one") as recording:
        names = hooked(model)
        DDIMSampler(model).sample(1)
        recording.add_images(generated=image, reference=image)
    for layer in cross_attentions(model):
        assert f"model.diffusion_model.{layer}.to_q" in names
    # Neither the look-alikes of ControlNet, encoder and autoencoder, nor self-attention.
    assert all(name.startswith("model.diffusion_model") for name in names)
    assert not any("attn1" in name for name in names)
    assert hooked(model) == set()
    gone = weakref.ref(recording), weakref.ref(model.model.diffusion_model)
    del recording, model.model
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_an_exception_in_the_middle_of_the_model_unhooks_it_and_lets_go_of_its_tensors(
    model: LatentDiffusion, store: Path
) -> None:
    layer = "output_blocks.5.1.transformer_blocks.0.attn2"
    attention = cross_attentions(model)[layer]
    seen: list[weakref.ref[torch.Tensor]] = []

    def stop(_module: Any, _arguments: Any, output: torch.Tensor) -> None:
        seen.append(weakref.ref(output))
        if len(seen) == 2:
            raise RuntimeError("out of memory")

    # Not pytest.raises: the traceback would keep the tensors.
    with (
        attention.to_q.register_forward_hook(stop),
        suppress(RuntimeError),
        capture(model, store, sample="one") as recording,
    ):
        DDIMSampler(model).sample(STEPS)
    assert hooked(model) == set()
    for attention in cross_attentions(model).values():
        attention.scores.clear()
    gc.collect()
    assert [ref() for ref in seen] == [None, None]
    del recording
    attributes = opened(store / "one").attrs["i2am"]
    assert (attributes["status"], attributes["error"]) == ("failed", "RuntimeError: out of memory")


@pytest.mark.parametrize("name", ["stableviton", "stableviton_plain_warp"])
def test_both_paths_of_stableviton_have_their_grids_in_execution_order(
    store: Path, name: str
) -> None:
    model = BUILDERS[name]()
    record(model, store, DDIMSampler(model))
    found = {
        name.removesuffix(".transformer_blocks.0.attn2"): layer.attrs["i2am"]
        for name, layer in opened(store / "one" / "layers").groups()
    }
    mixed = [path for pair in zip(WARP, UP, strict=True) for path in pair]
    assert sorted(found, key=lambda path: found[path]["order"]) == [
        *DOWN,
        "middle_block.1",
        *mixed,
    ]
    down = [[32, 24], [32, 24], [16, 12], [16, 12], [8, 6], [8, 6]]
    up = [[8, 6]] * 3 + [[16, 12]] * 3 + [[32, 24]] * 3
    grids = dict(zip([*DOWN, "middle_block.1", *UP], [*down, [4, 3], *up], strict=True))
    blocks = {"input_blocks": "down", "middle_block": "mid", "output_blocks": "up"}
    for path, grid in grids.items():
        layer = found[path]
        assert (layer["generated_grid"], layer["reference_grid"]) == (grid, None)
        assert (layer["block"], layer["causal"]) == (blocks[path.split(".")[0]], False)
    for path, grid in zip(WARP, up, strict=True):
        layer = found[path]
        assert (layer["generated_grid"], layer["reference_grid"]) == (grid, grid)
        assert (layer["block"], layer["causal"], layer["special_tokens"]) == ("warp", True, 0)


def test_the_official_convention_shows_the_fifth_warp_block(store: Path) -> None:
    model = stableviton()
    record(model, store, DDIMSampler(model))
    sample: Any = open_run(store)["one"]
    plan = official_plan(sample, select_layers(sample), (32, 24))
    whole = [f"{path}.transformer_blocks.0.attn2" for path in WARP]
    assert [layer.name for layer in plan.g2r] == [whole[4]]
    assert [layer.name for layer in plan.g2r_time] == whole[3:6]
    clip = [layer.name for layer in plan.r2g if layer.name not in whole]
    assert clip == [f"{path}.transformer_blocks.0.attn2" for path in (*DOWN, *UP)]


def test_a_capture_inside_autocast_keeps_what_the_projections_gave(store: Path) -> None:
    model = stableviton(attention=MemoryEfficientCrossAttention)
    with torch.autocast("cpu", torch.bfloat16):
        record(model, store, DDIMSampler(model), dtype="float32")
    for name, attention in cross_attentions(model).items():
        # Halves of bfloat16, multiplied exactly: here and in the witness.
        layer = opened(store / "one" / "layers" / name)
        check_attention(layer, torch.cat(attention.scores), 1e-5)
