"""Research models, by look-alikes: what is captured is what their layers compute in the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.analysis import describe_store
from i2am.capture import capture
from i2am.capture.families.lookup import find_profile
from i2am.schemas import CaptureError, find_faults
from i2am.schemas.dims import CONDITIONAL
from tests.support.explicit_attention import Attended
from tests.support.research.canvases import CANVASES
from tests.support.research.garments import GARMENTS
from tests.support.research.models import Layer, Reference, Research
from tests.support.research.super_resolution import SUPER_RESOLUTION
from tests.support.research.witness import explicit_kernels
from tests.support.tiny_pipelines import models

STEPS = 2
RESEARCH = GARMENTS | CANVASES | SUPER_RESOLUTION
# Their unconditional rows read the reference, and what they read is dropped.
CONDITIONAL_ALONE = {"MimicBrush"}
ALWAYS_GUIDED = {"MimicBrush"}
# Their denoisers are diffusers' own: bare, they are taken for what they otherwise are, or refused.
BARE = {
    "MimicBrush": "unet",
    "HiDream-E1": None,
    "VisualCloze": "flux",
    "VisualCloze, both stages": "flux",
}


@pytest.fixture(params=RESEARCH)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def research(name: str) -> Research:
    return RESEARCH[name]()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def record(research: Research, store: Path, *, guided: bool = True, **options: Any) -> torch.Tensor:
    settings = research.options | options
    with capture(research.target, store, sample="one", **settings) as recording:
        output = research.sample(STEPS, guided)
        recording.add_images(**research.pictures())
    return output


def test_captured_attention_is_what_the_layer_computes_in_the_same_run(
    name: str, research: Research, store: Path
) -> None:
    """In every guidance branch that it has."""
    guidance: Any = "conditional" if name in CONDITIONAL_ALONE else "both"
    with explicit_kernels(research.denoiser) as kept:
        record(research, store, dtype="float32", guidance=guidance)
    sample = models.opened(store / "one")
    if guidance == "conditional" or len(research.guidance) == 1:
        assert "guidance" not in sample
        assert 0 < compare(research, store, kept, CONDITIONAL) < 1e-5
        return
    stored = sample["guidance"][...].tolist()
    assert set(stored) == set(research.guidance)
    for index, branch in enumerate(stored):
        assert 0 < compare(research, store, kept, branch, index) < 1e-5


def test_float16_stays_within_its_precision_and_the_contract_is_kept(
    research: Research, store: Path
) -> None:
    with explicit_kernels(research.denoiser) as kept:
        record(research, store)
    assert compare(research, store, kept, CONDITIONAL) < 2e-3
    assert list(find_faults(describe_store(store))) == []
    sample = models.opened(store / "one")
    assert sample.attrs["i2am"]["profile"] == research.profile
    for image, array in sample["images"].arrays():
        assert array.attrs.get("i2am", {}).get("box") == research.boxes.get(image)


def test_a_call_without_guidance_is_the_conditional_branch(
    name: str, research: Research, store: Path
) -> None:
    if name in ALWAYS_GUIDED:
        pytest.skip("it always has guidance")
    with explicit_kernels(research.denoiser) as kept:
        record(research, store, guided=False, dtype="float32", representation="logits")
    assert compare(research, store, kept, CONDITIONAL, branches=(CONDITIONAL,)) < 1e-5


def test_output_is_bit_identical_and_nothing_is_left(research: Research, store: Path) -> None:
    before = research.sample(STEPS)
    pristine = state(research)
    assert torch.equal(before, record(research, store))
    assert state(research) == pristine
    with (
        pytest.raises(ZeroDivisionError),
        capture(research.target, store, sample="two", **research.options),
    ):
        research.sample(1)
        raise ZeroDivisionError
    assert state(research) == pristine


def test_rows_that_read_the_reference_in_vain_are_refused(store: Path) -> None:
    message = "Expected the conditional branch alone, got 2 of 2 rows.*Give guidance='conditional'"
    with pytest.raises(CaptureError, match=message):
        record(RESEARCH["MimicBrush"](), store, guidance="both")


def test_reference_tokens_lie_row_by_row_on_their_grid(research: Research, store: Path) -> None:
    """Where the reference changes, the key of that place changes most in the finest layer."""
    if research.move is None:
        pytest.skip("its reference is generated, too")
    first, layer = max(research.layers.items(), key=lambda item: len(item[1].generated))
    keys = {}
    place = research.cells[0] * 5 // 8, research.cells[1] * 3 // 4
    for sample in ("before", "after"):
        options: dict[str, Any] = {"representation": "factors", "layers": first}
        with capture(
            research.target, store, sample=sample, **research.options | options
        ) as recording:
            research.sample(1)
            recording.add_images(**research.pictures())
        key = models.opened(store / sample / "layers" / first)["key"][...]
        keys[sample] = key.reshape(-1, *key.shape[-2:]).astype(float)
        research.move(research.target, place)
    change = ((keys["after"] - keys["before"]) ** 2).sum(axis=(0, 2))
    reference = layer.references[0]
    assert reference.grid is not None
    row, column = np.unravel_index(int(change[reference.special :].argmax()), reference.grid)
    assert abs(row - place[0] * reference.grid[0] // research.cells[0]) <= 1
    assert abs(column - place[1] * reference.grid[1] // research.cells[1]) <= 1


@pytest.mark.parametrize("name", ["HiDream-E1", "ICEdit", "two references on SD3", "VisualCloze"])
def test_the_roads_through_the_text_of_a_canvas_are_those_of_the_kernel(
    name: str, store: Path
) -> None:
    research = RESEARCH[name]()
    edges: Any = ["reference->text", "text->generated"]
    only: dict[str, Any] = {} if "SD3" not in name else {"layers": "*.attn"}  # attn2 has no text.
    with explicit_kernels(research.denoiser) as kept:
        record(research, store, dtype="float32", edges=edges, **only)
    groups = models.opened(store / "one" / "layers")
    for stored, group in groups.groups():
        layer = research.layers[stored.partition(".reference_")[0]]
        reference = layer.references[group.attrs["i2am"]["reference_index"]]
        calls = kept[stored.partition(".reference_")[0]]
        scores, _ = attended(research, calls, layer, CONDITIONAL, None)
        scale = group.attrs["i2am"]["scale"]
        query, key, text_query, text_key = (
            torch.from_numpy(group[array][...])
            for array in ("query", "key", "text_query", "text_key")
        )
        of_text = scores[..., list(layer.text), :]
        for found, expected in (
            (text_query @ key.mT * scale, of_text[..., list(reference.tokens)]),
            (
                query @ text_key.mT * scale,
                scores[..., list(layer.generated), :][..., list(layer.text)],
            ),
            (torch.from_numpy(group["text_logsumexp"][...]), of_text.logsumexp(-1)),
        ):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_mimicbrushs_other_road_is_captured_by_name(store: Path) -> None:
    # That its picture was padded to a square, nobody tells: it is stored so, or refused.
    research = replace(RESEARCH["MimicBrush"](), picture_of_reference=(20, 20))
    with explicit_kernels(research.denoiser) as kept:
        record(research, store, dtype="float32", profile="unet")
    groups = dict(models.opened(store / "one" / "layers").groups())
    assert set(groups) == {name.replace("attn1", "attn2") for name in kept if "attn1" in name}
    for name, group in groups.items():
        assert group.attrs["i2am"]["reference_grid"] == [16, 16]
        expected = torch.stack([call.scores[1] for call in kept[name]])
        torch.testing.assert_close(stored_logits(group, None), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["IDM-VTON", "FitDiT"])
def test_a_reference_of_another_size_is_refused(name: str, store: Path) -> None:
    research = RESEARCH[name]()
    research.target.garment = research.target.garment[..., :6, :]
    message = "on the queries' own grid of .*, got .* keys, at layer.*the generated image's size"
    with pytest.raises(CaptureError, match=message):
        record(research, store)


def test_a_source_that_mimicbrush_squashed_is_refused_in_another_shape(store: Path) -> None:
    research = RESEARCH["MimicBrush"]()
    with capture(research.target, store, sample="one") as recording:
        research.sample(1)
        pictures = research.pictures()
        with pytest.raises(CaptureError, match="the picture of 20×30 px that the model's call had"):
            recording.add_images(reference=pictures["generated"][:, :8])
        recording.add_images(**pictures)


def test_a_model_is_found_as_its_pipeline_and_bare(name: str, research: Research) -> None:
    if "profile" in research.options:
        pytest.skip("it is found by its name alone")
    assert find_profile(research.target, denoiser=research.denoiser).name == research.profile
    expected = BARE.get(name, research.profile)
    if expected is not None:
        assert find_profile(research.denoiser).name == expected
        return
    with pytest.raises(CaptureError, match="Expected a model that a profile serves"):
        find_profile(research.denoiser)


def compare(
    research: Research,
    store: Path,
    kept: dict[str, list[Attended]],
    branch: str,
    stored_branch: int | None = None,
    branches: tuple[str, ...] | None = None,
) -> float:
    """Return the largest difference between stored and computed probabilities, both directions."""
    groups = dict(models.opened(store / "one" / "layers").groups())
    in_order = sorted(groups, key=lambda name: groups[name].attrs["i2am"]["order"])
    expected = [
        (f"{name}.reference_{index}" if index else name, layer, reference)
        for name, layer in research.layers.items()
        for index, reference in enumerate(layer.references)
    ]
    assert in_order == [stored for stored, _, _ in expected]
    worst = 0.0
    for name, layer, reference in expected:
        group = groups[name]
        check_attributes(group.attrs["i2am"], layer, reference)
        if research.weights:
            assert group["weight"][...].tolist() == list(research.weights)
        scores, probabilities = attended(
            research, kept[name.partition(".reference_")[0]], layer, branch, branches
        )
        logits = stored_logits(group, stored_branch)
        own = scores[..., list(layer.generated), :][..., list(reference.tokens)]
        assert logits.shape == own.shape
        forward = probabilities[..., list(layer.generated), :][..., list(reference.tokens)]
        if len(reference.tokens) == scores.shape[-1]:
            assert "logsumexp" not in group
            total = logits.logsumexp(-1, keepdim=True)
        else:
            total = read(group, "logsumexp", stored_branch)[..., None]
        differences = (
            (logits - own) / own.abs().max(),
            (logits - total).exp() - forward,
            logits.softmax(2) - own.softmax(2),
        )
        worst = max(worst, *(d.abs().max().item() for d in differences))
    return worst


def check_attributes(attributes: dict[str, Any], layer: Layer, reference: Reference) -> None:
    assert attributes["generated_grid"] == list(layer.grid)
    wanted = None if reference.grid is None else list(reference.grid)
    assert attributes["reference_grid"] == wanted
    assert attributes["special_tokens"] == reference.special
    assert attributes.get("weight", 1.0) == reference.weight
    assert attributes["causal"] is True


def attended(
    research: Research,
    calls: list[Attended],
    layer: Layer,
    branch: str,
    branches: tuple[str, ...] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and probabilities of one branch, dims (step, head, query, key)."""
    assert len(calls) == STEPS * layer.kernels
    reads = calls[layer.kernel :: layer.kernels]
    order = branches or research.guidance
    row = order.index(branch)
    assert all(len(call.scores) == len(order) for call in reads)
    return (
        torch.stack([call.scores[row] for call in reads]),
        torch.stack([call.probabilities[row] for call in reads]),
    )


def read(layer: Any, name: str, branch: int | None) -> torch.Tensor:
    values = torch.from_numpy(layer[name][...]).float()
    return values if branch is None else values[branch]  # Its first dimension, where there are two.


def stored_logits(layer: Any, branch: int | None) -> torch.Tensor:
    """Return float32 logits, dims (step, head, generated, reference)."""
    if "logits" in layer:
        return read(layer, "logits", branch)
    query, key = (read(layer, name, branch) for name in ("query", "key"))
    logits: torch.Tensor = query @ key.transpose(-1, -2) * layer.attrs["i2am"]["scale"]
    return logits


def state(research: Research) -> list[tuple[str, list[str], int]]:
    """Return what hangs on each module, by name."""
    return [
        (name, sorted(vars(module)), len(module._forward_hooks) + len(module._forward_pre_hooks))
        for name, module in research.denoiser.named_modules()
    ]
