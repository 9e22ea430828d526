"""A manifest in, a run out: resume, shards, failures, loading."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from i2am.analysis import describe_store, open_run
from i2am.capture import DEMO_MANIFEST, CaptureOptions, capture_manifest, load_pipeline
from i2am.schemas import CaptureError, SchemaError, StoreError, find_faults, read_manifest
from tests.capture import models


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four rows; the pictures are larger than the model's, one has a seed and a label."""
    inputs = models.pictures(128)
    inputs["example_image"].save(tmp_path / "reference.png")
    inputs["image"].resize((128, 96)).save(tmp_path / "source.png")
    inputs["mask_image"].resize((128, 96)).save(tmp_path / "mask.png")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["sample", "source", "mask", "reference", "reference_mask", "seed", "box", "kind"]
        )
        for number in range(4):
            seed = 7 if number == 2 else ""
            pictures = ["source.png", "mask.png", "reference.png", "mask.png"]
            rows.writerow([f"s{number}", *pictures, seed, "32 24 64 24", "noise"])
    return tmp_path / "rows.csv"


def run(manifest: Path, **options: Any) -> Any:
    out = manifest.parent / "run.zarr"
    return capture_manifest("i2am-tiny", manifest, out, steps=1, progress=False, **options)


def test_every_row_becomes_a_sample_and_a_rerun_does_only_what_is_missing(manifest: Path) -> None:
    assert run(manifest, shard=(1, 2)).finished == ["s0", "s2"]
    store = manifest.parent / "run.zarr"
    zarr.open_group(store / "s0", mode="r+").update_attributes({"i2am": {"status": "running"}})
    summary = run(manifest)
    assert (summary.finished, summary.skipped) == (["s0", "s1", "s3"], ["s2"])
    assert run(manifest).skipped == ["s0", "s1", "s2", "s3"]
    assert list(find_faults(describe_store(store))) == []


def test_provenance_and_pictures_are_stored_at_the_models_size(manifest: Path) -> None:
    run(manifest, shard=(3, 4))
    sample = open_run(manifest.parent / "run.zarr")["s2"]
    own = sample.attrs["i2am"]
    assert (own["seed"], own["steps"], own["guidance_scale"]) == (7, 1, 3.0)
    assert own["labels"] == {"kind": "noise"}
    assert own["model"] == "i2am-tiny"
    # 128 × 96 becomes 64 × 64.
    assert own["box"] == [16.0, 16.0, 32.0, 16.0]
    assert sample["images/source"].shape == sample["images/generated"].shape == (64, 64, 3)
    assert sample["images/reference"].shape == (128, 128, 3)
    assert sample["images/reference_mask"].shape == (128, 128)
    assert set(np.unique(sample["images/inpainting_mask"])) == {0, 255}


def test_rows_of_a_shard_get_the_seeds_of_the_whole_manifest(manifest: Path) -> None:
    run(manifest, shard=(4, 4), seed=100)
    assert open_run(manifest.parent / "run.zarr")["s3"].attrs["i2am"]["seed"] == 103


def test_one_bad_picture_fails_its_sample_and_the_rest_goes_on(manifest: Path) -> None:
    (manifest.parent / "broken.png").write_text("no picture")
    text = manifest.read_text().replace("s1,source.png", "s1,broken.png")
    manifest.write_text(text)
    summary = run(manifest)
    assert summary.finished == ["s0", "s2", "s3"]
    assert list(summary.failed) == ["s1"]
    assert "Expected a picture" in summary.failed["s1"]


def test_a_manifest_with_faults_stops_before_the_model_is_loaded(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("s1,source.png", "s1,gone.png"))
    with pytest.raises(SchemaError, match="row 3, column 'source': no file"):
        capture_manifest("no/such-model", manifest, manifest.parent / "run.zarr")
    assert not (manifest.parent / "run.zarr").exists()


def test_another_store_is_left_alone(manifest: Path) -> None:
    zarr.create_group(manifest.parent / "run.zarr", attributes={"mine": 1})
    with pytest.raises(StoreError, match="Expected a run"):
        run(manifest)


def test_a_profile_that_cannot_generate_is_refused(manifest: Path) -> None:
    with pytest.raises(CaptureError, match="Call the pipeline yourself"):
        run(manifest, options=CaptureOptions(profile="unet"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("i2am-tny", "Did you mean 'i2am-tiny'"),
        ("/no/such/folder", "which is neither"),
        (str(Path(__file__).parent), "model_index.json"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_error(model: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        load_pipeline(model)


def test_a_saved_paint_by_example_directory_loads_and_captures(
    tmp_path: Path, manifest: Path
) -> None:
    models.paint_by_example().save_pretrained(tmp_path / "model")
    out = tmp_path / "pbe.zarr"
    summary = capture_manifest(
        str(tmp_path / "model"), manifest, out, steps=2, shard=(1, 4), progress=False
    )
    assert summary.finished == ["s0"]
    own = open_run(out)["s0"].attrs["i2am"]
    assert (own["pipeline"], own["profile"]) == ("PaintByExamplePipeline", "paint-by-example")


def test_the_shipped_model_paints_the_same_picture_for_the_same_seed(tmp_path: Path) -> None:
    rows = read_manifest(DEMO_MANIFEST)
    assert [row.sample for row in rows] == ["doughnut", "frog", "truck"]
    for name in ("a.zarr", "b.zarr"):
        capture_manifest(
            "i2am-tiny", DEMO_MANIFEST, tmp_path / name, steps=2, shard=(1, 3), progress=False
        )
    first, second = (
        open_run(tmp_path / n)["doughnut"]["images/generated"].to_numpy()
        for n in ("a.zarr", "b.zarr")
    )
    assert np.array_equal(first, second)
    assert first.std() > 10
    assert Image.fromarray(first).size == (64, 64)


def test_a_maps_store_is_not_taken_for_a_finished_run(manifest: Path) -> None:
    attributes = {"i2am": {"kind": "maps", "schema": 1}}
    maps = zarr.create_group(manifest.parent / "run.zarr", attributes=attributes)
    for name in ("s0", "s1", "s2", "s3"):
        maps.create_group(name, attributes={"i2am": {"status": "complete"}})
    with pytest.raises(StoreError, match="Expected a run, got maps"):
        run(manifest)


def test_a_pattern_that_no_layer_matches_fails_once_and_writes_nothing(manifest: Path) -> None:
    with pytest.raises(CaptureError, match=r"layers that match 'upp\*'"):
        run(manifest, options=CaptureOptions(layers="upp*"))
    assert not (manifest.parent / "run.zarr").exists()
