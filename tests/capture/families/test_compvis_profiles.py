"""Which profile serves CompVis-style code, and what it refuses to take for a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from i2am.capture import capture
from i2am.capture.families import compvis
from i2am.capture.families.lookup import find_profile
from i2am.schemas import CaptureError
from tests.support.compvis.checks import DOWN, WARP, check_attention, record
from tests.support.compvis.layers import CrossAttention
from tests.support.compvis.models import (
    DDIMSampler,
    cross_attentions,
    dci_vton,
    paint_by_example,
    stableviton,
)
from tests.support.tiny_pipelines.models import opened


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param(stableviton(), "stableviton", id="ControlLDM"),
        pytest.param(stableviton().model.diffusion_model, "stableviton", id="StableVITON"),
        pytest.param(dci_vton(), "dci-vton", id="LatentTryOnDiffusion"),
        pytest.param(paint_by_example(), "compvis", id="LatentDiffusion"),
        pytest.param(paint_by_example().model.diffusion_model, "compvis", id="UNetModel"),
    ],
)
def test_a_profile_is_found_by_class_names_and_attributes(target: Any, expected: str) -> None:
    assert find_profile(target).name == expected


def test_a_model_that_is_asked_in_words_is_served_only_by_name(store: Path) -> None:
    model = paint_by_example()
    model.learnable_vector = None  # type: ignore[assignment]
    with pytest.raises(CaptureError, match=r"got LatentDiffusion .*Give profile='compvis' if that"):
        capture(model, store, sample="one")
    record(model, store, DDIMSampler(model), profile="compvis")


def test_a_bare_unet_is_captured_when_it_is_called_by_position(store: Path) -> None:
    model = paint_by_example()
    record(model.model.diffusion_model, store, DDIMSampler(model), dtype="float32")
    for name, attention in cross_attentions(model).items():
        layer = opened(store / "one" / "layers" / name)
        check_attention(layer, torch.cat(attention.scores), 1e-5)


CLIP, HINT = f"{DOWN[0]}.transformer_blocks.0.attn2", f"{WARP[0]}.transformer_blocks.0.attn2"


@pytest.mark.parametrize(
    ("layer", "change", "message"),
    [
        pytest.param(CLIP, {"context": None}, "got none at step 0 .*attn2", id="no_context"),
        pytest.param(
            CLIP,
            {"mask": torch.ones(1, 1, dtype=torch.bool)},
            r"without a mask, got one, at layer 'input_blocks\.1\.1.*layers=",
            id="mask",
        ),
        pytest.param(
            HINT,
            {"context": torch.ones(1, 12, 32)},
            r"Expected 8×6 reference tokens.*got 12, at layer 'warp_flow_blks\.0",
            id="other_grid",
        ),
    ],
)
def test_what_cannot_be_read_as_a_reference_is_refused(
    store: Path, layer: str, change: dict[str, Any], message: str
) -> None:
    model = stableviton(attention=CrossAttention)
    attention = cross_attentions(model)[layer]
    if change.get("context", ...) is None:  # Its keys are then the generated image's own.
        attention.to_k = torch.nn.Linear(8, 8, bias=False)
        attention.to_v = torch.nn.Linear(8, 8, bias=False)

    def alter(_module: Any, arguments: Any, options: dict[str, Any]) -> tuple[Any, Any]:
        return arguments, options | change

    with (
        attention.register_forward_pre_hook(alter, with_kwargs=True),
        pytest.raises(CaptureError, match=message),
    ):
        record(model, store, DDIMSampler(model))


def test_the_layers_are_known_before_the_model_runs() -> None:
    taps = list(compvis.spatial_transformers(stableviton().model.diffusion_model))
    assert len(taps) == 16 + 9
    assert {tap.block for tap in taps} == {"down", "mid", "up", "warp"}
