"""The compiled way of `arithmetic`; importing this module compiles it, or loads it from the cache.

Numba makes vector instructions of the loops, which NumPy's calls, one operation each, cannot fuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.polynomial import Polynomial, chebyshev
from numpy.typing import NDArray

__all__ = ["column_sums", "exponentials", "read_halves"]

_ZERO: Final = np.float32(0)
_ONE: Final = np.float32(1)
_LOG2_E: Final = np.float32(1.44269504)
# Added and subtracted again, it leaves the nearest integer, which then is in the lowest bits.
_ROUND: Final = np.float32(1.5 * 2**23)
# Two parts of log(2), so that a product of the first with a small integer is exact in float32.
_LOG_2_HIGH: Final = np.float32(0.693359375)
_LOG_2_LOW: Final = np.float32(np.log(2) - 0.693359375)
# (exp(r) - 1 - r) / r² as a polynomial, where r is what rounding leaves: at most log(2) / 2.
_POINTS: Final = np.log(2) / 2 * chebyshev.chebpts1(64)
_SERIES: Final = tuple(
    Polynomial.fit(_POINTS, (np.expm1(_POINTS) - _POINTS) / _POINTS**2, 4)
    .convert()
    .coef.astype(np.float32)
)
_MANTISSA_BITS: Final = np.int32(23)
_BIAS: Final = np.int32(127)
# Float32's exponentials end here: below is 0, and above a sum is too large to be used.
_LOWEST, _HIGHEST = np.float32(-127 * np.log(2)), np.float32(88)

# Sums may be taken in any order; nothing else may be changed, since the rounding is meant.
_IN_ANY_ORDER: Final = {"reassoc", "contract"}


Function = TypeVar("Function", bound=Callable[..., Any])
# What it makes is called without the first argument, which is the compiler's.
_instruction: Callable[[Callable[[Any, Any], Any]], Callable[[Any], Any]] = intrinsic


@_instruction
def _bits(_: Any, __: Any) -> Any:
    """Return the bits of a float32 as an integer."""

    def build(_: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.IntType(32))

    return numba.int32(numba.float32), build


@_instruction
def _number(_: Any, __: Any) -> Any:
    """Return the float32 that has these bits."""

    def build(_: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return numba.float32(numba.int32), build


@_instruction
def _half(_: Any, __: Any) -> Any:
    """Return the float32 of a float16's bits, for which processors have an instruction."""

    def build(_: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), build


def _compile(signature: str, **options: Any) -> Callable[[Function], Function]:
    def compile_function(function: Function) -> Function:
        try:
            compiled: Function = numba.njit(signature, nogil=True, cache=True, **options)(function)
        except RuntimeError:  # Nowhere to keep it: neither beside the module nor in a home.
            compiled = numba.njit(signature, nogil=True, **options)(function)
        return compiled

    return compile_function


@_compile("float32(float32)", fastmath={"contract"})
def _exponential(x: Any) -> Any:
    # exp(x) = 2^n · exp(r), with n the integer nearest to x / log(2); the polynomial gives exp(r). NaN is
    # neither below nor above, and stays what it is.
    bounded = _LOWEST if x < _LOWEST else x
    bounded = _HIGHEST if bounded > _HIGHEST else bounded
    rounded = bounded * _LOG2_E + _ROUND
    n = rounded - _ROUND
    r = (bounded - n * _LOG_2_HIGH) - n * _LOG_2_LOW
    p = _SERIES[4]
    p = p * r + _SERIES[3]
    p = p * r + _SERIES[2]
    p = p * r + _SERIES[1]
    p = p * r + _SERIES[0]
    # The bits of a power of two are its exponent, plus 127: none are left where n is -127.
    power = _number((_bits(rounded) + _BIAS) << _MANTISSA_BITS)
    return (p * (r * r) + r + _ONE) * power


@_compile("float32(float32[:,:,::1], intp, intp)", fastmath=_IN_ANY_ORDER)
def _take_row(values: Any, matrix: Any, row: Any) -> Any:
    """Take the exponential of a row in place; return its sum."""
    total = _ZERO
    for token in range(values.shape[2]):
        own = _exponential(values[matrix, row, token])
        values[matrix, row, token] = own
        total += own
    return total


@_compile("float32[:,::1](float32[:,:,::1])", fastmath=_IN_ANY_ORDER)
def exponentials(values: Any) -> Any:
    """Take the exponential of a tile (n, rows, R), float32, in place; return the sums (n, rows) of its rows.

    Up to 88, to 2e-7 of each; above, as of 88, and the sum is then too large to be used. Below -87 it is 0.
    """
    matrices, rows, _ = values.shape
    sums = np.empty((matrices, rows), np.float32)
    for matrix in range(matrices):
        for row in range(rows):
            sums[matrix, row] = _take_row(values, matrix, row)
    return sums


@_compile(
    "Tuple((float32[:,::1], float32[:,::1], float32[:,::1]))"
    "(float32[:,:,::1], float32[:,::1], float32[:,::1], boolean)",
    fastmath=_IN_ANY_ORDER,
)
def column_sums(values: Any, factors: Any, others: Any, is_share: Any) -> Any:
    """Take the exponential in place; return the sums of rows, and of columns with two weights for each row.

    Four rows at a time, while they are in the nearest cache: a quarter of the reads of the sums so far.
    """
    matrices, rows, tokens = values.shape
    sums = np.empty((matrices, rows), np.float32)
    found = np.zeros((matrices, tokens), np.float32)
    other = np.zeros((matrices, tokens), np.float32)
    weight, other_weight = np.zeros(4, np.float32), np.zeros(4, np.float32)
    for matrix in range(matrices):
        for start in range(0, rows, 4):
            for place in range(4):
                row = start + place
                if row >= rows:  # The last one stands for it, without weight.
                    weight[place] = other_weight[place] = _ZERO
                    continue
                sums[matrix, row] = total = _take_row(values, matrix, row)
                weight[place] = factors[matrix, row]
                if is_share:
                    weight[place] = weight[place] / total if total > _ZERO else _ZERO
                other_weight[place] = others[matrix, row]
            last = rows - 1
            second, third, fourth = min(start + 1, last), min(start + 2, last), min(start + 3, last)
            wa, wb, wc, wd = weight[0], weight[1], weight[2], weight[3]
            oa, ob = other_weight[0], other_weight[1]
            oc, od = other_weight[2], other_weight[3]
            for token in range(tokens):
                a, b = values[matrix, start, token], values[matrix, second, token]
                c, d = values[matrix, third, token], values[matrix, fourth, token]
                found[matrix, token] += wa * a + wb * b + wc * c + wd * d
                other[matrix, token] += oa * a + ob * b + oc * c + od * d
    return sums, found, other


@_compile("void(uint16[::1], float32[::1])")
def _read_halves(source: Any, target: Any) -> None:
    for index in range(source.size):
        target[index] = _half(source[index])


def read_halves(source: NDArray[np.float16], target: NDArray[np.float32]) -> None:
    """Write a float16 array into a float32 one of the same shape; both are contiguous."""
    _read_halves(source.reshape(-1).view(np.uint16), target.reshape(-1))
