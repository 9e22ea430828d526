"""Capture: hooks on image-to-image models that stream their attention into a Zarr store.

Needs the extra ``capture``.
"""

from i2am.schemas import require

require("torch", "to capture a model", "capture")
require("zarr", "to write a capture store", "capture")

from i2am.capture.batch import CaptureOptions, CaptureSummary, capture_manifest  # noqa: E402
from i2am.capture.models import DEMO_MANIFEST, SHIPPED_MODEL, load_pipeline  # noqa: E402
from i2am.capture.profiles import Profile, ReferenceLayout, register  # noqa: E402
from i2am.capture.recorder import Recording, capture  # noqa: E402
from i2am.capture.taps import LayerTap  # noqa: E402

__all__ = [
    "DEMO_MANIFEST",
    "SHIPPED_MODEL",
    "CaptureOptions",
    "CaptureSummary",
    "LayerTap",
    "Profile",
    "Recording",
    "ReferenceLayout",
    "capture",
    "capture_manifest",
    "load_pipeline",
    "register",
]
