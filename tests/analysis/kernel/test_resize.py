from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2am.analysis.kernel.resize import bicubic_matrix, resize
from i2am.analysis.scores.imacs import normalise
from tests.support import reference_maps

sizes = st.integers(1, 17)


@settings(deadline=None, max_examples=60)
@given(height=sizes, width=sizes, new_height=sizes, new_width=sizes)
def test_resize_does_what_torch_does(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    maps = np.random.default_rng(height * width).normal(size=(2, 3, height, width))
    wanted = reference_maps.resize(maps, (new_height, new_width))
    np.testing.assert_allclose(resize(maps, (new_height, new_width)), wanted, atol=1e-12)


def test_resize_keeps_float32_within_its_precision() -> None:
    maps = np.random.default_rng(0).random((5, 12, 9), dtype=np.float32)
    resized = resize(maps, (64, 48))
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, reference_maps.resize(maps, (64, 48)), atol=1e-6)


def test_resize_to_the_same_grid_changes_nothing() -> None:
    maps = np.random.default_rng(0).random((3, 4))
    assert resize(maps, (3, 4)) is maps


@pytest.mark.parametrize(("size", "wanted"), [(4, 9), (9, 4), (1, 5)])
def test_each_row_of_the_matrix_sums_to_one(size: int, wanted: int) -> None:
    np.testing.assert_allclose(bicubic_matrix(size, wanted).sum(axis=1), 1)


def test_a_constant_map_normalises_to_zero() -> None:
    assert not normalise(np.full((3, 3), 0.7)).any()
