"""What a notebook shows of a run and of maps: few lines, and text alone."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import zarr

from i2am.analysis import analyze_run, open_maps, open_run
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run

MOST_BYTES = 20_000


class _Cells(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def shown(store: Any) -> list[str]:
    page = store._repr_html_()
    assert len(page.encode()) < MOST_BYTES
    cells = _Cells(page)
    assert cells.tags <= {"table", "caption", "tr", "th", "td"}
    return cells.texts


def test_a_run_and_its_maps_say_what_is_in_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "b"], LAYERS, steps=3)
    analyze_run(run, tmp_path / "maps.zarr", progress=False)
    assert shown(open_run(run)) == [
        f"i2am run: {run}",
        "samples", "2: a, b",
        "layers", f"3: {', '.join(layer.name for layer in LAYERS)}",
        "steps", "3",
        "generated grids", "8×8, 4×4",
        "reference grids", "4×4",
        "images", "generated, inpainting_mask, reference, reference_mask, source",
    ]  # fmt: skip
    maps = shown(open_maps(tmp_path / "maps.zarr"))
    assert maps[1:] == [
        "samples", "2: a, b",
        "r2g", "3 layers, 3 steps, 2 heads on 8×8",
        "g2r", "3 layers, 3 steps, 2 heads on 4×4",
    ]  # fmt: skip


def test_it_stays_small_and_shows_names_as_text(tmp_path: Path) -> None:
    layers = [SyntheticLayer(f"layer.{'x' * 80}.{number}", (2, 2)) for number in range(60)]
    names = [f"sample-{number:03}" for number in range(60)]
    folder = tmp_path / "<script>alert(1)</script>"
    run = write_run(folder / "run.zarr", names[:1], layers, steps=1)
    for name in names[1:]:
        write_run(run / name / "other", [], layers, steps=1)
        zarr.create_group(run / name, overwrite=True, attributes={"i2am": {"status": "complete"}})
    texts = shown(open_run(run))
    assert texts[0] == f"i2am run: {run}"
    assert texts[2] == f"60: {', '.join(names[:5])}, …"


def test_a_damaged_sample_is_told_and_nothing_fails(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS[:1], steps=1)
    (run / "a" / "images" / "generated" / "zarr.json").write_text("{")
    texts = shown(open_run(run))
    assert texts[3] == "unreadable"


@pytest.mark.parametrize("kind", ["run", "maps"])
def test_an_empty_store_says_so(kind: str, tmp_path: Path) -> None:
    root = {"kind": kind, "schema": 1}
    zarr.create_group(tmp_path / "s.zarr", attributes={"i2am": root})
    opened = open_run(tmp_path / "s.zarr") if kind == "run" else open_maps(tmp_path / "s.zarr")
    assert shown(opened)[1:] == ["samples", "none"]
