"""What is told of a model's tokens is what a capture of the same call stores."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.capture import capture
from i2am.capture.inspection.layer_tokens import LayerTokens, group_layers
from i2am.capture.inspection.token_report import describe_tokens
from i2am.schemas import CaptureError
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.family import Family

# A cross-attention, a joint attention with text, two references in two denoisers, tokens without a grid.
NAMES = (
    "reference-inpaint",
    "hunyuan-video",
    "wan-2.2-first-and-last-frame",
    "ip-adapter-two-images",
)
BLANK = np.zeros((8, 8, 3), np.uint8)


def build(name: str) -> Family:
    torch.manual_seed(0)
    return FAMILIES[name]()


def hooks_of(family: Family) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for denoiser in family.denoisers
        for module in denoiser.modules()
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_is_what_is_stored(name: str, tmp_path: Path) -> None:
    family = build(name)
    with capture(family.pipeline, tmp_path / "run.zarr", sample="a") as recording:
        family.run(1)
        recording.add_images(generated=family.blank(), reference=BLANK)
    with describe_tokens(family.pipeline) as report:
        family.run(1)
    stored = dict(models.opened(tmp_path / "run.zarr/a/layers").groups())
    found = {}
    for layer in report.layers:
        for softmax in layer.softmaxes:
            for reference in softmax.references:
                suffix = f".reference_{reference.index}" if reference.index else ""
                found[f"{layer.name}{suffix}"] = softmax, reference
    assert found.keys() == stored.keys()
    order = sorted(stored, key=lambda one: stored[one].attrs["i2am"]["order"])
    assert list(found) == order
    for path, (softmax, reference) in found.items():
        own = stored[path].attrs["i2am"]
        array = stored[path]["logits" if "logits" in stored[path] else "query"]
        assert softmax.heads == array.shape[1]
        assert list(softmax.grid) == own["generated_grid"]
        assert (softmax.frames, softmax.scale) == (own["frames"], own["scale"])
        assert softmax.queries == array.shape[2]
        assert reference.special_tokens == own["special_tokens"]
        assert (None if reference.grid is None else list(reference.grid)) == own["reference_grid"]
        assert reference.weight == own.get("weight", 1.0)
        keys = stored[path]["key"].shape[-2] if "key" in stored[path] else array.shape[-1]
        assert reference.count == keys


def test_keys_are_counted_by_what_they_are() -> None:
    family = build("hunyuan-video")
    with describe_tokens(family.pipeline) as report:
        family.run(1)
    assert report.calls == [("conditional",), ("unconditional",)]
    (softmax,) = report.layers[0].softmaxes
    (reference,) = softmax.references
    assert (softmax.keys, softmax.text, softmax.hidden_text, softmax.others) == (31, 5, 2, 16)
    assert (reference.places, softmax.text_reads) == ("0–7", True)
    assert "5 (+2 hidden)" in str(report)
    assert "edges=['text->generated', 'reference->text']" in str(report)


def test_the_report_changes_nothing_and_keeps_nothing() -> None:
    family = build("wan-2.2-first-and-last-frame")
    before, pristine = family.run(2), hooks_of(family)
    with describe_tokens(family.pipeline) as report:
        assert hooks_of(family) > pristine
        during = family.run(2)
    assert torch.equal(before, during)
    assert hooks_of(family) == pristine
    denoisers = [weakref.ref(denoiser) for denoiser in family.denoisers]
    for name in ("transformer", "transformer_2"):
        delattr(family.pipeline, name)
    gc.collect()
    assert {ref() for ref in denoisers} == {None}
    assert len(report.layers) == 2


TOLD = """\
WanImageToVideoPipeline with WanTransformer3DModel, two of them in turn: profile 'wan-first-frame'.
2 layers read the reference. In its first step: 2 calls of 1 row (conditional; unconditional).

layers              heads  queries  reference  at keys      text  others
blocks.{0,1}.attn1  2×12   2×4      2×4        0–7 of 24    –     8
  .reference_1                      2×4        16–23 of 24
"""


def test_the_report_of_a_run_is_a_table_with_a_line_for_layers_that_are_alike() -> None:
    family = build("wan-2.2-first-and-last-frame")
    with describe_tokens(family.pipeline) as report:
        family.run(1)
    assert str(report).startswith(TOLD)
    assert "\nNot seen: what the VAE spreads" in str(report)
    assert "\nIn this call the reference is seen whole, whatever its shape.\n" in str(report)


def test_without_a_run_the_report_says_what_the_profile_tells() -> None:
    report = describe_tokens(build("ltx").pipeline)
    assert not report.has_run
    assert [layer.softmaxes for layer in report.layers] == [(), ()]
    told = str(report).splitlines()
    assert (
        told[1]
        == "2 layers read the reference. How many tokens there are, a run of one step tells."
    )
    assert told[4].split() == ["transformer_blocks.{0,1}.attn1", "kernel"]
    assert any(line.startswith("Reference tokens: those of one latent frame") for line in told)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ip-adapter-full-face", "the reference of 32×32 px is seen from (0, 0) to (32, 32)."),
        ("ltx-2-conditions", "reference_1 covers 32×64 px, in its own shape."),
        ("wan-vace", "the reference is fitted into 32×64 px, in its own shape."),
        ("kandinsky-2.2", "the reference is prepared in a way that nothing tells"),
    ],
)
def test_how_the_picture_was_prepared_is_told(name: str, told: str) -> None:
    family = build(name)
    with describe_tokens(family.pipeline) as report:
        family.run(1)
    assert f"In this call {told}" in str(report)


def test_several_images_and_a_bare_denoiser_are_told_too() -> None:
    family = build("wan-2.2-5b")
    with describe_tokens(family.denoiser, samples=2) as report:
        family.run(1, num_videos_per_prompt=2)
    assert "2 calls of 2 rows" in str(report)
    assert str(report).startswith("WanTransformer3DModel: profile")
    with (
        pytest.raises(CaptureError, match="got 2 = 2 images"),
        describe_tokens(family.pipeline),
    ):
        family.run(1, num_videos_per_prompt=2)


def test_a_layer_that_reads_no_reference_is_told_so() -> None:
    family = build("ip-adapter-full-face")
    family.pipeline.set_ip_adapter_scale({"up": {"block_0": [0.0, 0.5]}})
    with describe_tokens(family.pipeline) as report:
        family.run(1)
    lines = [line.split() for line in str(report).splitlines() if line.startswith("down")]
    assert [line[3:6] for line in lines] == [["none", "is", "read"]]


def test_a_report_without_a_run_inside_or_entered_twice_is_an_error() -> None:
    pipeline = build("ltx").pipeline
    report = describe_tokens(pipeline)
    with pytest.raises(CaptureError, match="Expected the model to read a reference inside"), report:
        pass
    with pytest.raises(CaptureError, match="got one that was entered before"):
        report.__enter__()
    with pytest.raises(ZeroDivisionError), describe_tokens(pipeline):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.0.x", "a.1.x"], ["a.{0,1}.x"]),
        ([f"a.{n}.x" for n in range(60)], ["a.{0..59}.x"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0"], ["a.0.b.{0,1}", "a.1.b.0"]),
        ([f"a.{n}.b.{k}" for n in (1, 3) for k in range(3)], ["a.{1,3}.b.{0..2}"]),
        (["a1.x", "a2.x"], ["a1.x", "a2.x"]),
        (["x.0", "y.0"], ["x.0", "y.0"]),
        (["mid"], ["mid"]),
    ],
)
def test_names_that_differ_in_numbers_alone_are_one(names: list[str], expected: list[str]) -> None:
    layers = [LayerTokens(name, "", "kernel") for name in names]
    assert [name for name, _ in group_layers(layers)] == expected


def test_layers_with_other_tokens_are_not_one(tmp_path: Path) -> None:
    family = build("reference-inpaint")
    with describe_tokens(family.pipeline) as report:
        family.run(1)
    groups = dict(group_layers(report.layers))
    assert len(groups) == 5
    grids: list[Any] = [layer.softmaxes[0].grid for layer in groups.values()]
    assert set(grids) == {(16, 16), (8, 8)}
