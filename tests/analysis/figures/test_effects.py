"""Figures of measured effects, and what the report says of them, hold the numbers of the stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze_run, maps_of, open_effects, open_run, region_masses, score_effects
from i2am.analysis.figures import FIGURES, existing_kinds, load_figure
from i2am.analysis.figures.effect_words import belief_sentences
from i2am.analysis.figures.files import write_figures
from i2am.cli import main
from i2am.page.report import write_report
from tests.support import reference_maps
from tests.support.effects_store import effect_arrays, even_boxes, write_effects
from tests.support.figure_reading import brightest, check_words, panels_of, texts_of, titles_of
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("down.good.attn", (8, 8), (4, 4), 1),
    SyntheticLayer("up.idle.attn", (8, 8), (4, 4), 0, representation="logits"),
)
NAMES = [layer.name for layer in LAYERS]
CUTS = even_boxes((4, 4), (32, 32))
KINDS = ["effects", "curves", "layer_effects"]


def _arrays(run: Path, sample: str = "a") -> dict[str, Any]:
    arrays = effect_arrays(cuts=(4, 4), layers=NAMES, orders=("map", "least", "random"))
    arrays["region"] = 3 * region_masses(open_run(run)[sample], CUTS).sel(layer=NAMES[0]).values
    arrays["layer"] = np.stack([arrays["ceiling"] * share for share in (0.9, 0.01)])
    return arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("effect_figures")
    run = write_run(path / "run.zarr", ["a", "unmeasured"], LAYERS, steps=2)
    write_effects(path / "effects.zarr", {"a": _arrays(run)}, source="../run.zarr")
    return path


@pytest.fixture(scope="module")
def sample(folder: Path) -> Any:
    return open_run(folder / "run.zarr")["a"]


@pytest.fixture(scope="module")
def effects(folder: Path) -> Any:
    return open_effects(folder / "effects.zarr")["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_has_its_place(sample: Any, effects: Any, kind: str) -> None:
    check_words(load_figure(kind)(sample, effects))


def test_maps_stand_beside_effects_of_the_object_and_of_two_patches(
    sample: Any, effects: Any
) -> None:
    figure = load_figure("effects")(sample, effects)
    titles = titles_of(figure)
    shown = ["reads, mean over layers", "reads, layers by effect", "changes when it is cut"]
    place = "generated, and the patch"
    assert titles == ["generated, and the object", *shown, place, *shown, place, *shown]
    assert "Rank correlation with the effects: mean over layers 0." in texts_of(figure)


def test_the_hottest_region_is_the_one_that_matters_most(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=1)
    images = reference_maps.stored(run / "a" / "images")
    images["reference"][...] = 1  # On black, heat is what is bright.
    arrays = _arrays(run)
    arrays["region"] = np.full((16, 8, 8), 0.1)
    arrays["region"][6] = 1  # Row 1, column 2 of 4x4.
    effects = open_effects(write_effects(tmp_path / "effects.zarr", {"a": arrays}))["a"]
    panel = panels_of(load_figure("effects")(open_run(run)["a"], effects))[3]
    y, x = brightest(panel)
    assert 0.25 <= y <= 0.5
    assert 0.5 <= x <= 0.75


def test_regions_of_an_adaptive_run_count_by_their_area(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=1)
    images = reference_maps.stored(run / "a" / "images")
    images["reference"][...] = 1
    arrays = effect_arrays(cuts=(1, 2), layers=NAMES)
    arrays["cut_box"] = np.array([(0, 0, 32, 16), (0, 16, 8, 32), (8, 16, 32, 32)])
    # The left half has twice the effect of the small region, over four times its area.
    arrays["region"] = np.array([2.0, 1.0, 0.5])[:, None, None] * np.ones((8, 8))
    arrays["region_pixels"] = arrays["region"]
    effects = open_effects(write_effects(tmp_path / "effects.zarr", {"a": arrays}))["a"]
    panel = panels_of(load_figure("effects")(open_run(run)["a"], effects))[3]
    y, x = brightest(panel)
    assert y <= 0.25
    assert x >= 0.5


def test_curves_are_the_stored_ones_as_shares(sample: Any, effects: Any) -> None:
    figure: Any = load_figure("curves")(sample, effects)
    deletion, insertion = figure.axes
    taken = np.linspace(0, 1, 17)
    for number, line in enumerate(deletion.lines, start=1):
        np.testing.assert_allclose(line.get_xdata(), taken)
        np.testing.assert_allclose(line.get_ydata(), taken**number, atol=1e-6)
    np.testing.assert_allclose(insertion.lines[0].get_ydata(), 1 - taken, atol=1e-6)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["most read first (mean over layers)", "least read first", "random"]
    without = effects.drop_vars("insertion")
    assert len(load_figure("curves")(sample, without).axes) == 1


def test_layers_without_an_effect_say_so(sample: Any, effects: Any) -> None:
    figure: Any = load_figure("layer_effects")(sample, effects)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["down.good", "up.idle"]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [0.9, 0.01], rtol=1e-5)
    assert [text.get_text() for text in axes.texts] == ["0.900", "0.010, no effect"]


def test_the_sentences_hold_the_numbers_of_the_table(
    folder: Path, sample: Any, effects: Any
) -> None:
    table = score_effects(folder / "run.zarr")
    value = table.set_index(["map", "score"])["value"]
    peaks, ranks, layers = belief_sentences(sample, effects)
    same, near = value["mean", "same_peak"], value["mean", "near_peak"]
    assert peaks.startswith(f"In {same:.0%} of the object's 4 patches")
    assert f"in {near:.0%} it is that one or a neighbour" in peaks
    assert f"{value['uniform', 'same_peak']:.0%} and {value['uniform', 'near_peak']:.0%}." in peaks
    for name in ("mean", "causal", "position"):
        assert f"{value[name, 'rank_correlation']:.2f}" in ranks
    assert layers == (
        "1 of 2 layers change less than 2% of what cutting the reference in all of them changes "
        "(up.idle), so what their maps show moves nothing; down.good alone changes 90%."
    )
    without = effects.drop_vars(["layer_effect", "layer"])
    peaks, ranks, layers = belief_sentences(sample, without)
    assert "weighed" not in ranks
    assert layers == "Which layers have an effect was not measured."
    alike = effects.assign(layer_effect=effects["layer_effect"] * [[[1]], [[90]]])
    assert belief_sentences(sample, alike)[2].startswith("Each of the 2 layers changes at least 2%")


def test_figures_of_effects_exist_where_they_were_measured(
    folder: Path, sample: Any, effects: Any, tmp_path: Path
) -> None:
    assert existing_kinds(sample, FIGURES, effects)[-3:] == KINDS
    assert not set(KINDS) & set(existing_kinds(sample, FIGURES))
    assert existing_kinds(sample, KINDS, effects.drop_vars("deletion")) == KINDS[::2]
    run = open_run(folder / "run.zarr")
    measured = open_effects(folder / "effects.zarr")
    paths = write_figures(
        run, maps_of(run), list(run), tmp_path, ["tlam", *KINDS], effects=measured
    )
    assert sorted(path.name for path in paths) == [
        "a-curves.png", "a-effects.png", "a-layer_effects.png", "a-tlam.png", "unmeasured-tlam.png",
    ]  # fmt: skip


def test_the_report_says_whether_the_map_can_be_believed(
    folder: Path, tmp_path: Path, sample: Any, effects: Any
) -> None:
    run = open_run(folder / "run.zarr")
    measured = open_effects(folder / "effects.zarr")
    page = write_report(run, maps_of(run), None, tmp_path / "page.html", effects=measured)
    text = page.read_text(encoding="utf-8").replace("&#39;", "'")
    assert text.count("Can this map be believed?") == 1  # The other was not measured.
    assert " ".join(belief_sentences(sample, effects)) in text
    assert "<strong>Effects.</strong>" in text


def test_effects_of_another_capture_are_not_shown(folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=2)
    reference_maps.change_attributes(run / "a", created="2027-01-01T00:00:00Z")
    opened = open_run(run)
    measured = open_effects(folder / "effects.zarr")
    page = write_report(opened, maps_of(opened), None, tmp_path / "page.html", effects=measured)
    assert "believed" not in page.read_text(encoding="utf-8")
    assert write_figures(opened, maps_of(opened), ["a"], tmp_path, KINDS, effects=measured) == []


def test_the_commands_find_the_effects_beside_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=1)
    write_effects(tmp_path / "effects.zarr", {"a": _arrays(run)}, source="../run.zarr")
    analyze_run(run, tmp_path / "maps.zarr", progress=False)
    call = ["figure", str(run), "--kinds", *KINDS, "--out", str(tmp_path / "figures")]
    assert main(call) == 0
    assert "Figures: 3 in" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "believed" in (tmp_path / "report.html").read_text(encoding="utf-8")
    other = str(write_effects(tmp_path / "other.zarr", {}))
    assert main([*call, "--effects", other]) == 0
    assert "Figures: 0 in" in capsys.readouterr().out
