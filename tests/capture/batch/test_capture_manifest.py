"""A manifest in, a run out: resume, shards, batches, failures, provenance."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pty
import re
import select
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from i2am.analysis import describe_store, open_run
from i2am.capture import DEMO_MANIFEST, CaptureOptions, Profile, capture_manifest, cross_attention
from i2am.capture.batch.input_files import find_unreadable
from i2am.capture.pipelines.call import GenerationSettings, SampleInputs
from i2am.capture.pipelines.load import LoadOptions
from i2am.schemas import (
    CaptureError,
    ManifestRow,
    SchemaError,
    StoreError,
    find_faults,
    read_manifest,
)
from tests.support.cli_process import CliProcess, start_cli
from tests.support.tiny_pipelines import models, pipelines


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four rows; the images are larger than the model's, one has a seed and a label."""
    inputs = models.noise_images(128)
    inputs["example_image"].save(tmp_path / "reference.png")
    inputs["image"].save(tmp_path / "source.png")
    inputs["mask_image"].save(tmp_path / "mask.png")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["sample", "source", "mask", "reference", "reference_mask", "seed", "box", "kind"]
        )
        for number in range(4):
            seed = 7 if number == 2 else ""
            images = ["source.png", "mask.png", "reference.png", "mask.png"]
            rows.writerow([f"s{number}", *images, seed, "32 32 64 32", "noise"])
    return tmp_path / "rows.csv"


def run(manifest: Path, **options: Any) -> Any:
    out = manifest.parent / "run.zarr"
    return capture_manifest("i2am-tiny", manifest, out, steps=1, progress=False, **options)


def _status(manifest: Path, sample: str) -> dict[str, Any]:
    path = manifest.parent / "run.zarr" / sample / "zarr.json"
    found: dict[str, Any] = json.loads(path.read_text())["attributes"]["i2am"]
    return found


# --- Resume and shards.


def test_every_row_becomes_a_sample_and_a_rerun_does_only_what_is_missing(manifest: Path) -> None:
    assert run(manifest, shard=(0, 2)).finished == ["s0", "s2"]
    store = manifest.parent / "run.zarr"
    zarr.open_group(store / "s0", mode="r+").update_attributes({"i2am": {"status": "running"}})
    summary = run(manifest)
    assert (summary.finished, summary.skipped) == (["s0", "s1", "s3"], ["s2"])
    assert run(manifest).skipped == ["s0", "s1", "s2", "s3"]
    assert list(find_faults(describe_store(store))) == []


def test_rows_of_a_shard_get_the_seeds_of_the_whole_manifest(manifest: Path) -> None:
    run(manifest, shard=(3, 4), seed=100)
    assert open_run(manifest.parent / "run.zarr")["s3"].attrs["i2am"]["seed"] == 103


def _start(manifest: Path, *options: str, **environment: str) -> CliProcess:
    call = ["capture", "--model", "i2am-tiny", "--steps", "2", "--manifest", str(manifest)]
    return start_cli([*call, "--out", str(manifest.parent / "run.zarr"), *options], **environment)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"shard": "0/2"}, {"shard": "1/2"}, id="told"),
        pytest.param(
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
            id="torchrun",
        ),
    ],
)
def test_two_processes_fill_one_run_and_a_third_finds_nothing_to_do(
    manifest: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    both = []
    for place in (first, second):
        environment = dict(place)
        shard = environment.pop("shard", None)
        both.append(_start(manifest, *(["--shard", shard] if shard else []), **environment))
    said = [process.end() for process in both]
    assert [ended.code for ended in said] == [0, 0], said
    store = manifest.parent / "run.zarr"
    for number, ended in enumerate(said):
        wanted = f"{store}: shard {number}/2: 2 captured, 0 were complete, 0 failed; "
        assert ended.out.startswith(wanted)
    assert list(find_faults(describe_store(store))) == []
    assert list(open_run(store)) == ["s0", "s1", "s2", "s3"]

    # A device that does not exist cannot be used: so no model is loaded.
    third = _start(manifest, "--device", "nowhere").end()
    assert (third.code, third.err) == (0, "")
    assert third.out == f"{store}: 0 captured, 4 were complete, 0 failed\n"


# --- Batches.


def test_a_batch_holds_the_images_and_attention_of_its_samples_alone(
    manifest: Path, tmp_path: Path
) -> None:
    for name, size in (("single", 1), ("batched", 3)):
        summary = capture_manifest(
            "i2am-tiny", manifest, tmp_path / name, steps=2, batch_size=size, progress=False,
            options=CaptureOptions(dtype="float32", representation="logits"),
        )  # fmt: skip
        assert summary.finished == ["s0", "s1", "s2", "s3"]
    single, batched = open_run(tmp_path / "single"), open_run(tmp_path / "batched")
    for sample in single:
        own = [store[sample].attrs["i2am"]["seed"] for store in (single, batched)]
        assert own == [{"s0": 0, "s1": 1, "s2": 7, "s3": 3}[sample]] * 2
        images = [store[sample]["images/generated"].to_numpy() for store in (single, batched)]
        assert np.abs(images[0].astype(int) - images[1]).max() <= 2
        layers = [store[sample]["layers"] for store in (single, batched)]
        assert list(layers[0]) == list(layers[1])
        for name in layers[0]:
            one, other = (layer[name]["logits"].to_numpy() for layer in layers)
            assert np.allclose(one, other, atol=1e-3)
    batches = [batched[sample].attrs["i2am"]["batch"] for sample in ("s0", "s2", "s3")]
    assert batches == [["s0", "s1", "s2"], ["s0", "s1", "s2"], ["s3"]]


def test_one_bad_image_fails_its_sample_and_not_the_others_of_its_batch(manifest: Path) -> None:
    (manifest.parent / "broken.png").write_text("no image")
    text = manifest.read_text().replace("s1,source.png", "s1,broken.png")
    manifest.write_text(text)
    summary = run(manifest, batch_size=4)
    assert summary.finished == ["s0", "s2", "s3"]
    assert list(summary.failed) == ["s1"]
    assert "Expected an image" in summary.failed["s1"]
    # Told before anything was written for it.
    assert not (manifest.parent / "run.zarr" / "s1").exists()
    assert _status(manifest, "s0")["status"] == "complete"
    Image.new("RGB", (64, 64)).save(manifest.parent / "broken.png")
    summary = run(manifest)
    assert (summary.finished, summary.skipped, summary.failed) == (
        ["s1"],
        ["s0", "s2", "s3"],
        {},
    )
    assert "error" not in _status(manifest, "s1")


def test_images_that_cannot_be_read_are_told_before_the_model_is_loaded(manifest: Path) -> None:
    for name in ("source.png", "mask.png"):
        (manifest.parent / name).write_text("no image")
    # A model that does not exist cannot be loaded.
    out = manifest.parent / "run.zarr"
    summary = capture_manifest("no-such-model", manifest, out, progress=False)
    assert list(summary.failed) == ["s0", "s1", "s2", "s3"]
    assert not out.exists()


def test_an_image_beyond_the_first_is_opened_and_not_read_where_that_would_take_long(
    tmp_path: Path,
) -> None:
    large = Image.new("1", (9000, 8000), 1)  # 72 megapixels
    large.save(tmp_path / "large.png")
    data = (tmp_path / "large.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    rows = [
        ManifestRow(sample=name, reference=tmp_path / f"{name}.png") for name in ("cut", "text")
    ]
    assert list(find_unreadable(rows)) == ["text"]


def test_a_call_that_fails_is_done_again_for_each_of_its_samples(manifest: Path) -> None:
    def own(pipeline: Any, samples: Any, settings: GenerationSettings) -> list[Image.Image]:
        if any(sample.seed == 1 for sample in samples):
            msg = "no such image"
            raise ValueError(msg)
        images: list[Image.Image] = pipeline(
            [s.reference for s in samples],
            [s.source for s in samples],
            [s.mask for s in samples],
            num_inference_steps=settings.steps,
        ).images
        return images

    profile = Profile("own", ("ReferenceInpaintPipeline",), cross_attention, generate=own)
    summary = run(manifest, batch_size=4, options=CaptureOptions(profile=profile))
    assert summary.finished == ["s0", "s2", "s3"]
    assert summary.failed == {"s1": "ValueError: no such image"}
    found = _status(manifest, "s1")
    assert (found["status"], found["error"]) == ("failed", summary.failed["s1"])


def test_a_pipeline_that_takes_one_sample_a_call_gets_one_and_says_so_once(
    manifest: Path, tmp_path: Path
) -> None:
    pipeline = pipelines.inpaint(tmp_path)
    pipeline.save_pretrained(tmp_path / "model")
    pipelines.save_adapter(tmp_path / "adapter", pipeline.unet)
    loading = LoadOptions(ip_adapter=str(tmp_path / "adapter/models"), ip_adapter_scale=0.6)
    with pytest.warns(UserWarning, match="one sample per call; batch size 2 becomes 1") as caught:
        summary = capture_manifest(
            str(tmp_path / "model"), manifest, tmp_path / "run.zarr", steps=1, shard=(0, 2),
            batch_size=2, loading=loading, arguments={"prompt": "a hat"}, progress=False,
        )  # fmt: skip
    assert len(caught) == 1
    assert summary.finished == ["s0", "s2"], summary.failed
    found = _status(manifest, "s2")
    assert found["profile"] == "ip-adapter"
    assert (found["prompt"], found["ip_adapter_scale"]) == ("a hat", 0.6)
    assert found["ip_adapter"] == str(tmp_path / "adapter/models")
    sample = open_run(tmp_path / "run.zarr")["s2"]
    assert sample["images/generated"].shape == (16, 16, 3)
    assert len(sample["layers"]) == 4


def test_a_profile_may_run_the_pipeline_in_its_own_way(manifest: Path) -> None:
    asked: list[tuple[int, ...]] = []

    def own(pipeline: Any, samples: Any, settings: GenerationSettings) -> list[Image.Image]:
        asked.append(tuple(sample.seed for sample in samples))
        assert all(isinstance(sample, SampleInputs) for sample in samples)
        images: list[Image.Image] = pipeline(
            [s.reference for s in samples],
            [s.source for s in samples],
            [s.mask for s in samples],
            num_inference_steps=settings.steps,
        ).images
        return images

    profile = Profile("own", ("ReferenceInpaintPipeline",), cross_attention, generate=own)
    summary = run(manifest, batch_size=3, options=CaptureOptions(profile=profile))
    assert summary.finished == ["s0", "s1", "s2", "s3"]
    assert asked == [(0, 1, 7), (3,)]


def test_a_sample_with_damaged_metadata_fails_as_it_is_and_the_others_are_captured(
    manifest: Path,
) -> None:
    run(manifest, shard=(1, 4))
    path = manifest.parent / "run.zarr" / "s1" / "zarr.json"
    path.write_bytes(path.read_bytes()[:100])
    summary = run(manifest)
    assert summary.finished == ["s0", "s2", "s3"]
    assert list(summary.failed) == ["s1"]
    assert "at s1/zarr.json" in summary.failed["s1"]
    assert path.stat().st_size == 100


# --- Provenance, images and the summary.


def test_provenance_and_images_are_stored_at_the_models_size(manifest: Path) -> None:
    run(manifest, shard=(2, 4))
    sample = open_run(manifest.parent / "run.zarr")["s2"]
    own = sample.attrs["i2am"]
    assert (own["seed"], own["steps"], own["guidance_scale"]) == (7, 1, 3.0)
    assert own["labels"] == {"kind": "noise"}
    assert own["model"] == "i2am-tiny"
    # 128 × 128 becomes 64 × 64.
    assert own["box"] == [16.0, 16.0, 32.0, 16.0]
    assert sample["images/source"].shape == sample["images/generated"].shape == (64, 64, 3)
    assert sample["images/reference"].shape == (128, 128, 3)
    assert sample["images/reference_mask"].shape == (128, 128)
    assert set(np.unique(sample["images/inpainting_mask"])) == {0, 255}


def test_provenance_names_every_input_by_path_and_content(manifest: Path) -> None:
    run(manifest, shard=(0, 4), arguments={"eta": 0.5})
    own = _status(manifest, "s0")
    folder = manifest.parent
    assert own["inputs"] == {
        column: {
            "path": name,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for column, name in (
            ("source", "source.png"),
            ("mask", "mask.png"),
            ("reference", "reference.png"),
            ("reference_mask", "mask.png"),
        )
    }
    assert own["arguments"] == {"eta": 0.5}
    assert own["scheduler_config"]["prediction_type"] == "v_prediction"
    assert own["scheduler_config"]["beta_schedule"] == "scaled_linear"
    assert {"i2am", "torch", "diffusers", "zarr"} <= own["versions"].keys()


def test_what_provenance_says_repeats_the_image(manifest: Path, tmp_path: Path) -> None:
    run(manifest, shard=(1, 4), guidance_scale=2.0, seed=5)
    own = _status(manifest, "s1")
    row = {"sample": "again", **{k: str(tmp_path / v["path"]) for k, v in own["inputs"].items()}}
    (tmp_path / "again.jsonl").write_text(json.dumps(row | {"seed": own["seed"]}))
    capture_manifest(
        own["model"], tmp_path / "again.jsonl", tmp_path / "again.zarr", steps=own["steps"],
        guidance_scale=own["guidance_scale"], arguments=own["arguments"], progress=False,
    )  # fmt: skip
    first = open_run(tmp_path / "run.zarr")["s1"]["images/generated"].to_numpy()
    second = open_run(tmp_path / "again.zarr")["again"]["images/generated"].to_numpy()
    assert np.array_equal(first, second)


def test_the_summary_counts_what_lies_on_disk(manifest: Path) -> None:
    summary = run(manifest, shard=(0, 2))
    store = manifest.parent / "run.zarr"
    files = [f for name in ("s0", "s2") for f in (store / name).rglob("*") if f.is_file()]
    stored = sum(file.stat().st_size for file in files if file.name != "zarr.json")
    assert summary.bytes_written == pytest.approx(stored, rel=0.05)
    assert summary.elapsed_s > 0
    assert re.fullmatch(
        r"shard 0/2: 2 captured, 0 were complete, 0 failed; "
        r"\d+\.\d samples a minute, \d+\.\d MB a sample",
        str(summary),
    )


@pytest.mark.slow
def test_a_terminal_shows_samples_and_steps_with_rate_and_remaining_time(manifest: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    call = ["capture", "--model", "i2am-tiny", "--steps", "4", "--manifest", str(manifest)]
    process = CliProcess([*call, "--out", str(manifest.parent / "run.zarr")], {}, theirs)
    shown = b""
    while True:
        if select.select([ours], [], [], 0.1)[0]:
            shown += os.read(ours, 65536)
        elif not process.is_running:
            break
    os.close(theirs)
    os.close(ours)
    assert process.end().code == 0
    text = shown.decode()
    assert re.search(
        r"capture: 100%\|.*\| 4/4 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(s/sample|sample/s)\]", text
    )
    assert re.search(r"s1: +\d+%\|.*\| \d/4 \[\d\d:\d\d<[\d?:]+, +[\d.?]+ ?(s/step|step/s)\]", text)


# --- What stops a batch before it begins.


def test_a_manifest_with_faults_stops_before_the_model_is_loaded(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("s1,source.png", "s1,gone.png"))
    with pytest.raises(SchemaError, match="row 3, column 'source': no file"):
        capture_manifest("no/such-model", manifest, manifest.parent / "run.zarr")
    assert not (manifest.parent / "run.zarr").exists()


def test_another_store_is_left_alone(manifest: Path) -> None:
    zarr.create_group(manifest.parent / "run.zarr", attributes={"mine": 1})
    with pytest.raises(StoreError, match="Expected a run"):
        run(manifest)


def test_a_maps_store_is_not_taken_for_a_finished_run(manifest: Path) -> None:
    attributes = {"i2am": {"kind": "maps", "schema": 1}}
    maps = zarr.create_group(manifest.parent / "run.zarr", attributes=attributes)
    for name in ("s0", "s1", "s2", "s3"):
        maps.create_group(name, attributes={"i2am": {"status": "complete"}})
    with pytest.raises(StoreError, match="Expected a run, got maps"):
        run(manifest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": CaptureOptions(layers="upp*")}, r"layers that match 'upp\*'"),
        ({"arguments": {"etta": 1}}, "got 'etta'. Did you mean 'eta'"),
        ({"arguments": {"image": 1}}, "got 'image', which is filled"),
    ],
)
def test_what_would_fail_every_sample_fails_once_and_writes_nothing(
    manifest: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        run(manifest, **options)
    assert not (manifest.parent / "run.zarr").exists()


def test_a_manifest_without_prompts_is_refused_by_a_pipeline_that_reads_them(
    manifest: Path, tmp_path: Path
) -> None:
    pipeline = pipelines.inpaint(tmp_path)
    pipeline.save_pretrained(tmp_path / "model")
    pipelines.save_adapter(tmp_path / "adapter", pipeline.unet)
    loading = LoadOptions(ip_adapter=str(tmp_path / "adapter/models"))
    with pytest.raises(CaptureError, match="Add a column 'prompt' to the manifest"):
        capture_manifest(str(tmp_path / "model"), manifest, tmp_path / "run.zarr", loading=loading)
    assert not (tmp_path / "run.zarr").exists()


# --- Models.


def test_a_saved_paint_by_example_directory_loads_and_captures(
    tmp_path: Path, manifest: Path
) -> None:
    models.paint_by_example().save_pretrained(tmp_path / "model")
    out = tmp_path / "pbe.zarr"
    summary = capture_manifest(
        str(tmp_path / "model"), manifest, out, steps=2, batch_size=2, progress=False
    )
    assert summary.finished == ["s0", "s1", "s2", "s3"], summary.failed
    own = open_run(out)["s0"].attrs["i2am"]
    assert (own["pipeline"], own["profile"]) == ("PaintByExamplePipeline", "paint-by-example")


def test_the_shipped_model_paints_the_same_image_for_the_same_seed(tmp_path: Path) -> None:
    rows = read_manifest(DEMO_MANIFEST)
    assert [row.sample for row in rows] == ["doughnut", "frog", "truck"]
    for name in ("a.zarr", "b.zarr"):
        capture_manifest(
            "i2am-tiny", DEMO_MANIFEST, tmp_path / name, steps=2, shard=(0, 3), progress=False
        )
    first, second = (
        open_run(tmp_path / n)["doughnut"]["images/generated"].to_numpy()
        for n in ("a.zarr", "b.zarr")
    )
    assert np.array_equal(first, second)
    assert first.std() > 10
    assert Image.fromarray(first).size == (64, 64)
