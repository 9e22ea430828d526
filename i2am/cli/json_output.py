"""Results as JSON on standard output, for programs: one document, numbers as numbers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["add_json", "print_json", "to_json"]


def add_json(command: Any) -> None:
    """Add the option that asks for JSON in place of text."""
    command.add_argument(
        "--json", action="store_true", help="print one JSON document instead of text"
    )


def print_json(value: Any) -> None:
    """Print a value as one JSON document."""
    sys.stdout.write(json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """Return a value as JSON can hold it: what is no number is null, what is unknown is its text.

    Examples
    --------
    >>> to_json({"mean": float("nan"), "grid": (8, 6)})
    {'mean': None, 'grid': [8, 6]}
    """
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays.
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_json(own) for key, own in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [to_json(own) for own in value]
    return str(value)
