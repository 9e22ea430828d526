"""Every family, on the real diffusers classes: what is captured is what the layers attend to."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.analysis import describe_store
from i2am.capture import capture
from i2am.schemas import CaptureError, find_faults
from tests.support.explicit_attention import Attended, explicit_attention
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.family import Family
from tests.support.tiny_pipelines.small_images import small_images

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # in a scheduler
STEPS = 2


@pytest.fixture(autouse=True)
def _small_images() -> Iterator[None]:
    with small_images():
        yield


@functools.cache
def shared(name: str) -> Family:
    """Return a family's pipeline, which captures must leave as they found it."""
    return built(name)


def built(name: str) -> Family:
    torch.manual_seed(0)
    return FAMILIES[name]()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return shared(request.param)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def record(family: Family, store: Path, **options: Any) -> Any:
    square = np.zeros((8, 8, 3), np.uint8)  # as the references that have a shape
    with capture(family.pipeline, store, sample="one", **options) as recording:
        output = family.run(STEPS)
        recording.add_images(generated=family.blank(), reference=square)
    return output


@pytest.mark.parametrize("representation", ["logits", "factors"])
def test_captured_attention_is_what_the_layer_computes_in_the_same_run(
    representation: str, family: Family, store: Path
) -> None:
    with explicit_attention(*family.denoisers) as kept:
        record(family, store, dtype="float32", representation=representation)
    assert compare(family, store, kept) < 1e-5


def test_float16_stays_within_its_precision(family: Family, store: Path) -> None:
    with explicit_attention(*family.denoisers) as kept:
        record(family, store)
    assert compare(family, store, kept) < 2e-3


def test_output_is_bit_identical_with_and_without_capture(family: Family, store: Path) -> None:
    before = family.run(STEPS)
    during = record(family, store)
    assert torch.equal(before, during)
    assert torch.equal(before, family.run(STEPS))


def test_a_capture_keeps_the_contract_and_names_its_family(family: Family, store: Path) -> None:
    record(family, store, guidance="both" if family.takes_both else "conditional")
    assert list(find_faults(describe_store(store))) == []
    sample = models.opened(store / "one")
    assert sample.attrs["i2am"]["profile"] == family.profile
    if family.is_guided and family.takes_both:
        assert sample["guidance"][...].tolist() == list(family.branches)
    else:
        assert "guidance" not in sample


def test_what_is_read_over_the_text_is_what_the_layer_computes_or_there_is_none(
    family: Family, store: Path
) -> None:
    if not family.text:
        with pytest.raises(
            CaptureError, match=r"Expected (text in|a profile that knows the text in)"
        ):
            record(family, store, edges=["text->generated"])
        return
    edges = ["text->generated", *(["reference->text"] if family.text_queries else [])]
    with explicit_attention(*family.denoisers) as kept:
        record(family, store, dtype="float32", edges=edges, layers=family.text_layers)
    for name, layer in models.opened(store / "one" / "layers").groups():
        path, _, index = name.partition(".reference_")
        own = {key: torch.from_numpy(layer[key][...]) for key, _ in layer.arrays()}
        scale, patches = layer.attrs["i2am"]["scale"], own["query"].shape[2]
        reads = joint_calls(family, kept[path], patches)
        scores = torch.cat([family.conditional(call.scores) for call in reads])
        queries = slice(family.queries_before, family.queries_before + patches)
        expected = scores[:, :, queries][..., list(family.text)]
        assert torch.allclose(own["query"] @ own["text_key"].mT * scale, expected, atol=1e-4)
        if family.text_queries:
            of_text = scores[:, :, list(family.text_queries)]
            expected = of_text[..., family.keys_of(patches, int(index or 0))]
            assert torch.allclose(own["text_query"] @ own["key"].mT * scale, expected, atol=1e-4)
            assert torch.allclose(own["text_logsumexp"], of_text.logsumexp(-1), atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_on_the_model_also_after_an_exception(name: str, store: Path) -> None:
    gc.freeze()  # What is there already need not be walked over below.
    family = built(name)
    family.run(1)  # Pipelines leave things of their own.
    pristine = _state(family)
    with pytest.raises(ZeroDivisionError), capture(family.pipeline, store, sample="one"):
        handle = _last_layer(family).register_forward_hook(_fail)
        try:
            family.run(STEPS)
        finally:
            handle.remove()
    assert _state(family) == pristine
    recording = capture(family.pipeline, store, sample="two")
    with pytest.warns(UserWarning, match="stay incomplete"), recording:
        family.run(STEPS)
    assert _state(family) == pristine
    denoisers = [weakref.ref(denoiser) for denoiser in family.denoisers]
    _forget(family)
    gc.collect()
    assert {ref() for ref in denoisers} == {None}, "neither recording may keep the model alive"
    del recording


def compare(family: Family, store: Path, kept: dict[str, list[Attended]]) -> float:
    """Return the largest difference between stored and computed probabilities, both directions."""
    layers = dict(models.opened(store / "one" / "layers").groups())
    assert len(layers) == family.layers * len(family.references)
    worst = 0.0
    for name, layer in layers.items():
        path, _, index = name.partition(".reference_")
        attributes = layer.attrs["i2am"]
        assert attributes["reference_index"] == int(index or 0)
        logits = stored_logits(layer)
        expected = expected_attention(family.of(path), kept[path], logits.shape[2], int(index or 0))
        assert logits.shape == expected.scores.shape
        assert logits.shape[2] == np.prod(attributes["generated_grid"])
        check_layout(family, attributes, logits.shape[3])
        if family.other_keys(1) or len(family.references) > 1:
            total = torch.from_numpy(layer["logsumexp"][...])[..., None]
        else:
            assert "logsumexp" not in layer
            total = logits.logsumexp(-1, keepdim=True)
        forward = (logits - total).exp() - expected.probabilities
        backward = logits.softmax(2) - expected.scores.softmax(2)
        assert forward.isfinite().all()
        assert backward.isfinite().all()
        worst = max(worst, backward.abs().max().item(), forward.abs().max().item())
    return worst


def check_layout(family: Family, attributes: dict[str, Any], tokens: int) -> None:
    count, special, grid = family.references[attributes["reference_index"]]
    if count == -1:
        count, grid = tokens, tuple(attributes["generated_grid"])
    assert tokens == count
    assert attributes["special_tokens"] == special
    assert attributes["reference_grid"] == (None if grid is None else list(grid))
    assert attributes["frames"] == family.frames
    assert attributes["causal"] == (tokens > 1)


def expected_attention(family: Family, calls: list[Attended], patches: int, index: int) -> Attended:
    """Return what a layer attended to in its conditional rows, dims (step, head, query, key)."""
    reads = joint_calls(family, calls, patches)
    queries = slice(family.queries_before, family.queries_before + patches)

    def cut(parts: list[torch.Tensor]) -> torch.Tensor:
        folded = [_unfold(family.conditional(part), family.frames, patches) for part in parts]
        return torch.stack(folded)[:, :, queries, family.keys_of(patches, index)]

    return Attended(cut([r.scores for r in reads]), cut([r.probabilities for r in reads]))


def joint_calls(family: Family, calls: list[Attended], patches: int) -> list[Attended]:
    """Return the conditional call of each step that reads the references."""
    keys = family.key_count(patches)
    reads = [call for call in calls if call.scores.shape[-1] == keys][:: family.calls]
    assert len(reads) == STEPS
    return reads


def _unfold(rows: torch.Tensor, frames: int, patches: int) -> torch.Tensor:
    """Return one sample's (head, query, key), whatever a video model folded into the batch."""
    if len(rows) == 1:
        return rows[0]
    if len(rows) == frames and rows.shape[2] * frames == patches:
        return rows.transpose(0, 1).flatten(1, 2)
    return rows.permute(1, 2, 0, 3).flatten(1, 2)


def stored_logits(layer: Any) -> torch.Tensor:
    """Return float32 logits, dims (step, head, generated, reference)."""
    if "logits" in layer:
        return torch.from_numpy(layer["logits"][...]).float()
    query, key = (torch.from_numpy(layer[name][...]).float() for name in ("query", "key"))
    logits: torch.Tensor = query @ key.transpose(-1, -2) * layer.attrs["i2am"]["scale"]
    return logits


def _state(family: Family) -> list[tuple[str, list[str], int]]:
    """Return what hangs on each module and on the scheduler, by name."""
    found = [
        (name, sorted(vars(module)), len(module._forward_hooks) + len(module._forward_pre_hooks))
        for denoiser in family.denoisers
        for name, module in denoiser.named_modules()
    ]
    return [*found, ("scheduler", sorted(vars(family.pipeline.scheduler)), 0)]


def _last_layer(family: Family) -> Any:
    # An adapter's projection of images has layers whose parts alone are called.
    names = ("to_k", "img_attn_qkv")
    modules = family.denoiser.modules()
    return [m for m in modules if any(getattr(m, name, None) is not None for name in names)][-1]


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


def _forget(family: Family) -> None:
    """Drop the references to the denoisers that the pipeline holds."""
    for name in ("unet", "transformer", "transformer_2"):
        if getattr(family.pipeline, name, None) is None:
            continue
        if hasattr(family.pipeline, "register_modules"):
            delattr(family.pipeline, name)
        else:
            setattr(family.pipeline, name, None)
