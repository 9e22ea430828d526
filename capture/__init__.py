"""Capture: hooks on image-to-image models that stream their attention into a Zarr store.

Needs the extra ``capture``.
"""

from i2am.schemas import require

require("torch", "to capture a model", "capture")
require("zarr", "to write a capture store", "capture")

from i2am.capture import families  # noqa: F401 - each family's module registers its profiles
from i2am.capture.batch.capture_manifest import CaptureSummary, capture_manifest
from i2am.capture.families.profile import Profile, register
from i2am.capture.families.unet import cross_attention
from i2am.capture.hooks.attention import ReferenceKeys, ReferenceLayout, Softmax
from i2am.capture.hooks.kernel_tap import FusedCall, FusedTap
from i2am.capture.hooks.projection_tap import Heard, Projection, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.pipelines.call import GenerationSettings, SampleInputs
from i2am.capture.pipelines.load import (
    DEMO_MANIFEST,
    SHIPPED_MODEL,
    LoadOptions,
    load_pipeline,
)
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.recorder import Recording, capture

__all__ = [
    "DEMO_MANIFEST",
    "SHIPPED_MODEL",
    "CaptureOptions",
    "CaptureSummary",
    "FusedCall",
    "FusedTap",
    "GenerationSettings",
    "Heard",
    "LayerTap",
    "LoadOptions",
    "Profile",
    "Projection",
    "ProjectionTap",
    "Recording",
    "ReferenceKeys",
    "ReferenceLayout",
    "SampleInputs",
    "Softmax",
    "capture",
    "capture_manifest",
    "cross_attention",
    "load_pipeline",
    "register",
]
