"""What may go wrong on a machine that nobody has tried, and must not take the other figures along."""

from __future__ import annotations

from i2am.schemas import I2AMError

__all__ = ["EXPECTED", "reason_of"]

# Too little memory and missing compilers are RuntimeErrors; packages of other versions all the rest.
EXPECTED = (
    *(I2AMError, RuntimeError, ImportError, OSError),
    *(AttributeError, KeyError, TypeError, ValueError),
)


def reason_of(error: BaseException) -> str:
    """Return an error as one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
