"""What a capture keeps, what it leaves alone, and what it refuses."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from diffusers import HeunDiscreteScheduler
from torch import nn

from i2am.analysis import describe_store
from i2am.capture import Profile, capture, cross_attention
from i2am.schemas import CaptureError, SchemaError, StoreError, find_faults
from tests.support.tiny_pipelines import models

BUILDERS = [models.shipped, models.paint_by_example]
FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
LAST = "up_blocks.1.attentions.1.transformer_blocks.0.attn2"


@pytest.fixture(params=BUILDERS, ids=["shipped", "paint_by_example"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def record(pipeline: Any, store: Path, steps: int = 3, call: Any = None, **options: Any) -> Any:
    """Capture one run with its images, and return what the pipeline gave."""
    names = options.setdefault("sample", "one")
    with capture(pipeline, store, **options) as recording:
        images = models.run(pipeline, steps, **(call or {}))
        for index, name in enumerate([names] if isinstance(names, str) else names):
            image = np.round(images[index] * 255).astype(np.uint8)
            recording.add_images(sample=name, generated=image, reference=image)
    return images


def scores_of(layer: Any) -> torch.Tensor:
    """Return float32 scores, dims ([guidance,] step, head, generated, reference)."""
    if "logits" in layer:
        return torch.from_numpy(layer["logits"][...]).float()
    query, key = (torch.from_numpy(layer[name][...]).float() for name in ("query", "key"))
    if key.ndim < query.ndim:
        key = key.unsqueeze(query.ndim - 4)
    scores: torch.Tensor = query @ key.transpose(-1, -2) * layer.attrs["i2am"]["scale"]
    return scores


def largest_difference(layer: Any, scores: torch.Tensor) -> float:
    """Return how far a stored layer's probabilities are from those of the scores.

    In both directions: with one token the softmax over tokens is 1 and would prove nothing.
    """
    found = scores_of(layer)
    assert found.shape == scores.shape
    both = [(found.softmax(axis) - scores.softmax(axis)).abs().max().item() for axis in (-1, -2)]
    return max(both)


@pytest.mark.parametrize("representation", ["auto", "factors", "logits"])
def test_captured_attention_is_what_an_explicit_processor_computes_in_the_same_run(
    pipeline: Any, store: Path, representation: Any
) -> None:
    kept = models.make_explicit(pipeline)
    record(pipeline, store, dtype="float32", guidance="both", representation=representation)
    layers = models.opened(store / "one" / "layers")
    assert set(dict(layers.groups())) == set(kept)
    for name, calls in kept.items():
        # calls: step, (guidance, head, generated, reference); the store has guidance first.
        assert largest_difference(layers[name], torch.stack(calls).transpose(0, 1)) < 1e-5


@pytest.mark.parametrize("build", [models.reference_inpaint, models.paint_by_example])
def test_float16_capture_stays_within_its_precision(build: Any, store: Path) -> None:
    pipeline = build()
    kept = models.make_explicit(pipeline)
    record(pipeline, store)
    for name, calls in kept.items():
        layer = models.opened(store / "one" / "layers" / name)
        assert largest_difference(layer, torch.stack(calls)[:, 1]) < 2e-3


def test_output_is_bit_identical_with_and_without_capture(pipeline: Any, store: Path) -> None:
    before = models.run(pipeline)
    during = record(pipeline, store)
    assert np.array_equal(before, during)
    assert np.array_equal(before, models.run(pipeline))


def test_a_capture_keeps_the_contract(pipeline: Any, store: Path) -> None:
    record(pipeline, store, guidance="both")
    record(pipeline, store, sample="two")
    assert list(find_faults(describe_store(store))) == []


def hooks_of(pipeline: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in pipeline.unet.modules()
    )


def test_nothing_is_left_on_the_pipeline(pipeline: Any, store: Path) -> None:
    with capture(pipeline, store, sample="one") as recording:
        assert hooks_of(pipeline) > 2
        models.run(pipeline, 1)
        image = np.zeros((8, 8, 3), np.uint8)
        recording.add_images(generated=image, reference=image)
    assert hooks_of(pipeline) == 0
    gone = weakref.ref(recording)
    unet = weakref.ref(pipeline.unet)
    del pipeline.unet
    pipeline.register_modules(unet=None)
    gc.collect()
    assert unet() is None, "the recording must not keep the model alive"
    del recording
    gc.collect()
    assert gone() is None


def test_an_exception_unhooks_and_leaves_no_sample_for_a_reader(pipeline: Any, store: Path) -> None:
    def stop(step: int, *_: Any) -> None:
        if step == 1:
            raise RuntimeError("out of patience")

    with (
        pytest.raises(RuntimeError, match="out of patience"),
        capture(pipeline, store, sample="one"),
    ):
        models.run(pipeline, callback=stop)
    assert hooks_of(pipeline) == 0
    attributes = models.opened(store / "one").attrs["i2am"]
    assert attributes["status"] == "failed"
    assert attributes["error"] == "RuntimeError: out of patience"
    record(pipeline, store)  # A failed sample is done again without being asked.
    assert models.opened(store / "one").attrs["i2am"]["status"] == "complete"


def test_the_conditional_branch_is_the_second_one(store: Path) -> None:
    pipeline = models.reference_inpaint()
    record(pipeline, store, sample="both", guidance="both")
    record(pipeline, store, sample="conditional")
    both, alone = (
        models.opened(store / name / "layers" / LAST) for name in ("both", "conditional")
    )
    for name in ("query", "key"):
        assert np.array_equal(both[name][1], alone[name][...])
        assert not np.array_equal(both[name][0], alone[name][...])


def test_several_images_of_one_call_become_several_samples(store: Path) -> None:
    pipeline = models.reference_inpaint()
    inputs = models.noise_images(64)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    doubled = {name: [image, image] for name, image in inputs.items()}
    record(pipeline, store, sample=["a", "b"], call=doubled | {"latents": noise}, dtype="float32")
    for index, name in enumerate("ab"):
        call = {"latents": noise[index : index + 1]}
        record(pipeline, store, sample=f"alone-{name}", call=call, dtype="float32")
        together, alone = (
            models.opened(store / sample / "layers" / FIRST)["query"][...]
            for sample in (name, f"alone-{name}")
        )
        assert np.allclose(together, alone, atol=1e-4)


def test_a_value_beyond_float16_turns_the_layer_to_float32(store: Path) -> None:
    pipeline = models.reference_inpaint()
    attention = pipeline.unet.get_submodule(FIRST)
    with torch.no_grad():
        attention.to_q.weight.mul_(1e6)
    record(pipeline, store, steps=40)
    layers = models.opened(store / "one" / "layers")
    assert {layers[FIRST][name].dtype for name in ("query", "key")} == {np.dtype(np.float32)}
    assert np.isfinite(layers[FIRST]["query"][...]).all()
    others = [layer for name, layer in layers.groups() if name != FIRST]
    assert others
    assert all(layer["query"].dtype == np.float16 for layer in others)


def test_keys_that_change_over_the_steps_are_kept_for_each(store: Path) -> None:
    pipeline = models.reference_inpaint()
    attention = pipeline.unet.get_submodule(FIRST)
    expected: list[torch.Tensor] = []

    def drift(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        moved = output + len(expected) // 2
        expected.append(moved[1].view(moved.shape[1], 4, -1).transpose(0, 1).clone())
        return moved

    with attention.to_k.register_forward_hook(drift):
        record(pipeline, store, steps=4, dtype="float32")
    layers = models.opened(store / "one" / "layers")
    assert layers[FIRST]["key"].metadata.dimension_names == (
        "step",
        "head",
        "reference",
        "channel",
    )
    assert np.array_equal(layers[FIRST]["key"][...], torch.stack(expected).numpy())
    other = next(layer for name, layer in layers.groups() if name != FIRST)
    assert other["key"].metadata.dimension_names == ("head", "reference", "channel")


def test_the_last_steps_are_written_while_the_pipeline_makes_the_image(store: Path) -> None:
    pipeline = models.reference_inpaint()
    decode, shards = pipeline.vae.decode, store / "one" / "layers" / FIRST / "query" / "c"
    seen = []

    def slow_decode(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + 30
        while not (written := any(path.is_file() for path in shards.rglob("0"))):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        seen.append(written)
        return decode(*arguments, **options)

    pipeline.vae.decode = slow_decode
    record(pipeline, store)
    assert seen == [True]
    assert models.opened(store / "one" / "layers")[FIRST]["query"].shape[0] == 3


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' Heun scheduler
def test_a_sampler_of_second_order_has_as_many_steps_as_distinct_timesteps(store: Path) -> None:
    pipeline = models.reference_inpaint()
    pipeline.scheduler = HeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    kept = models.make_explicit(pipeline)
    record(pipeline, store, steps=4, dtype="float32")
    assert len(kept[FIRST]) == 7, "Heun calls the denoiser twice in every step but the last"
    sample = models.opened(store / "one")
    assert sample["step"][...].tolist() == [0, 1, 2, 3]
    assert sample["timestep"][...].tolist() == pipeline.scheduler.timesteps[[0, 2, 4, 6]].tolist()
    # The last call at a timestep counts: the ones before correct the step before.
    counted = torch.stack([kept[FIRST][call][1] for call in (0, 2, 4, 6)])
    assert largest_difference(sample["layers"][FIRST], counted) < 1e-5


def test_one_reference_token_is_stored_as_logits_and_flagged(store: Path) -> None:
    record(models.paint_by_example(), store)
    for _, layer in models.opened(store / "one" / "layers").groups():
        attributes = layer.attrs["i2am"]
        assert attributes["representation"] == "logits"
        assert attributes["causal"] is False
        assert attributes["reference_grid"] is None


def test_layers_are_labelled_in_the_order_of_execution(store: Path) -> None:
    record(models.reference_inpaint(), store)
    layers = dict(models.opened(store / "one" / "layers").groups())
    ordered = sorted(layers, key=lambda name: layers[name].attrs["i2am"]["order"])
    blocks = [layers[name].attrs["i2am"]["block"] for name in ordered]
    assert blocks == ["down", "down", "mid", "up", "up", "up", "up"]
    assert layers[FIRST].attrs["i2am"]["generated_grid"] == [16, 16]
    assert layers[FIRST].attrs["i2am"]["reference_grid"] == [16, 16]
    assert layers[FIRST].attrs["i2am"]["special_tokens"] == 1


def test_layers_are_chosen_by_pattern(store: Path) -> None:
    record(models.reference_inpaint(), store, layers=["down*", "mid*"])
    names = dict(models.opened(store / "one" / "layers").groups())
    assert {name.split(".")[0] for name in names} == {"down_blocks", "mid_block"}


def test_a_bare_denoiser_is_captured_at_its_distinct_timesteps(store: Path) -> None:
    unet = models.reference_inpaint().unet
    states, tokens = torch.zeros(1, 9, 16, 16), torch.zeros(1, 257, 128)
    image = np.zeros((8, 8, 3), np.uint8)
    with torch.no_grad(), capture(unet, store, sample="one") as recording:
        for timestep in (900, 900, 500, 100):
            unet(states, timestep, encoder_hidden_states=tokens)
        recording.add_images(generated=image, reference=image)
    sample = models.opened(store / "one")
    assert sample["timestep"][...].tolist() == [900, 500, 100]
    assert sample.attrs["i2am"]["profile"] == "unet"


def test_a_sample_waits_for_its_images_and_loses_nothing(store: Path) -> None:
    pipeline = models.reference_inpaint()
    with pytest.warns(UserWarning, match=r"stay incomplete until recording\.add_images"):  # noqa: SIM117
        with capture(pipeline, store, sample="one") as recording:
            models.run(pipeline, 1)
    sample = models.opened(store / "one")
    assert sample.attrs["i2am"]["status"] == "running"
    image = np.zeros((8, 8, 3), np.uint8)
    recording.add_images(generated=image, reference=image)
    assert models.opened(store / "one").attrs["i2am"]["status"] == "complete"
    assert list(find_faults(describe_store(store))) == []


def test_provenance_tells_how_to_repeat_the_sample(store: Path) -> None:
    pipeline = models.reference_inpaint()
    image = np.zeros((8, 8, 3), np.uint8)
    with capture(pipeline, store, sample="one") as recording:
        models.run(pipeline)
        recording.add_images(generated=image, reference=image)
        recording.add_provenance(seed=7, guidance_scale=3.0)
    found = models.opened(store / "one").attrs["i2am"]
    assert found["pipeline"] == "ReferenceInpaintPipeline"
    assert (found["scheduler"], found["steps"], found["seed"]) == ("DDIMScheduler", 3, 7)
    assert {"i2am", "torch", "diffusers"} <= set(found["versions"])


def _with_unet(change: Callable[[nn.Module], Any]) -> Callable[[], Any]:
    def build() -> Any:
        pipeline = models.reference_inpaint()
        change(pipeline.unet)
        return pipeline

    return build


def _bypass_projections(unet: nn.Module) -> None:
    """Let one layer return without its projections, as a fused or cached one does."""
    layer: Any = unet.get_submodule(FIRST)
    layer.forward = lambda hidden_states, **_: hidden_states


BAD_CALLS = [
    (models.reference_inpaint, {"sample": "a/b"}, SchemaError, "Expected a sample name"),
    (models.reference_inpaint, {"sample": ["a", "a"]}, SchemaError, "different sample names"),
    (
        models.reference_inpaint,
        {"dtype": "int8"},
        SchemaError,
        "Expected a known dtype, got 'int8'",
    ),
    (
        models.reference_inpaint,
        {"guidance": "all"},
        SchemaError,
        "Expected a known guidance, got 'all'",
    ),
    (
        models.reference_inpaint,
        {"representation": "factor"},
        SchemaError,
        "Did you mean 'factors'",
    ),
    (models.reference_inpaint, {"layers": "upp*"}, CaptureError, "Expected layers that match"),
    (models.reference_inpaint, {"profile": "tiny"}, CaptureError, "Expected a known profile"),
    (lambda: nn.Linear(1, 1), {}, CaptureError, "Expected a model that a profile serves"),
    (object, {}, CaptureError, "Expected a pipeline with a unet"),
    (models.reference_inpaint, {"steps": 0}, SchemaError, "Expected steps as"),
    (models.reference_inpaint, {"heads": []}, SchemaError, "Expected heads as"),
    (models.reference_inpaint, {"heads": [-1]}, SchemaError, "Expected heads as"),
    (models.reference_inpaint, {"heads": [0, 64]}, CaptureError, "Expected heads from 0 to"),
    (models.reference_inpaint, {"memory_bytes": 0}, SchemaError, "Expected memory in bytes"),
]


@pytest.mark.parametrize(
    ("build", "options", "error", "message"), BAD_CALLS, ids=[str(b[1]) for b in BAD_CALLS]
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    store: Path, build: Callable[[], Any], options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        capture(build(), store, **({"sample": "one"} | options))
    assert not store.exists()


def test_a_complete_sample_is_not_overwritten_unless_asked(store: Path) -> None:
    pipeline = models.reference_inpaint()
    record(pipeline, store)
    with (
        pytest.raises(StoreError, match="pass overwrite=True"),
        capture(pipeline, store, sample="one"),
    ):
        pytest.fail("the block must not run")
    assert hooks_of(pipeline) == 0
    record(pipeline, store, steps=2, overwrite=True)
    assert models.opened(store / "one")["step"].shape == (2,)


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    zarr.create_group(other, attributes={"mine": 1})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    pipeline = models.reference_inpaint()
    for path in (other, tmp_path / "folder", tmp_path / "folder" / "letter.txt"):
        with (
            pytest.raises(StoreError, match="Expected a run"),
            capture(pipeline, path, sample="one"),
        ):
            pytest.fail("the block must not run")
    assert (tmp_path / "folder" / "letter.txt").read_text() == "dear"


def test_a_layer_that_was_not_read_is_an_error_that_names_it(store: Path) -> None:
    pipeline = _with_unet(_bypass_projections)()
    with pytest.raises(CaptureError, match=rf"got none at step 0 .* from '{FIRST}'"):
        record(pipeline, store)
    assert models.opened(store / "one").attrs["i2am"]["status"] == "failed"


def test_a_batch_that_does_not_fit_the_samples_is_an_error(store: Path) -> None:
    with pytest.raises(CaptureError, match=r"= 3 sample names × 2 branches .* got 2 = 1 image"):
        record(models.reference_inpaint(), store, sample=["a", "b", "c"])


def test_a_block_without_a_call_is_an_error(store: Path) -> None:
    pipeline = models.reference_inpaint()
    with (
        pytest.raises(CaptureError, match="no call of its denoiser"),
        capture(pipeline, store, sample="one"),
    ):
        pass


def test_images_are_checked(store: Path) -> None:
    pipeline = models.reference_inpaint()
    image = np.zeros((8, 8, 3), np.uint8)
    with capture(pipeline, store, sample="one") as recording:
        models.run(pipeline, 1)
        with pytest.raises(CaptureError, match="Did you mean 'generated'"):
            recording.add_images(genrated=image)
        with pytest.raises(SchemaError, match=r"uint8 \(y, x, 3\)"):
            recording.add_images(generated=image.astype(int))
        with pytest.raises(CaptureError, match="Expected a sample of this capture"):
            recording.add_images(sample="two", generated=image)
        recording.add_images(generated=image, reference=image)
        with pytest.raises(CaptureError, match="once"):
            recording.add_images(generated=image)


def test_facts_that_cannot_be_stored_are_refused_when_they_are_given(store: Path) -> None:
    pipeline = models.reference_inpaint()
    image = np.zeros((8, 8, 3), np.uint8)
    with capture(pipeline, store, sample="one") as recording:
        models.run(pipeline, 1)
        for wrong, told in (
            ({"labels": {"size": b"M"}}, r"got bytes b'M', at labels\.size\. Give texts"),
            ({"guidance_scale": float("nan")}, r"got nan, at guidance_scale"),
            ({"seed": np.int64(3)}, r"got int64 np\.int64\(3\), at seed"),
            ({"seed": "seven"}, r"at seed: input should be a valid integer.*, got 'seven'"),
            ({"status": "complete"}, r"got 'status', which the capture itself writes"),
        ):
            with pytest.raises(SchemaError, match=told):
                recording.add_provenance(note="never stored", **wrong)
        recording.add_provenance(seed=7, labels={"size": "M"})
        recording.add_images(generated=image, reference=image)
    own = models.opened(store / "one").attrs["i2am"]
    assert (own["status"], own["seed"], own["labels"]) == ("complete", 7, {"size": "M"})
    assert "note" not in own


def test_a_painted_box_outside_the_image_is_refused_until_it_is_mended(store: Path) -> None:
    pipeline = models.reference_inpaint()
    image = np.zeros((8, 8, 3), np.uint8)
    recording = capture(pipeline, store, sample="one")

    def sampling() -> None:
        with recording:
            recording.add_provenance(box=[8, 0, 4, 4])
            models.run(pipeline, 1)

    with pytest.warns(UserWarning, match="stay incomplete"):
        sampling()
    with pytest.raises(SchemaError, match=r"part of the generated image, which has 8 × 8 px, got"):
        recording.add_images(generated=image, reference=image)
    assert models.opened(store / "one").attrs["i2am"]["status"] == "running"
    recording.add_provenance(box=[4, 0, 4, 4])
    assert models.opened(store / "one").attrs["i2am"]["status"] == "complete"
    assert list(find_faults(describe_store(store))) == []


def test_a_users_own_profile_serves_a_model_that_none_knows(store: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = models.reference_inpaint().unet

        def forward(self, sample: torch.Tensor, timestep: int, tokens: torch.Tensor) -> Any:
            return self.inner(sample, timestep, encoder_hidden_states=tokens).sample

    model, image = Mine(), np.zeros((8, 8, 3), np.uint8)
    profile = Profile("mine", (), cross_attention)
    with torch.no_grad(), capture(model, store, sample="one", profile=profile) as recording:
        model(torch.zeros(1, 9, 16, 16), 10, torch.zeros(1, 257, 128))
        recording.add_images(generated=image, reference=image)
    assert models.opened(store / "one").attrs["i2am"]["profile"] == "mine"


def test_a_complete_sample_stays_complete_when_another_of_its_call_fails(store: Path) -> None:
    pipeline = models.reference_inpaint()
    with capture(pipeline, store, sample="a") as recording:
        image = models.run(pipeline, 1)[0]
        reference = models.noise_images(models.size_of(pipeline))["example_image"]
        recording.add_images(generated=image, reference=reference)
    recording._samples["a"].fail(KeyboardInterrupt())
    assert models.opened(store / "a").attrs["i2am"]["status"] == "complete"
