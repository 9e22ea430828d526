"""The overview of an inpainting model shows what the painted part read, beside the whole image's map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze, analyze_run, open_maps, open_run
from i2am.analysis.figures.maps import overview
from i2am.analysis.figures.painted import painted_g2r
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.figure_reading import texts_of, titles_of
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("down", (8, 8), (4, 4), 1, heads=3),
    SyntheticLayer("up", (4, 4), (8, 8), 0, heads=2, other_keys=2),
)
PAINTED = "G2R of the painted part: parts of the reference that were used"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("painted")
    write_run(path / "run.zarr", ["a"], LAYERS, steps=4, guidance=True)
    arrays = effect_arrays(layers=[layer.name for layer in LAYERS])
    arrays["layer"] = np.array([0.1, 0.9])[:, None, None] * np.ones((8, 8))
    write_effects(path / "effects.zarr", {"a": arrays}, source="../run.zarr")
    return path


def words(titles: list[str]) -> list[str]:
    return [title.replace("\n", " ") for title in titles]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalisation": "density"},
        {"layers": "up", "steps": [1, 3], "heads": 1, "guidance": "unconditional"},
        {"weights": "causal"},
    ],
    ids=["all", "density", "selected", "weighed"],
)
@pytest.mark.parametrize("is_stored", [False, True])
def test_it_is_of_what_the_maps_are_of(
    options: dict[str, Any], is_stored: bool, folder: Path, tmp_path: Path
) -> None:
    sample = open_run(folder / "run.zarr")["a"]
    whole = open_maps(
        analyze_run(folder / "run.zarr", tmp_path / "maps.zarr", progress=False, **options)
    )["a"]
    within: Any = open_maps(
        analyze_run(
            folder / "run.zarr", tmp_path / "in.zarr", progress=False, within="mask", **options
        )
    )["a"]
    if not is_stored and "weights" not in options:
        whole = analyze(sample, **options)
    found = painted_g2r(sample, whole)
    assert found is not None
    np.testing.assert_allclose(found, within["g2r/ulam"], rtol=2e-6, atol=0)
    assert painted_g2r(sample, within) is None  # They are these already.


def test_the_overview_names_both_and_says_why(folder: Path) -> None:
    sample = open_run(folder / "run.zarr")["a"]
    shown = overview(sample, analyze(sample))
    assert words(titles_of(shown))[-2:] == [PAINTED, PAINTED.replace("painted part", "whole image")]
    within = overview(sample, analyze(sample, within="mask"))
    assert words(titles_of(within))[-1] == "G2R: parts of the reference that were used"
    assert "of the painted part" in texts_of(within)


@pytest.mark.parametrize("why", ["no mask", "official", "reduced"])
def test_without_it_the_overview_is_of_the_whole_image(
    why: str, folder: Path, tmp_path: Path
) -> None:
    layers = [SyntheticLayer("down", representation="maps")] if why == "reduced" else LAYERS
    sample = open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"]
    if why == "no mask":
        images = sample["images"].to_dataset().drop_vars("inpainting_mask")
        sample = sample.copy()
        sample["images"] = type(sample)(images)
    maps = analyze(sample, convention="official" if why == "official" else "i2am")
    assert painted_g2r(sample, maps) is None
    assert PAINTED not in words(titles_of(overview(sample, maps)))


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("mask", "nothing from it, such as those outside the mask, have"),
        ("within", "nothing from it have"),
        ("no mask", "nothing from it have"),
        ("one token", ""),
    ],
)
def test_the_overview_says_why_empty_places_may_be_bright(
    case: str, said: str, folder: Path, tmp_path: Path
) -> None:
    sample = open_run(folder / "run.zarr")["a"]
    if case == "one token":
        alone = [SyntheticLayer("down", reference_grid=None)]
        sample = open_run(write_run(tmp_path / "run.zarr", ["a"], alone))["a"]
    if case == "no mask":
        images = sample["images"].to_dataset().drop_vars("inpainting_mask")
        sample = sample.copy()
        sample["images"] = type(sample)(images)
    maps = analyze(sample, within="mask" if case == "within" else "image")
    text = texts_of(overview(sample, maps)).replace("\n", " ")
    assert ("may be registers" in text) is bool(said)
    assert said in text
