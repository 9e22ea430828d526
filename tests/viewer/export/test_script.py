"""The copied Python is run, and gives the map that the viewer's volume holds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze_run, open_run, sram
from i2am.schemas import AnalysisError
from i2am.viewer.data.axes import MEANS, Place
from i2am.viewer.data.open_sample import open_row
from i2am.viewer.data.sample import Row
from i2am.viewer.export.script import recipe, sram_recipe
from i2am.viewer.picking.pick import Pick
from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

# Grids, heads and tokens differ; the last one has no map on the reference.
LAYERS = (
    SyntheticLayer("down.attn2"),
    SyntheticLayer("mid.attn2", (4, 4), heads=1, block="mid"),
    SyntheticLayer("up.attn2", reference_grid=None, tokens=1, block="up"),
)
EVERY_MEAN = [
    frozenset(dim for dim, on in zip(MEANS, switches, strict=True) if on)
    for switches in product((False, True), repeat=3)
]


def _loaded(path: Path, **options: Any) -> Row:
    row = open_row(path, **options)
    for layer in range(len(row.names.layers)):
        for steps in row.source.pieces(layer):
            maps = row.source.read(layer, steps)
            for direction, volume in row.volumes.items():
                volume.add(layer, steps, maps.get(direction))
    return row


def _run(script: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(script, "copied", "exec"), names)  # what a user does with it
    return names["attention"]


def _assert_makes_what_is_in_view(row: Row, place: Place) -> None:
    for direction, means in product(("r2g", "g2r"), EVERY_MEAN):
        shown = row.volumes[direction].plane(place, means)
        assert shown is not None
        made = _run(recipe(row, direction, place, means))  # type: ignore[arg-type]
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, shown, rtol=1e-5, err_msg=f"{direction} {set(means)}")


@pytest.mark.parametrize("normalisation", ["mass", "density"])
def test_it_makes_every_map_that_is_computed_from_a_run(normalisation: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS, guidance=True, steps=[0, 2, 4])
    row = _loaded(run, guidance="unconditional", normalisation=normalisation)
    assert row.origin.computed
    _assert_makes_what_is_in_view(row, Place(1, 2, 0))


@pytest.mark.parametrize("normalisation", ["mass", "density"])
@pytest.mark.parametrize("stored", ["mass", "density"])
def test_it_makes_every_map_that_is_stored_also_in_another_normalisation(
    normalisation: str, stored: Any, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    analyze_run(run, tmp_path / "maps.zarr", normalisation=stored)
    row = _loaded(run, normalisation=normalisation)
    assert not row.origin.computed
    assert "open_maps" in recipe(row, "r2g", Place(0, 0, 0), frozenset())
    _assert_makes_what_is_in_view(row, Place(1, 2, 0))


def test_a_store_of_the_official_convention_gives_its_own_levels(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr")
    analyze_run(run, tmp_path / "maps.zarr", convention="official")
    row = _loaded(run)
    every = frozenset(MEANS)
    assert '["ulam"]' in recipe(row, "r2g", Place(0, 0, 0), every)
    shown = row.volumes["r2g"].plane(Place(0, 0, 0), every)
    np.testing.assert_array_equal(_run(recipe(row, "r2g", Place(0, 0, 0), every)), shown)


def test_steps_without_labels_in_the_store_are_picked_by_position(tmp_path: Path) -> None:
    import zarr

    run = write_run(tmp_path / "run.zarr")
    maps = write_maps(tmp_path / "maps.zarr", {"first": {"r2g": spot_volume()}})
    del zarr.open_group(maps, mode="a")["first/r2g/step"]
    script = recipe(_loaded(run), "r2g", Place(1, 2, 0), frozenset())
    assert ".isel(step=2)" in script
    hot = np.zeros((8, 8), np.float32)
    hot[3, 0] = 1
    np.testing.assert_array_equal(_run(script), hot)


def test_the_first_line_says_which_map_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    script = recipe(_loaded(run), "g2r", Place(1, 2, 0), frozenset({"layer", "head"}))
    title = "G2R of sample 'first': step 2, mean over layers and heads."
    assert script.splitlines()[0] == f'"""{title}"""'


@pytest.mark.parametrize(("direction", "head"), [("g2r", 0), ("r2g", 1)])
def test_a_map_that_does_not_exist_has_no_recipe(direction: Any, head: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    layer = 2 if direction == "g2r" else 1
    with pytest.raises(AnalysisError, match=rf"Expected a map, got none of {direction.upper()}"):
        recipe(_loaded(run), direction, Place(layer, 0, head), frozenset())


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("side", ["generated", "reference"])
@pytest.mark.parametrize(
    "pick",
    [
        Pick("", "first", "generated", (9, 20, 10, 21), ("down.attn2",), (1, 2)),
        Pick("", "first", "generated", (8, 3, 17, 12), heads=(0,)),
    ],
)
def test_it_asks_a_place_as_sram_does(
    pick: Pick, side: Any, is_stored: bool, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    if is_stored:
        analyze_run(run, tmp_path / "maps.zarr", steps=[0, 2, 3])
        pick = replace(pick, steps=())
    pick = replace(pick, side=side)
    place: Any = pick.area[:2]
    if pick.heads:
        place = np.zeros((32, 32), bool)
        place[8:17, 3:12] = True
    expected = sram(
        open_run(run)["first"],
        layers=pick.layers or ["down.attn2", "mid.attn2"],
        steps=pick.steps or ([0, 2, 3] if is_stored else None),
        heads=pick.heads or None,
        **{side: place},
    )
    made = _run(sram_recipe(open_row(run), pick))
    assert made.dims == expected.dims
    np.testing.assert_allclose(made, expected, rtol=1e-6)
