"""How ``schema1.tar.xz`` was made: a run and its maps in schema 1, by the code of i2am 0.1.0.

Those stores are read forever and never made anew: a store that a later release wrote would only
show that it reads its own. When the schema changes, that version gets a generator and an archive
beside these. The script is kept to tell what is in the stores, and with what options.

The pipelines are diffusers' own, with random weights, and the model that ships with i2am.

    python tests/regression/make_schema1_store.py OUT.tar.xz
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.embeddings import IPAdapterFullImageProjection
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from i2am.analysis import analyze_run
from i2am.capture import SHIPPED_MODEL, capture, load_pipeline

STEPS = 3
WIDTH = 16  # of what the models' cross-attention reads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.absolute()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # The stores name their source; no machine's folders shall be in them.
        run = Path("run.zarr")
        capture_inpainting(run)
        capture_joint_attention(run, "joint", "logits")
        capture_joint_attention(run, "reduced", "maps")
        capture_two_references(run)
        analyze_run(run, "maps.zarr", progress=False, time_groups=2)
        with tarfile.open(out, "w:xz", preset=9) as archive:
            for path in sorted(path for path in Path().rglob("*") if path.is_file()):
                archive.add(path, filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out what is the machine's: the same stores give the same archive."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def capture_inpainting(run: Path) -> None:
    """Factors in float16, two heads of four, both halves; keys that are the same at every step."""
    pipeline = load_pipeline(SHIPPED_MODEL, device="cpu")
    source, reference = gradient(64, 64), gradient(48, 40)
    mask, reference_mask = square(64, 64), square(48, 40)
    with capture(
        pipeline,
        run,
        sample="inpainting",
        layers="mid_block.*",
        heads=[0, 2],
        guidance="both",
        representation="factors",
    ) as recording:
        generated = pipeline(
            reference,
            source,
            mask,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(1),
        ).images[0]
        recording.add_provenance(seed=1, guidance_scale=3.0)
        recording.add_images(
            generated=generated,
            reference=reference,
            source=source,
            inpainting_mask=mask,
            reference_mask=reference_mask,
        )


def capture_joint_attention(run: Path, sample: str, representation: Any) -> None:
    """Logits or maps in float32, with what the layers' softmax covers beside the reference."""
    pipeline = diffusers.FluxKontextPipeline(
        vae=autoencoder(
            latent_channels=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.06,
            scaling_factor=1.5,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
    )
    pipeline.set_progress_bar_config(disable=True)
    reference = gradient(16, 24)
    with capture(
        pipeline, run, sample=sample, representation=representation, dtype="float32"
    ) as recording:
        generated = pipeline(
            image=reference,
            prompt_embeds=torch.randn(1, 6, 32),
            pooled_prompt_embeds=torch.randn(1, 32),
            height=16,
            width=16,
            max_area=256,
            _auto_resize=False,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(2),
        ).images[0]
        recording.add_provenance(seed=2)
        recording.add_images(
            generated=generated, reference=reference, inpainting_mask=square(16, 16)
        )


def capture_two_references(run: Path) -> None:
    """Two reference images that share one softmax, each with a CLS token before its patches."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    clip = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        image_encoder=CLIPVisionModelWithProjection(clip).eval(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(adapter(unet), subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.7)
    references = [gradient(32, 32), gradient(32, 32).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    text = torch.randn(1, 7, WIDTH)
    with capture(
        pipeline,
        run,
        sample="two-references",
        layers=["mid_block.*", "up_blocks.0.attentions.1.*"],
        representation="factors",
    ) as recording:
        generated = pipeline(
            prompt_embeds=text,
            negative_prompt_embeds=-text,
            height=16,
            width=32,
            ip_adapter_image=[references],
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(3),
        ).images[0]
        recording.add_provenance(seed=3, guidance_scale=7.5)
        recording.add_images(
            generated=generated, reference=references[0], reference_1=references[1]
        )


def autoencoder(**options: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        **options,
    )


def adapter(unet: diffusers.UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    """Return a "full" IP-Adapter with random weights, named as the published ones are."""
    weights = {}
    for position, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            for part in ("k", "v"):
                weights[f"{position}.to_{part}_ip.weight"] = 0.5 * torch.randn(width, WIDTH)
    published = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "proj.3"}
    projection = {}
    for name, value in IPAdapterFullImageProjection(32, WIDTH).state_dict().items():
        ours = next(own for own in published if name.startswith(own))
        projection[name.replace(ours, published[ours])] = value
    return {"image_proj": projection, "ip_adapter": weights}


def gradient(height: int, width: int) -> Image.Image:
    """Return a picture that compresses well."""
    y, x = np.mgrid[:height, :width]
    channels = (255 * y // height, 255 * x // width, (8 * (x // 8 + y // 8)) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def square(height: int, width: int) -> Image.Image:
    """Return a mask whose upper left middle is white."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(mask)


if __name__ == "__main__":
    main()
