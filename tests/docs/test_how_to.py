"""What the how-to pages over a run say of their blocks, which run as they stand, from the top down."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import matplotlib as mpl
import numpy as np
import pytest

import i2am
from i2am.analysis import analyze_run, unregister_score

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
_BLOCK = re.compile(
    r"(?:<!-- Not run: it needs (\w+)\. -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)

pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="needs the source tree")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    shutil.copytree(i2am.DEMO_RUN, folder / "run.zarr")
    analyze_run(folder / "run.zarr", folder / "maps.zarr", progress=False)
    return folder


@pytest.fixture
def folder(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("run.zarr", "maps.zarr"):
        shutil.copytree(stores / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context({"backend": "agg"}):
        yield tmp_path


def run_blocks(page: str) -> dict[str, Any]:
    """Run a page's blocks but those that need a package that is not there; return what they define."""
    text = (PAGES / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for needed, code in _BLOCK.findall(text):
        if not needed or importlib.util.find_spec(needed):
            exec(compile(code, page, "exec"), names)
    return names


def test_a_notebook_shows_the_page_figures_and_maps(folder: Path) -> None:
    names = run_blocks("notebooks.md")
    assert type(names["page"]).__name__ == "RunPage"
    assert (folder / "overview.png").stat().st_size > 10_000


def test_plain_readers_get_the_attention_that_i2am_gives(folder: Path) -> None:
    names = run_blocks("plain-readers.md")
    text = (PAGES / "plain-readers.md").read_text(encoding="utf-8")
    assert not re.search(r"^(?:from|import) i2am", text, re.MULTILINE)
    layer = names["layer"].name
    asked = i2am.sram(
        i2am.open_run(folder / "run.zarr")["truck"],
        # The centre of patch 100 of a layer of 16 × 16 over 64 × 64 pixels.
        generated=((100 // 16) * 4 + 2, (100 % 16) * 4 + 2),
        layers=layer,
        steps=[0],
    )
    assert names["patch"] == pytest.approx(asked.values, rel=1e-3, abs=1e-6)


def test_a_score_and_a_figure_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks("extend.md")
    unregister_score("upper")
    assert capsys.readouterr().out.count("r2g_upper") == 3
    assert (folder / "rows.png").exists()


@pytest.mark.slow
def test_attention_is_logged_by_what_is_installed(folder: Path) -> None:
    names = run_blocks("experiment-logs.md")
    scores, figure = names["look_at_attention"](names["pipe"], 4000)
    assert scores["r2g_inside"] > scores["r2g_inside_chance"]
    assert figure.axes
    assert (folder / "attention-004000.maps.zarr").is_dir()


def test_a_run_is_read_through_any_file_system_that_fsspec_knows(stores: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(stores / "run.zarr"), "/bucket/run.zarr", recursive=True)
    run = i2am.open_run("memory://bucket/run.zarr")
    asked = i2am.sram(run["truck"], generated=(30, 40))
    own = i2am.sram(i2am.open_run(stores / "run.zarr")["truck"], generated=(30, 40))
    assert np.array_equal(asked.values, own.values)
