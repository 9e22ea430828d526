"""What the caller of `capture` may choose, checked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from i2am.capture.families.profile import Profile
from i2am.capture.recording.representation import RepresentationOption
from i2am.schemas import SchemaError

__all__ = [
    "DEFAULT_MEMORY_BYTES",
    "CaptureOptions",
    "RecordingSettings",
    "StepsOption",
    "check_choice",
    "head_set",
    "keeps_step",
]

DEFAULT_MEMORY_BYTES = 2 * 2**30


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise SchemaError unless a value is one of the choices."""
    if value not in choices:
        wanted = " or ".join(map(repr, choices))
        msg = f"Expected {name} {wanted}, got {value!r}. Name one of them."
        raise SchemaError(msg)


@dataclass(frozen=True)
class CaptureOptions:
    """What `capture` takes beside target, store and sample; see there."""

    layers: str | Sequence[str] | None = None
    steps: Any = None
    heads: Sequence[int] | None = None
    guidance: Any = "conditional"
    representation: Any = "auto"
    dtype: Any = "float16"
    profile: str | Profile | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    overwrite: bool = False


@dataclass(frozen=True)
class RecordingSettings:
    """What the caller of `capture` chose."""

    store: str
    representation: RepresentationOption
    dtype: np.dtype[Any]
    heads: frozenset[int] | None
    overwrite: bool


def head_set(heads: Sequence[int] | None) -> frozenset[int] | None:
    """Return the heads that are kept; None keeps all.

    Raises
    ------
    SchemaError
        If they are not numbers from 0 on, or none at all.
    """
    if heads is None:
        return None
    wanted = frozenset(heads)
    if wanted and all(isinstance(head, int) and head >= 0 for head in wanted):
        return wanted
    msg = f"Expected heads as a list of numbers from 0 on, got {heads!r}. Name at least one."
    raise SchemaError(msg)


StepsOption = int | slice | range | Sequence[int] | None


def keeps_step(option: StepsOption) -> Callable[[int], bool]:
    """Return whether a step is kept, as a function.

    Parameters
    ----------
    option : int, slice, range, sequence of int or None
        Every n-th step; those of a range; those of a list; all of them.

    Raises
    ------
    SchemaError
        If it is none of these.

    Examples
    --------
    >>> [step for step in range(8) if keeps_step(3)(step)]
    [0, 3, 6]
    >>> [step for step in range(8) if keeps_step(slice(2, 6, 2))(step)]
    [2, 4]
    """
    if option is None:
        return lambda _step: True
    if isinstance(option, int) and not isinstance(option, bool) and option > 0:
        return lambda step: step % option == 0
    if isinstance(option, slice):
        first, stride = option.start or 0, option.step or 1
        if first >= 0 and stride > 0 and (option.stop is None or option.stop >= 0):
            stop = option.stop
            return lambda step: (
                step >= first and (stop is None or step < stop) and (step - first) % stride == 0
            )
    elif isinstance(option, list | tuple | range) and len(option):
        wanted = frozenset(option)
        if all(isinstance(step, int) and step >= 0 for step in wanted):
            return wanted.__contains__
    msg = (
        f"Expected steps as a number n (every n-th), a slice, a range or a list of steps from 0 "
        f"on, got {option!r}. Give one of these."
    )
    raise SchemaError(msg)
