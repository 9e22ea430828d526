"""The attribute models: what ``attrs["i2am"]`` of each group holds.

Stored under one key, so that other tools' attributes (xarray's ``coordinates``, say) stay out of
the way. Models are frozen; unknown keys are kept, because provenance grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
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
    "CONVENTION",
    "CONVENTIONS_KEY",
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
    "root_attributes",
]

ATTRIBUTE_KEY: Final = "i2am"
SCHEMA_VERSION: Final = 1
# By which tools that know no i2am see what a store is: an entry of the Zarr conventions' list of
# https://github.com/zarr-conventions/zarr-conventions-spec, which readers may pass over. The uuid stays
# for ever. An address of a specification belongs here once the project has one.
CONVENTIONS_KEY: Final = "zarr_conventions"
CONVENTION: Final[Mapping[str, str]] = MappingProxyType(
    {
        "uuid": "553f117b-17a8-4f5c-8116-b0eb1d58b824",
        "name": ATTRIBUTE_KEY,
        "description": "Attention of image-to-image diffusion models, its maps and their measured effects",
    }
)

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


def root_attributes(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a store's root: our own, and the Zarr convention that they follow.

    Examples
    --------
    >>> root_attributes({"kind": "average", "schema": 1})["zarr_conventions"][0]["name"]
    'i2am'
    """
    return {ATTRIBUTE_KEY: dict(own), CONVENTIONS_KEY: [dict(CONVENTION)]}


class _Attributes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    def to_store(self) -> dict[str, Any]:
        """Return what goes into the group's attributes, JSON types only."""
        return {ATTRIBUTE_KEY: self.model_dump(mode="json", by_alias=True)}


class _Versioned(_Attributes):
    version: Literal[1] = Field(default=SCHEMA_VERSION, alias="schema")
    """Number of the contract that the store keeps; stored as ``schema``."""


class _RootAttributes(_Versioned):
    def to_store(self) -> dict[str, Any]:
        """Return what goes into the root's attributes, JSON types only."""
        return root_attributes(super().to_store()[ATTRIBUTE_KEY])


class RunAttributes(_RootAttributes):
    """Root of a capture store.

    Examples
    --------
    >>> RunAttributes().to_store()["i2am"]
    {'schema': 1, 'kind': 'run'}
    """

    kind: Literal["run"] = "run"
    """What the store is."""


class CaptureAttributes(_Versioned):
    """One captured sample: its status and the provenance that is needed to repeat it.

    Examples
    --------
    ::

        run = open_run("run.zarr")
        CaptureAttributes.model_validate(run["shirt-001"].attrs["i2am"]).seed
    """

    kind: Literal["capture"] = "capture"
    """What the group is: a captured sample."""
    status: Literal["running", "complete", "failed"]
    """Only a complete sample exists for readers."""
    pipeline: str
    """Class of the pipeline; of a bare denoiser, its class."""
    model: str
    """Identifier or folder from which the model was loaded."""
    revision: str | None
    """Revision of the model on its hub, if there is one."""
    profile: str
    """Name of the profile by which the model was read."""
    scheduler: str | None
    """Class of the scheduler."""
    steps: PositiveInt | None
    """Number of denoising steps of the call."""
    guidance_scale: FiniteNumber | None
    """Scale of the classifier-free guidance."""
    seed: int | None
    """Seed of the generator that made the first noise."""
    dtype: str
    """Dtype of the model's weights."""
    device: str
    """Device on which the model ran."""
    created: str
    """When the capture began: UTC, as in ISO 8601."""
    versions: dict[str, str]
    """Versions of i2am, torch, diffusers and what else took part."""


class ImageAttributes(_Attributes):
    """A stored image of a sample; without attributes the model saw all of it.

    Examples
    --------
    >>> ImageAttributes(box=(0, 32, 512, 480)).to_store()
    {'i2am': {'box': [0.0, 32.0, 512.0, 480.0]}}
    """

    box: Box
    """The part of the stored image that the model saw, over which the layers' grids lie: y0, x0, y1, x1
    in pixels of that image. It reaches beyond the image where the model saw padding."""

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
    """One captured attention layer, or its share for one of several reference images.

    Examples
    --------
    >>> layer = LayerAttributes(
    ...     scale=0.125, generated_grid=(64, 48), reference_grid=(16, 16), special_tokens=1, order=0,
    ...     block="down", representation="factors",
    ... )
    >>> layer.generated_tokens(), layer.reference_tokens(), layer.reference_image()
    (3072, 257, 'reference')
    """

    scale: Annotated[FiniteNumber, Field(gt=0)]
    """By what the layer multiplies q · k before its softmax."""
    generated_grid: Grid
    """Rows and columns of the generated image's patches, which are stored row by row."""
    reference_grid: Grid | None
    """Rows and columns of the reference's tokens; null where they have no layout."""
    special_tokens: NonNegativeInt
    """Number of tokens before those of the reference's grid: a class token, say."""
    order: NonNegativeInt
    """Place of the layer among those of the sample, in the order in which the model calls them."""
    block: str
    """Part of the model: "down", "mid", "up" of a UNet, or another name."""
    representation: Representation
    """What is stored of the layer: "factors", "logits" or "maps"."""
    reference_index: NonNegativeInt = 0
    """Which of the reference images its keys come from, in the order that the model takes them."""
    heads: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    """Labels along the dimension of heads; null when all heads were kept."""
    frames: PositiveInt = 1
    """Number of a video's frames, which are stacked along the generated grid's height."""
    causal: bool = True
    """False where the layer's output cannot depend on Q and K: a softmax over one token."""
    weight: FiniteNumber = 1.0
    """By what the layer multiplies the reference's contribution (an IP-Adapter's scale), where that is
    the same at all steps; where it is not, the layer holds an array of this name, and no attribute."""

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


class MapsAttributes(_RootAttributes):
    """Root of a maps store.

    Examples
    --------
    >>> MapsAttributes(convention="i2am", normalisation="mass", source="run.zarr").kind
    'maps'
    """

    kind: Literal["maps"] = "maps"
    """What the store is."""
    convention: Convention
    """How maps are made: "i2am", or "official" as the authors' code does."""
    normalisation: Normalisation
    """What a map's value is: "mass", or "density", which is 1 on average."""
    source: str
    """Address of the run that the maps were made from."""

    @model_validator(mode="after")
    def _official_means_mass(self) -> Self:
        if self.convention == "official" and self.normalisation != "mass":
            msg = "convention 'official' goes with normalisation 'mass' alone"
            raise ValueError(msg)
        return self


class EffectsAttributes(_RootAttributes):
    """Root of a store of measured effects.

    Examples
    --------
    >>> EffectsAttributes(source="run.zarr").options
    {}
    """

    kind: Literal["effects"] = "effects"
    """What the store is."""
    source: str
    """Address of the run whose samples were painted again."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of the measurement."""


class AverageAttributes(_RootAttributes):
    """Root of a store of averages over samples."""

    kind: Literal["average"] = "average"
    """What the store is."""
    convention: Convention
    """Convention of the maps."""
    normalisation: Normalisation
    """Normalisation of the maps."""
    source: str
    """Address of the maps that were averaged."""
    by: list[str]
    """The columns by whose values the samples are grouped."""


class AverageGroupAttributes(_Attributes):
    """The average of one group of samples: what they have in common, and how many they are."""

    labels: dict[str, Any]
    """What the samples have in common, by column."""
    samples: PositiveInt
    """Number of samples."""


class DifferencesAttributes(_RootAttributes):
    """Root of a store of differences: maps of run B less those of run A."""

    kind: Literal["differences"] = "differences"
    """What the store is."""
    a: str
    """Address of run A."""
    b: str
    """Address of run B."""
    convention: Convention
    """Convention of the maps."""
    normalisation: Normalisation
    """Normalisation of the maps."""


class SampleEffectsAttributes(_Attributes):
    """The measured effects of one sample: the capture they belong to, and how they were measured.

    Examples
    --------
    >>> SampleEffectsAttributes(status="complete", source_created="2026-11-29T12:00:00+00:00").pictures is None
    True
    """

    status: Literal["running", "complete", "failed"]
    """Only complete effects exist for readers."""
    source_created: str
    """When the captured sample was created; effects of another capture are none of it."""
    source_contents: str | None = None
    """A checksum of the captured sample's inventory, if it has one."""
    pictures: NonNegativeInt | None = None
    """Number of images that were painted for it."""
    repaint_difference: Annotated[FiniteNumber, Field(ge=0)] | None = None
    """The largest absolute difference of the repainted to the stored image, in 8-bit levels."""
