"""NaN and infinity in what a layer stores are told with their place; they never become a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import analyze, open_run, sram
from i2am.analysis.inspection.finite import iter_not_finite
from i2am.analysis.maps.live_sram import LiveSram
from i2am.cli import main
from i2am.schemas import AnalysisError
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("factors.attn2", (4, 4), (2, 2), keys_per_step=True),
    SyntheticLayer("logits.attn2", (4, 4), (2, 2), representation="logits", other_keys=3),
    SyntheticLayer("maps.attn2", (4, 4), (2, 2), representation="maps"),
)
# array, index (step, head, token[, channel or token]), value, what the message tells
CASES = [
    ("factors.attn2/query", (2, 1, 5, 3), np.nan, "nan, in query.*step 2, head 1, generated 5,"),
    ("factors.attn2/query", (2, 1, 5, 3), np.inf, "inf, in query.*step 2, head 1, generated 5,"),
    ("factors.attn2/key", (1, 0, 3, 0), -np.inf, "-inf, in key.*step 1, head 0, reference 3,"),
    ("logits.attn2/logits", (3, 1, 15, 2), np.nan, "nan, in logits.*step 3, head 1, generated 15"),
    ("logits.attn2/logits", (0, 0, 0, 0), np.inf, "inf, in logits.*step 0, head 0, generated 0"),
    ("logits.attn2/logsumexp", (0, 1, 7), np.nan, "nan, in logsumexp.*step 0, head 1, generated 7"),
    ("maps.attn2/r2g", (1, 1, 9), np.nan, "nan, in r2g.*step 1, head 1, generated 9,"),
    ("maps.attn2/g2r", (1, 1, 2), np.inf, "inf, in g2r.*step 1, head 1, reference 2,"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.zarr", ["shirt"], LAYERS)


def _put(run: Path, array: str, index: tuple[int, ...], value: float) -> None:
    stored: Any = zarr.open_group(run, mode="r+")[f"shirt/layers/{array}"]
    stored[index] = value


@pytest.mark.parametrize(("array", "index", "value", "told"), CASES)
def test_a_value_that_is_not_finite_is_told_with_its_place(
    run: Path, array: str, index: tuple[int, ...], value: float, told: str
) -> None:
    _put(run, array, index, value)
    sample = open_run(run)["shirt"]
    layer = array.partition("/")[0]
    with pytest.raises(AnalysisError, match=rf"{told}.* in sample 'shirt'") as raised:
        analyze(sample, layers=layer)["r2g/ulam"].compute()
    assert layer in str(raised.value)
    (fault,) = iter_not_finite(sample)
    assert fault.place == f"shirt/layers/{array}"
    assert fault.message.startswith(f"expected finite numbers, got {value} at step {index[0]}")


def test_deep_validation_tells_them_with_their_places(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(run), "--deep"]) == 0
    _put(run, "factors.attn2/query", (2, 1, 5, 3), np.nan)
    _put(run, "maps.attn2/g2r", (1, 1, 2), np.inf)
    capsys.readouterr()
    assert main(["validate", str(run), "--deep"]) == 1
    told = capsys.readouterr().out
    assert "factors.attn2/query: expected finite numbers, got nan at step 2, head 1" in told
    assert "maps.attn2/g2r: expected finite numbers, got inf at step 1, head 1" in told


def test_all_factors_of_a_patch_that_are_minus_infinity_are_no_mask(run: Path) -> None:
    stored: Any = zarr.open_group(run, mode="r+")["shirt/layers/factors.attn2"]
    stored["key"][...] = np.abs(stored["key"][...])
    stored["query"][1, 0, 4] = -np.inf  # Each of its logits is -inf, as if it saw no token.
    with pytest.raises(AnalysisError, match=r"-inf, in query.*step 1, head 0, generated 4,"):
        analyze(open_run(run)["shirt"], layers="factors.attn2")["g2r/ulam"].compute()


def test_all_factors_of_a_token_that_are_minus_infinity_are_no_mask(run: Path) -> None:
    stored: Any = zarr.open_group(run, mode="r+")["shirt/layers/factors.attn2"]
    stored["query"][...] = np.abs(stored["query"][...])
    stored["key"][1, 0, 2] = -np.inf
    with pytest.raises(AnalysisError, match=r"-inf, in key.*step 1, head 0, reference 2,"):
        analyze(open_run(run)["shirt"], layers="factors.attn2")["r2g/ulam"].compute()


def test_a_logit_of_minus_infinity_is_a_mask(run: Path) -> None:
    _put(run, "logits.attn2/logits", (0, 0, 0, 0), -np.inf)
    sample = open_run(run)["shirt"]
    assert np.isfinite(analyze(sample, layers="logits.attn2")["r2g/ulam"]).all()
    assert list(iter_not_finite(sample)) == []


@pytest.mark.parametrize("convention", ["i2am", "official"])
def test_the_label_of_the_step_is_told_and_not_its_number(run: Path, convention: Any) -> None:
    _put(run, "factors.attn2/query", (3, 1, 5, 3), np.nan)
    maps = analyze(open_run(run)["shirt"], layers="factors.attn2", steps=[1, 3], heads=1,
                   convention=convention)  # fmt: skip
    with pytest.raises(AnalysisError, match="step 3, head 1, generated 5"):
        maps["r2g/ulam"].compute()


def test_sram_of_such_values_is_refused_too(run: Path) -> None:
    _put(run, "factors.attn2/query", (2, 1, 5, 3), np.nan)
    sample = open_run(run)["shirt"]
    place = (
        r"nan, in query of layer 'factors.attn2' at step 2, head 1, generated 5, in sample 'shirt'"
    )
    asked: Any = {"generated": (8, 8), "layers": "factors.attn2"}
    for keep in ((), ("step",)):  # read at once, and by blocks
        with pytest.raises(AnalysisError, match=place):
            sram(sample, **asked, keep=keep).compute()
    with pytest.raises(AnalysisError, match=place):
        list(LiveSram(sample).ask(**asked))
