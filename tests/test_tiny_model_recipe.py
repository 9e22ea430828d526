"""The data and the measures behind the shipped model's card."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from i2am.analysis import score_points, summarise_points
from i2am.capture import SHIPPED_MODEL, load_pipeline
from i2am.capture.pipelines.tiny_model import build_pipeline

RECIPE = Path(__file__).parents[1] / "examples" / "tiny_model"
HELD_OUT = RECIPE / "held-out.zip"


@pytest.fixture(scope="module", autouse=True)
def recipe_path() -> Iterator[None]:
    sys.path.insert(0, str(RECIPE))
    yield
    sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module")
def compositions(recipe_path: None) -> Any:
    return importlib.import_module("compositions")


@pytest.fixture(scope="module")
def pairs(compositions: Any) -> Any:
    return compositions.Compositions(compositions.read_objects(HELD_OUT, held_out=True), seed=3)


def test_the_shipped_objects_are_exactly_held_out_ones(compositions: Any) -> None:
    with zipfile.ZipFile(HELD_OUT) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        assert "NOTICE.txt" in archive.namelist()
    assert len(names) > 300
    assert all(compositions.is_held_out(name) for name in names)
    assert compositions.read_objects(HELD_OUT, held_out=False) == {}


def test_skin_tones_and_genders_stay_on_one_side_of_the_split(compositions: Any) -> None:
    names = ["1f9d1-200d-1f680.png", "1f469-1f3fd-200d-1f680.png", "1f468-1f3ff-200d-1f680.png"]
    assert len({compositions.family(name) for name in names}) == 1
    assert compositions.family("1f680.png") != compositions.family("1f681.png")


def test_a_composition_is_the_same_each_time_and_another_index_is_another_one(pairs: Any) -> None:
    first, again, other = pairs.batch(4, 5), pairs.batch(4, 5), pairs.batch(5, 6)
    assert torch.equal(first.composite, again.composite)
    assert not torch.equal(first.composite, other.composite)
    assert pairs.box(4) == tuple(first.box[0].tolist())


def test_a_painted_pixel_has_the_colour_of_its_source(pairs: Any) -> None:
    batch = pairs.batch(0, 20)
    errors = []
    for i in range(20):
        top, left, side = batch.box[i].tolist()
        for y, x in np.argwhere(batch.alpha[i, 0].numpy() > 0.999)[::37]:
            source = ((np.array([y, x]) + 0.5 - [top, left]) / side * 64).astype(int)
            found = batch.reference[i, :, source[0], source[1]]
            errors.append((batch.composite[i, :, y, x] - found).abs().max().item())
    # Pasting shrinks the object, so edges inside it blur.
    assert np.quantile(errors, 0.7) < 0.1


def test_the_mask_is_the_box(pairs: Any) -> None:
    batch = pairs.batch(0, 3)
    for i in range(3):
        top, left, side = batch.box[i].tolist()
        assert batch.mask[i].sum() == side * side
        assert batch.mask[i, 0, top : top + side, left : left + side].min() == 1


def test_a_perfect_map_always_hits_and_a_random_one_hits_by_chance(pairs: Any) -> None:
    evaluate: Any = importlib.import_module("evaluate")
    batch = pairs.batch(0, 1)
    top, left, side = batch.box[0].tolist()
    perfect = np.zeros((16, 16, 16, 16))
    for y in range(16):
        for x in range(16):
            source = ((np.array([y, x]) + 0.5) * 4 - [top, left]) / side * 16 - 0.5
            perfect[(y, x, *np.clip(np.round(source), 0, 15).astype(int))] = 1
    hits, chances = evaluate.score(perfect, batch)
    assert all(hits)
    assert 0.01 < np.mean(chances) < 0.04
    rng = np.random.default_rng(0)
    found = [np.mean(evaluate.score(rng.random((16, 16, 16, 16)), batch)[0]) for _ in range(40)]
    assert abs(np.mean(found) - np.mean(chances)) < 0.01


def test_the_hint_is_nought_for_attention_that_finds_its_source(
    compositions: Any, pairs: Any
) -> None:
    guide: Any = importlib.import_module("guide")
    near, inside = guide._neighbours(torch.tensor([8]), torch.tensor([32]), 16, 16)
    # Patch 2 of 16 begins at pixel 8, the box's first; patch 10 begins after its last.
    assert inside[0].tolist() == [0, 0] + [1] * 8 + [0] * 6
    assert near[0, 2].nonzero().flatten().tolist() == [0, 1, 2]
    assert near[0, 9].nonzero().flatten().tolist() == [13, 14, 15]


def test_random_weights_with_full_attention_give_finite_hints_and_gradients(
    compositions: Any,
) -> None:
    from i2am.capture.pipelines.tiny_model import build_pipeline

    guide_module: Any = importlib.import_module("guide")
    torch.manual_seed(0)
    unet = build_pipeline((32, 64)).unet
    guide = guide_module.Guide(unet)
    unet(torch.randn(2, 9, 16, 16), 500, torch.randn(2, 257, 128))
    loss = guide.loss(torch.tensor([[8, 4, 40], [0, 0, 60]]), torch.tensor([False, True]))
    loss.backward()
    # Uniform attention puts about 9 of 257 parts there.
    assert 2.5 < loss.item() < 4.5
    guided = unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2.to_q.weight.grad
    assert guided is not None
    assert guided.abs().sum() > 0


def test_faithfulness_is_measured_from_pictures_to_tables(
    compositions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    faithfulness: Any = importlib.import_module("faithfulness")
    monkeypatch.setattr(faithfulness, "STEPS", 2)
    arguments = ["--compositions", "2", "--grid", "4", "--also", "1"]
    monkeypatch.setattr(sys, "argv", ["faithfulness.py", str(tmp_path / "out"), *arguments])
    faithfulness.main()
    printed = capsys.readouterr().out
    for title in (
        "Agreement with the total effect",
        "Layers",
        "Peak at the true source, of ",
        "Deletion: share of the effect on the object",
        "Kinds of effects",
        "Adaptive regions",
    ):
        assert f"\n{title}" in printed
    assert "Deletion area map > random > least: " in printed
    assert (tmp_path / "out" / "effects.png").stat().st_size > 10_000
    # Started again it finds everything done.
    faithfulness.measure(tmp_path / "out", ["0000", "0001"], 4, 1)
    assert capsys.readouterr().out.count("0 failed") == 5


def test_a_true_source_is_near_its_own_region_alone(compositions: Any) -> None:
    faithfulness: Any = importlib.import_module("faithfulness")
    boxes = np.array([[0, 0, 8, 8], [0, 8, 8, 16], [32, 32, 40, 40]])
    source = np.array([[4.0, 7.0], [4.0, 7.0], [4.0, 7.0]])
    found = faithfulness.near(boxes, source)
    assert found.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 0]]


@pytest.mark.slow
def test_the_shipped_model_points_at_the_true_sources_and_a_random_one_does_not(
    compositions: Any, tmp_path: Path
) -> None:
    evaluate = importlib.import_module("evaluate")
    objects = compositions.read_objects(HELD_OUT, held_out=True)
    batch = compositions.Compositions(objects, seed=11).batch(0, 4)
    rows = []
    for i in range(4):
        alpha = batch.alpha[i, 0].reshape(16, 4, 16, 4).mean((1, 3)).numpy()
        top, left, side = batch.box[i].tolist()
        for y, x in np.argwhere(alpha > 0.9) * 4 + 2.5:  # Within a patch, off its edges.
            source = ((y - top) / side * 64, (x - left) / side * 64)
            rows.append((f"{i:04d}", y, x, *source))
    points = pd.DataFrame(rows, columns=["sample", "y", "x", "reference_y", "reference_x"])
    assert len(points) > 100
    pipeline = load_pipeline(SHIPPED_MODEL)
    found: dict[str, Any] = {}
    for name in ("shipped", "random"):
        if name == "random":
            torch.manual_seed(0)
            fresh = build_pipeline(tuple(pipeline.unet.config.block_out_channels))
            pipeline.register_modules(unet=fresh.unet, reference_encoder=fresh.reference_encoder)
        evaluate.record(pipeline, batch, 0, tmp_path / f"{name}.zarr")
        found[name] = summarise_points(score_points(tmp_path / f"{name}.zarr", points))
    for own in found.values():
        assert own["samples"].tolist() == [4, 4]
        assert own.loc["hit", "best"] == 1
    shipped, random = found["shipped"], found["random"]
    # Its interval leaves out chance by far; that of the model that has learned nothing does not.
    assert shipped.loc["error_px", "high"] < 0.6 * shipped.loc["error_px", "chance"]
    assert shipped.loc["hit", "low"] > 4 * shipped.loc["hit", "chance"]
    assert random.loc["error_px", "high"] > 0.8 * random.loc["error_px", "chance"]
