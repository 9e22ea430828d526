"""A run in, a store of effects out: repaint, resume, shards, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from i2am.analysis import describe_store, open_effects
from i2am.capture import (
    DEMO_MANIFEST,
    CaptureOptions,
    EffectOptions,
    LoadOptions,
    capture,
    capture_manifest,
    knock_out,
    load_pipeline,
)
from i2am.capture.causal.measure_run import measure_run
from i2am.capture.pipelines.random_weights import randomize_weights
from i2am.cli import main
from i2am.schemas import StoreError, find_faults
from tests.support.cli_process import start_cli
from tests.support.manifests import write_manifest
from tests.support.store_contents import contents_of, differences
from tests.support.tiny_pipelines import pipelines

NAMES = ["frog", "truck"]
OPTIONS = EffectOptions(regions=(2, 2), batch=7)
CALL = ["--model", "i2am-tiny", "--grid", "2", "--layers", "--batch-size", "7"]


def captured(folder: Path, names: list[str] = NAMES, **options: Any) -> Path:
    """Capture some of the demo's samples."""
    header, *lines = DEMO_MANIFEST.read_text().splitlines()
    for path in DEMO_MANIFEST.parent.glob("*.png"):
        shutil.copy(path, folder)
    kept = [line for line in lines if line.partition(",")[0] in names]
    (folder / "rows.csv").write_text("\n".join([header, *kept]))
    given = {"steps": 2, "guidance_scale": 1.0, "seed": 4, "progress": False} | options
    summary = capture_manifest("i2am-tiny", folder / "rows.csv", folder / "run.zarr", **given)
    assert not summary.failed
    return folder / "run.zarr"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def effects(run: Path) -> Path:
    out = run.with_name("whole.zarr")
    assert main(["causal", str(run), *CALL, "--out", str(out)]) == 0
    return out


def own(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "zarr.json").read_text())["attributes"]["i2am"]
    return found


def test_the_store_keeps_the_contract_and_says_what_was_measured(run: Path, effects: Path) -> None:
    assert list(find_faults(describe_store(effects))) == []
    assert own(effects) | {"digest": ""} == {
        "kind": "effects",
        "schema": 1,
        "source": "../run.zarr",
        "options": {
            "grid": [2, 2],
            "adaptive": False,
            "kinds": ["total"],
            "layers": True,
            "edges": [],
            "direct_steps": None,
            "guidance": "conditional",
            "curves": [],
        },
        "digest": "",
    }
    said, of_run = own(effects / "frog"), own(run / "frog")
    assert said["status"] == "complete"
    assert said["source_created"] == of_run["created"]
    assert said["repaint_difference"] <= 1
    assert said["pictures"] == 21  # untouched twice, floor, ceiling, 7 layers, 4 regions, filled up
    found = zarr.open_group(effects / "frog", mode="r")
    assert found["y"][:].tolist() == [4 * row + 2 for row in range(16)]  # type: ignore[index, union-attr]


def test_its_effects_are_those_of_the_captured_call(effects: Path) -> None:
    images: dict[str, Any] = {
        name: Image.open(DEMO_MANIFEST.with_name(f"truck-{own}.png"))
        for name, own in (
            ("image", "source"),
            ("mask_image", "mask"),
            ("example_image", "reference"),
        )
    }
    pipe = load_pipeline("i2am-tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    images |= {"num_inference_steps": 2, "guidance_scale": 1.0}
    direct = knock_out(pipe, images, regions=(2, 2), per=["region"], seed=5)
    stored = open_effects(effects)["truck"]
    for name in ("region", "region_pixels", "ceiling"):
        largest = direct[name].max()
        np.testing.assert_allclose(stored[name], direct[name], atol=1e-4 * largest)
    np.testing.assert_array_equal(stored["cut_box"], direct.boxes)


def test_a_killed_measurement_goes_on_and_gives_the_same(
    run: Path, effects: Path, tmp_path: Path
) -> None:
    out = tmp_path / "effects.zarr"
    call = ["causal", str(run), *CALL, "--out", str(out)]
    process = start_cli(call)
    end_s = time.monotonic() + 120
    while not (out / "truck" / "zarr.json").exists():
        assert process.is_running
        assert time.monotonic() < end_s
        time.sleep(0.01)
    process.send(signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    assert [own(out / name)["status"] for name in NAMES] == ["complete", "running"]
    first = (out / "frog" / "zarr.json").stat().st_mtime_ns
    ended = start_cli(call).end()
    assert ended.code == 0, ended.err
    assert "1 measured, 1 were complete, 0 failed" in ended.out
    assert (out / "frog" / "zarr.json").stat().st_mtime_ns == first
    for name in NAMES:
        assert differences(contents_of(out / name), contents_of(effects / name)) == []
    assert {path.name for path in out.iterdir()} == {"zarr.json", *NAMES}


def test_shards_share_one_store(run: Path, effects: Path, tmp_path: Path) -> None:
    out = tmp_path / "effects.zarr"
    options = EffectOptions(regions=(2, 2), per=["region", "layer"], batch=7)
    for index, name in enumerate(NAMES):
        summary = measure_run(
            "i2am-tiny", run, out, options=options, shard=(index, 2), progress=False
        )
        assert summary.finished == [name]
        assert str(summary).startswith(f"shard {index}/2: 1 measured, 0 were complete")
    for name in NAMES:
        assert differences(contents_of(out / name), contents_of(effects / name)) == []


def test_another_model_than_the_captured_one_is_refused_and_the_right_one_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "effects.zarr"
    options: dict[str, Any] = {"options": OPTIONS, "samples": ["frog"], "progress": False}
    loading = {"randomize_weights": 1}
    summary = measure_run("i2am-tiny", run, out, loading=loading, **options)
    assert "Expected the stored image to be painted again, got one" in summary.failed["frog"]
    assert own(out / "frog")["status"] == "failed"
    # So does another noise, by a manifest.
    rows = tmp_path / "rows.csv"
    folder = DEMO_MANIFEST.parent
    files = [f"{folder}/frog-{name}.png" for name in ("source", "mask", "reference")]
    rows.write_text("sample,seed,source,mask,reference\n" + ",".join(["frog", "77", *files]))
    assert main(["causal", str(run), *CALL, "--out", str(out), "--samples", "frog",
                 "--manifest", str(rows)]) == 1  # fmt: skip
    assert "Expected the stored image to be painted again" in capsys.readouterr().err
    rows.write_text(rows.read_text().replace("77", "4"))
    summary = measure_run("i2am-tiny", run, out, manifest=rows, **options)
    assert summary.finished == ["frog"]
    assert own(out / "frog")["status"] == "complete"


def test_a_run_of_randomised_weights_is_repainted_with_these(tmp_path: Path) -> None:
    run = captured(tmp_path, ["frog"], loading=LoadOptions(randomize_weights=3))
    assert own(run / "frog")["randomize_weights"] == 3
    with pytest.raises(StoreError, match="randomised weights 3 → none"):
        captured(tmp_path)
    summary = measure_run(
        "i2am-tiny", run, tmp_path / "effects.zarr", options=OPTIONS, progress=False
    )
    assert summary.finished == ["frog"]


def test_the_same_seed_draws_the_same_weights_and_another_one_others() -> None:
    layers = [torch.nn.Linear(64, 64) for _ in range(3)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    before = layers[0].weight.clone()
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        randomize_weights(layer, seed)
    first, same, other = (layer.weight for layer in layers)
    assert torch.equal(first, same)
    for one, another in ((first, other), (first, before)):
        ours, theirs = (values.detach().numpy().ravel() for values in (one, another))
        assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.1
    assert torch.allclose(first.mean(), before.mean(), atol=0.01)
    assert torch.allclose(first.std(), before.std(), rtol=0.05)


def test_what_was_captured_by_hand_needs_its_seed_from_a_manifest(
    tmp_path: Path, run: Path
) -> None:
    pipe = load_pipeline("i2am-tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    source, mask, reference = (
        Image.open(DEMO_MANIFEST.with_name(f"frog-{name}.png"))
        for name in ("source", "mask", "reference")
    )
    by_hand = tmp_path / "run.zarr"
    with capture(pipe, by_hand, sample="frog") as recording:
        image = pipe(
            reference, source, mask, num_inference_steps=2,
            generator=torch.Generator().manual_seed(12),
        ).images[0]  # fmt: skip
        recording.add_images(
            generated=image, reference=reference, source=source, inpainting_mask=mask
        )
    options: dict[str, Any] = {"options": OPTIONS, "progress": False}
    out = tmp_path / "effects.zarr"
    summary = measure_run("i2am-tiny", by_hand, out, **options)
    assert "Expected a sample with the seed of its noise, got none" in summary.failed["frog"]
    rows = tmp_path / "rows.csv"
    folder = DEMO_MANIFEST.parent
    files = [f"{folder}/frog-{name}.png" for name in ("source", "mask", "reference")]
    rows.write_text("sample,seed,source,mask,reference\n" + ",".join(["frog", "12", *files]))
    summary = measure_run("i2am-tiny", by_hand, out, manifest=rows, **options)
    assert summary.finished == ["frog"]


def test_a_run_with_an_adapter_is_measured_in_calls_of_several_images(tmp_path: Path) -> None:
    pipeline = pipelines.inpaint(tmp_path)
    pipeline.save_pretrained(tmp_path / "model")
    pipelines.save_adapter(tmp_path / "adapter", pipeline.unet)
    model, run = str(tmp_path / "model"), tmp_path / "run.zarr"
    capture_manifest(
        model, write_manifest(tmp_path, ["a"]), run, steps=2, progress=False,
        loading=LoadOptions(ip_adapter=str(tmp_path / "adapter/models"), ip_adapter_scale=0.6),
        arguments={"prompt": "a hat"},
    )  # fmt: skip
    # How it was loaded, and the prompt, are what the run says.
    options = EffectOptions(per=["layer"], batch=4)
    summary = measure_run(model, run, tmp_path / "effects.zarr", options=options, progress=False)
    assert summary.failed == {}
    found = open_effects(tmp_path / "effects.zarr")["a"]
    assert found.sizes["layer"] == 4
    assert float(found["layer_effect"].min()) > 100 * float(found["floor"].max())
    assert "region" not in found
    assert list(find_faults(describe_store(tmp_path / "effects.zarr"))) == []


def test_a_sample_that_was_captured_again_is_measured_again(tmp_path: Path) -> None:
    run, out = captured(tmp_path, ["frog"]), tmp_path / "effects.zarr"
    options: dict[str, Any] = {
        "options": EffectOptions(per=["layer"], batch=2),
        "progress": False,
    }
    assert measure_run("i2am-tiny", run, out, **options).finished == ["frog"]
    assert measure_run("i2am-tiny", run, out, **options).skipped == ["frog"]
    before = own(out / "frog")
    captured(tmp_path, ["frog"], seed=9, options=CaptureOptions(overwrite=True))
    assert measure_run("i2am-tiny", run, out, **options).finished == ["frog"]
    assert own(out / "frog")["source_contents"] != before["source_contents"]
    assert list(find_faults(describe_store(out))) == []


def test_one_store_has_one_set_of_options(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "effects.zarr"
    call = ["causal", str(run), "--model", "i2am-tiny", "--out", str(out), "--samples", "frog"]
    assert main([*call, "--grid", "1"]) == 0
    assert main([*call, "--grid", "1x2"]) == 1
    assert "got other grid, at " in capsys.readouterr().err
    assert main([*call, "--grid", "1x2", "--overwrite"]) == 0
    assert own(out)["options"]["grid"] == [1, 2]
    assert open_effects(out)["frog"]["region"].sizes["cut"] == 2


def test_curves_go_by_the_maps_and_all_kinds_are_stored(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "effects.zarr"
    layer = "up_blocks.1.attentions.1.transformer_blocks.0.attn2"
    call = ["causal", str(run), "--model", "i2am-tiny", "--out", str(out), "--samples", "frog"]
    kinds = ["--direct", "--occlusion", "--edges", "reference->generated"]
    assert main([*call, "--grid", "2", *kinds, "--curves", "map", "random", layer]) == 0
    assert list(find_faults(describe_store(out))) == []
    options = own(out)["options"]
    assert options["kinds"] == ["total", "direct", "occlusion"]
    assert options["direct_steps"] == [0, 1]
    assert options["edges"] == ["reference->generated"]
    assert options["curves"] == ["map", "random", layer]
    found = open_effects(out)["frog"]
    assert found["order"].values.tolist() == ["map", "random", layer]
    assert found["deletion"].sizes == {"order": 3, "count": 5, "y": 16, "x": 16}
    np.testing.assert_allclose(found["edge_effect"][0], found["ceiling"], atol=1e-5)
    assert {"direct_region", "direct_edge", "occlusion", "occlusion_pixels"} <= set(found)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("run.zarr", "Expected a store of effects to write to, got run"),
        ("notes", "Expected a store of effects or nothing, got another file or folder"),
        ("run.zarr/inside", "inside"),
    ],
)
def test_effects_go_nowhere_else(run: Path, store: str, message: str) -> None:
    notes = run.parent / "notes" / "mine.txt"
    notes.parent.mkdir(exist_ok=True)
    notes.write_text("mine")
    with pytest.raises(StoreError, match=message):
        measure_run("i2am-tiny", run, run.parent / store, options=OPTIONS, progress=False)
    assert notes.read_text() == "mine"
    assert list(notes.parent.iterdir()) == [notes]


def test_a_store_that_is_no_run_and_a_sample_that_is_not_there_are_told(
    run: Path, effects: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="Expected a run, got effects"):
        measure_run("i2am-tiny", effects, tmp_path / "new.zarr", progress=False)
    with pytest.raises(StoreError, match="Did you mean 'frog'"):
        measure_run("i2am-tiny", run, tmp_path / "new.zarr", samples=["forg"], progress=False)
    assert list(tmp_path.iterdir()) == []
