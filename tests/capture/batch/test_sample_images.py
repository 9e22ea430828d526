"""A row's pictures as people have them: read, fitted, told of once, or refused by file."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2am.analysis import describe_store, open_run
from i2am.capture import capture_manifest
from i2am.capture.batch.sample_images import SampleImages
from i2am.capture.pipelines.load import LoadOptions
from i2am.schemas import CaptureError, InputWarning, ManifestRow, SchemaError, find_faults
from tests.support.cli_process import start_cli
from tests.support.tiny_pipelines import pipelines

Y, X = np.mgrid[:64, :64].astype(np.uint8)
RAMP = np.dstack([4 * X, 4 * Y, 0 * X])
UPPER = (Y < 32).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A source, a mask of its upper half, and forms of both that people have."""
    source = Image.fromarray(RAMP)
    source.save(tmp_path / "s.png")
    Image.fromarray(UPPER * 255).save(tmp_path / "m.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    source.rotate(90, expand=True).save(tmp_path / "s_exif.jpg", quality=98, exif=exif)
    Image.fromarray(UPPER).save(tmp_path / "m01.png")
    voc = Image.new("P", (64, 64))
    voc.putdata(UPPER.flatten().tolist())
    voc.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)
    voc.save(tmp_path / "mvoc.png")
    white = [Image.new("L", (64, 64), 255)] * 3
    Image.merge("RGBA", [*white, Image.fromarray(UPPER * 255)]).save(tmp_path / "malpha.png")
    Image.fromarray((4 * X).astype(np.uint16) * 257).save(tmp_path / "r16.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(np.dstack([noise, UPPER * 0])).save(tmp_path / "rgba.png")
    Image.fromarray(X // 8).save(tmp_path / "classes.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "full.png")
    Image.new("L", (64, 64)).save(tmp_path / "empty.png")
    Image.fromarray(UPPER[:, :48] * 255).save(tmp_path / "narrow.png")
    source.crop((0, 0, 64, 48)).save(tmp_path / "wide.png")
    return tmp_path


def _manifest(folder: Path, *rows: dict[str, str]) -> Path:
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"


def _row(sample: str, **changes: str) -> dict[str, str]:
    return {"sample": sample, "source": "s.png", "mask": "m.png", "reference": "s.png"} | changes


def test_the_command_stores_what_people_see_and_tells_the_rest_in_plain_lines(
    folder: Path,
) -> None:
    manifest = _manifest(
        folder,
        _row("plain"),
        _row("exif", source="s_exif.jpg"),
        _row("m01", mask="m01.png"),
        _row("voc", mask="mvoc.png"),
        _row("alpha", mask="malpha.png"),
        _row("r16", reference="r16.png"),
        _row("rgba", reference="rgba.png"),
        _row("rgba_again", reference="rgba.png"),
        _row("classes", mask="classes.png"),
        _row("full", mask="full.png"),
    )
    call = ["capture", "--model", "i2am-tiny", "--steps", "1", "--manifest", str(manifest)]
    done = start_cli([*call, "--out", str(folder / "run.zarr"), "--representation", "maps"]).end()
    assert done.code == 1
    said = [line for line in done.err.splitlines() if line.startswith("i2am: ")]
    assert said == [
        f"i2am: 100.0% of the picture is transparent and shown on white, at {folder}/rgba.png. "
        "If another ground is meant, fill it in the file.",
        f"i2am: The mask marks 100 % of its image, at {folder}/full.png. Is that meant?",
        "i2am: sample 'classes' failed: SchemaError: Expected a mask of two values, or soft from "
        f"black to white, got the values 0, 1, 2, 3, 4, 5, 6, 7, at {folder}/classes.png. Save it "
        "with 255 where the mask is, 0 elsewhere.",
    ]
    assert "Warning" not in done.err
    run = open_run(folder / "run.zarr")
    assert len(run) == 9
    for sample in run:
        images = run[sample]["images"]
        lossy = sample == "exif"
        source = images["source"].to_numpy().astype(int)
        assert np.abs(source - RAMP).max() <= (12 if lossy else 0), sample
        marked = images["inpainting_mask"].to_numpy() > 0
        assert np.array_equal(marked, UPPER > 0 if sample != "full" else UPPER >= 0), sample
    assert np.array_equal(run["r16"]["images/reference"].to_numpy(), np.dstack([4 * X] * 3))
    assert (run["rgba"]["images/reference"].to_numpy() == 255).all()
    assert list(find_faults(describe_store(folder / "run.zarr"))) == []


def _open(folder: Path, **files: Any) -> SampleImages:
    paths: Any = {
        column: folder / name if column != "box" else name for column, name in files.items()
    }
    return SampleImages.open(ManifestRow(sample="a", **{"reference": folder / "s.png"} | paths))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"source": "s.png", "mask": "narrow.png"}, "64 × 64 px, got 48 × 64 px, at .*narrow.png"),
        ({"reference_mask": "narrow.png"}, "64 × 64 px, got 48 × 64 px, at .*narrow.png"),
        ({"source": "s.png", "mask": "empty.png"}, "marks 0 %, at .*empty.png"),
        ({"reference_mask": "empty.png"}, "marks 0 %, at .*empty.png"),
        ({"reference": "rows.csv"}, "Expected an image, got something else at .*rows.csv"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(
    folder: Path, files: dict[str, str], message: str
) -> None:
    _manifest(folder, _row("a"))
    with pytest.raises(SchemaError, match=message):
        _open(folder, **files)


def test_a_source_is_stretched_with_a_word_and_its_mask_and_box_as_it_is(folder: Path) -> None:
    Image.fromarray(UPPER[:48] * 255).save(folder / "wide_mask.png")
    row = ManifestRow(
        sample="a",
        source=folder / "wide.png",
        mask=folder / "wide_mask.png",
        reference=folder / "s.png",
        box=(16, 12, 32, 24),
    )
    images = SampleImages.open(row)
    assert list(images.iter_notes()) == []
    assert list(images.iter_stretch_notes((128, 96))) == []
    (note,) = images.iter_stretch_notes((64, 64))
    assert note.startswith(f"The source of 64 × 48 px is stretched to 64 × 64 px, at {row.source}.")
    mask = images.mask_at((64, 64))
    assert mask is not None
    # The upper 32 of 48 rows become 43 of 64.
    assert np.array_equal(mask.values[:, 0] > 0, np.arange(64) < 43)
    assert images.box_at((64, 64)) == [16, 16, 32, 32]


def test_a_box_outside_its_image_is_refused_before_anything_is_generated(folder: Path) -> None:
    boxes = {"beside": "64 0 8 8", "above": "0 -9 8 8", "around": "-8 -8 99 99"}
    manifest = _manifest(folder, *(_row(name, box=box) for name, box in boxes.items()))
    summary = capture_manifest("i2am-tiny", manifest, folder / "run.zarr", steps=1, progress=False)
    assert summary.finished == ["around"]
    told = (
        r"SchemaError: Expected a box with a part of .*s\.png, which has 64 × 64 px, got \(.*8\.0\)"
    )
    for name in ("beside", "above"):
        assert re.match(told, summary.failed[name])
    assert list(find_faults(describe_store(folder / "run.zarr"))) == []
    # Without a source, the box is one of the generated image.
    images = _open(folder, box=(1, 2, 3, 4))
    assert images.box_at((32, 32)) == [1, 2, 3, 4]
    with pytest.raises(SchemaError, match="part of the generated image, which has 2 × 2 px, got"):
        images.box_at((2, 2))


def test_a_source_that_is_stretched_is_told_once_a_run(folder: Path) -> None:
    Image.fromarray(UPPER[:48] * 255).save(folder / "wide_mask.png")
    files = {"source": "wide.png", "mask": "wide_mask.png"}
    manifest = _manifest(folder, _row("a", **files), _row("b", **files))
    with pytest.warns(InputWarning, match="64 × 48 px is stretched to 64 × 64 px") as caught:
        summary = capture_manifest(
            "i2am-tiny", manifest, folder / "run.zarr", steps=1, progress=False
        )
    assert len(caught) == 1
    assert summary.finished == ["a", "b"], summary.failed


# --- Pipelines that take no source, or no mask.


@pytest.fixture
def variation(folder: Path) -> Path:
    pipelines.image_variation().save_pretrained(folder / "model")
    return folder / "model"


def test_a_pipeline_without_a_source_needs_none_and_none_is_stored(
    folder: Path, variation: Path
) -> None:
    rows = [{"sample": name, "reference": "s.png", "box": "1 2 3 4"} for name in ("a", "b")]
    summary = capture_manifest(
        str(variation),
        _manifest(folder, *rows),
        folder / "run.zarr",
        steps=1,
        batch_size=2,
        progress=False,
    )
    assert summary.finished == ["a", "b"], summary.failed
    sample = open_run(folder / "run.zarr")["b"]
    assert set(sample["images"]) == {"generated", "reference"}
    assert sample["images/generated"].shape == (16, 16, 3)
    assert np.array_equal(sample["images/reference"].to_numpy(), RAMP)
    assert sample.attrs["i2am"]["box"] == [1, 2, 3, 4]
    assert sample.attrs["i2am"]["inputs"].keys() == {"reference"}
    assert list(find_faults(describe_store(folder / "run.zarr"))) == []


def test_an_adapter_on_text_to_image_needs_the_reference_alone(folder: Path) -> None:
    import diffusers

    parts = pipelines.inpaint(folder).components
    parts["unet"] = pipelines.image_variation().unet
    pipeline = diffusers.StableDiffusionPipeline(**parts)
    pipeline.save_pretrained(folder / "model")
    pipelines.save_adapter(folder / "adapter", pipeline.unet)
    summary = capture_manifest(
        str(folder / "model"),
        _manifest(folder, {"sample": "a", "reference": "s.png", "prompt": "a hat"}),
        folder / "run.zarr",
        steps=1,
        loading=LoadOptions(ip_adapter=str(folder / "adapter/models")),
        progress=False,
    )
    assert summary.finished == ["a"], summary.failed
    assert set(open_run(folder / "run.zarr")["a"]["images"]) == {"generated", "reference"}


def test_further_references_go_to_a_pipeline_that_takes_them_and_into_the_store(
    folder: Path,
) -> None:
    pipeline = pipelines.inpaint(folder)
    pipeline.save_pretrained(folder / "model")
    pipelines.save_adapter(folder / "adapter", pipeline.unet)
    rows = [_row(name, prompt="a hat", seed="1") for name in ("one", "two", "same")]
    rows[1]["reference_1"], rows[2]["reference_1"] = "r16.png", "s.png"
    summary = capture_manifest(
        str(folder / "model"),
        _manifest(folder, *rows),
        folder / "run.zarr",
        steps=1,
        loading=LoadOptions(ip_adapter=str(folder / "adapter/models")),
        progress=False,
    )
    assert summary.finished == ["one", "two", "same"], summary.failed
    run = open_run(folder / "run.zarr")
    one, two, same = (run[name] for name in ("one", "two", "same"))
    second = two["images/reference_1"].to_numpy()
    assert np.array_equal(second, np.dstack([4 * X] * 3))
    assert two.attrs["i2am"]["inputs"]["reference_1"]["path"] == "r16.png"
    assert "reference_1" not in two.attrs["i2am"]["labels"]
    assert len(two["layers"]) == 2 * len(one["layers"])
    for name in one["layers"]:
        second, first = (each[f"layers/{name}.reference_1"] for each in (two, same))
        array = "key" if "key" in second else "logits"
        assert not np.array_equal(second[array], first[array])
    assert list(find_faults(describe_store(folder / "run.zarr"))) == []


def test_further_references_are_refused_by_a_pipeline_that_takes_one(folder: Path) -> None:
    manifest = _manifest(folder, _row("a", reference_1="r16.png"))
    with pytest.raises(CaptureError, match="Expected one reference a sample for ReferenceInpaintP"):
        capture_manifest("i2am-tiny", manifest, folder / "run.zarr", steps=1)


def test_columns_that_a_pipeline_does_not_read_are_told(folder: Path, variation: Path) -> None:
    manifest = _manifest(folder, _row("a", guidance_scale="9", kind="hat"))
    with pytest.warns(InputWarning) as caught:
        summary = capture_manifest(
            str(variation), manifest, folder / "run.zarr", steps=1, progress=False
        )
    assert summary.finished == ["a"], summary.failed
    name = "StableDiffusionImageVariationPipeline"
    assert {str(warning.message) for warning in caught} == {
        f"Column 'source' is not read by {name}. It is stored, and nothing else.",
        f"Column 'mask' is not read by {name}. It is stored, and nothing else.",
        f"Column 'guidance_scale' is taken for a label and not given to {name}. Give it to all "
        "samples with --argument guidance_scale=VALUE.",
    }
    stored = open_run(folder / "run.zarr")["a"]["images/inpainting_mask"].to_numpy()
    assert np.array_equal(stored > 0, UPPER[::4, ::4] > 0)


@pytest.mark.parametrize("column", ["source", "mask"])
def test_a_pipeline_that_takes_a_column_names_it_before_anything_is_written(
    folder: Path, column: str
) -> None:
    rows = [_row("a"), _row("b", **{column: ""}), _row("c", **{column: ""})]
    message = f"Expected a column '{column}' for ReferenceInpaintPipeline, .* sample 'b' and 1 more"
    with pytest.raises(CaptureError, match=message):
        capture_manifest("i2am-tiny", _manifest(folder, *rows), folder / "run.zarr", steps=1)
    assert not (folder / "run.zarr").exists()
