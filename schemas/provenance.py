"""Facts of a sample's provenance, checked when they are given and not when they are written.

They are stored as JSON, in the metadata that also say whether a sample is complete. What JSON cannot
hold (bytes, NaN, another library's numbers) would stop the last write, and leave the sample incomplete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from i2am.schemas.attributes import CaptureAttributes
from i2am.schemas.coordinates import is_printable
from i2am.schemas.errors import SchemaError, describe_validation_error

__all__ = ["check_facts", "find_json_fault"]

# What the capture itself says of a sample.
_OWN: Final = ("kind", "schema", "status", "error", "objects", "digest")
_DEEPEST: Final = 20
_MOST_BITS: Final = 64
_SHOWN_CHARACTERS: Final = 60
# A valid value of each field of the provenance, in whose place those that are given are checked.
_VALID: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("pipeline", "model", "profile", "dtype", "device", "created"), ""),
    **dict.fromkeys(("revision", "scheduler", "steps", "guidance_scale", "seed")),
    "status": "running",
    "versions": {},
}


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse facts that cannot be stored with a sample.

    Parameters
    ----------
    facts : mapping of str to object

    Raises
    ------
    SchemaError
        If a value is no text, finite number, true, false, None, or a list or mapping of these; if a
        name has control characters, or is one that the capture itself writes; if a fact of the
        contract has another type.

    Examples
    --------
    >>> check_facts({"seed": 7, "labels": {"size": "M"}})
    >>> check_facts({"labels": {"size": b"M"}})
    Traceback (most recent call last):
    ...
    i2am.schemas.errors.SchemaError: Expected facts as JSON can hold them, got bytes b'M', at labels.size. Give texts, finite numbers, lists and mappings of these.
    """
    for name, value in facts.items():
        if name in _OWN:
            msg = f"Expected facts of the user's, got {name!r}, which the capture itself writes. Rename it."
            raise SchemaError(msg)
        if (fault := find_json_fault({name: value})) is not None:
            msg = (
                f"Expected facts as JSON can hold them, got {fault}. Give texts, finite numbers, lists "
                "and mappings of these."
            )
            raise SchemaError(msg)
    try:
        CaptureAttributes.model_validate({**_VALID, **facts})
    except ValidationError as e:
        error = e.errors()[0]
        place = ".".join(str(part) for part in error["loc"])
        msg = f"Expected a fact of another kind at {place}: {describe_validation_error(error)}. Mend it."
        raise SchemaError(msg) from e


def find_json_fault(value: object, place: str = "", depth: int = 0) -> str | None:
    """Return what of a value JSON cannot hold, and where; None if it can hold all of it.

    Examples
    --------
    >>> find_json_fault({"sizes": [1, float("nan")]}), find_json_fault([1, "M", None])
    ('nan, at sizes.1', None)
    """
    where = f", at {place}" if place else ""
    if value is None:
        return None
    if isinstance(value, int):  # Others read it into 64 bits, and Python writes no longer ones.
        bits = value.bit_length()
        return f"a whole number of {bits} bits{where}" if bits > _MOST_BITS else None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value!r}{where}"
    if isinstance(value, str):
        return f"a text that is not Unicode, {value!r:.60}{where}" if _is_broken(value) else None
    if not isinstance(value, list | tuple | Mapping):
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
        return f"{type(value).__name__} {shown}{where}"
    if depth == _DEEPEST:
        return f"more than {_DEEPEST} lists and mappings in one another{where[:_SHOWN_CHARACTERS]}"
    members = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, member in members:
        if isinstance(value, Mapping) and (not isinstance(name, str) or not is_printable(name)):
            return f"the name {name!r}{where}"
        fault = find_json_fault(member, f"{place}.{name}".lstrip("."), depth + 1)
        if fault is not None:
            return fault
    return None


def _is_broken(text: str) -> bool:
    """Return whether a text holds half a character, which UTF-8 has not."""
    return any("\ud800" <= character <= "\udfff" for character in text)
