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
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, SliderPosition
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.data.sample import SampleView
from i2am.viewer.export.script import map_script, sram_script
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
    frozenset(dim for dim, on in zip(AVERAGEABLE_DIMS, switches, strict=True) if on)
    for switches in product((False, True), repeat=3)
]


def _loaded(path: Path, **options: Any) -> SampleView:
    view = open_view(path, **options)
    for layer in range(len(view.axes.layers)):
        for steps in view.reader.step_batches(layer):
            maps = view.reader.read(layer, steps)
            for direction, volume in view.volumes.items():
                volume.loaded.add(layer, steps, maps.get(direction))
    return view


def _run(script: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(script, "copied", "exec"), names)  # what a user does with it
    return names["attention"]


def _assert_makes_what_is_in_view(view: SampleView, position: SliderPosition) -> None:
    for direction, averaged_dims in product(("r2g", "g2r"), EVERY_MEAN):
        shown = view.volumes[direction].loaded.plane(position, averaged_dims)
        assert shown is not None
        made = _run(map_script(view, direction, position, averaged_dims))  # type: ignore[arg-type]
        assert made.dtype == np.float32
        np.testing.assert_allclose(
            made, shown, rtol=1e-5, err_msg=f"{direction} {set(averaged_dims)}"
        )


@pytest.mark.parametrize("normalisation", ["mass", "density"])
def test_it_makes_every_map_that_is_computed_from_a_run(normalisation: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS, guidance=True, steps=[0, 2, 4])
    view = _loaded(run, guidance="unconditional", normalisation=normalisation)
    assert view.source.computed
    _assert_makes_what_is_in_view(view, SliderPosition(1, 2, 0))


@pytest.mark.parametrize("normalisation", ["mass", "density"])
@pytest.mark.parametrize("stored", ["mass", "density"])
def test_it_makes_every_map_that_is_stored_also_in_another_normalisation(
    normalisation: str, stored: Any, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    analyze_run(run, tmp_path / "maps.zarr", normalisation=stored)
    view = _loaded(run, normalisation=normalisation)
    assert not view.source.computed
    assert "open_maps" in map_script(view, "r2g", SliderPosition(0, 0, 0), frozenset())
    _assert_makes_what_is_in_view(view, SliderPosition(1, 2, 0))


def test_a_store_of_the_official_convention_gives_its_own_levels(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr")
    analyze_run(run, tmp_path / "maps.zarr", convention="official")
    view = _loaded(run)
    every = frozenset(AVERAGEABLE_DIMS)
    assert '["ulam"]' in map_script(view, "r2g", SliderPosition(0, 0, 0), every)
    shown = view.volumes["r2g"].loaded.plane(SliderPosition(0, 0, 0), every)
    np.testing.assert_array_equal(
        _run(map_script(view, "r2g", SliderPosition(0, 0, 0), every)), shown
    )


def test_steps_without_labels_in_the_store_are_picked_by_position(tmp_path: Path) -> None:
    import zarr

    run = write_run(tmp_path / "run.zarr")
    maps = write_maps(tmp_path / "maps.zarr", {"first": {"r2g": spot_volume()}})
    del zarr.open_group(maps, mode="a")["first/r2g/step"]
    script = map_script(_loaded(run), "r2g", SliderPosition(1, 2, 0), frozenset())
    assert ".isel(step=2)" in script
    hot = np.zeros((8, 8), np.float32)
    hot[3, 0] = 1
    np.testing.assert_array_equal(_run(script), hot)


def test_the_first_line_says_which_map_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    script = map_script(_loaded(run), "g2r", SliderPosition(1, 2, 0), frozenset({"layer", "head"}))
    title = "G2R of sample 'first': step 2, mean over layers and heads."
    assert script.splitlines()[0] == f'"""{title}"""'


@pytest.mark.parametrize(("direction", "head"), [("g2r", 0), ("r2g", 1)])
def test_a_map_that_does_not_exist_has_no_script(direction: Any, head: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    layer = 2 if direction == "g2r" else 1
    with pytest.raises(AnalysisError, match=rf"Expected a map, got none of {direction.upper()}"):
        map_script(_loaded(run), direction, SliderPosition(layer, 0, head), frozenset())


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("side", ["generated", "reference"])
@pytest.mark.parametrize(
    "pick",
    [
        Pick("", "first", "generated", (9, 20, 10, 21), ("down.attn2",), (1, 2)),
        Pick("", "first", "generated", (8, 3, 17, 12), heads=(0,)),
    ],
)
def test_it_requests_a_region_as_sram_does(
    pick: Pick, side: Any, is_stored: bool, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", layers=LAYERS)
    if is_stored:
        analyze_run(run, tmp_path / "maps.zarr", steps=[0, 2, 3])
        pick = replace(pick, steps=())
    pick = replace(pick, side=side)
    region: Any = pick.area[:2]
    if pick.heads:
        region = np.zeros((32, 32), bool)
        region[8:17, 3:12] = True
    expected = sram(
        open_run(run)["first"],
        layers=pick.layers or ["down.attn2", "mid.attn2"],
        steps=pick.steps or ([0, 2, 3] if is_stored else None),
        heads=pick.heads or None,
        **{side: region},
    )
    made = _run(sram_script(open_view(run), pick))
    assert made.dims == expected.dims
    np.testing.assert_allclose(made, expected, rtol=1e-6)
