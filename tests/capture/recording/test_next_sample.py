"""Several samplings in one block: each is what a block of its own would have made of it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import zarr

from i2am.analysis import describe_store
from i2am.capture import Recording, capture
from i2am.schemas import CaptureError, SchemaError, StoreError, find_faults
from tests.support.explicit_attention import explicit_attention
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import families, models

BLANK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return models.reference_inpaint()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def run(pipeline: Any, seed: int, steps: int = 2, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return models.run(pipeline, steps, generator=generator, **options)


def images_of(image: Any) -> dict[str, Any]:
    picture = np.round(image * 255).astype(np.uint8)
    return {"generated": picture, "reference": picture}


def contents(store: Path, sample: str) -> dict[str, Any]:
    """Return all that is stored of a sample but the time: arrays and attributes by path."""
    group: Any = zarr.open_group(store, mode="r")[sample]
    found: dict[str, Any] = {"": dict(group.attrs["i2am"]) | {"created": "", "digest": ""}}
    for path, member in group.members(max_depth=None):
        is_array = isinstance(member, zarr.Array)
        found[path] = (member[...], member.chunks) if is_array else dict(member.attrs)
    return found


def statuses(store: Path) -> dict[str, str]:
    root = zarr.open_group(store, mode="r")
    return {name: group.attrs["i2am"]["status"] for name, group in root.groups()}  # type: ignore[call-overload,index,misc]


def hooks_of(pipeline: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in pipeline.unet.modules()
    )


def test_ten_seeds_in_one_block_equal_ten_blocks(pipeline: Any, tmp_path: Path) -> None:
    one, ten = tmp_path / "one.zarr", tmp_path / "ten.zarr"
    with capture(pipeline, one, sample="seed-0", guidance="both") as recording:
        writers: set[Any] = set()
        hooks = hooks_of(pipeline)
        for seed in range(10):
            if seed:
                recording.next_sample(f"seed-{seed}")
            recording.add_provenance(seed=seed)
            recording.add_images(**images_of(run(pipeline, seed)[0]))
            assert hooks_of(pipeline) == hooks
            writers |= {t for t in threading.enumerate() if "i2am-writer" in t.name}
        assert len(writers) <= 2, "the memory and its threads serve all samplings"
    assert hooks_of(pipeline) == 0
    for seed in range(10):
        with capture(pipeline, ten, sample=f"seed-{seed}", guidance="both") as recording:
            recording.add_provenance(seed=seed)
            recording.add_images(**images_of(run(pipeline, seed)[0]))
    for seed in range(10):
        found, expected = (contents(store, f"seed-{seed}") for store in (one, ten))
        assert found[""]["status"] == "complete"
        np.testing.assert_equal(found, expected)
    assert list(find_faults(describe_store(one))) == []


def test_calls_of_several_images_and_of_one_may_follow_each_other(
    pipeline: Any, tmp_path: Path
) -> None:
    together, apart = tmp_path / "together.zarr", tmp_path / "apart.zarr"
    calls = [("a",), ("b", "c"), ("d",)]
    with capture(pipeline, together, sample=calls[0]) as recording:
        for seed, names in enumerate(calls):
            if seed:
                recording.next_sample(names)
            images = run(pipeline, seed, num_images_per_prompt=len(names))
            for name, image in zip(names, images, strict=True):
                recording.add_images(sample=name, **images_of(image))
    for seed, names in enumerate(calls):
        with capture(pipeline, apart, sample=names) as recording:
            images = run(pipeline, seed, num_images_per_prompt=len(names))
            for name, image in zip(names, images, strict=True):
                recording.add_images(sample=name, **images_of(image))
    for name in "abcd":
        np.testing.assert_equal(contents(together, name), contents(apart, name))


@pytest.mark.filterwarnings("ignore:__array")  # in a scheduler
def test_a_scheduler_and_an_adapter_may_change_before_the_next_sample(store: Path) -> None:
    torch.manual_seed(0)
    family = families.ip_adapter("full")
    pipe = family.pipeline
    with (
        explicit_attention(pipe.unet) as kept,
        capture(pipe, store, sample="first", dtype="float32") as recording,
    ):
        for name in ("first", "heun", "weak"):
            if name == "heun":
                pipe.scheduler = diffusers.HeunDiscreteScheduler()
            if name == "weak":
                pipe.set_ip_adapter_scale(0.25)
            if name != "first":
                recording.next_sample(name)
            family.run(2)
            recording.add_images(generated=BLANK, reference=BLANK)
    root: Any = zarr.open_group(store, mode="r")
    schedulers = [root[name].attrs["i2am"]["scheduler"] for name in ("first", "heun", "weak")]
    assert schedulers[1:] == ["HeunDiscreteScheduler"] * 2 != schedulers[:1] * 2
    name = next(iter(root["first"]["layers"]))
    calls = [call for call in kept[name] if call.scores.shape[-1] == 17]  # Not the text's.
    # Two steps each: Heun evaluates its first one twice.
    for sample, kept_calls in (("first", [0, 1]), ("heun", [2, 4]), ("weak", [5, 7])):
        layer = root[sample]["layers"][name]
        expected = np.stack([calls[call].scores[-1].numpy() for call in kept_calls])
        np.testing.assert_allclose(stored_logits(layer), expected, atol=2e-6)
        assert layer.attrs["i2am"].get("weight", 1.0) == (0.25 if sample == "weak" else 0.7)


def test_a_bare_denoiser_is_captured_sampling_by_sampling(store: Path, pipeline: Any) -> None:
    states, tokens = torch.zeros(1, 9, 16, 16), torch.zeros(1, 257, 128)
    with torch.no_grad(), capture(pipeline.unet, store, sample="a") as recording:
        for name, timesteps in (("a", (900, 500)), ("b", (900, 500, 100)), ("c", (900,))):
            if name != "a":
                recording.next_sample(name)
            for timestep in timesteps:
                pipeline.unet(states, timestep, encoder_hidden_states=tokens)
            recording.add_images(generated=BLANK, reference=BLANK)
    root: Any = zarr.open_group(store, mode="r")
    assert [root[name]["timestep"][...].tolist() for name in "abc"] == [
        [900, 500], [900, 500, 100], [900]
    ]  # fmt: skip


def test_what_fails_leaves_the_samples_before_it_complete(pipeline: Any, store: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="out of patience"),
        capture(pipeline, store, sample="a") as recording,
    ):
        recording.add_images(**images_of(run(pipeline, 0)[0]))
        recording.next_sample("b")
        run(pipeline, 1)
        recording.next_sample("c")
        raise RuntimeError("out of patience")
    assert statuses(store) == {"a": "complete", "b": "running", "c": "failed"}
    assert hooks_of(pipeline) == 0
    recording.add_images(sample="b", generated=BLANK, reference=BLANK)
    assert statuses(store)["b"] == "complete"
    assert "error" not in models.opened(store / "b").attrs["i2am"]


def test_a_sampling_that_was_not_whole_fails_at_the_next_sample(pipeline: Any, store: Path) -> None:
    with capture(pipeline, store, sample="a", steps=[1, 2]) as recording:
        run(pipeline, 0, steps=1)
        with pytest.raises(CaptureError, match="Expected steps to keep, got none of the 1"):
            recording.next_sample("b")
        recording.next_sample("b")  # Whoever catches that may go on.
        recording.add_images(**images_of(run(pipeline, 1, steps=3)[0]))
    assert statuses(store) == {"a": "failed", "b": "complete"}
    assert models.opened(store / "b")["step"][...].tolist() == [1, 2]


def test_samples_that_are_complete_may_be_left_out(pipeline: Any, store: Path) -> None:
    with capture(pipeline, store, sample="b") as recording:
        recording.add_images(**images_of(run(pipeline, 7)[0]))
    before = contents(store, "b")
    with capture(pipeline, store, sample="a") as recording:
        for seed, name in enumerate("abc"):
            if seed:
                try:
                    recording.next_sample(name)
                except StoreError as e:
                    assert "'b', which is complete in" in str(e)  # noqa: PT017
                    for ask in (recording.add_images, recording.add_provenance):
                        with pytest.raises(CaptureError, match=r"Expected sample= one of \['a'\]"):
                            ask()
                    continue
            recording.add_images(**images_of(run(pipeline, seed)[0]))
    assert set(statuses(store).values()) == {"complete"}
    np.testing.assert_equal(contents(store, "b"), before)
    with capture(pipeline, store, sample="d", overwrite=True) as recording:
        recording.add_images(**images_of(run(pipeline, 3)[0]))
        recording.next_sample("b")
        recording.add_images(**images_of(run(pipeline, 1)[0]))
    assert not np.array_equal(contents(store, "b")["images/generated"], before["images/generated"])


def test_images_and_facts_belong_to_the_sample_that_runs_unless_it_is_named(
    pipeline: Any, store: Path
) -> None:
    recording = capture(pipeline, store, sample="a")

    def two_samplings() -> None:
        with recording:
            recording.add_provenance(seed=0)
            image = run(pipeline, 0)[0]
            recording.next_sample("b")
            with pytest.raises(CaptureError, match="generated for 'b', got one before its pipe"):
                recording.add_images(**images_of(image))
            recording.add_provenance(guidance_scale=3.0)
            run(pipeline, 1)
            recording.add_provenance(sample="a", labels={"late": True})

    with pytest.warns(UserWarning, match=r"\['a', 'b'\] stay incomplete"):
        two_samplings()
    for ask in (recording.add_images, recording.add_provenance):
        with pytest.raises(CaptureError, match=r"Expected sample= one of \['a', 'b'\], got none"):
            ask()
    with pytest.raises(CaptureError, match=r"got 'c'\. Known: 'a', 'b'"):
        recording.add_provenance(sample="c", seed=1)
    for name in "ab":
        recording.add_images(sample=name, generated=BLANK, reference=BLANK)
    recording.add_provenance(sample="b", seed=1)
    first, second = (models.opened(store / name).attrs["i2am"] for name in "ab")
    assert (first["status"], first["seed"], first["guidance_scale"]) == ("complete", 0, None)
    assert (second["status"], second["seed"], second["guidance_scale"]) == ("complete", 1, 3.0)
    assert (first["labels"], "labels" in second) == ({"late": True}, False)


def _before_the_call(recording: Recording, _run: Callable[..., Any]) -> None:
    recording.next_sample("b")


def _with_the_same_name(recording: Recording, run: Callable[..., Any]) -> None:
    run()
    recording.next_sample("a")


def _with_a_bad_name(recording: Recording, run: Callable[..., Any]) -> None:
    run()
    recording.next_sample("a/b")


def _within_the_call(recording: Recording, run: Callable[..., Any]) -> None:
    run(callback=lambda *_: recording.next_sample("b"))


def _not_at_all(_recording: Recording, run: Callable[..., Any]) -> None:
    run()
    run()


@pytest.mark.parametrize(
    ("use", "error", "message", "status"),
    [
        (_before_the_call, CaptureError, "after the pipeline ran for 'a', got it before", "failed"),
        (_with_the_same_name, CaptureError, "got 'a', which this capture has", "complete"),
        (_with_a_bad_name, SchemaError, "Expected a sample name", "complete"),
        (
            _within_the_call,
            CaptureError,
            "call for 'a', got it within. Call .* callbacks",
            "failed",
        ),
        (_not_at_all, CaptureError, r"Call recording.next_sample\('NAME'\) before each", "failed"),
    ],
)
def test_a_wrong_next_sample_says_what_is_wrong(
    pipeline: Any,
    store: Path,
    use: Callable[..., None],
    error: type[Exception],
    message: str,
    status: str,
) -> None:
    with pytest.raises(error, match=message), capture(pipeline, store, sample="a") as recording:
        recording.add_images(generated=BLANK, reference=BLANK)
        use(recording, lambda **options: run(pipeline, 0, **options))
    assert statuses(store) == {"a": status}
    assert hooks_of(pipeline) == 0


def test_next_sample_belongs_inside_the_block(pipeline: Any, store: Path) -> None:
    recording = capture(pipeline, store, sample="a")
    with pytest.raises(CaptureError, match="got it before the block"):
        recording.next_sample("b")
    with recording:
        recording.add_images(**images_of(run(pipeline, 0)[0]))
    with pytest.raises(CaptureError, match="got it after the block"):
        recording.next_sample("b")
    assert statuses(store) == {"a": "complete"}


def test_two_names_and_a_call_for_each_are_told_the_way(pipeline: Any, store: Path) -> None:
    message = r"2 sample names × 2 .* got 2 = 1 image\. .* recording\.next_sample\('b'\)"
    with pytest.raises(CaptureError, match=message), capture(pipeline, store, sample=["a", "b"]):
        run(pipeline, 0)


def test_a_recording_with_several_samplings_lets_go_of_the_model(store: Path) -> None:
    pipe = models.reference_inpaint()
    with capture(pipe, store, sample="a") as recording:
        recording.add_images(**images_of(run(pipe, 0, 1)[0]))
        recording.next_sample("b")
        recording.add_images(**images_of(run(pipe, 1, 1)[0]))
    gone = weakref.ref(pipe.unet), weakref.ref(pipe)
    del pipe
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    del recording
