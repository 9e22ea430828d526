"""The contract between the stages: names, attributes, manifest rows and their validation.

Nothing here knows Zarr, xarray or torch, so every stage can depend on it and none meets another's
world through it.
"""

from i2am.schemas.attributes import (
    SCHEMA_VERSION,
    CaptureAttributes,
    EffectsAttributes,
    ImageAttributes,
    LayerAttributes,
    MapsAttributes,
    RunAttributes,
    SampleEffectsAttributes,
    check_schema,
)
from i2am.schemas.boxes import Box, check_painted_box
from i2am.schemas.description import ArrayDescription, Fault, GroupDescription
from i2am.schemas.errors import (
    AnalysisError,
    CaptureError,
    I2AMError,
    InputWarning,
    MissingExtra,
    SchemaError,
    StorageError,
    StoreError,
    StoreWarning,
    did_you_mean,
)
from i2am.schemas.manifest import ManifestRow, check_sample_name, read_manifest
from i2am.schemas.optional import require, require_extras
from i2am.schemas.provenance import check_facts
from i2am.schemas.validation import find_faults, find_sample_faults

__all__ = [
    "SCHEMA_VERSION",
    "AnalysisError",
    "ArrayDescription",
    "Box",
    "CaptureAttributes",
    "CaptureError",
    "EffectsAttributes",
    "Fault",
    "GroupDescription",
    "I2AMError",
    "ImageAttributes",
    "InputWarning",
    "LayerAttributes",
    "ManifestRow",
    "MapsAttributes",
    "MissingExtra",
    "RunAttributes",
    "SampleEffectsAttributes",
    "SchemaError",
    "StorageError",
    "StoreError",
    "StoreWarning",
    "check_facts",
    "check_painted_box",
    "check_sample_name",
    "check_schema",
    "did_you_mean",
    "find_faults",
    "find_sample_faults",
    "read_manifest",
    "require",
    "require_extras",
]
