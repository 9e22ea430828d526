"""Wan 2.1 image-to-video: the reference's CLIP tokens in a cross-attention of their own.

``attn2`` attends to them separately from the text, after norms of queries and keys and without rotation.
Every image has a class token and a square grid; first and last frame, where both are given, share
one softmax. The generated patches of all latent frames are stacked along the height. Wan 2.2 has no
such tokens: see `first_frame`, which also shows the second road of Wan 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, square_layout
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of, split_heads
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, encoded_pictures
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

__all__ = ["image_cross_attention"]


def image_cross_attention(denoiser: Any) -> Iterator[LayerTap]:
    """Yield a tap for each layer of a Wan transformer that attends to image tokens."""
    patch = tuple(denoiser.config.patch_size)
    for name, module in denoiser.named_modules():
        if name.endswith(".attn2") and getattr(module, "add_k_proj", None) is not None:
            yield ProjectionTap(
                name,
                module,
                block_of(name),
                query=Projection(module.norm_q),
                keys=(Projection(module.norm_added_k),),
                read=partial(_read, name, module, patch),
                grid_source=module,
            )


def _read(
    name: str, attention: Any, patch: tuple[int, int, int], projected: ProjectionOutputs
) -> Iterator[AttentionInputs]:
    if not projected.keys[0]:
        return
    query = split_heads(projected.query, attention.heads)
    key = split_heads(projected.keys[0][-1], attention.heads)
    if len(key) == 1:  # Several videos of one call share the image's.
        key = key.expand(len(query), -1, -1, -1)
    latents = projected.source.arguments["hidden_states"].shape[-3:]
    frames, height, width = (size // p for size, p in zip(latents, patch, strict=True))
    if frames * height * width != query.shape[2]:
        msg = (
            f"Expected {frames}×{height}×{width} queries, got {query.shape[2]}, at layer {name!r}. "
            "Capture without context parallelism."
        )
        raise CaptureError(msg)
    yield AttentionInputs(
        query,
        key,
        float(query.shape[-1] ** -0.5),
        (frames * height, width),
        tuple(_images(key.shape[2])),
        frames=frames,
    )


def _images(tokens: int) -> Iterator[ReferenceKeys]:
    """Yield one image's keys, or first and last frame's."""
    of_two = square_layout(tokens // 2)
    count = 2 if tokens % 2 == 0 and of_two.special_tokens == 1 else 1
    each = tokens // count
    for index in range(count):
        keys = slice(index * each, (index + 1) * each)
        yield ReferenceKeys(keys, square_layout(each), index)


def _encoded_frames(call: RunningCall) -> Preparations:
    """Return how the first frame came to CLIP, and the last one, if there is one."""
    return encoded_pictures(call, 1 if call.variables.get("last_image") is None else 2)


_CLASSES = ("WanImageToVideoPipeline", "ChronoEditPipeline", "WanTransformer3DModel")


def _has_image_tokens(target: Any, denoiser: Any) -> bool:
    """Return whether it is a Wan model that attends to CLIP's tokens."""
    config = getattr(denoiser, "config", None)
    is_wan = not class_names(target, DIFFUSERS).isdisjoint(_CLASSES)
    return is_wan and getattr(config, "image_dim", None) is not None


register(
    Profile(
        "wan-image-to-video",
        _CLASSES,
        image_cross_attention,
        package=DIFFUSERS,
        recognise=_has_image_tokens,
        is_batched=False,
        prepares=_encoded_frames,
        notes=ModelNotes(
            serves="Wan 2.1 image-to-video, ChronoEdit",
            tokens="257; with a last frame 2 × 257",
            grid="1 + 16 × 16",
            shares="the other frame's",
            prepared="resized and cropped in the middle by the pipeline's own processor (CLIP's)",
            unseen=(
                "the picture in the first latent frame, which all frames attend to: name "
                '`profile="wan-first-frame"` to capture that road'
            ),
            example=(
                'with capture(pipe, "run.zarr", sample="a") as recording:\n'
                '    frames = pipe(image=image, prompt="…", num_frames=81, output_type="pil").frames[0]\n'
                "    stacked = np.concatenate([np.asarray(frame) for frame in frames[::4]])\n"
                "    recording.add_images(generated=stacked, reference=image)"
            ),
        ),
    )
)
