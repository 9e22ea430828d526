"""Z-Image Omni: captions, then pictures with the generated one last, then their SigLIP features.

Each caption and each picture is padded to a multiple of 32 tokens, which all others see. Two refining
layers attend over the pictures alone. Rows of a batch differ in the length of their captions; a shorter
one is padded at its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.families.flux2 import centre_cropped
from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    Segment,
    SequenceReader,
    generated,
    other,
    reference,
    same_for_kept_rows,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import CallInProgress, RunningCall
from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["omni_layers"]

_JOINT = re.compile(r"(?:layers|noise_refiner)\.\d+\.attention")
_MULTIPLE = 32  # of tokens
_HINT = "Call ZImageOmniPipeline with an image."


def omni_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer of a Z-Image transformer that attends over the pictures."""
    has_siglip = getattr(denoiser, "siglip_embedder", None) is not None
    whole = SequenceReader(partial(_segments, partial(_row, has_siglip)), _HINT)
    refiner = SequenceReader(partial(_segments, _pictures), _HINT)
    for name, module in denoiser.named_modules():
        if _JOINT.fullmatch(name):
            reader = whole if name.startswith("layers.") else refiner
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _segments(
    segments_of_row: Callable[[DenoiserCall, int], list[Segment]], source: DenoiserCall
) -> JointSequence:
    rows = [segments_of_row(source, row) for row in range(source.batch)]
    counts = [sum(segment.tokens for segment in row) for row in rows]
    return same_for_kept_rows(
        source, lambda row: JointSequence((*rows[row], other(max(counts) - counts[row])))
    )


def _row(has_siglip: bool, source: DenoiserCall, row: int) -> list[Segment]:
    """Return the segments of one row of the batch, without the padding at its end."""
    named = source.arguments
    captions = (text(len(caption)) for caption in _items(named["cap_feats"][row]))
    found = [*_padded(captions), *_pictures(source, row)]
    siglip = named.get("siglip_feats")
    if has_siglip and siglip is not None and siglip[0] is not None:
        counts = (0 if own is None else own.shape[0] * own.shape[1] for own in siglip[row])
        found += [other(_round_up(count) or _MULTIPLE) for count in counts]
    return found


def _pictures(source: DenoiserCall, row: int) -> list[Segment]:
    """Return the segments of one row's pictures, the generated one last."""
    named = source.arguments
    patch = named.get("patch_size", 2)
    *others, target = [_grid(latents, patch) for latents in _items(named["x"][row])]
    references = [
        other(_MULTIPLE) if grid is None else reference(grid, index)
        for index, grid in enumerate(others)
    ]
    assert target is not None
    return list(_padded([*references, generated(target)]))


def _items(given: Any) -> Sequence[Any]:
    """Return the captions or pictures of a row; without references there is one, in no list."""
    return given if isinstance(given, list | tuple) else [given]


def _grid(latents: Any, patch: int) -> tuple[int, int] | None:
    """Return the grid of a picture, dims (channel, frame, y, x); None where another gives none."""
    return None if latents is None else (latents.shape[-2] // patch, latents.shape[-1] // patch)


def _padded(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment
        if padding := _round_up(segment.tokens) - segment.tokens:
            yield other(padding)


def _round_up(tokens: int) -> int:
    return -(-tokens // _MULTIPLE) * _MULTIPLE


def _branches(running: CallInProgress) -> tuple[str, ...] | None:
    """Return the branches of this step: guidance may end on the way, by ``cfg_truncation``."""
    is_guided = running.variables.get("apply_cfg")
    if is_guided is None:
        return None
    return (CONDITIONAL, UNCONDITIONAL) if is_guided else (CONDITIONAL,)


def _prepared(call: RunningCall) -> Preparations:
    """Return how each picture was made smaller, if it was large, and cropped in its middle."""
    names = ("image", "resized_images", "condition_images")
    pictures, resized, prepared = (call.variables.get(name) for name in names)
    if not pictures or not resized or not prepared:
        return None
    return [
        centre_cropped(picture, (small.height, small.width), tuple(tensor.shape[-2:]))
        for picture, small, tensor in zip(pictures, resized, prepared, strict=True)
    ]


register(
    Profile(
        "z-image-omni",
        ("ZImageOmniPipeline", "ZImageTransformer2DModel"),
        omni_layers,
        guidance=(CONDITIONAL, UNCONDITIONAL),
        package=DIFFUSERS,
        branches=_branches,
        prepares=_prepared,
        notes=ModelNotes(
            serves="Z-Image Omni with one picture or several",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares=(
                "captions, the generated patches, other references, padding, SigLIP features (captions and "
                "features not in `noise_refiner`)"
            ),
            prepared=(
                "made smaller if it has more than 1024 × 1024 pixels, then cropped in the middle to "
                "multiples of 16"
            ),
            unseen="the reference's SigLIP features: a second road, among the other keys",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(image=[cat, crown], prompt="the cat with the crown").images[0]
    recording.add_images(generated=image, reference=cat, reference_1=crown)""",
            has_text=True,
        ),
    )
)
