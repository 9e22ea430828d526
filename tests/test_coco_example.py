"""The detection experiment's set from a COCO folder, made here: choice, boxes, outlines, and what is painted of it."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from i2am.analysis import analyze_run, open_run, score_maps
from i2am.capture import SHIPPED_MODEL
from i2am.cli import main
from i2am.schemas import read_manifest

SCRIPT = Path(__file__).parents[1] / "examples" / "coco"


@pytest.fixture(scope="module", autouse=True)
def script_path() -> Iterator[None]:
    sys.path.insert(0, str(SCRIPT))
    yield
    sys.path.remove(str(SCRIPT))


@pytest.fixture(scope="module")
def make_manifest(script_path: None) -> Any:
    return importlib.import_module("make_manifest")


def compressed(runs: list[int]) -> str:
    """Return run lengths as COCO's text, by its definition."""
    text = ""
    for number, run in enumerate(runs):
        left = run - (runs[number - 2] if number > 2 else 0)
        while True:
            bits, left = left & 0x1F, left >> 5
            is_last = left == (-1 if bits & 0x10 else 0)
            text += chr(48 + bits + (0 if is_last else 0x20))
            if is_last:
                break
    return text


def runs_of(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask: off, on, off, … down the columns."""
    runs, is_on = [0], False
    for value in mask.T.ravel():
        if bool(value) != is_on:
            runs.append(0)
            is_on = not is_on
        runs[-1] += 1
    return runs


def an_object(number: int, picture: int, box: list[float], outline: Any, **more: Any) -> Any:
    own = {"id": number, "image_id": picture, "bbox": box, "segmentation": outline}
    return own | {"category_id": 7, "iscrowd": 0} | more


# In the second picture, of 50 rows and 80 columns.
DISC = np.hypot(*(np.mgrid[:50, :80] - np.array([24, 40])[:, None, None])) < 15


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Return a COCO folder of four pictures; the third has no object of the size, the fourth none at all."""
    (tmp_path / "val2017").mkdir()
    rng = np.random.default_rng(0)
    sizes = {1: (100, 60), 2: (80, 50), 3: (40, 40), 4: (30, 30)}
    for number, (width, height) in sizes.items():
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "val2017" / f"{number:012}.png")
    triangle = [[20.0, 10.0, 60.0, 10.0, 20.0, 40.0]]
    text = {"size": [50, 80], "counts": compressed(runs_of(DISC))}
    annotations = {
        "images": [
            {"id": n, "width": w, "height": h, "file_name": f"{n:012}.png"}
            for n, (w, h) in sizes.items()
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}],
        "annotations": [
            an_object(11, 1, [0, 0, 20, 20], [[0, 0, 20, 0, 20, 20]]),  # 6.7 %: too small
            an_object(21, 2, [25.6, 9.7, 30.2, 30.4], text, category_id=8),  # 22.5 %
            an_object(12, 1, [20.4, 10.2, 40.9, 30.5], triangle),  # 20 %
            an_object(13, 1, [0, 0, 40, 40], [[0, 0, 40, 0, 40, 40]]),  # 26.7 %, but later
            an_object(31, 3, [0, 0, 40, 20], {"size": [40, 40], "counts": [0, 1600]}, iscrowd=1),
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(annotations))
    return tmp_path


def run_script(
    make_manifest: Any, coco: Path, monkeypatch: Any, *more: str
) -> list[dict[str, Any]]:
    paths = ["--annotations", coco / "instances.json", "--pictures", coco / "val2017"]
    call = ["make_manifest.py", *map(str, paths), "--out", str(coco / "set"), *more]
    monkeypatch.setattr(sys, "argv", call)
    make_manifest.main()
    with (coco / "set" / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def opened(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_first_object_of_the_size_is_taken_with_box_mask_and_outline(
    make_manifest: Any, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_script(make_manifest, coco, monkeypatch, "--size", "200")
    assert [first["annotation_id"], second["annotation_id"]] == ["12", "21"]
    assert [first["category"], second["category"]] == ["dog", "cat"]
    # The box is COCO's own, in pixels of the source as it is written.
    assert first["box"] == "40.8 34 81.8 101.67"
    folder = coco / "set"
    assert opened(folder / first["source"]).shape == (200, 200, 3)
    mask = opened(folder / first["mask"])
    rows, columns = np.nonzero(mask)
    assert set(np.unique(mask)) == {0, 255}
    # Of whole pixels, 10 to 40 and 20 to 60 of 60 and 100, doubled and more.
    assert (columns.min(), columns.max() + 1) == (40, 120)
    assert (rows.min(), rows.max() + 1) == pytest.approx((33, 133), abs=1)
    picture = opened(coco / "val2017" / "000000000001.png")
    np.testing.assert_array_equal(opened(folder / first["reference"]), picture[10:40, 20:60])
    outline = opened(folder / first["reference_mask"]) > 0
    y, x = np.mgrid[:30, :40] + 0.5
    np.testing.assert_array_equal(outline, x / 40 + y / 30 < 1)
    np.testing.assert_array_equal(opened(folder / second["reference_mask"]) > 0, DISC[9:39, 25:55])


def test_the_object_itself_can_be_the_mask_and_other_sizes_be_taken(
    make_manifest: Any, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--mask", "object", "--smallest", "0.4", "--largest", "0.6", "--size", "40")
    (row,) = run_script(make_manifest, coco, monkeypatch, *more)
    assert row["annotation_id"] == "31"
    assert (opened(coco / "set" / row["mask"]) == 255).all()
    with pytest.raises(SystemExit, match="Expected a new folder, got one that is there"):
        run_script(make_manifest, coco, monkeypatch)


def test_what_does_not_fit_is_told(
    make_manifest: Any, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="Expected objects of that size, got none"):
        run_script(make_manifest, coco, monkeypatch, "--smallest", "0.9", "--largest", "1")
    Image.new("RGB", (7, 7)).save(coco / "val2017" / "000000000001.png")
    with pytest.raises(SystemExit, match="Expected 100 x 60 pixels, got 7 x 7"):
        run_script(make_manifest, coco, monkeypatch)
    with pytest.raises(SystemExit, match="Expected runs over 6 pixels, got 5"):
        make_manifest.decode_runs([2, 3], 2, 3)


@given(st.lists(st.booleans(), min_size=12, max_size=12), st.integers(1, 4000))
def test_run_lengths_of_either_kind_give_the_mask_back(values: list[bool], scale: int) -> None:
    decode: Any = importlib.import_module("make_manifest")
    mask = np.repeat(np.array(values).reshape(3, 4), scale, axis=0)
    runs = runs_of(mask) if scale < 50 else [0, *[scale, 1, 7 * scale, 3] * 3]
    assert decode.read_runs(compressed(runs)) == runs
    if scale < 50:
        np.testing.assert_array_equal(decode.decode_runs(runs, *mask.shape), mask)


def test_the_set_is_painted_and_scored(
    make_manifest: Any, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(make_manifest, coco, monkeypatch, "--size", "64")
    manifest = coco / "set" / "manifest.csv"
    assert [row.seed for row in read_manifest(manifest)] == [321, 321]
    monkeypatch.chdir(coco)
    call = ["capture", "--model", SHIPPED_MODEL, "--manifest", str(manifest), "--out", "run.zarr"]
    assert main([*call, "--inference-steps", "1"]) == 0
    table = open_run("run.zarr").table()
    assert table["labels.category"].tolist() == ["dog", "cat"]
    scores = score_maps(analyze_run("run.zarr", "maps.zarr", progress=False))
    found = scores[scores["score"] == "whole_image_iou"]["value"].to_numpy()
    # The box's own share of the picture, of which 20 and 22 % are painted.
    np.testing.assert_allclose(found, [40.9 * 30.5 / 6000, 30.2 * 30.4 / 4000], atol=0.01)
    assert (scores[scores["score"] == "detection_iou"]["value"] >= 0).all()
