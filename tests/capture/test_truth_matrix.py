"""A tenth of the truth matrix; `tools/truth_matrix.py` tries all of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.support.truth_matrix import Situation, draw_situations, try_situation

COUNT = 640


@pytest.mark.parametrize("situation", draw_situations(COUNT)[::10], ids=str)
def test_a_complete_sample_is_what_the_kernels_computed(
    situation: Situation, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = try_situation(situation, tmp_path / "run.zarr")
    assert outcome.verdict in ("right", "refused"), outcome.reason
