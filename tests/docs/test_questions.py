"""The five research questions are answered in few lines, and their answers are so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.notebooks import count_pictures, executed

PAGE = Path(__file__).parents[2] / "docs" / "gallery" / "questions.md"
# Behind the page, with its names.
FACTS = """
import json
answers = {
    "changes": changes.to_dict("list"),
    "looks": layers.iloc[:, 0].to_dict(),
    "acts": layers.iloc[:, 1].to_dict(),
    "same": float(correlations[same].min()),
    "other": float(correlations[other].mean()),
    "share": {thing: [share[thing, part] for part in ("object", "white around it")] for thing in tasks.index},
    "change": {thing: [change[thing, part] for part in ("object", "white around it")] for thing in tasks.index},
}
Path("answers.json").write_text(json.dumps(answers))
""".replace("import json", "import json\nfrom pathlib import Path")

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")


def test_each_is_answered_in_less_than_thirty_lines() -> None:
    _, *parts = re.split(r"^## .+\?$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(parts) == 5
    cells = [re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", p, re.M | re.S) for p in parts]
    assert all(cells)
    assert max(sum(cell.count("\n") for cell in own) for own in cells) < 30


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("questions")
    assert count_pictures(executed(PAGE, folder, then=FACTS)) == 5
    found: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_the_last_steps_matter_most(answers: dict[str, Any]) -> None:
    assert all(max(own) == own[-1] for own in answers["changes"].values())


@pytest.mark.slow
def test_layers_look_and_act_as_it_says(answers: dict[str, Any]) -> None:
    looks, acts = answers["looks"], answers["acts"]
    assert min(acts[f"up_blocks.1.attentions.{n}"] for n in (0, 1)) > 0.3
    assert min(looks[f"up_blocks.1.attentions.{n}"] for n in (0, 1)) > 0.3
    for layer in ("up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "mid_block.attentions.0"):
        assert looks[layer] > 0.2
        assert acts[layer] < 0.05
    assert acts["down_blocks.0.attentions.0"] > 0.3
    assert looks["down_blocks.0.attentions.0"] < 0.1


@pytest.mark.slow
def test_seeds_give_one_map_and_pictures_others(answers: dict[str, Any]) -> None:
    assert answers["same"] > 0.99
    assert answers["other"] == pytest.approx(0.7, abs=0.1)


@pytest.mark.slow
def test_the_white_matters_less_than_the_map_says(answers: dict[str, Any]) -> None:
    whites = [white for _, white in answers["share"].values()]
    assert sum(whites) / len(whites) == pytest.approx(0.5, abs=0.1)
    assert all(drawn > white > 5 for drawn, white in answers["change"].values())
    drawn, white = answers["change"]["truck"]
    assert drawn / white == pytest.approx(3, abs=0.6)
