"""The model that ships with i2am: a small reference-conditioned inpainting pipeline.

With it everything from capture to viewer runs offline on any machine. Its parts
are diffusers' own classes, except for the reference encoder. Unlike Paint-by-Example, whose
reference is one token, it attends to a 16 × 16 grid of reference tokens after one leading special
token, so that all maps of the method exist. The training script lies in ``examples/tiny_model``; the
model card beside the weights says what was measured.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from i2am.capture.pipelines.reference_encoder import ReferenceEncoder
from i2am.capture.pipelines.reference_inpaint import IMAGE_SIZE_PX, ReferenceInpaintPipeline

__all__ = ["PREDICTION", "build_pipeline"]

# The noise schedule that the model was trained on.
PREDICTION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def build_pipeline(channels: tuple[int, ...] = (64, 128)) -> ReferenceInpaintPipeline:
    """Return the pipeline with random weights, as training starts from it."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=IMAGE_SIZE_PX,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    )
    encoder = ReferenceEncoder()
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // 4,
        in_channels=9,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        cross_attention_dim=encoder.config.channels,
        attention_head_dim=4,  # the number of heads: diffusers' historical name
        norm_num_groups=16,
    )
    scheduler = DDIMScheduler(
        **PREDICTION, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return ReferenceInpaintPipeline(vae, unet, encoder, scheduler)
