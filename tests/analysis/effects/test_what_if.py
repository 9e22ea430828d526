from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from i2am.analysis import open_run, what_if
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("factors", (8, 8), (4, 4), 1),
    SyntheticLayer("coarse", (4, 4), (2, 2), 0, heads=1, keys_per_step=True),
    SyntheticLayer("shared", (8, 8), (4, 4), 0, representation="logits", other_keys=3),
    SyntheticLayer("masked", (8, 8), (4, 4), 1, masked=True),
)
# The centres of its tokens lie at 4, 12, 20, 28 of 32, those of the coarse layer's at 8 and 24.
BOX = (0, 0, 18, 30)
ROWS, COLUMNS = {4: (0, 1), 2: (0,)}, {4: (0, 1, 2, 3), 2: (0, 1)}


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("what_if") / "run.zarr"
    return write_run(path, ["a"], LAYERS, steps=3)


@pytest.fixture(scope="module")
def sample(run_path: Path) -> Any:
    return open_run(run_path)["a"]


def expected(layer: Any, scale: float) -> Any:
    """(step, head, y, x): a softmax over all keys, with log(scale) added to the region's logits."""
    own = layer.attrs["i2am"]
    logits = reference_maps.stored_logits(layer)
    side = own["reference_grid"][0]
    tokens = [
        own["special_tokens"] + row * side + column
        for row in ROWS[side]
        for column in COLUMNS[side]
    ]
    if "logsumexp" in layer:  # All other keys as one, with what is left of the sum.
        rest = np.log(np.exp(layer["logsumexp"][:].astype(float)) - np.exp(logits).sum(-1))
        logits = np.concatenate([logits, rest[..., None]], axis=-1)
    with np.errstate(divide="ignore"):
        logits[..., tokens] += np.log(scale)
    mass = reference_maps.softmax(logits, 3)[..., tokens].sum(-1)
    mass *= reference_maps.stored_region(layer)
    rows, columns = own["generated_grid"]
    planes = mass.reshape(*mass.shape[:2], rows, columns)
    return planes.repeat(8 // rows, 2).repeat(8 // columns, 3)


@pytest.mark.parametrize("scale", [0.0, 0.25, 1.0, 5.0])
def test_it_is_what_a_softmax_with_the_scale_in_its_logits_gives(
    run_path: Path, sample: Any, scale: float
) -> None:
    found = what_if(sample, BOX, scale=scale)
    assert found["after"].dims == ("layer", "step", "head", "y", "x")
    assert found["layer"].values.tolist() == [layer.name for layer in LAYERS]
    assert found["y"].values[:2].tolist() == [2, 6]
    for number, layer in enumerate(reference_maps.layer_groups(run_path / "a")):
        for name, own_scale in (("before", 1.0), ("after", scale)):
            wanted = expected(layer, own_scale)
            own = found[name][number, :, : wanted.shape[1]]
            np.testing.assert_allclose(own, wanted, atol=1e-5)
    assert np.isnan(found["after"][1, :, 1]).all()  # The head that the coarse layer lacks.


def test_a_mask_takes_the_tokens_of_its_box_and_lazily(sample: Any) -> None:
    mask = np.zeros((32, 32), bool)
    mask[:18, :30] = True
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        found = what_if(
            sample, mask, scale=2, layers=["factors", "coarse"], steps=[0, 2], grid=(4, 4)
        )
    assert found["after"].sizes == {"layer": 2, "step": 2, "head": 2, "y": 4, "x": 4}
    wanted = what_if(sample, BOX, scale=2, layers=["factors", "coarse"], steps=[0, 2], grid=(4, 4))
    np.testing.assert_array_equal(found["after"], wanted["after"])


def test_where_nothing_else_is_read_a_cut_leaves_nothing(tmp_path: Path) -> None:
    layer = SyntheticLayer("own", (4, 4), (2, 2), 0, representation="logits")
    sample = open_run(write_run(tmp_path / "run.zarr", ["a"], [layer], steps=1))["a"]
    found = what_if(sample, (0, 0, 32, 32))
    np.testing.assert_allclose(found["before"], 1, rtol=1e-6)
    assert np.isfinite(found["after"]).all()
    assert float(found["after"].max()) < 1e-5


@pytest.mark.parametrize(
    ("region", "scale", "message"),
    [
        (BOX, -1.0, "Expected a scale from 0 on, got -1"),
        (BOX, np.inf, "Expected a scale from 0 on, got inf"),
        ((0, 0, 0, 8), 0.0, r"y0 < y1 and x0 < x1, got \[0, 0, 0, 8\]"),
        ((0, 0, 2, 2), 0.0, "holds the centre of a token, got one without any"),
        (np.ones((8, 8), bool), 0.0, "a boolean mask of \\(32, 32\\)"),
    ],
)
def test_regions_without_tokens_and_scales_that_cannot_be_are_refused(
    sample: Any, region: Any, scale: float, message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        what_if(sample, region, scale=scale)
