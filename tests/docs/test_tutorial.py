"""The tutorial runs from end to end, and what its prose says of the results is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from i2am.analysis import compare_runs, effect_share, head_scores, open_effects, pair_runs
from tests.support.notebooks import count_pictures, executed, printed

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "tutorial.md"

# Behind the page, with its names.
FACTS = """
import json
found, hits = found.to_dict("index"), {name: own.to_dict() for name, own in hits.T.items()}
Path("facts.json").write_text(json.dumps({"found": found, "hits": hits, "layer": layer, "head": int(head)}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def cells(folder: Path) -> list[Any]:
    return executed(PAGE, folder, then=FACTS)


def test_it_shows_its_pictures_and_leaves_its_files(cells: list[Any], folder: Path) -> None:
    assert count_pictures(cells) == 9
    made = {path.name for path in folder.iterdir()}
    assert made >= {
        "pictures", "rows.csv", "first.zarr", "run.zarr", "maps.zarr", "free.zarr", "free.maps.zarr",
        "effects.zarr", "scores.csv", "report.html", "page", "maps.nc", "heads.parquet",
    }  # fmt: skip
    assert "run.zarr: 12 captured, 0 were complete, 0 failed" in printed(cells)


@pytest.mark.usefixtures("cells")
def test_patches_read_their_source_as_it_says(folder: Path) -> None:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    error, hit = facts["found"]["error_px"], facts["found"]["hit"]
    assert error["points"] == 192
    assert error["best"] < error["mean"] < 5
    assert error["high"] < error["chance"] / 4
    assert hit["mean"] > 0.8
    assert facts["layer"] == "up_blocks.1.attentions.1"
    hits = {
        name.removesuffix(".transformer_blocks.0.attn2"): of for name, of in facts["hits"].items()
    }
    last = [hits[f"up_blocks.1.attentions.{number}"] for number in (0, 1)]
    assert all(value > 0.7 for own in last for value in own.values())
    assert max(hits["mid_block.attentions.0"].values()) < 0.1
    assert last[1][str(facts["head"])] < max(last[1].values())


@pytest.mark.usefixtures("cells")
def test_heads_of_the_middle_layer_are_inside_as_it_says(folder: Path) -> None:
    scores = head_scores(folder / "maps.zarr").query("direction == 'r2g' and head == 3")
    middle = scores[scores["layer"].str.startswith("mid_block")]
    assert (middle["inside"] - middle["chance"]).mean() == pytest.approx(0.34, abs=0.05)


@pytest.mark.usefixtures("cells")
def test_guidance_moves_the_picture_and_hardly_the_map(folder: Path) -> None:
    table = compare_runs(pair_runs(folder / "free.zarr", folder / "run.zarr"))
    table = table.query("level == 'ulam' and direction == 'r2g'")
    means = table.groupby("measure")["difference"].mean()
    assert means["correlation"] > 0.99
    assert means["total_variation"] == pytest.approx(0.02, abs=0.01)
    painted, free = (
        xr.open_datatree(folder / name, engine="zarr", consolidated=False)[
            "truck-rocket/images/generated"
        ]
        for name in ("run.zarr", "free.zarr")
    )
    assert float(abs(painted.astype(int) - free.astype(int)).mean()) > 5


@pytest.mark.usefixtures("cells")
def test_three_layers_do_nearly_all_as_it_says(folder: Path) -> None:
    effects = open_effects(folder / "effects.zarr")["truck-rocket"]
    shares = effect_share(effects["layer_effect"], effects["ceiling"]).to_series()
    shares.index = shares.index.str.removesuffix(".transformer_blocks.0.attn2")
    strong = {"down_blocks.0.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"}
    assert set(shares.index[shares > 0.3]) == strong
    assert shares.drop(list(strong)).max() < 0.05
