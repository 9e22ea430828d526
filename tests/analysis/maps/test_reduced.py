"""Layers that were reduced to maps while they were captured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, open_run, sram
from i2am.analysis.figures.patch_maps import default_points
from i2am.schemas import AnalysisError
from i2am.schemas.choices import NORMALISATIONS
from i2am.schemas.dims import LEVELS
from i2am.schemas.directions import DIRECTIONS
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

# The same draws, whatever is stored of them: float32, so that only the way of reducing differs.
LAYERS = (
    SyntheticLayer("down", (8, 6), (4, 3), dtype="float32"),
    SyntheticLayer("shared", (4, 3), (4, 3), 0, heads=3, dtype="float32", other_keys=7),
    SyntheticLayer("tokens", (4, 3), None, 0, tokens=4, dtype="float32", other_keys=2),
    SyntheticLayer("one", (4, 3), None, 0, tokens=1, dtype="float32"),
    SyntheticLayer("masked", (4, 3), (4, 3), 1, dtype="float32", masked=True),
    SyntheticLayer(
        "masked.shared", (4, 3), None, 0, tokens=4, dtype="float32", other_keys=3, masked=True
    ),
)
REPRESENTATIONS = ("factors", "logits", "maps")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("reduced")
    found = {}
    for kind in REPRESENTATIONS:
        layers = [replace(layer, representation=kind) for layer in LAYERS]
        path = write_run(folder / f"{kind}.zarr", ["a"], layers, steps=3, guidance=True)
        found[kind] = open_run(path)["a"]
    return found


@pytest.mark.parametrize("guidance", ["conditional", "unconditional"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("stored", ["factors", "logits"])
def test_reduced_layers_give_the_maps_of_the_logits_that_they_came_from(
    stored: str, normalisation: Any, guidance: str, samples: dict[str, Any]
) -> None:
    options: Any = {"normalisation": normalisation, "guidance": guidance, "time_groups": 2}
    whole: Any = analyze(samples[stored], **options)
    reduced: Any = analyze(samples["maps"], **options)
    assert list(reduced.children) == ["r2g", "g2r"]
    for direction in DIRECTIONS:
        assert (
            reduced[direction].coords.to_dataset().identical(whole[direction].coords.to_dataset())
        )
        for level in LEVELS:
            found, wanted = reduced[direction][level], whole[direction][level]
            # Where a resized map is near zero, its rounding is that of its neighbours.
            rounding = 1e-6 * float(wanted.mean())
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=rounding)
    np.testing.assert_allclose(reduced["r2g/mass"], whole["r2g/mass"], rtol=1e-6)


def test_density_of_a_reduced_layer_counts_all_its_positions(samples: dict[str, Any]) -> None:
    options: Any = {"layers": "down", "normalisation": "density"}
    density: Any = analyze(samples["maps"], **options)
    mass: Any = analyze(samples["maps"], layers="down")
    np.testing.assert_allclose(density["r2g/ulam"], 48 * mass["r2g/ulam"], rtol=1e-6)
    np.testing.assert_allclose(density["g2r/ulam"], 13 * mass["g2r/ulam"], rtol=1e-6)


def test_reduced_layers_stay_lazy(samples: dict[str, Any]) -> None:
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        maps: Any = analyze(samples["maps"])
        with pytest.raises(AssertionError, match="something was computed"):
            maps["r2g/ulam"].compute()


def test_selected_steps_and_heads_of_a_reduced_layer_are_its_own(samples: dict[str, Any]) -> None:
    options: Any = {"steps": [2], "heads": [1], "layers": ["down", "shared"]}
    reduced: Any = analyze(samples["maps"], **options)
    whole: Any = analyze(samples["factors"], **options)
    np.testing.assert_allclose(reduced["g2r/volume"], whole["g2r/volume"], rtol=1e-6)


def test_the_official_convention_takes_a_reduced_layer_where_it_is_not_resized(
    samples: dict[str, Any],
) -> None:
    options: Any = {"convention": "official", "layers": ["down", "shared"], "grid": (8, 6)}
    with pytest.raises(AnalysisError, match=r"reduced to maps at capture, at shared\. Capture"):
        analyze(samples["maps"], **options)
    options["layers"] = "down"
    reduced: Any = analyze(samples["maps"], **options)
    whole: Any = analyze(samples["factors"], **options)
    np.testing.assert_allclose(reduced["r2g/tlam"], whole["r2g/tlam"], rtol=1e-6)


def test_a_layer_of_one_token_is_a_similarity_unless_others_share_its_softmax(
    tmp_path: Path,
) -> None:
    layers = [
        replace(LAYERS[3], name=f"{kind}-{others}", representation=kind, other_keys=others)
        for kind in REPRESENTATIONS
        for others in (0, 5)
    ]
    maps: Any = analyze(open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"])
    assert maps["r2g/causal"].values.tolist() == [False, True] * 3
    assert list(maps.children) == ["r2g"]


# --- Single regions.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    reduced = SyntheticLayer("down.reduced", (4, 4), representation="maps")
    layers = [SyntheticLayer("down.whole"), reduced, replace(reduced, name="up.reduced")]
    path = write_run(tmp_path_factory.mktemp("mixed") / "run.zarr", ["a"], layers)
    return open_run(path)["a"]


@pytest.mark.parametrize("region", ["generated", "reference"])
@pytest.mark.parametrize("layers", [None, "down*", ["down*", "*whole"]])
def test_a_request_goes_to_the_layers_that_have_sram(layers: Any, region: str, mixed: Any) -> None:
    at: Any = {region: (9, 9)}
    found = sram(mixed, layers=layers, keep=["layer"], **at)
    assert found["layer"].values.tolist() == ["down.whole"]
    xr.testing.assert_allclose(found, sram(mixed, layers="down.whole", keep=["layer"], **at))


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ("up*", "up.reduced"),
        ("down.reduced", "down.reduced"),
        (["down*", "up.reduced"], "up.reduced"),
        (iter(["*", "down.reduced"]), "down.reduced"),
    ],
)
def test_a_request_to_a_reduced_layer_says_how_to_capture(
    layers: Any, name: str, mixed: Any
) -> None:
    with pytest.raises(
        AnalysisError, match=rf"reduced to maps at capture, at {name} of a\. Capture .*'factors'"
    ):
        sram(mixed, generated=(0, 0), layers=layers)


def test_points_of_a_figure_of_reduced_layers_are_refused(mixed: Any) -> None:
    reduced = mixed.copy()
    reduced["layers"] = reduced["layers"].drop_nodes("down.whole")
    with pytest.raises(AnalysisError, match=r"got none.* reduced to maps: capture with represent"):
        default_points(reduced)
