"""Capture: hooks on image-to-image models that stream their attention into a Zarr store.

Needs the extra ``capture``. The names here are the public ones; each loads what it needs when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from i2am.schemas import require_extras
from i2am.schemas.public_names import public_names

if TYPE_CHECKING:
    from i2am.capture.batch.capture_manifest import CaptureSummary as CaptureSummary
    from i2am.capture.batch.capture_manifest import capture_manifest as capture_manifest
    from i2am.capture.causal.measure import EffectOptions as EffectOptions
    from i2am.capture.causal.measure import MeasuredEffects as MeasuredEffects
    from i2am.capture.causal.measure import knock_out as knock_out
    from i2am.capture.cuts.cut import Cut as Cut
    from i2am.capture.cuts.cut import cut as cut
    from i2am.capture.cuts.cut import cutting as cutting
    from i2am.capture.families.canvas import canvas as canvas
    from i2am.capture.families.canvas import canvas_part as canvas_part
    from i2am.capture.families.first_frame import VideoTokens as VideoTokens
    from i2am.capture.families.first_frame import first_frame as first_frame
    from i2am.capture.families.first_frame import latent_video as latent_video
    from i2am.capture.families.garment_network import garment_network as garment_network
    from i2am.capture.families.garment_network import joint_garment_network as joint_garment_network
    from i2am.capture.families.garment_network import own_first as own_first
    from i2am.capture.families.lookup import register as register
    from i2am.capture.families.own_grid import own_grid_cross_attention as own_grid_cross_attention
    from i2am.capture.families.unet import cross_attention as cross_attention
    from i2am.capture.hooks.attention import AttentionInputs as AttentionInputs
    from i2am.capture.hooks.attention import ReferenceKeys as ReferenceKeys
    from i2am.capture.hooks.attention import ReferenceLayout as ReferenceLayout
    from i2am.capture.hooks.attention import TextTokens as TextTokens
    from i2am.capture.hooks.attention import query_grid_layout as query_grid_layout
    from i2am.capture.hooks.attention import square_layout as square_layout
    from i2am.capture.hooks.kernel_tap import KernelCall as KernelCall
    from i2am.capture.hooks.kernel_tap import KernelTap as KernelTap
    from i2am.capture.hooks.projection_tap import Projection as Projection
    from i2am.capture.hooks.projection_tap import ProjectionOutputs as ProjectionOutputs
    from i2am.capture.hooks.projection_tap import ProjectionTap as ProjectionTap
    from i2am.capture.hooks.taps import LayerTap as LayerTap
    from i2am.capture.inspection.token_report import TokenReport as TokenReport
    from i2am.capture.inspection.token_report import describe_tokens as describe_tokens
    from i2am.capture.pipelines.call import GenerationSettings as GenerationSettings
    from i2am.capture.pipelines.call import SampleInputs as SampleInputs
    from i2am.capture.pipelines.load import DEMO_MANIFEST as DEMO_MANIFEST
    from i2am.capture.pipelines.load import SHIPPED_MODEL as SHIPPED_MODEL
    from i2am.capture.pipelines.load import LoadOptions as LoadOptions
    from i2am.capture.pipelines.load import load_pipeline as load_pipeline
    from i2am.capture.profiles.notes import ModelNotes as ModelNotes
    from i2am.capture.profiles.preparation import CentreCrop as CentreCrop
    from i2am.capture.profiles.preparation import Fitted as Fitted
    from i2am.capture.profiles.preparation import SeenPart as SeenPart
    from i2am.capture.profiles.preparation import Stretched as Stretched
    from i2am.capture.profiles.profile import Profile as Profile
    from i2am.capture.profiles.running_call import RunningCall as RunningCall
    from i2am.capture.recording.options import CaptureOptions as CaptureOptions
    from i2am.capture.recording.recorder import Recording as Recording
    from i2am.capture.recording.recorder import capture as capture

require_extras("to capture a model", "capture")
__getattr__, __dir__, __all__ = public_names(
    __name__,
    old={
        "FusedCall": "KernelCall",
        "FusedTap": "KernelTap",
        "Heard": "ProjectionOutputs",
        "Softmax": "AttentionInputs",
    },
)
