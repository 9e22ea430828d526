"""Figures tell the truth: heat where the map is high, and words that belong to what is shown."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.patches import Rectangle

from i2am.analysis import analyze
from i2am.analysis.figures.heat import enlarge
from i2am.analysis.figures.maps import hlam, llam, overview, tlam
from i2am.analysis.figures.style import FigureStyle
from i2am.schemas import AnalysisError
from i2am.schemas.directions import DIRECTIONS
from tests.support.figure_reading import brightest, panels_of, texts_of, titles_of, values_of
from tests.support.pictured import BOX, GRID, HEADS, pictured

PICTURE = FigureStyle(base="picture")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tlam_has_a_panel_per_time_group_titled_with_steps_and_timesteps(direction: Any) -> None:
    case = pictured()
    figure = tlam(case.sample, case.maps, direction)
    assert titles_of(figure) == [
        "steps 0–1\nt = 981–801",
        "steps 2–3\nt = 621–441",
        "steps 4–5\nt = 261–81",
    ]
    assert direction.upper() in texts_of(figure)


def test_a_group_of_one_step_is_titled_with_that_step() -> None:
    case = pictured()
    alone = case.maps["r2g"].to_dataset().isel(time=[0, 1])
    alone = alone.assign_coords(last_step=("time", [0, 3]))
    figure = tlam(case.sample, xr.DataTree.from_dict({"r2g": alone}))
    assert titles_of(figure)[0] == "step 0\nt = 981"


def test_hlam_has_a_panel_per_head_in_both_directions() -> None:
    case = pictured()
    assert titles_of(hlam(case.sample, case.maps)) == [f"head {n}" for n in range(HEADS)] * 2


def test_llam_names_layers_without_their_shared_end_and_with_their_grid() -> None:
    case = pictured()
    wanted = ["down_blocks.0\n16×16", "up_blocks.1\n16×16"]
    assert titles_of(llam(case.sample, case.maps, "g2r")) == wanted


@pytest.mark.parametrize("level", ["tlam", "hlam", "llam"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_panel_is_hottest_where_its_map_peaks(level: str, direction: Any) -> None:
    case = pictured(dark=True)
    draw = {"tlam": tlam, "hlam": hlam, "llam": llam}[level]
    # Per-panel contrast, so that each panel reaches its own hottest color.
    figure = draw(case.sample, case.maps, direction, FigureStyle(contrast="panel"))
    stack = values_of(case.maps, f"{direction}/{level}")
    for axes, values in zip(panels_of(figure), stack, strict=True):
        y, x = (int(share * GRID) for share in brightest(axes))
        # R2G has a plateau: eight bits cannot tell its highest cell from the next.
        assert values[y, x] > 0.98 * values.max()


def test_shared_contrast_gives_each_direction_one_scale_over_all_its_panels() -> None:
    case = pictured(dark=True)
    figure = tlam(case.sample, case.maps)
    keys = [axes for axes in figure.axes if axes not in panels_of(figure)]
    limits = [axes.get_ylim() for axes in keys]
    expected = [(v.min(), v.max()) for v in (values_of(case.maps, f"{d}/tlam") for d in DIRECTIONS)]
    np.testing.assert_allclose(limits, expected, rtol=1e-6)
    peaks = [np.asarray(axes.images[0].get_array()).max() for axes in panels_of(figure)[3:]]
    highest = values_of(case.maps, "g2r/tlam").max(axis=(1, 2))
    assert np.argsort(peaks).tolist() == np.argsort(highest).tolist()


def test_panel_contrast_gives_each_panel_its_own_scale() -> None:
    case = pictured(dark=True)
    figure = tlam(case.sample, case.maps, "g2r", FigureStyle(contrast="panel"))
    keys = [axes.get_xlim() for axes in figure.axes if axes not in panels_of(figure)]
    expected = [(v.min(), v.max()) for v in values_of(case.maps, "g2r/tlam")]
    np.testing.assert_allclose(keys, expected, rtol=1e-6)
    peaks = {np.asarray(axes.images[0].get_array()).max() for axes in panels_of(figure)}
    assert len(peaks) == 1


def test_a_head_that_is_missing_everywhere_shows_the_bare_picture() -> None:
    case = pictured()
    maps = case.maps["r2g"].to_dataset()
    maps["hlam"] = maps["hlam"].where(maps["head"] != 2)
    figure = hlam(case.sample, xr.DataTree.from_dict({"r2g": maps}), style=PICTURE)
    shown = np.asarray(panels_of(figure)[2].images[0].get_array())
    np.testing.assert_array_equal(shown, enlarge(values_of(case.sample, "images/generated")))


@pytest.mark.parametrize("level", ["tlam", "overview"])
def test_a_map_over_a_part_of_the_reference_is_drawn_there(level: str) -> None:
    case, whole = pictured(dark=True, wide=True), pictured(dark=True)
    figures = [
        overview(*one.both, PICTURE) if level == "overview" else tlam(*one.both, "g2r", PICTURE)
        for one in (case, whole)
    ]
    wide, own = (panels_of(figure)[-1] for figure in figures)
    assert wide.get_xlim() == (-0.5, 3 * 64 - 0.5)
    heat, wanted = (np.asarray(axes.images[0].get_array()) for axes in (wide, own))
    assert heat.shape == (384, 3 * 384, 3)
    assert not heat[:, :384].any()
    assert not heat[:, 2 * 384 :].any()
    np.testing.assert_allclose(heat[:, 384 : 2 * 384].astype(int), wanted, atol=1)
    outlines = [p for p in wide.patches if isinstance(p, Rectangle)]
    assert [p.get_bbox().bounds for p in outlines] == [(63.5, -0.5, 64, 64)] * 2
    assert not [p for p in own.patches if isinstance(p, Rectangle)]


def test_overview_shows_pictures_as_stored_and_both_maps() -> None:
    case = pictured()
    figure = overview(case.sample, case.maps)
    starts = ["reference", "source", "generated", "R2G", "G2R", "G2R"]
    assert [t.replace(":", " ").split()[0] for t in titles_of(figure)] == starts
    for axes, name in zip(panels_of(figure), starts[:3], strict=False):
        shown = np.asarray(axes.images[0].get_array())
        np.testing.assert_array_equal(shown, enlarge(values_of(case.sample, f"images/{name}")))
    keys = [axes.get_xlabel() for axes in figure.axes if axes not in panels_of(figure)]
    assert len(keys) == 3
    assert all("attention" in label for label in keys)
    limits = [axes.get_xlim() for axes in figure.axes if axes not in panels_of(figure)]
    painted = analyze(case.sample, within="mask")
    unified = [
        values_of(case.maps, "r2g/ulam"),
        values_of(painted, "g2r/ulam"),
        values_of(case.maps, "g2r/ulam"),
    ]
    np.testing.assert_allclose(limits, [(v.min(), v.max()) for v in unified], rtol=1e-6)


def test_overview_outlines_the_mask_along_its_border() -> None:
    case = pictured()
    top, left, height, width = BOX
    for axes in (panels_of(overview(case.sample, case.maps))[n] for n in (1, 3)):
        (path,) = axes.collections[-1].get_paths()
        x, y = path.vertices.T  # type: ignore[union-attr]  # an array, not a sequence
        drawn = [x.min(), x.max(), y.min(), y.max()]
        edges = [left - 0.5, left + width - 0.5, top - 0.5, top + height - 0.5]
        np.testing.assert_allclose(drawn, edges, atol=0.1)


def test_overview_without_source_and_mask_has_neither() -> None:
    case = pictured(source=False, mask=False)
    figure = overview(case.sample, case.maps)
    assert len(panels_of(figure)) == 4
    assert not any(axes.collections for axes in panels_of(figure))


def test_overview_shows_the_reference_mass_where_it_is_stored() -> None:
    case = pictured()
    maps = case.maps["r2g"].to_dataset()
    maps["mass"] = maps["ulam"] * 20
    figure = overview(case.sample, xr.DataTree.from_dict({"r2g": maps}))
    assert "reference mass" in titles_of(figure)[4]


def test_one_reference_token_is_called_a_similarity_and_g2r_says_why_it_is_absent() -> None:
    case = pictured(tokens="one")
    note = "similarity map, not causal: one reference token"
    shown = texts_of(overview(case.sample, case.maps))
    assert note in shown
    assert "No G2R map: the reference is one token" in shown
    for draw in (tlam, hlam, llam):
        assert note in texts_of(draw(case.sample, case.maps))
    assert "not causal" not in texts_of(overview(*pictured().both))


def test_tokens_without_a_layout_are_the_reason_that_is_given() -> None:
    case = pictured()
    for layer in case.sample["layers"].children.values():
        layer.attrs["i2am"]["reference_grid"] = None
    maps = xr.DataTree.from_dict({"r2g": case.maps["r2g"].to_dataset()})
    assert "the reference tokens have no layout" in texts_of(overview(case.sample, maps))


def test_asking_for_a_direction_that_is_absent_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"direction 'g2r', got \['r2g'\], at tlam. No G2R map"):
        tlam(*pictured(tokens="one").both, "g2r")


def test_scale_of_density_maps_says_that_uniform_is_one() -> None:
    case = pictured()
    case.maps.attrs["i2am"] = {"normalisation": "density"}
    figure = overview(case.sample, case.maps)
    assert any("uniform = 1" in axes.get_xlabel() for axes in figure.axes)


def test_figures_do_not_load_pyplot() -> None:
    script = "import i2am.page.report, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
