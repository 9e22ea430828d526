"""What a check needs to know of a store: names, attributes, dimensions, shapes, dtypes.

Whoever can read a store describes it in these terms, so a check needs no storage library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ArrayDescription", "Fault", "GroupDescription"]


@dataclass(frozen=True)
class ArrayDescription:
    """What an array's metadata tells.

    Examples
    --------
    >>> ArrayDescription(("y", "x"), (64, 64), "uint8").shape
    (64, 64)
    """

    dims: tuple[str | None, ...] | None
    shape: tuple[int, ...]
    dtype: str
    values: tuple[Any, ...] | None = None  # of short coordinates
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupDescription:
    """What a group's metadata tells, and its members. `groups` may load each one when asked.

    Of one that cannot be read `unreadable` says why, and nothing else is known.

    Examples
    --------
    >>> mask = ArrayDescription(("y", "x"), (64, 64), "uint8")
    >>> list(GroupDescription({}, arrays={"inpainting_mask": mask}).arrays)
    ['inpainting_mask']
    """

    attributes: Mapping[str, Any]
    arrays: Mapping[str, ArrayDescription] = field(default_factory=dict)
    groups: Mapping[str, GroupDescription] = field(default_factory=dict)
    unreadable: str | None = None


@dataclass(frozen=True)
class Fault:
    """One way in which a store breaks the contract.

    Examples
    --------
    >>> str(Fault("shirt-001/images", "expected 'generated', got none"))
    "shirt-001/images: expected 'generated', got none"
    """

    place: str
    message: str

    def __str__(self) -> str:
        # A name in a stranger's store may hold what moves a terminal's cursor.
        return "".join(map(_shown, f"{self.place or '/'}: {self.message}"))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
