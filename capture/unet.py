"""UNets of diffusers whose cross-attention reads the reference: ``attn2`` of every transformer.

The tokens that ``encoder_hidden_states`` carries must be the reference's. That holds for
Paint-by-Example (one token: the pooled class embedding of CLIP) and for the model that ships with
i2am (one special token and a 16 × 16 grid).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.profiles import GenerationSettings, Pictures, Profile, register
from i2am.capture.taps import LayerTap
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

__all__ = ["find_cross_attention", "inpaint"]


def find_cross_attention(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each ``attn2`` of a UNet, in the order of registration.

    Raises
    ------
    CaptureError
        If a layer normalises or fuses its projections, so that they are not what attention uses.
    """
    for name, attention in denoiser.named_modules():
        if not name.endswith(".attn2") or ".transformer_blocks." not in name:
            continue
        if getattr(attention, "fused_projections", False):
            msg = (
                f"Expected separate query and key projections, got fused ones at layer {name!r}. "
                "Call unfuse_qkv_projections() on the pipeline before the capture."
            )
            raise CaptureError(msg)
        if getattr(attention, "norm_q", None) is not None:
            msg = (
                f"Expected attention without query and key norms, got some at layer {name!r}. "
                "Projection taps do not see what follows a norm."
            )
            raise CaptureError(msg)
        yield LayerTap(
            name=name,
            query=attention.to_q,
            key=attention.to_k,
            grid_source=denoiser.get_submodule(name.split(".transformer_blocks.")[0]),
            heads=attention.heads,
            scale=float(attention.scale),
            block=_block(name),
        )


def _block(name: str) -> str:
    place = name.split(".", maxsplit=1)[0]
    return {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}.get(place, place)


def inpaint(pipeline: Any, pictures: Pictures, settings: GenerationSettings) -> Image.Image:
    """Run a pipeline that is called like ``PaintByExamplePipeline``, and return its picture."""
    options = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
    }
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    output = pipeline(
        example_image=pictures.reference,
        image=pictures.source,
        mask_image=pictures.mask,
        generator=generator,
        **{name: value for name, value in options.items() if value is not None},
    )
    painted: Image.Image = output.images[0]
    return painted


register(
    Profile("i2am-tiny", ("ReferenceInpaintPipeline",), find_cross_attention, generate=inpaint)
)
register(
    Profile("paint-by-example", ("PaintByExamplePipeline",), find_cross_attention, generate=inpaint)
)
# Who hands over a bare UNet says by that that its cross-attention reads the reference.
register(Profile("unet", ("UNet2DConditionModel",), find_cross_attention))
