"""The contract between the stages: names, attributes, manifest rows and their validation.

Nothing here knows Zarr, xarray or torch, so every stage can depend on it and none meets another's
world through it. Names load on first use: an option of the command line needs none of pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from i2am.schemas.public_names import public_names

if TYPE_CHECKING:
    from i2am.schemas.attributes import SCHEMA_VERSION as SCHEMA_VERSION
    from i2am.schemas.attributes import CaptureAttributes as CaptureAttributes
    from i2am.schemas.attributes import EffectsAttributes as EffectsAttributes
    from i2am.schemas.attributes import ImageAttributes as ImageAttributes
    from i2am.schemas.attributes import LayerAttributes as LayerAttributes
    from i2am.schemas.attributes import MapsAttributes as MapsAttributes
    from i2am.schemas.attributes import RunAttributes as RunAttributes
    from i2am.schemas.attributes import SampleEffectsAttributes as SampleEffectsAttributes
    from i2am.schemas.attributes import check_schema as check_schema
    from i2am.schemas.boxes import Box as Box
    from i2am.schemas.boxes import check_painted_box as check_painted_box
    from i2am.schemas.description import ArrayDescription as ArrayDescription
    from i2am.schemas.description import Fault as Fault
    from i2am.schemas.description import GroupDescription as GroupDescription
    from i2am.schemas.errors import AnalysisError as AnalysisError
    from i2am.schemas.errors import CaptureError as CaptureError
    from i2am.schemas.errors import I2AMError as I2AMError
    from i2am.schemas.errors import InputWarning as InputWarning
    from i2am.schemas.errors import MissingExtra as MissingExtra
    from i2am.schemas.errors import SchemaError as SchemaError
    from i2am.schemas.errors import StorageError as StorageError
    from i2am.schemas.errors import StoreError as StoreError
    from i2am.schemas.errors import StoreWarning as StoreWarning
    from i2am.schemas.errors import did_you_mean as did_you_mean
    from i2am.schemas.manifest import ManifestRow as ManifestRow
    from i2am.schemas.manifest import check_sample_name as check_sample_name
    from i2am.schemas.manifest import read_manifest as read_manifest
    from i2am.schemas.optional import require as require
    from i2am.schemas.optional import require_extras as require_extras
    from i2am.schemas.provenance import check_facts as check_facts
    from i2am.schemas.validation import find_faults as find_faults
    from i2am.schemas.validation import find_sample_faults as find_sample_faults

__getattr__, __dir__, __all__ = public_names(__name__)
