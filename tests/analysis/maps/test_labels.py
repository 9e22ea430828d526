"""Steps and heads are selected by one label, several, or a slice of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import LiveSram, analyze, analyze_run, open_maps, open_run, sram
from i2am.schemas import AnalysisError
from tests.support.figure_reading import values_of
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYER = SyntheticLayer("down.0", (4, 4), (2, 2), heads=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    return write_run(folder / "run.zarr", ["a", "b"], [LAYER], steps=(0, 5, 10, 15))


@pytest.fixture(scope="module")
def sample(path: Path) -> xr.DataTree:
    return open_run(path)["a"]


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (5, [5]),
        (np.int64(15), [15]),
        (slice(5, 15), [5, 10]),
        (slice(None, 6), [0, 5]),
        (slice(7, None), [10, 15]),
        (slice(None, None, 10), [0, 10]),
        ([10, 0], [0, 10]),
        ((n for n in (15, 5)), [5, 15]),
        (slice(None), [0, 5, 10, 15]),
    ],
)
def test_steps_are_labels(steps: Any, wanted: list[int], sample: xr.DataTree) -> None:
    maps = analyze(sample, steps=steps)
    assert values_of(maps, "r2g/step").tolist() == wanted
    np.testing.assert_array_equal(maps["r2g/ulam"], analyze(sample, steps=wanted)["r2g/ulam"])


def test_heads_are_labels_too(sample: xr.DataTree) -> None:
    for heads, wanted in ((0, [0]), (2, [2]), (slice(1, None), [1, 2])):
        assert values_of(analyze(sample, heads=heads), "r2g/head").tolist() == wanted


@pytest.mark.parametrize(("steps", "heads"), [(5, 0), (slice(5, None), slice(0, 2)), ([0], 1)])
def test_sram_and_live_sram_take_the_same(steps: Any, heads: Any, sample: xr.DataTree) -> None:
    found = sram(sample, generated=(3, 3), steps=steps, heads=heads)
    live = LiveSram(sample)
    for _ in range(2):  # The second time from the cache.
        (*_, last) = live.ask(generated=(3, 3), steps=steps, heads=heads)
        np.testing.assert_allclose(last.values, found, rtol=1e-6)
    kept = sram(sample, generated=(3, 3), steps=5, heads=0, keep=("step", "head"))
    assert (kept["step"].values.tolist(), kept["head"].values.tolist()) == ([5], [0])


def test_a_run_is_analyzed_with_a_slice(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.zarr"
    for _ in range(2):  # The second time with the same options: nothing to do.
        analyze_run(path, out, steps=slice(5, 15), heads=0, progress=False)
    opened = open_maps(out)
    assert opened.attributes["options"]["steps"] == [5, 10]
    assert opened.attributes["options"]["heads"] == [0]
    assert values_of(opened["b"], "r2g/step").tolist() == [5, 10]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 3}, "Expected steps from 0, 5, 10, 15, got 3"),
        ({"steps": slice(1, 5)}, "Expected at least one step, got none"),
        ({"steps": 0.5}, r"Expected steps as a whole number, .* got 0.5, at steps=. Give labels"),
        ({"heads": ["0"]}, r"Expected heads as a whole number, .* got .'0'.*, at heads="),
        ({"heads": 3}, "Expected heads from 0 to 2, got 3"),
    ],
)
def test_labels_that_are_not_there_are_refused(
    options: dict[str, Any], match: str, sample: xr.DataTree
) -> None:
    with pytest.raises(AnalysisError, match=match):
        analyze(sample, **options)
    with pytest.raises(AnalysisError, match=match):
        LiveSram(sample).ask(generated=(0, 0), **options)


def test_a_run_in_place_of_a_sample_says_how(path: Path) -> None:
    run: Any = open_run(path)
    match = r"Expected one sample of a run, got all of it, at .*run.zarr. .* analyze\(run\['a'\]\)"
    samples: Any = {"a": run["a"]}
    for given in (run, samples):
        with pytest.raises(AnalysisError, match=match.replace(".*run.zarr", ".*")):
            analyze(given)
    with pytest.raises(AnalysisError, match=match):
        sram(run, generated=(0, 0))
    with pytest.raises(AnalysisError, match=match):
        LiveSram(run).ask(generated=(0, 0))
    with pytest.raises(AnalysisError, match=r"got str, at sample. Open it first: open_run\("):
        analyze(str(path))  # type: ignore[arg-type]
