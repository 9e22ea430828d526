"""What capture's options keep: steps, heads, guidance branches, reduced maps, several samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.analysis import describe_store
from i2am.capture import capture
from i2am.schemas import CaptureError, find_faults
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.families import Family

BLANK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.fixture
def family() -> Family:
    torch.manual_seed(0)
    return FAMILIES["reference-inpaint"]()


def record(family: Family, store: Path, steps: int = 6, **options: Any) -> Any:
    """Capture one run, and return the opened sample."""
    options.setdefault("sample", "one")
    with capture(family.pipeline, store, **options) as recording:
        family.run(steps)
        recording.add_images(generated=family.blank(), reference=BLANK)
    assert list(find_faults(describe_store(store))) == []
    return models.opened(store / options["sample"])


@pytest.mark.parametrize(
    ("option", "kept"),
    [(2, [0, 2, 4]), (slice(3, None), [3, 4, 5]), (range(1, 3), [1, 2]), ([0, 5], [0, 5])],
)
def test_some_steps_are_kept_under_their_own_numbers(
    family: Family, store: Path, option: Any, kept: list[int]
) -> None:
    whole = record(family, store, sample="whole")
    some = _record_steps(family, store, option)
    assert some["step"][...].tolist() == kept
    assert some["timestep"][...].tolist() == whole["timestep"][...][kept].tolist()
    assert some.attrs["i2am"]["steps"] == 6, "of the sampler, kept or not"
    for name, layer in some["layers"].groups():
        expected = whole["layers"][name]["query"][...][kept]
        assert np.array_equal(layer["query"][...], expected)


def _record_steps(family: Family, store: Path, option: Any) -> Any:
    with capture(family.pipeline, store, sample="some", steps=option) as recording:
        family.run(6)
        recording.add_images(generated=family.blank(), reference=BLANK)
    return models.opened(store / "some")


def test_steps_that_never_come_are_an_error(family: Family, store: Path) -> None:
    with (
        pytest.raises(CaptureError, match="got none of the 2 that ran"),
        capture(family.pipeline, store, sample="one", steps=[7]),
    ):
        family.run(2)


def test_some_heads_are_kept_under_their_own_numbers(family: Family, store: Path) -> None:
    whole = record(family, store, 2, sample="whole")
    some = record(family, store, 2, sample="some", heads=[1, 3])
    for name, layer in some["layers"].groups():
        assert layer.attrs["i2am"]["heads"] == [1, 3]
        for array in ("query", "key"):
            axis = layer[array].metadata.dimension_names.index("head")
            expected = np.take(whole["layers"][name][array][...], [1, 3], axis)
            assert np.array_equal(layer[array][...], expected)


def test_layers_without_the_heads_are_left_out(store: Path) -> None:
    torch.manual_seed(0)
    family = FAMILIES["ip-adapter-sdxl"]()
    sample = record(family, store, 1, heads=[0, 3])
    heads = {n: tuple(g.attrs["i2am"]["heads"]) for n, g in sample["layers"].groups()}
    assert set(heads.values()) == {(0,), (0, 3)}, "two heads in the outer blocks, four inside"


@pytest.mark.parametrize("name", ["reference-inpaint", "flux-kontext", "paint-by-example"])
def test_maps_are_the_means_of_what_factors_would_give(name: str, store: Path) -> None:
    torch.manual_seed(0)
    family = FAMILIES[name]()
    factors = record(family, store, 2, sample="a", dtype="float32", representation="factors")
    maps = record(family, store, 2, sample="b", representation="maps")
    for layer_name, layer in factors["layers"].groups():
        reduced = maps["layers"][layer_name]
        query, key = (layer[n][...].astype(np.float64) for n in ("query", "key"))
        logits = query @ np.swapaxes(key, -1, -2) * layer.attrs["i2am"]["scale"]
        over_patches = np.exp(logits - logits.max(2, keepdims=True))
        over_patches /= over_patches.sum(2, keepdims=True)
        assert np.allclose(reduced["r2g"][...], over_patches.mean(3), rtol=1e-4)
        if logits.shape[3] == 1:
            assert sorted(reduced.array_keys()) == ["r2g"]
            continue
        if "logsumexp" in layer:
            attention = np.exp(logits - layer["logsumexp"][...][..., None])
            assert np.allclose(reduced["mass"][...], attention.sum(3), rtol=1e-4)
        else:
            attention = np.exp(logits - logits.max(3, keepdims=True))
            attention /= attention.sum(3, keepdims=True)
            assert "mass" not in reduced
        assert np.allclose(reduced["g2r"][...], attention.mean(2), rtol=1e-4)


def test_guidance_branches_of_separate_calls_are_stored_apart(store: Path) -> None:
    torch.manual_seed(0)
    family = FAMILIES["flux-kontext"]()
    both = record(family, store, 2, sample="both", guidance="both")
    alone = record(family, store, 2, sample="alone")
    assert both["guidance"][...].tolist() == ["unconditional", "conditional"]
    for name, layer in alone["layers"].groups():
        for array in layer.array_keys():
            kept = both["layers"][name][array][...]
            assert np.array_equal(kept[1], layer[array][...])
            # The first layer's patches have not met the text yet.
            is_first = layer.attrs["i2am"]["order"] == 0 and array == "logits"
            assert is_first or not np.array_equal(kept[0], layer[array][...])


def test_without_guidance_both_branches_are_one(store: Path) -> None:
    torch.manual_seed(0)
    family = FAMILIES["flux-kontext"]()
    family.call.update(true_cfg_scale=1.0)
    sample = record(family, store, 2, guidance="both")
    assert "guidance" not in sample
    layer = next(layer for _, layer in sample["layers"].groups())
    assert layer["logits"].metadata.dimension_names[0] == "step"


def test_guidance_that_is_switched_off_on_the_way_is_an_error_only_for_both(
    family: Family, store: Path
) -> None:
    tokens = torch.randn(2, 257, family.denoiser.config.cross_attention_dim)
    latents = torch.randn(2, 9, 16, 16)

    def denoise() -> None:
        with torch.no_grad():
            family.denoiser(latents, 9, encoder_hidden_states=tokens)
            family.denoiser(latents[1:], 5, encoder_hidden_states=tokens[1:])

    with capture(family.denoiser, store, sample="one") as recording:
        denoise()
        recording.add_images(generated=family.blank(), reference=BLANK)
    with (
        pytest.raises(CaptureError, match=r"step 1 \(unconditional branch\)"),
        capture(family.denoiser, store, sample="two", guidance="both"),
    ):
        denoise()
