"""Capture: hooks on image-to-image models that stream their attention into a Zarr store.

Needs the extra ``capture``.
"""

from i2am.schemas import require

require("torch", "to capture a model", "capture")
require("zarr", "to write a capture store", "capture")

# Each family's module registers its profiles.
from i2am.capture import (  # noqa: E402, F401
    compvis,
    flux,
    ip_adapter,
    kandinsky,
    qwen,
    reference_only,
    wan,
)
from i2am.capture.batch import CaptureOptions, CaptureSummary, capture_manifest  # noqa: E402
from i2am.capture.fused import FusedCall, FusedTap  # noqa: E402
from i2am.capture.generate import GenerationSettings, SampleInputs  # noqa: E402
from i2am.capture.models import (  # noqa: E402
    DEMO_MANIFEST,
    SHIPPED_MODEL,
    LoadOptions,
    load_pipeline,
)
from i2am.capture.profiles import Profile, register  # noqa: E402
from i2am.capture.recorder import Recording, capture  # noqa: E402
from i2am.capture.softmax import ReferenceKeys, ReferenceLayout, Softmax  # noqa: E402
from i2am.capture.taps import Heard, LayerTap, Projection, ProjectionTap  # noqa: E402
from i2am.capture.unet import cross_attention  # noqa: E402

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
