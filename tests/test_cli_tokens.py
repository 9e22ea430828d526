"""The command ``i2am tokens``: of the shipped model by a run, of another as it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from i2am.cli import main
from tests.support.tiny_pipelines import pipelines


def test_the_shipped_model_is_run_for_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "i2am-tiny"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("profile 'i2am-tiny'.")
    assert "one call of 2 rows (unconditional and conditional)" in told[1]
    rows = [line.split() for line in told if line.startswith(("down", "mid", "up"))]
    assert len(rows) == 5
    assert rows[0] == [
        *("down_blocks.0.attentions.0.transformer_blocks.0.attn2", "4×16", "16×16"),
        *("1", "+", "16×16", "0–256", "of", "257", "–", "–"),
    ]


def test_arguments_of_the_call_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "i2am-tiny", "--guidance-scale", "1"]) == 0
    assert "one call of 1 row (conditional)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and a manifest with one row for it."""
    found = tmp_path_factory.mktemp("model")
    pipelines.image_variation().save_pretrained(found / "model")
    Image.new("RGB", (32, 32), "red").save(found / "red.png")
    (found / "rows.csv").write_text("sample,reference\na,red.png\n")
    return found


def test_another_model_is_told_without_a_run_and_how_to_know_more(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", str(folder / "model")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("profile 'image-variation'.")
    assert told[1].endswith("How many tokens there are, a run of one step tells.")
    assert told[-1] == "Give --manifest FILE to run one step on its first row."


def test_with_a_manifest_its_first_row_is_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["tokens", str(folder / "model"), "--manifest", str(folder / "rows.csv")]
    sizes = ["--argument=height=16", "--argument=width=32"]
    assert main([*call, *sizes]) == 0
    told = capsys.readouterr().out
    assert "1, no grid  0 of 1" in told
    assert "Give --manifest" not in told
