"""The attribute models: what ``attrs["i2am"]`` of each group holds.

Stored under one key, so that other tools' attributes (xarray's ``coordinates``, say) stay out of
the way. Models are frozen; unknown keys are kept, because provenance grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from i2am.schemas.boxes import Box
from i2am.schemas.choices import Convention, Normalisation, Representation
from i2am.schemas.errors import StoreError

__all__ = [
    "ATTRIBUTE_KEY",
    "SCHEMA_VERSION",
    "AverageAttributes",
    "AverageGroupAttributes",
    "CaptureAttributes",
    "DifferencesAttributes",
    "EffectsAttributes",
    "ImageAttributes",
    "LayerAttributes",
    "MapsAttributes",
    "RunAttributes",
    "SampleEffectsAttributes",
    "check_schema",
]

ATTRIBUTE_KEY: Final = "i2am"
SCHEMA_VERSION: Final = 1

# As many as an index of 32 bits counts: far more than any layer has.
_MOST_TOKENS: Final = 2**31 - 1
_MOST_HEADS: Final = 4096

Grid = tuple[PositiveInt, PositiveInt]
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]


def check_schema(own: Mapping[str, Any], place: object) -> None:
    """Check that this version reads a store or a sample, by its own attributes.

    Raises
    ------
    StoreError
        If it is of a newer schema, or says none.

    Examples
    --------
    >>> check_schema({"kind": "run", "schema": 1}, "run.zarr")
    """
    version = own.get("schema")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        known = "1" if SCHEMA_VERSION == 1 else f"1 to {SCHEMA_VERSION}"
        msg = (
            f"Expected schema {known}, got {version!r}, at {place}. "
            "Upgrade i2am: a newer version wrote this store."
        )
        raise StoreError(msg)


class _Attributes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    def to_store(self) -> dict[str, Any]:
        """Return what goes into the group's attributes, JSON types only."""
        return {ATTRIBUTE_KEY: self.model_dump(mode="json", by_alias=True)}


class _Versioned(_Attributes):
    version: Literal[1] = Field(default=SCHEMA_VERSION, alias="schema")


class RunAttributes(_Versioned):
    """Root of a capture store."""

    kind: Literal["run"] = "run"


class CaptureAttributes(_Versioned):
    """One captured sample: its status and the provenance that is needed to repeat it."""

    kind: Literal["capture"] = "capture"
    status: Literal["running", "complete", "failed"]
    pipeline: str
    model: str
    revision: str | None
    profile: str
    scheduler: str | None
    steps: PositiveInt | None
    guidance_scale: FiniteNumber | None
    seed: int | None
    dtype: str
    device: str
    created: str
    versions: dict[str, str]


class ImageAttributes(_Attributes):
    """A stored image of a sample; without attributes the model saw all of it."""

    box: Box

    @field_validator("box", mode="before")
    @classmethod
    def _has_four_numbers(cls, box: Any) -> Any:
        if isinstance(box, list | tuple) and len(box) != len(Box._fields):
            msg = f"expected y0, x0, y1, x1, got {list(box)}"
            raise ValueError(msg)
        return box

    @field_validator("box")
    @classmethod
    def _has_an_area(cls, box: Box) -> Box:
        if not all(map(math.isfinite, box)) or box.height <= 0 or box.width <= 0:
            msg = f"expected y0 < y1 and x0 < x1, got {list(box)}"
            raise ValueError(msg)
        return box


class LayerAttributes(_Attributes):
    """One captured attention layer, or its share for one of several reference images."""

    scale: Annotated[FiniteNumber, Field(gt=0)]
    generated_grid: Grid
    reference_grid: Grid | None
    special_tokens: NonNegativeInt
    order: NonNegativeInt
    block: str
    representation: Representation
    # Which of the reference images its keys come from, in the order that the model takes them.
    reference_index: NonNegativeInt = 0
    # Labels along the head dimension; None when all heads were kept.
    heads: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    # Video models stack their frames along the generated grid's height.
    frames: PositiveInt = 1
    # False where the layer's output cannot depend on Q and K: a softmax over one token.
    causal: bool = True
    # By what the layer multiplies the reference's contribution (an IP-Adapter's scale), where that is
    # the same at all steps; where it is not, the layer holds an array of this name, and no attribute.
    weight: FiniteNumber = 1.0

    @field_validator("generated_grid", "reference_grid")
    @classmethod
    def _is_a_layers_grid(cls, grid: tuple[int, int] | None) -> tuple[int, int] | None:
        if grid is not None and math.prod(grid) > _MOST_TOKENS:
            msg = f"expected a grid of at most {_MOST_TOKENS} tokens, got {list(grid)}"
            raise ValueError(msg)
        return grid

    @field_validator("heads")
    @classmethod
    def _are_labels(cls, heads: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if heads is not None and max(heads) >= _MOST_HEADS:
            msg = f"expected labels below {_MOST_HEADS}, got {max(heads)}"
            raise ValueError(msg)
        if heads is not None and len(set(heads)) < len(heads):
            msg = f"expected labels that differ, got {heads}"
            raise ValueError(msg)
        return heads

    @model_serializer(mode="wrap")
    def _without_the_usual_weight(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        if self.weight == 1:
            del found["weight"]
        return found

    @model_validator(mode="after")
    def _frames_are_whole(self) -> Self:
        if self.generated_grid[0] % self.frames:
            msg = (
                f"expected a generated_grid of {self.frames} frames above one another, "
                f"got {self.generated_grid[0]} rows"
            )
            raise ValueError(msg)
        return self

    def reference_image(self) -> str:
        """Return the name under which its reference is stored among the sample's images."""
        return f"reference_{self.reference_index}" if self.reference_index else "reference"

    def reference_tokens(self) -> int | None:
        """Return the number of tokens that grid and special tokens imply; None without a grid."""
        if self.reference_grid is None:
            return None
        return self.special_tokens + self.reference_grid[0] * self.reference_grid[1]

    def generated_tokens(self) -> int:
        """Return the number of generated patches."""
        return self.generated_grid[0] * self.generated_grid[1]


class MapsAttributes(_Versioned):
    """Root of a maps store."""

    kind: Literal["maps"] = "maps"
    convention: Convention
    normalisation: Normalisation
    source: str

    @model_validator(mode="after")
    def _official_means_mass(self) -> Self:
        if self.convention == "official" and self.normalisation != "mass":
            msg = "convention 'official' goes with normalisation 'mass' alone"
            raise ValueError(msg)
        return self


class EffectsAttributes(_Versioned):
    """Root of a store of measured effects."""

    kind: Literal["effects"] = "effects"
    source: str
    options: dict[str, Any] = Field(default_factory=dict)


class AverageAttributes(_Versioned):
    """Root of a store of averages over samples."""

    kind: Literal["average"] = "average"
    convention: Convention
    normalisation: Normalisation
    source: str
    # The columns by whose values the samples are grouped.
    by: list[str]


class AverageGroupAttributes(_Attributes):
    """The average of one group of samples: what they have in common, and how many they are."""

    labels: dict[str, Any]
    samples: PositiveInt


class DifferencesAttributes(_Versioned):
    """Root of a store of differences: maps of run B less those of run A."""

    kind: Literal["differences"] = "differences"
    a: str
    b: str
    convention: Convention
    normalisation: Normalisation


class SampleEffectsAttributes(_Attributes):
    """The measured effects of one sample: the capture they belong to, and how they were measured."""

    status: Literal["running", "complete", "failed"]
    source_created: str
    # A checksum of the captured sample's inventory, if it has one.
    source_contents: str | None = None
    # How many images were painted for it.
    pictures: NonNegativeInt | None = None
    # The largest absolute difference of the repainted to the stored image, in 8-bit levels.
    repaint_difference: Annotated[FiniteNumber, Field(ge=0)] | None = None
