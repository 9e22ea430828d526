"""IP-Adapters with masks: what a mask removes from the output stands in no map."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from PIL import Image

from i2am.analysis import analyze, describe_store, open_run, sram
from i2am.capture import capture
from i2am.schemas import CaptureError, find_faults
from tests.support.explicit_attention import explicit_attention
from tests.support.reference_maps import softmax, stored
from tests.support.tiny_pipelines import families
from tests.support.tiny_pipelines.families import Family, noise_image

BLANK = np.zeros((16, 32, 3), np.uint8)
SQUARE = np.zeros((8, 8, 3), np.uint8)  # as the references
LEFT = np.array([[255] * 16 + [0] * 16] * 16, np.uint8)
STEPS = 2


def masks_of(*pictures: np.ndarray[Any, Any]) -> Any:
    """Return masks of the images of one adapter, (1, image, y, x), as diffusers prepares them."""
    given = [Image.fromarray(picture) for picture in pictures]
    return IPAdapterMaskProcessor().preprocess(given, height=16, width=32)[:, 0][None]


def record(
    family: Family,
    store: Path,
    masks: Any,
    *,
    sample: Any = "a",
    call: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    given = {"cross_attention_kwargs": {"ip_adapter_masks": masks}} if masks is not None else {}
    names = [sample] if isinstance(sample, str) else sample
    with capture(family.pipeline, store, sample=sample, **options) as recording:
        family.run(STEPS, **given, **(call or {}))
        for name in names:
            recording.add_images(sample=name, generated=BLANK, reference=SQUARE, reference_1=SQUARE)


@functools.cache
def two_images() -> Family:
    family = families.ip_adapter("full", images=2)
    family.pipeline.set_ip_adapter_scale([[0.7, 0.4]])
    return family


@functools.cache
def one_image() -> Family:
    return families.ip_adapter("full")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Two images of an adapter, the first on the left half alone, in each representation.

    And the scores of each layer, as it computed them: its text's, the first and the second image's.
    """
    family, folder = two_images(), tmp_path_factory.mktemp("masked")
    found = {}
    for kind in ("logits", "factors", "maps"):
        with explicit_attention(family.denoiser) as kept:
            options: Any = {"representation": kind, "dtype": "float32"}
            record(family, folder / kind, [masks_of(LEFT, 255 - LEFT)], **options)
        assert not list(find_faults(describe_store(folder / kind)))
        found[kind] = folder / kind
    return found, {layer: [call.scores for call in calls] for layer, calls in kept.items()}


def scores_of(masked: Any, layer: str, image: int) -> Any:
    """Return scores (step, head, P, R) of the conditional branch."""
    calls = masked[1][layer][1 + image :: 3]
    assert len(calls) == STEPS
    return np.stack([scores[1].detach().double().numpy() for scores in calls])


def region_of(grid: tuple[int, int], image: int) -> Any:
    left = np.tile(np.arange(grid[1]) < grid[1] / 2, grid[0])
    return (left if image == 0 else ~left).astype(float)


def attention_layers(masked: Any) -> list[str]:
    return [name for name in masked[1] if name.endswith("attn2")]


@pytest.mark.parametrize("kind", ["logits", "factors"])
def test_regions_and_weights_are_stored_with_each_image_of_each_layer(
    kind: str, masked: Any
) -> None:
    names = attention_layers(masked)
    assert len(names) == 4
    for name in names:
        for image, weight in enumerate((0.7, 0.4)):
            layer = stored(masked[0][kind] / "a/layers" / (name + image * ".reference_1"))
            own = layer.attrs["i2am"]
            assert layer["region"].metadata.dimension_names == ("generated",)
            assert layer["region"].dtype == np.float32
            wanted = region_of(own["generated_grid"], image)
            np.testing.assert_array_equal(layer["region"][:], wanted)
            assert 0 < wanted.mean() < 1
            assert (own["weight"], own["reference_index"], "logsumexp" in layer) == (
                weight,
                image,
                False,
            )


@pytest.mark.parametrize("kind", ["logits", "factors", "maps"])
@pytest.mark.parametrize("image", [0, 1])
def test_maps_are_those_of_the_masked_contribution(image: int, kind: str, masked: Any) -> None:
    sample = open_run(masked[0][kind])["a"]
    for name in attention_layers(masked):
        layer = name + image * ".reference_1"
        own = sample[f"layers/{layer}"].attrs["i2am"]
        scores, region = scores_of(masked, name, image), region_of(own["generated_grid"], image)
        maps: Any = analyze(sample, layers=layer)
        r2g = softmax(scores, 2).mean(3) * region
        shape = (STEPS, -1, *own["generated_grid"])
        np.testing.assert_allclose(maps["r2g/volume"][0], r2g.reshape(shape), rtol=2e-5)
        hidden = np.flatnonzero(region == 0)
        found = maps["r2g/volume"].values.reshape(*r2g.shape)
        assert not found[..., hidden].any()
        g2r = (softmax(scores, 3) * region[:, None]).mean(2)[..., 1:]
        np.testing.assert_allclose(
            maps["g2r/volume"][0], g2r.reshape(STEPS, -1, 4, 4), rtol=2e-5, atol=1e-9
        )
        # Half of the patches read it: what the mask removes is gone, not spread over the others.
        assert np.allclose(maps["g2r/volume"].sum(), g2r.sum(), rtol=1e-5)
    assert "region" not in stored(masked[0]["maps"] / "a/layers" / attention_layers(masked)[0])


@pytest.mark.parametrize("kind", ["logits", "factors"])
def test_sram_of_a_hidden_place_is_zero_and_of_another_the_attention(
    kind: str, masked: Any
) -> None:
    sample = open_run(masked[0][kind])["a"]
    assert not sram(sample, generated=(3, 30)).values.any()
    for name in attention_layers(masked):
        height, width = sample[f"layers/{name}"].attrs["i2am"]["generated_grid"]
        scores = scores_of(masked, name, 0)
        found = sram(sample, generated=(15, 1), layers=name, keep=["step", "head"])
        wanted = softmax(scores, 3)[:, :, (height - 1) * width, 1:]
        np.testing.assert_allclose(found.values.reshape(wanted.shape), wanted, rtol=2e-5)
        back = sram(sample, reference=(0, 0), layers=name, keep=["step", "head"])
        wanted = softmax(scores, 2)[..., 1] * region_of((height, width), 0)
        np.testing.assert_allclose(back.values.reshape(wanted.shape), wanted, rtol=2e-5)


def test_the_official_convention_shows_the_masked_contribution_too(masked: Any) -> None:
    sample = open_run(masked[0]["logits"])["a"]
    maps: Any = analyze(sample, convention="official", grid=(8, 16))
    assert not maps["r2g/ulam"][:, 12:].values.any()
    assert maps["r2g/ulam"][:, :4].values.min() > 0


def test_samples_of_a_batch_have_their_own_masks(tmp_path: Path) -> None:
    family = one_image()
    rows = torch.cat([masks_of(LEFT), masks_of(255 - LEFT)])
    call = {"num_images_per_prompt": 2}
    both = torch.cat([rows, rows])  # unconditional, then conditional
    record(family, tmp_path / "run", [both], sample=["a", "b"], call=call, guidance="both")
    for sample, image in (("a", 0), ("b", 1)):
        layers = dict(stored(tmp_path / "run" / sample / "layers").groups())
        assert len(layers) == 4
        for layer in layers.values():
            wanted = region_of(layer.attrs["i2am"]["generated_grid"], image)
            np.testing.assert_array_equal(layer["region"][:], wanted)
    # One mask for all, as most have it, and heads of which some are kept.
    options: Any = {"sample": ["a", "b"], "call": call, "heads": [0]}
    for kind in ("logits", "maps"):
        record(family, tmp_path / kind, [masks_of(LEFT)], representation=kind, **options)
    for name in ("a", "b"):
        maps: Any = [analyze(open_run(tmp_path / kind)[name]) for kind in ("logits", "maps")]
        one, other = (each["r2g/volume"].values for each in maps)
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-6)
        assert not other[..., -1].any()


def test_masks_that_differ_between_the_branches_of_a_sample_are_refused(tmp_path: Path) -> None:
    rows = torch.cat([masks_of(LEFT), masks_of(255 - LEFT)])
    with pytest.raises(CaptureError, match=r"one mask of the IP-Adapter .* \(conditional branch"):
        record(one_image(), tmp_path / "run", [rows], guidance="both")
    record(one_image(), tmp_path / "run", [rows])
    layer = stored(tmp_path / "run/a/layers")["mid_block.attentions.0.transformer_blocks.0.attn2"]
    np.testing.assert_array_equal(
        layer["region"][:], region_of(layer.attrs["i2am"]["generated_grid"], 1)
    )


def test_a_soft_mask_is_what_the_layer_multiplies_by(tmp_path: Path) -> None:
    """Also in the old form, one tensor (adapter, 1, y, x)."""
    soft = torch.linspace(0, 1, 32).tile(16, 1)[None, None]
    seen: list[torch.Tensor] = []
    resize = IPAdapterMaskProcessor.downsample

    def watched(mask: torch.Tensor, batch: int, patches: int, width: int) -> torch.Tensor:
        found: torch.Tensor = resize(mask, batch, patches, width)
        if width > 1:  # A layer's own call.
            seen.append(found[1, :, 0])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IPAdapterMaskProcessor, "downsample", staticmethod(watched))
        record(one_image(), tmp_path / "run", soft)
    groups = dict(stored(tmp_path / "run/a/layers").groups())
    ordered = sorted(groups.values(), key=lambda group: group.attrs["i2am"]["order"])
    assert len(seen) == STEPS * len(ordered)
    for layer, factors in zip(ordered, seen, strict=False):
        np.testing.assert_array_equal(layer["region"][:], factors.numpy())


def test_an_edge_that_resizing_sharpens_stays_within_the_range(tmp_path: Path) -> None:
    edge = np.array([[255] * 13 + [0] * 19] * 16, np.uint8)
    record(one_image(), tmp_path / "run", [masks_of(edge)])
    regions = [layer["region"][:] for _, layer in stored(tmp_path / "run/a/layers").groups()]
    assert min(map(np.min, regions)) == 0
    assert max(map(np.max, regions)) == 1


def test_a_mask_that_changes_on_the_way_is_refused_but_maps_hold_it(tmp_path: Path) -> None:
    family = one_image()

    def change(pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipeline._cross_attention_kwargs = {"ip_adapter_masks": [masks_of(255 - LEFT)]}
        return values

    call = {"callback_on_step_end": change}
    with pytest.raises(CaptureError, match=r"got another one at kept step 1 \(conditional"):
        record(family, tmp_path / "run", [masks_of(LEFT)], call=call)
    record(family, tmp_path / "run", [masks_of(LEFT)], call=call, representation="maps")
    for _, layer in stored(tmp_path / "run/a/layers").groups():
        grid = layer.attrs["i2am"]["generated_grid"]
        for step in range(STEPS):
            hidden = region_of(grid, step) == 0
            assert not layer["r2g"][step][:, hidden].any()
            assert layer["r2g"][step][:, ~hidden].all()


# --- Processors that are not diffusers' own.


class OtherProcessor(IPAdapterAttnProcessor2_0):  # type: ignore[misc]
    """Takes masks, and nobody knows what it does with them."""

    def __call__(self, *args: Any, ip_adapter_masks: Any = None, **options: Any) -> Any:
        return super().__call__(*args, ip_adapter_masks=ip_adapter_masks, **options)


def other_processors(family: Family) -> None:
    for module in family.denoiser.modules():
        if isinstance(getattr(module, "processor", None), IPAdapterAttnProcessor2_0):
            module.processor.__class__ = OtherProcessor


def test_masks_of_a_processor_that_is_not_of_diffusers_are_refused(tmp_path: Path) -> None:
    family = families.ip_adapter("full")
    other_processors(family)
    with pytest.raises(CaptureError, match=r"got them for OtherProcessor, at layer .*is not known"):
        record(family, tmp_path / "run", [masks_of(LEFT)])
    record(family, tmp_path / "run", None)
    assert "region" not in stored(tmp_path / "run/a/layers/" / stored_layer(tmp_path / "run"))


def stored_layer(store: Path) -> Any:
    return next(name for name, _ in stored(store / "a/layers").groups())


class RegionControl:
    """As InstantID's processors have it, in their module."""

    def __init__(self, **condition: Any) -> None:
        self.prompt_image_conditioning = [condition]


def test_a_mask_in_the_processors_own_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = families.ip_adapter("full")
    other_processors(family)
    monkeypatch.setitem(globals(), "region_control", RegionControl(region_mask=torch.ones(2, 4)))
    with pytest.raises(CaptureError, match=r"got one in 'region_control' of .*Take it away"):
        record(family, tmp_path / "run", None)
    monkeypatch.setitem(globals(), "region_control", RegionControl())
    record(family, tmp_path / "run", None)


def test_two_adapters_of_which_one_has_a_mask(tmp_path: Path) -> None:
    from tests.capture.families.test_ip_adapter import style_and_face

    family = style_and_face()
    family.pipeline.set_ip_adapter_scale([0.5, 0.6])
    pictures = [noise_image(32, 1), noise_image(32, 2)]
    record(family, tmp_path / "run", [None, masks_of(LEFT)], call={"ip_adapter_image": pictures})
    for name, layer in stored(tmp_path / "run/a/layers").groups():
        assert ("region" in layer) is name.endswith(".reference_1")
