"""Where numbers are not finite: NaN, and infinity where none has a meaning.

A logit of −inf is a token that a patch may not see, and a logsumexp of −inf a patch that sees none;
any other value that is not finite makes nonsense of all that is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas import AnalysisError
from i2am.schemas.dims import GENERATED, GUIDANCE, HEAD, REFERENCE, STEP

__all__ = [
    "describe_place",
    "find_not_finite",
    "is_all_finite",
    "not_finite",
    "not_finite_error",
]

_PLACES: Final = (GUIDANCE, STEP, HEAD, GENERATED, REFERENCE)
_MAY_BE_MINUS_INFINITY: Final = frozenset({"logits", "logsumexp"})


def is_all_finite(values: NDArray[Any]) -> bool:
    """Return whether all values are finite, from one sum over them.

    Examples
    --------
    >>> is_all_finite(np.array([1.0, 2.0])), is_all_finite(np.array([1.0, np.nan]))
    (True, False)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None)
    # Finite values may have too large a sum.
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def not_finite(name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values of one of a layer's arrays are not finite though they have to be.

    Parameters
    ----------
    name : str
        Of the array, as the contract has it.
    values : array of floats

    Examples
    --------
    >>> not_finite("logits", np.array([-np.inf, np.nan, 1])).tolist()
    [False, True, False]
    >>> not_finite("query", np.array([-np.inf, np.nan, 1])).tolist()
    [True, True, False]
    """
    found: NDArray[np.bool_] = ~np.isfinite(values)
    if name in _MAY_BE_MINUS_INFINITY:
        found &= values != -np.inf
    return found


def find_not_finite(arrays: Mapping[str, NDArray[Any]]) -> tuple[str, tuple[int, ...]] | None:
    """Return name and index of the first value that is not finite; None if all are.

    Examples
    --------
    >>> find_not_finite({"query": np.ones((2, 2)), "key": np.array([[1, np.inf]])})
    ('key', (0, 1))
    """
    for name, values in arrays.items():
        found = not_finite(name, values)
        if found.any():
            return name, tuple(int(at) for at in np.unravel_index(found.argmax(), found.shape))
    return None


def describe_place(at: dict[str, Any]) -> str:
    """Return a place in words, from the labels of its dimensions; channels say nothing.

    Examples
    --------
    >>> describe_place({"step": 3, "head": 0, "generated": 17, "channel": 5})
    'step 3, head 0, generated 17'
    """
    return ", ".join(f"{dim} {at[dim]}" for dim in _PLACES if dim in at)


def not_finite_error(
    layer: str,
    sample: str,
    arrays: Mapping[str, NDArray[Any]],
    dims: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[int]],
) -> AnalysisError:
    """Return what to tell of a result that is not finite: the place of the first input that made it so.

    Parameters
    ----------
    layer, sample : str
        Their names.
    arrays : mapping of str to array
        What the result was made of, by the contract's names.
    dims : mapping of str to sequence of str
        Of each array.
    labels : mapping of dimension to sequence of int
        What the positions along a dimension are called, where that is not their number; of STEP always.
    """
    found = find_not_finite(arrays)
    if found is None:
        came = "a product beyond float32"
        where = f"layer {layer!r} at the steps from {labels[STEP][0]} on"
    else:
        name, index = found
        at = dict(zip(dims[name], index, strict=True))
        at |= {dim: int(own[at[dim]]) for dim, own in labels.items() if dim in at}
        came, where = str(arrays[name][index]), f"{name} of layer {layer!r} at {describe_place(at)}"
    return AnalysisError(
        f"Expected finite numbers, got {came}, in {where}, in sample {sample!r}. "
        "Capture it again; a model that overflows in float16 needs bfloat16 or float32."
    )
