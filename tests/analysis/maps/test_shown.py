"""What figures, page, scores and facts tell of layers that were reduced, shared or of one token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from i2am.analysis import analyze, analyze_run, open_run, score_maps, summarise_store
from i2am.analysis.figures.captions import similarity_note, time_titles
from i2am.analysis.figures.files import write_figures
from i2am.analysis.figures.maps import hlam, overview, tlam
from i2am.analysis.figures.patch_maps import sram_grid
from i2am.analysis.figures.style import FigureStyle
from i2am.page.report import write_report
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.figure_reading import panels_of, texts_of, titles_of
from tests.support.synthetic_run import SyntheticLayer, write_run

ONE = SyntheticLayer("one.attn2", (4, 4), None, 0, tokens=1)
REDUCED = SyntheticLayer("reduced.attn2", (4, 4), (2, 2), 0, representation="maps")
FIRST = SyntheticLayer("down.attn", (4, 4), (4, 4), 0)
SECOND = replace(FIRST, name="down.attn.reference_1", reference_grid=(3, 2), reference_index=1)


def sample_of(path: Path, *layers: SyntheticLayer, **options: Any) -> Any:
    return open_run(write_run(path / "run.zarr", ["a"], layers, **options))["a"]


# --- One token.


@pytest.mark.parametrize("representation", ["factors", "logits", "maps"])
@pytest.mark.parametrize("says_so", [True, False], ids=["flagged", "unflagged"])
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "alone"])
def test_a_similarity_is_told_wherever_it_is_one(
    representation: str, says_so: bool, is_shared: bool, tmp_path: Path
) -> None:
    layer = replace(ONE, representation=representation, other_keys=3 * is_shared)
    sample = sample_of(tmp_path, layer)
    if not says_so:  # A store of another program may leave the flag out.
        del sample["layers"][ONE.name].attrs["i2am"]["causal"]
    note = "" if is_shared else "similarity map, not causal: one reference token"
    maps = analyze(sample)
    assert similarity_note(sample, maps) == note
    shown = texts_of(overview(sample, maps))
    assert ("not causal" in shown) is not is_shared
    assert "No G2R map: the reference is one token" in shown
    assert ("gives it all its attention" in shown) is not is_shared


def test_what_capture_flags_is_told_of_layers_of_several_tokens_too(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, FIRST, ONE)
    sample["layers"][FIRST.name].attrs["i2am"]["causal"] = False
    assert similarity_note(sample, analyze(sample)).startswith("similarity map, not causal")


def test_the_page_tells_of_similarity_and_draws_no_sram_of_reduced_layers(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [REDUCED, replace(ONE, representation="maps")])
    run = open_run(path)
    maps = {name: analyze(run[name]) for name in run}
    write_report(run, maps, None, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "R2G: in 1 of 2 layers a similarity, not causal: one reference token." in page
    assert "Overview." in page
    assert "SRAM." not in page
    written = write_figures(run, maps, ["a"], tmp_path / "figures", ["overview", "sram"])
    assert [path.name for path in written] == ["a-overview.png"]


# --- Facts.


def test_the_summary_tells_what_was_kept(tmp_path: Path) -> None:
    layers = [
        replace(FIRST, heads=4, kept_heads=(1, 3)),
        SECOND,
        SyntheticLayer("video", (12, 5), (2, 2), frames=3, other_keys=2, representation="maps"),
        ONE,
        replace(ONE, name="reduced", representation="maps"),
    ]
    facts = summarise_store(write_run(tmp_path / "run.zarr", ["a"], layers, steps=(0, 5, 10)))
    assert facts["steps"] == "3 (0, 5, 10), timestep 981 to 1"
    assert "reference_1 24x16" in facts["images"]
    assert facts["layers"] == [
        "down.attn: 4x4 <- 4x4, heads 1, 3, factors float16",
        "down.attn.reference_1: 4x4 <- 3x2 of reference_1, 2 heads, factors float16",
        "video: 3 frames of 4x5 <- 2x2 + 1, 2 heads, maps float32",
        "one.attn2: 4x4 <- 1 token, 2 heads, factors float16; a similarity, not causal",
        "reduced: 4x4 <- 1 token, 2 heads, maps float32; a similarity, not causal",
    ]


def test_panels_name_the_heads_and_steps_that_were_kept(tmp_path: Path) -> None:
    layer = replace(FIRST, heads=4, kept_heads=(1, 3))
    sample = sample_of(tmp_path, layer, steps=(0, 5, 10, 40))
    maps = analyze(sample, time_groups=2)
    assert titles_of(hlam(sample, maps, "r2g")) == ["head 1", "head 3"]
    assert time_titles(sample, maps["r2g"].dataset["tlam"]) == [
        "steps 0–5\nt = 981–654.333",
        "steps 10–40\nt = 327.667–1",
    ]


# --- Several references.


def picture_below(figure: Figure, number: int) -> Any:
    return np.asarray(panels_of(figure)[number].images[0].get_array())


def test_maps_lie_on_the_picture_of_their_own_reference(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, FIRST, SECOND)
    clear = FigureStyle(opacity=0.01)
    for layers, name, size in (
        (None, "reference", (32, 32)),
        (SECOND.name, "reference_1", (24, 16)),
    ):
        maps = analyze(sample, layers=layers)
        stored = sample["images"][name].to_numpy()
        figure = overview(sample, maps, clear)
        assert titles_of(figure)[0] == name.replace("_", " ")
        shown = picture_below(figure, 0)
        enlarged = shown.shape[0] // size[0]
        middles = slice(enlarged // 2, None, enlarged)
        np.testing.assert_array_equal(shown[middles, middles, :3], stored)
        drawn = picture_below(tlam(sample, maps, "g2r", clear), 0)
        assert drawn.shape[0] / drawn.shape[1] == pytest.approx(size[0] / size[1], rel=0.05)
        drawn = picture_below(sram_grid(sample, [(9, 9)], clear, layers=layers), 1)
        assert drawn.shape[0] / drawn.shape[1] == pytest.approx(size[0] / size[1], rel=0.05)


def test_the_mask_of_the_first_reference_scores_the_maps_of_no_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], [FIRST, SECOND])
    for name, layers, has_score in (("first", None, True), ("second", SECOND.name, False)):
        maps = analyze_run(run, tmp_path / f"{name}.zarr", layers=layers, progress=False)
        scores = score_maps(maps)["score"].tolist()
        assert "imacs_g" in scores
        assert ("imacs_r" in scores) is has_score


def test_r2g_of_two_references_is_shown_beside_the_first(tmp_path: Path) -> None:
    plain = SyntheticLayer("attn", (4, 4), None, 0, tokens=4)
    other = replace(plain, name="attn.reference_1", reference_index=1)
    sample = sample_of(tmp_path, plain, other)
    assert titles_of(overview(sample, analyze(sample, layers="*")))[0] == "reference"


def test_maps_of_a_picture_that_was_not_stored_lie_over_no_other_one(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FIRST, SECOND])
    del reference_maps.stored(path / "a")["images/reference_1"]
    sample: Any = open_run(path)["a"]
    with pytest.raises(AnalysisError, match="Expected the stored image 'reference_1', got none"):
        overview(sample, analyze(sample, layers=SECOND.name))
