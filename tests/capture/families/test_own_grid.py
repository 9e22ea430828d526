"""Features on the query's own grid: what is refused, and which layers are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from i2am.capture import capture
from i2am.capture.families.lookup import find_profile
from i2am.capture.families.own_grid import own_grid_cross_attention
from i2am.schemas import CaptureError
from tests.support.look_alikes import add_attention
from tests.support.research.models import noise
from tests.support.research.super_resolution import pasd, pasd_light, supir
from tests.support.tiny_pipelines import models, parts


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("build", [pasd, pasd_light])
def test_a_picture_that_is_painted_in_tiles_is_refused(
    build: Any, guided: bool, store: Path
) -> None:
    """As PASD does it with large ones; one tile must not stand for the picture."""
    research = build()
    research.target.latent_tiled_size = 6  # of 12 columns
    message = r"got other latents in call 2: a part of the image \(tile, view\)"
    for sample, steps in (("a", None), ("b", [1])):
        with (
            pytest.raises(CaptureError, match=message),
            capture(research.target, store, sample=sample, steps=steps),
        ):
            research.sample(2, guided)
        assert models.opened(store / sample).attrs["i2am"]["status"] == "failed"


def test_a_bare_unet_that_is_called_on_tiles_is_refused(store: Path) -> None:
    """There is no scheduler to count steps: calls at one timestep must have the same latents."""
    research = pasd()
    research.target.latent_tiled_size = 6
    # Two tiles at each of two timesteps look like two branches, in calls of their own.
    with (
        pytest.raises(CaptureError, match="Expected calls of the denoiser that differ in guidance"),
        capture(research.denoiser, store, sample="a"),
    ):
        research.sample(2, guided=False)


def test_features_on_another_grid_are_refused(store: Path) -> None:
    research = pasd_light()
    unet = research.denoiser
    # As many as the queries of the level above.
    features = [noise(1, width, 8, 12) for width in (16, 16, 16, 32)]
    message = "Expected 4×6 reference tokens, as their layout says, got 96, at layer 'up_blocks.0"
    with pytest.raises(CaptureError, match=message), capture(unet, store, sample="a"):
        unet(noise(1, 4, 8, 12), torch.tensor(5), noise(1, 7, 16), features)


def test_a_mask_is_refused(store: Path) -> None:
    research = pasd()
    path = "up_blocks.1.pixel_attentions.0"
    attention = research.denoiser.get_submodule(f"{path}.transformer_blocks.0.attn2")
    mask = {"attention_mask": torch.zeros(2, 1, 96)}
    attention.register_forward_pre_hook(
        lambda _module, arguments, options: (arguments, options | mask),
        with_kwargs=True,
        prepend=True,
    )
    message = f"Expected attention without a mask, got one, at layer '{path}"
    with pytest.raises(CaptureError, match=message), capture(research.target, store, sample="a"):
        research.sample(1)


def test_layers_are_known_by_a_module_on_their_path_and_not_by_a_part_of_its_name() -> None:
    unet = parts.unet()
    add_attention(unet, "mid_block.pixel_attentions.0.transformer_blocks.0.attn2")
    add_attention(unet, "mid_block.no_pixel_attentions.0.transformer_blocks.0.attn2")
    (tap,) = own_grid_cross_attention(unet, within="pixel_attentions")
    assert tap.name == "mid_block.pixel_attentions.0.transformer_blocks.0.attn2"
    assert find_profile(unet).name == "pasd"


def test_supirs_attention_without_a_scale_has_the_weight_one(store: Path) -> None:
    research = supir()

    def without_scale(_module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        return arguments, {
            name: value for name, value in options.items() if name != "control_scale"
        }

    research.denoiser.register_forward_pre_hook(without_scale, with_kwargs=True, prepend=True)
    with capture(research.target, store, sample="a") as recording:
        research.sample(1)
        recording.add_images(**research.pictures())
    for _, layer in models.opened(store / "a" / "layers").groups():
        assert layer.attrs["i2am"].get("weight", 1.0) == 1.0
