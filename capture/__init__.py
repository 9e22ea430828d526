"""Capture: hooks on image-to-image models that stream their attention into a Zarr store.

Needs the extra ``capture``.
"""

import warnings
from typing import Any

from i2am.schemas import require

require("torch", "to capture a model", "capture")
require("zarr", "to write a capture store", "capture")

from i2am.capture import families  # noqa: F401 - each family's module registers its profiles
from i2am.capture.batch.capture_manifest import CaptureSummary, capture_manifest
from i2am.capture.causal.measure import EffectOptions, MeasuredEffects, knock_out
from i2am.capture.cuts.cut import Cut, cut, cutting
from i2am.capture.families.canvas import canvas, canvas_part
from i2am.capture.families.first_frame import VideoTokens, first_frame, latent_video
from i2am.capture.families.garment_network import garment_network, joint_garment_network, own_first
from i2am.capture.families.own_grid import own_grid_cross_attention
from i2am.capture.families.unet import cross_attention
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    TextTokens,
    query_grid_layout,
    square_layout,
)
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.inspection.token_report import TokenReport, describe_tokens
from i2am.capture.pipelines.call import GenerationSettings, SampleInputs
from i2am.capture.pipelines.load import (
    DEMO_MANIFEST,
    SHIPPED_MODEL,
    LoadOptions,
    load_pipeline,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import CentreCrop, Fitted, SeenPart, Stretched
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.running_call import RunningCall
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.recorder import Recording, capture

__all__ = [
    "DEMO_MANIFEST",
    "SHIPPED_MODEL",
    "AttentionInputs",
    "CaptureOptions",
    "CaptureSummary",
    "CentreCrop",
    "Cut",
    "EffectOptions",
    "Fitted",
    "GenerationSettings",
    "KernelCall",
    "KernelTap",
    "LayerTap",
    "LoadOptions",
    "MeasuredEffects",
    "ModelNotes",
    "Profile",
    "Projection",
    "ProjectionOutputs",
    "ProjectionTap",
    "Recording",
    "ReferenceKeys",
    "ReferenceLayout",
    "RunningCall",
    "SampleInputs",
    "SeenPart",
    "Stretched",
    "TextTokens",
    "TokenReport",
    "VideoTokens",
    "canvas",
    "canvas_part",
    "capture",
    "capture_manifest",
    "cross_attention",
    "cut",
    "cutting",
    "describe_tokens",
    "first_frame",
    "garment_network",
    "joint_garment_network",
    "knock_out",
    "latent_video",
    "load_pipeline",
    "own_first",
    "own_grid_cross_attention",
    "query_grid_layout",
    "register",
    "square_layout",
]

# Names of the release before; they go with the next one.
_OLD_NAMES = {
    "FusedCall": "KernelCall",
    "FusedTap": "KernelTap",
    "Heard": "ProjectionOutputs",
    "Softmax": "AttentionInputs",
}


def __getattr__(name: str) -> Any:
    if name not in _OLD_NAMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    new = _OLD_NAMES[name]
    msg = f"i2am.capture.{name} is now i2am.capture.{new}; the old name goes with the next release."
    warnings.warn(msg, DeprecationWarning, stacklevel=2)
    return globals()[new]
