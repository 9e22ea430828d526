from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis.kernel import arithmetic
from i2am.analysis.kernel.arithmetic import (
    as_float32,
    sum_columns,
    take_exponentials,
    use_arithmetic,
)
from i2am.analysis.kernel.logits import FactoredLogits
from i2am.analysis.kernel.softmax import directional_means
from i2am.schemas import AnalysisError

pytestmark = pytest.mark.usefixtures("each_way")


def _tile(*shape: int, seed: int = 0, spread: float = 15) -> Any:
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 2, 257), (3, 7, 64), (1, 64, 1000)])
def test_exponentials_and_their_sums_are_those_of_float64(shape: tuple[int, ...]) -> None:
    logits = _tile(*shape)
    true = np.exp(logits.astype(np.float64))
    sums = take_exponentials(values := logits.copy())
    np.testing.assert_allclose(values, true, rtol=3e-7)
    np.testing.assert_allclose(sums, true.sum(-1), rtol=2e-6)


def test_every_number_that_float32_can_take_the_exponential_of() -> None:
    logits = np.linspace(-87.3, 87.9, 400_001, dtype=np.float32)
    take_exponentials(values := logits.reshape(1, 1, -1).copy())
    np.testing.assert_allclose(values.ravel(), np.exp(logits.astype(np.float64)), rtol=3e-7)
    assert (np.diff(values.ravel()) >= -3e-7 * values.ravel()[1:]).all()


def test_what_is_hidden_is_zero_and_what_is_too_high_shows_in_the_sum() -> None:
    values = np.array(
        [[[-np.inf, 0, -200], [-np.inf] * 3, [0, 100, 0], [np.inf, 0, 0]]], np.float32
    )
    sums = take_exponentials(values)
    assert values[0, 0].tolist() == [0, 1, 0]
    assert sums[0, :2].tolist() == [1, 0]
    assert (sums[0, 2:] > 1e37).all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0xFF80FFFF])
def test_no_number_stays_none(bits: int) -> None:
    values = np.zeros((1, 2, 19), np.float32)
    values.view(np.uint32)[0, 1, 7] = bits
    sums = take_exponentials(values)
    assert np.isnan(values[0, 1, 7])
    assert np.isnan(values).sum() == 1
    assert np.isnan(sums).tolist() == [[False, True]]


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("is_share", [True, False])
def test_columns_are_summed_by_both_weights(rows: int, is_share: bool) -> None:
    rng = np.random.default_rng(1)
    logits = _tile(3, rows, 37, spread=2)
    factors, others = rng.random((2, 3, rows), np.float32)
    true = np.exp(logits.astype(np.float64))
    shares = true / true.sum(-1, keepdims=True) if is_share else true
    sums, found, other = sum_columns(values := logits.copy(), factors, others, is_share=is_share)
    np.testing.assert_allclose(values, true, rtol=3e-7)
    np.testing.assert_allclose(sums, true.sum(-1), rtol=1e-6)
    np.testing.assert_allclose(found, (shares * factors[..., None]).sum(1), rtol=1e-6)
    np.testing.assert_allclose(other, (true * others[..., None]).sum(1), rtol=1e-6)


def test_a_row_of_which_nothing_is_seen_adds_nothing() -> None:
    logits = np.zeros((1, 3, 4), np.float32)
    logits[0, 1] = -np.inf
    ones = np.ones((1, 3), np.float32)
    sums, found, other = sum_columns(logits, ones, ones, is_share=True)
    assert sums.tolist() == [[4, 0, 4]]
    assert found.tolist() == [[0.5] * 4]
    assert other.tolist() == [[2] * 4]


@pytest.mark.parametrize("step", [1, 2])
def test_every_float16_is_read_as_it_is(step: int) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)[::step].reshape(2, -1, 8)
    found = as_float32(every)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, every.astype(np.float32))
    np.testing.assert_array_equal(as_float32(every, np.empty(every.shape, np.float32)), found)
    wide = np.zeros((2, every.shape[1], 16), np.float32)
    as_float32(every, wide[..., ::2])
    np.testing.assert_array_equal(wide[..., ::2], found)


def test_float32_is_not_copied() -> None:
    values = _tile(2, 3)
    assert as_float32(values) is values


def test_both_ways_make_the_same_maps() -> None:
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((4, count, 40)).astype(np.float16) for count in (1001, 257))
    maps = {}
    for choice in ("numpy", "compiled"):
        with use_arithmetic(choice):
            maps[choice] = directional_means(FactoredLogits(query, key, 0.16))
    np.testing.assert_allclose(maps["compiled"].r2g, maps["numpy"].r2g, rtol=2e-6)
    np.testing.assert_allclose(maps["compiled"].g2r, maps["numpy"].g2r, rtol=5e-6)
    assert (maps["compiled"].r2g != maps["numpy"].r2g).any()  # They are two ways.


def test_little_work_is_done_by_numpy_and_much_loads_the_compiled_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("I2AM_ARITHMETIC", raising=False)
    state = arithmetic._State()
    assert state.after(1000).exponentials is arithmetic._NUMPY.exponentials
    state.after(arithmetic._WORTH_LOADING)
    for thread in threading.enumerate():
        if thread.name == "i2am-compile":
            thread.join()
    assert state.after(1).exponentials is not arithmetic._NUMPY.exponentials


@pytest.mark.parametrize("choice", ["numpy", "compiled"])
def test_the_environment_chooses(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2AM_ARITHMETIC", choice)
    state = arithmetic._State()
    way = state.after(10 * arithmetic._WORTH_LOADING)
    assert (way.exponentials is arithmetic._NUMPY.exponentials) == (choice == "numpy")


def test_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2AM_ARITHMETIC", "cuda")
    with pytest.raises(
        AnalysisError, match=r"auto or numpy or compiled, got 'cuda'.*I2AM_ARITHMETIC"
    ):
        arithmetic._State().after(1)


def test_without_numba_all_is_done_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "i2am.analysis.kernel.compiled", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    state = arithmetic._State()
    state._load_for_auto()
    assert state.after(1) is arithmetic._NUMPY
    with pytest.raises(AnalysisError, match="Expected Numba, got ModuleNotFoundError"):
        state.choose("compiled")


def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "compiled_copy.py"
    copy.write_bytes(Path(arithmetic.__file__).with_name("compiled.py").read_bytes())
    (tmp_path / "__pycache__").write_text("")  # A file, where a folder is wanted; so is its home.
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "__pycache__"))
    module = _imported(copy)
    values = np.zeros((1, 1, 3), np.float32)
    assert module.exponentials(values).tolist() == [[3]]


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
