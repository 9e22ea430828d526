"""The model that ships with i2am: a small reference-conditioned inpainting pipeline.

It exists so that the whole road, capture to viewer, can be walked offline on any machine. Its parts
are diffusers' own classes, except for the reference encoder. Unlike Paint-by-Example, whose
reference is one token, it attends to a 16 × 16 grid of reference tokens after one leading special
token, so all maps of the method exist. The training script lies in ``examples/tiny_model``; the
model card beside the weights tells what was measured.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from i2am.capture.reference_inpaint import IMAGE_SIZE_PX, ReferenceInpaintPipeline

__all__ = ["PREDICTION", "ReferenceEncoder", "build_pipeline"]

# The noise schedule that the model was trained on.
PREDICTION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


class ReferenceEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Encode a reference picture as one special token and a row-major grid of tokens.

    Parameters
    ----------
    channels : int
        Width of a token.
    grid : int
        Rows and columns of the token grid; the picture is four times as large.
    layers, heads : int
        Depth and heads of the transformer that lets the tokens see one another.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, channels: int = 128, grid: int = 16, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 48, 3, 2, 1),
            nn.GroupNorm(8, 48),
            nn.SiLU(),
            nn.Conv2d(48, 96, 3, 2, 1),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, channels, 3, 1, 1),
        )
        tokens = grid * grid + 1
        self.special = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.position = nn.Parameter(_sine_positions(grid, channels))
        self.unconditional = nn.Parameter(torch.randn(1, tokens, channels) * 0.02)
        block = nn.TransformerEncoderLayer(
            channels, heads, 2 * channels, dropout=0.0, batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Return tokens (batch, 1 + grid², channels) of a picture (batch, 3, y, x) in [-1, 1]."""
        patches = self.stem(picture).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.special.expand(len(patches), -1, -1), patches], dim=1)
        encoded: torch.Tensor = self.norm(self.transformer(tokens + self.position))
        return encoded


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


def _sine_positions(grid: int, channels: int) -> torch.Tensor:
    """Return (1, 1 + grid², channels): zero for the special token, then sines of y and of x.

    Positions that start out smooth let neighbouring tokens share what is learned about a place.
    """
    frequencies = math.pi / grid * 2 ** torch.linspace(-1, math.log2(grid), channels // 4)
    angles = torch.arange(grid)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, channels / 2)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    places = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, channels), places])[None]
