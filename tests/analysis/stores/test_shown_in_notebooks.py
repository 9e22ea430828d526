"""What Python and a notebook show of a run, of maps and of a pair: few lines, and text alone."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import i2am
from i2am.analysis import analyze_run, maps_of, open_effects, open_maps, open_run, pair_runs
from tests.support.effects_store import write_effects
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
    found = shown(open_run(run))
    assert found[: found.index("next")] == [
        f"i2am run: {run}",
        "samples", "2: a, b",
        "layers", f"3: {', '.join(layer.name for layer in LAYERS)}",
        "steps", "3",
        "generated grids", "8×8, 4×4",
        "reference grids", "4×4",
        "images", "generated, inpainting_mask, reference, reference_mask, source",
    ]  # fmt: skip
    maps = shown(open_maps(tmp_path / "maps.zarr"))
    sizes = {p: p.stat().st_size for p in (tmp_path / "maps.zarr" / "a").rglob("*") if p.is_file()}
    del sizes[tmp_path / "maps.zarr" / "a" / "zarr.json"]
    assert maps[maps.index("stored") + 1] == f"{sum(sizes.values()) / 1e6:.3g} MB of 'a'"
    assert maps[1 : maps.index("stored")] == [
        "samples", "2: a, b",
        "r2g", "3 layers, 3 steps, 2 heads on 8×8",
        "g2r", "3 layers, 3 steps, 2 heads on 4×4",
    ]  # fmt: skip


def test_what_is_to_be_called_next_can_be_called(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=3)
    run = open_run(path)
    maps = open_maps(analyze_run(path, tmp_path / "maps.zarr", progress=False))
    measured = {"floor": np.zeros((8, 8)), "y": np.arange(8.0), "x": np.arange(8.0)}
    effects = open_effects(write_effects(tmp_path / "effects.zarr", {"a": measured}))
    known: dict[str, Any] = {
        name: getattr(i2am.analysis, name) for name in ("analyze", "sram", "score_maps")
    }
    known |= {"i2am": i2am, "run": run, "maps": maps, "effects": effects, "y": 1, "x": 1}
    for store in (run, maps, effects):
        for call in store.next_calls:
            code, _, words = call.format("a").partition(") " if ") " in call else "] ")
            assert words
            if "show" not in code and "score_effects" not in code:
                assert eval(code + (")" if ") " in call else "]"), known) is not None
        assert repr(store).endswith(store.next_calls[-1].format("a"))


def test_python_shows_the_same_lines(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "b"], LAYERS, steps=3)
    lines = repr(open_run(run)).splitlines()
    assert lines[0] == f"<i2am run at {run}>"
    assert [line.split()[0] for line in lines[1:7]] == [
        *("samples", "layers", "steps", "generated", "reference", "images"),
    ]
    assert all(len(line) < 250 for line in lines)
    pair = repr(pair_runs(run, run))
    assert f"A        {run}\n" in pair
    assert "samples  2: 'a', 'b'\n" in pair
    on_demand = maps_of(open_run(run), steps=0)
    assert repr(on_demand).splitlines()[0] == f"<i2am maps of every sample of {run}>"
    assert repr(on_demand).endswith("with steps=0")


def test_of_a_long_run_not_every_status_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["000"], LAYERS[:1], steps=1)
    for number in range(1, 130):
        zarr.create_group(run / f"{number:03}", attributes={"i2am": {"status": "complete"}})
    for number in (90, 120):
        (run / f"{number:03}" / "zarr.json").write_text("{")
    assert shown(open_run(run))[2] == "130, complete or not: 000, 001, 002, 003, 004, …"
    for number in range(100, 130):
        shutil.rmtree(run / f"{number:03}")
    assert shown(open_run(run))[1:5] == [
        *("samples", "99: 000, 001, 002, 003, 004, …", "left out", "1, unfinished or damaged"),
    ]


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
