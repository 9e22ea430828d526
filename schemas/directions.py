"""The two questions that are asked of attention, and what belongs to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from i2am.schemas.dims import GENERATED_PLANE, REFERENCE_PLANE

__all__ = ["DIRECTIONS", "G2R", "R2G", "Direction", "DirectionName"]

DirectionName = Literal["r2g", "g2r"]


@dataclass(frozen=True)
class Direction:
    """One direction of attribution.

    Parameters
    ----------
    name : "r2g" or "g2r"
        As a maps store names its group.
    plane : (str, str)
        Dimensions of its maps.
    image : str
        The stored image that its maps lie over.
    mask : str
        The stored mask that they are held against.
    imacs : str
        Name of its IMACS score.
    meaning : str
        In words, for a heading.
    """

    name: DirectionName
    plane: tuple[str, str]
    image: str
    mask: str
    imacs: str
    meaning: str


R2G: Final = Direction(
    "r2g",
    GENERATED_PLANE,
    "generated",
    "inpainting_mask",
    "imacs_g",
    "R2G: generated regions that use the reference",
)
G2R: Final = Direction(
    "g2r",
    REFERENCE_PLANE,
    "reference",
    "reference_mask",
    "imacs_r",
    "G2R: parts of the reference that were used",
)
DIRECTIONS: Final[Mapping[DirectionName, Direction]] = MappingProxyType({"r2g": R2G, "g2r": G2R})
