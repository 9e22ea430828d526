"""What a block of attention takes longest for: exponentials, and reading float16. By NumPy or compiled.

NumPy is the reference, and what runs at first. Once a process has done so much work that loading a
compiler pays, a thread loads `compiled` (Numba; the machine code is kept on disk, beside the module or in
the user's cache), and what is asked for from then on is compiled. Both give the same to some 1e-7. The
environment variable ``I2AM_ARITHMETIC`` chooses: ``numpy``, ``compiled`` (waits until it is loaded), or
``auto``, the default. Without Numba it is always NumPy.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from i2am.schemas import AnalysisError

__all__ = ["Choice", "as_float32", "sum_columns", "take_exponentials", "use_arithmetic"]

Choice = Literal["auto", "numpy", "compiled"]
Floats = NDArray[np.float32]

_VARIABLE: Final = "I2AM_ARITHMETIC"
# Of exponentials: about as long as loading Numba and the compiled code takes.
_WORTH_LOADING: Final = 500_000_000


class Arithmetic(NamedTuple):
    """One way to do all three."""

    # In place; returns the sums over the last axis of an array (n, rows, R), float32 and contiguous.
    exponentials: Callable[[Floats], Floats]
    # The same, and two weighted sums over the rows; see `sum_columns`.
    column_sums: Callable[[Floats, Floats, Floats, bool], tuple[Floats, Floats, Floats]]
    # Of contiguous float16 arrays of the same shape: source and target.
    read_halves: Callable[[NDArray[np.float16], Floats], None]


def take_exponentials(values: Floats) -> Floats:
    """Take the exponential of a tile (n, rows, R) in place; return the sums (n, rows) of its rows.

    Where float32 overflows, the sum is too large to be used (over 1e38, infinite or NaN).
    """
    return _STATE.after(values.size).exponentials(values)


def sum_columns(
    values: Floats, factors: Floats, others: Floats, *, is_share: bool
) -> tuple[Floats, Floats, Floats]:
    """Take the exponential of a tile in place, and sum it over its columns and, twice, over its rows.

    Parameters
    ----------
    values : array (n, rows, R), float32, contiguous
    factors, others : array (n, rows), float32
        The weights of the rows in the two sums over the rows.
    is_share : bool
        Whether the rows' shares are summed by the first weights: each is divided by its own sum. A row
        whose sum is 0 adds nothing.

    Returns
    -------
    sums : array (n, rows)
    found, other : array (n, R)
        The two sums over the rows, by `factors` and by `others`.
    """
    return _STATE.after(values.size).column_sums(values, factors, others, is_share)


def as_float32(values: NDArray[Any], out: Floats | None = None) -> Floats:
    """Return an array in float32, written into `out` if that is given; else the same one if it is that already."""
    if out is None:
        if values.dtype == np.float32:
            return values
        out = np.empty(values.shape, np.float32)
    if values.dtype == np.float16 and values.flags.c_contiguous and out.flags.c_contiguous:
        _STATE.after(0).read_halves(values, out)
    else:
        np.copyto(out, values, casting="same_kind")
    return out


@contextmanager
def use_arithmetic(choice: Choice) -> Iterator[None]:
    """Have one way in this process while the context is open, whatever the environment says.

    Parameters
    ----------
    choice : "auto", "numpy" or "compiled"

    Raises
    ------
    AnalysisError
        If Numba, which was asked for, is missing or does not work.
    """
    before = _STATE.choice
    _STATE.choose(choice)
    try:
        yield
    finally:
        _STATE.choose(before)


def _numpy_exponentials(values: Floats) -> Floats:
    # Infinite terms show in their sum; some BLAS multiply the padding by zero. A matrix-vector
    # product is the fastest way to the sums.
    with np.errstate(over="ignore", invalid="ignore"):
        np.exp(values, out=values)
        sums: Floats = (values @ np.ones((values.shape[2], 1), np.float32))[..., 0]
    return sums


def _numpy_column_sums(
    values: Floats, factors: Floats, others: Floats, is_share: bool
) -> tuple[Floats, Floats, Floats]:
    sums = _numpy_exponentials(values)
    with np.errstate(over="ignore", invalid="ignore"):
        if is_share:
            factors = np.divide(factors, sums, out=np.zeros_like(sums), where=sums > 0)
        found, other = ((weights[:, None] @ values)[:, 0] for weights in (factors, others))
    return sums, found, other


def _numpy_read_halves(source: NDArray[np.float16], target: Floats) -> None:
    np.copyto(target, source)


_NUMPY: Final = Arithmetic(_numpy_exponentials, _numpy_column_sums, _numpy_read_halves)


class _State:
    """Which way is used now, and when a compiled one is loaded."""

    def __init__(self) -> None:
        self.choice: Choice = "auto"
        self._lock = threading.Lock()
        self._now = _NUMPY
        self._compiled: Arithmetic | None = None
        self._left = float(_WORTH_LOADING)  # inf: nothing is to be loaded any more
        self._is_chosen = False

    def after(self, count: int) -> Arithmetic:
        """Return the way for so many more exponentials."""
        if not self._is_chosen:
            self._choose_by_environment()
        self._left -= count
        if self._left < 0:
            self._load_soon()
        return self._now

    def choose(self, choice: Choice) -> None:
        """Use one way from now on."""
        with self._lock:
            self.choice, self._is_chosen = choice, True
            self._left = float(_WORTH_LOADING) if choice == "auto" else np.inf
            self._now = _NUMPY
            if choice == "compiled":
                self._now = self._load()
            elif choice == "auto" and self._compiled is not None:
                self._now, self._left = self._compiled, np.inf

    def _choose_by_environment(self) -> None:
        choice = os.environ.get(_VARIABLE, "auto")
        for one in get_args(Choice):
            if choice == one:
                self.choose(one)
                return
        msg = (
            f"Expected {' or '.join(get_args(Choice))}, got {choice!r}, in the environment variable "
            f"{_VARIABLE}. Set it to one of them, or not at all."
        )
        raise AnalysisError(msg)

    def _load_soon(self) -> None:
        with self._lock:
            if self._left < 0:
                self._left = np.inf
                # A thread that no process waits for: it may be in the middle of compiling.
                threading.Thread(
                    target=self._load_for_auto, name="i2am-compile", daemon=True
                ).start()

    def _load_for_auto(self) -> None:
        try:
            compiled = self._load()
        except AnalysisError:
            return  # NumPy goes on.
        with self._lock:
            if self.choice == "auto":
                self._now = compiled

    def _load(self) -> Arithmetic:
        if self._compiled is None:
            try:
                module = importlib.import_module("i2am.analysis.kernel.compiled")
                self._compiled = Arithmetic(
                    module.exponentials, module.column_sums, module.read_halves
                )
            except Exception as error:
                msg = (
                    f"Expected Numba, got {type(error).__name__}: {error}. Install it (pip install numba), "
                    f"or set {_VARIABLE}=numpy."
                )
                raise AnalysisError(msg) from error
        return self._compiled


_STATE: Final = _State()
