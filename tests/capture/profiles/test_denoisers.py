"""Where a target has its denoiser: in the usual places, or where the user says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from i2am.capture import capture
from i2am.capture.profiles.denoisers import find_denoiser, find_denoisers
from i2am.schemas import CaptureError
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.models import opened
from tests.support.tiny_pipelines.parts import WIDTH


class Holder:
    """A pipeline of somebody's own."""

    def __init__(self, **held: Any) -> None:
        vars(self).update(held)

    def __call__(self) -> None:
        with torch.no_grad():
            vars(self)["networks"].paints(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 17, WIDTH))


def test_the_usual_places_are_looked_through() -> None:
    module = nn.Identity()
    for name in ("unet", "transformer", "unet_vton", "transformer_vton", "transformer_2"):
        assert find_denoiser(Holder(**{name: module}, vae=nn.Identity())) is module
    nested = SimpleNamespace(model=SimpleNamespace(diffusion_model=module))
    assert find_denoiser(nested) is module


@pytest.mark.parametrize("ratio", [None, 0.9])
def test_a_second_denoiser_counts_where_a_ratio_says_when_it_takes_over(ratio: Any) -> None:
    first, second = nn.Identity(), nn.Linear(1, 1)
    pipeline = Holder(transformer=first, transformer_2=second, config={"boundary_ratio": ratio})
    assert find_denoisers(pipeline) == ((first,) if ratio is None else (first, second))


def test_a_denoiser_elsewhere_is_captured_when_it_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline: Any = Holder(networks=nn.ModuleDict({"paints": parts.unet()}).requires_grad_(False))
    pipeline.networks.paints = pipeline.networks["paints"]
    with capture(
        pipeline, tmp_path / "run.zarr", sample="a", denoiser="networks.paints", profile="unet"
    ) as recording:
        pipeline()
        blank = np.zeros((8, 8, 3), np.uint8)
        recording.add_images(generated=blank, reference=blank)
    assert opened(tmp_path / "run.zarr" / "a").attrs["i2am"]["pipeline"] == "Holder"
    assert len(list(opened(tmp_path / "run.zarr" / "a" / "layers").groups())) == 4


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("unet_vton", "of Holder of 'tests' at 'unet_vton', got nothing, at denoiser="),
        ("steps", "got int, at denoiser="),
        ("unet.absent", "got nothing, at denoiser="),
    ],
)
def test_a_path_that_leads_to_no_module_is_refused_with_what_there_is(
    path: str, told: str, tmp_path: Path
) -> None:
    pipeline = Holder(unet=nn.Identity(), vae=nn.Identity(), steps=3)
    with pytest.raises(CaptureError) as caught:
        capture(pipeline, tmp_path / "run.zarr", sample="a", denoiser=path)
    assert told in str(caught.value)
    assert "with unet, vae" in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_target_without_any_is_told_to_name_it() -> None:
    with pytest.raises(CaptureError) as caught:
        find_denoisers(Holder(decoder=nn.Identity(), painter=nn.Identity()))
    assert "got Holder with decoder, painter. Name the one that is called" in str(caught.value)
