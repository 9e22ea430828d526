"""Video from an image: the reference is a frame of the very video that is generated.

Many image-to-video models have no tokens of their own for the picture. It is given as a latent
frame, the first one mostly: its tokens are the picture's, or hold it in further channels, and all frames
attend to each other. The keys of a given frame are the reference, on the grid of one latent frame; the
queries are those of the other frames, which are stacked along the height. Their own keys, and the text
where it shares the softmax, count in its normaliser alone.

Which frames are given is read off each call of the denoiser: by the timesteps of its tokens, or by a
mask among its channels. A call of text alone is refused.
"""

from __future__ import annotations

import fnmatch
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    Tokens,
)
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.pipelines.call import GenerationSettings, SampleInputs, generate
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Fitted, Preparations, Stretched
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

__all__ = ["VideoTokens", "first_frame", "latent_video"]


@dataclass(frozen=True)
class VideoTokens:
    """How a video lies among the tokens of a layer, in one call of the denoiser.

    Parameters
    ----------
    frames, height, width : int
        Of the video, in tokens, which are row-major.
    given : tuple of int
        The frames that are references, in the order in which their pictures are numbered.
    start : int
        Index of its first token, among queries and keys alike.
    text : slice, or Tensor (token,) of int, optional
        Indices of the text in the same sequence, where it is there.

    Examples
    --------
    >>> VideoTokens(21, 30, 52).generated
    range(1, 21)
    """

    frames: int
    height: int
    width: int
    given: tuple[int, ...] = (0,)
    start: int = 0
    text: Tokens | None = None

    @property
    def generated(self) -> Sequence[int]:
        """The frames that are not given."""
        others = [frame for frame in range(self.frames) if frame not in self.given]
        is_run = bool(others) and others[-1] - others[0] + 1 == len(others)
        return range(others[0], others[-1] + 1) if is_run else others

    def tokens(self, frames: Sequence[int]) -> Tokens:
        """Return the indices of some frames' tokens: a slice where they follow each other."""
        size = self.height * self.width
        if isinstance(frames, range):
            return slice(self.start + frames[0] * size, self.start + (frames[-1] + 1) * size)
        first = self.start + torch.tensor(frames)[:, None] * size
        return (first + torch.arange(size)).flatten()


def first_frame(
    denoiser: nn.Module,
    *,
    layers: str = "*.attn1",
    video: Callable[[DenoiserCall], VideoTokens] | None = None,
) -> Iterator[LayerTap]:
    """Yield a tap for each layer in which a video's frames attend to a frame that is given.

    Parameters
    ----------
    denoiser : Module
    layers : str
        The layers' paths, as a shell-style pattern.
    video : callable (DenoiserCall) -> VideoTokens, optional
        Asked once in each call of the denoiser. By default the first frame is given, and there is
        nothing but the video in the sequence: see `latent_video`.

    Raises
    ------
    CaptureError
        From within the model's call, if no frame is given, none is generated, or the tokens are not
        those of the video.

    Examples
    --------
    A model of your own, whose patches are 1 × 2 × 2 latents:

    >>> from functools import partial
    >>> from i2am.capture.profiles.profile import Profile
    >>> mine = Profile(
    ...     name="mine",
    ...     classes=("MyImageToVideoPipeline",),
    ...     find_taps=partial(first_frame, layers="blocks.*.self_attn"),
    ... )
    """
    of_call = _OncePerCall(video or partial(latent_video, denoiser))
    for name, module in denoiser.named_modules():
        if fnmatch.fnmatchcase(name, layers):
            yield KernelTap(name, module, block_of(name), read=partial(_read, name, of_call))


def latent_video(denoiser: Any, call: DenoiserCall) -> VideoTokens:
    """Return the layout of a video that is given as latents, dims (batch, channel, frame, y, x).

    Parameters
    ----------
    denoiser : Module
        Its configuration has the sides of a patch, ``patch_size`` and maybe ``patch_size_t``.
    call : DenoiserCall
        Has the latents at ``hidden_states``; the first frame is given.

    Examples
    --------
    ::

        def taps(denoiser):
            return first_frame(denoiser, video=partial(latent_video, denoiser))

        profile = register(Profile("mine", ("MyVideoTransformer",), taps))
    """
    patch = denoiser.config.patch_size
    if isinstance(patch, int):
        patch = (getattr(denoiser.config, "patch_size_t", 1), patch, patch)
    sides = call.arguments["hidden_states"].shape[-3:]
    frames, height, width = (side // p for side, p in zip(sides, patch, strict=True))
    return VideoTokens(frames, height, width)


class _OncePerCall:
    """Asks once in each call of the denoiser, for all of its layers: the answer may wait for the device."""

    def __init__(self, read: Callable[[DenoiserCall], VideoTokens]) -> None:
        self._read = read
        self._latest: tuple[weakref.ref[DenoiserCall], VideoTokens] | None = None

    def __call__(self, call: DenoiserCall) -> VideoTokens:
        if self._latest is None or self._latest[0]() is not call:
            self._latest = weakref.ref(call), self._read(call)
        return self._latest[1]


def _read(
    layer: str, video_of: Callable[[DenoiserCall], VideoTokens], call: KernelCall
) -> Iterator[AttentionInputs]:
    video = video_of(call.source)
    generated, grid = video.generated, (video.height, video.width)
    if not video.given:
        msg = (
            f"Expected a frame that is given, got {video.frames} that are all generated, at layer "
            f"{layer!r}. Call the pipeline with an image; one of less strength is given in the first "
            "steps alone: leave out late ones with steps=."
        )
        raise CaptureError(msg)
    if not generated:
        msg = (
            f"Expected frames besides the given one, got {video.frames} in all, at layer {layer!r}. "
            "Generate a longer video: num_frames=."
        )
        raise CaptureError(msg)
    _check_tokens(layer, video, call)
    layout = ReferenceLayout(0, grid)
    references = tuple(
        ReferenceKeys(video.tokens(range(frame, frame + 1)), layout, index)
        for index, frame in enumerate(video.given)
    )
    frames = len(generated)
    yield call.attention_inputs(
        video.tokens(generated),
        (frames * video.height, video.width),
        references,
        frames,
        text=video.text,
        text_queries=video.text,
    )


def _check_tokens(layer: str, video: VideoTokens, call: KernelCall) -> None:
    """Refuse a layer that sees another number of tokens: each process has a part of them, perhaps."""
    found = {call.query.shape[2], call.key.shape[2]}
    wanted = video.start + video.frames * video.height * video.width
    if isinstance(video.text, slice):
        wanted += len(range(*video.text.indices(call.key.shape[2])))
    elif video.text is not None:
        wanted += len(video.text)
    if found != {wanted}:
        came = " and ".join(map(str, sorted(found)))
        msg = (
            f"Expected {video.frames}×{video.height}×{video.width} tokens of the video ({wanted} in "
            f"all), got {came}, at layer {layer!r}. Capture without context parallelism, and give the "
            "profile that fits the model."
        )
        raise CaptureError(msg)


# --- Which frames are given.


def _less_noisy(call: DenoiserCall, frames: int) -> tuple[int, ...]:
    """Return the frames whose tokens are clean, or less noisy than the noisiest."""
    timestep = call.arguments["timestep"]
    if timestep.ndim < 2 or timestep.shape[1] % frames:
        return ()
    own = timestep[list(call.rows)]
    return _marked((own == 0) | (own < own.amax(1, keepdim=True)), frames)


def _marked(marks: torch.Tensor, frames: int) -> tuple[int, ...]:
    """Return the frames that are marked, of marks with dims (sample, token), bool.

    Raises
    ------
    CaptureError
        If a part of a frame is marked, or samples differ.
    """
    of_frames = marks.view(len(marks), frames, -1)
    whole, some = torch.stack([of_frames.all(-1), of_frames.any(-1)]).tolist()
    if whole != some or any(sample != whole[0] for sample in whole):
        msg = (
            "Expected frames that are given whole, and the same in all samples, got others. Give whole "
            "pictures as the first frame, and capture one sample a call."
        )
        raise CaptureError(msg)
    return tuple(frame for frame, is_given in enumerate(whole[0]) if is_given)


# --- How the picture is prepared.


def _prepared(call: RunningCall) -> Preparations:
    """Return that diffusers' video processor resized the picture, where it did."""
    image = call.variables.get("image_tensor", call.variables.get("image"))
    size = tuple(call.variables.get(side) for side in ("height", "width"))
    # Until it is resized it is a picture; where latents are given instead, it is not looked at.
    is_resized = isinstance(image, torch.Tensor) and tuple(image.shape[-2:]) == size
    return Stretched() if is_resized else None


def _generate_others(
    pipeline: Any, samples: Sequence[SampleInputs], settings: GenerationSettings
) -> list[Image.Image]:
    """Run the pipeline on a manifest's rows, and return the frames after the one that was given."""
    return generate(pipeline, samples, settings, first_frame=1)


# --- Wan.

# Of the mask that stands between the latents and the picture's: one for each frame of a latent.
_MASK_CHANNELS = 4


def _wan_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield the self-attention layers of a Wan transformer.

    Wan 2.2 5B knows the first frame by timesteps of 0, the 14B models by a mask among its channels,
    where the last frame may be given, too.
    """

    def video(call: DenoiserCall) -> VideoTokens:
        found = latent_video(denoiser, call)
        if call.arguments["timestep"].ndim > 1:
            given = _less_noisy(call, found.frames)
        else:
            given = _wan_masked(denoiser, call, found.frames)
        return replace(found, given=given)

    return first_frame(denoiser, layers="blocks.*.attn1", video=video)


def _wan_masked(denoiser: Any, call: DenoiserCall, frames: int) -> tuple[int, ...]:
    latents, own = call.arguments["hidden_states"], denoiser.config.out_channels
    if latents.shape[1] != 2 * own + _MASK_CHANNELS:
        return ()
    mask = latents[list(call.rows), own : own + _MASK_CHANNELS]
    return _marked(mask.amax(1).flatten(1) > 0, frames)


def _is_wan_without_tokens(target: Any, denoiser: nn.Module) -> bool:
    """Return whether it is a Wan model that may have a first frame, and no tokens of its picture."""
    names = class_names(target, DIFFUSERS)
    return (
        not names.isdisjoint({"WanImageToVideoPipeline", "WanTransformer3DModel"})
        and "WanTransformer3DModel" in class_names(denoiser, DIFFUSERS)
        and getattr(denoiser.config, "image_dim", None) is None
    )


register(
    Profile(
        "wan-first-frame",
        ("WanImageToVideoPipeline", "WanTransformer3DModel"),
        _wan_layers,
        package=DIFFUSERS,
        recognise=_is_wan_without_tokens,
        generate=_generate_others,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="Wan 2.2 image-to-video: 14B (both transformers) and 5B; if you name the profile, also Wan 2.1",
            tokens="those of one latent frame: a token for 16 × 16 pixels, of the 5B for 32 × 32",
            grid="the frame's",
            shares="the other frames",
            prepared="resized to the video's size, whatever its shape",
            unseen=(
                "what the VAE spreads from the first frame into the later ones' channels (14B); Wan "
                "2.1 also reads CLIP's tokens, which `wan-image-to-video` shows"
            ),
            example=(
                'with capture(pipe, "run.zarr", sample="a") as recording:\n'
                '    frames = pipe(image=image, prompt="…", num_frames=81, output_type="pil").frames[0]\n'
                "    later = np.concatenate([np.asarray(frame) for frame in frames[4::4]])\n"
                "    recording.add_images(generated=later, reference=image)"
            ),
        ),
    )
)


def _vace_layers(denoiser: Any) -> Iterator[LayerTap]:
    """Yield the self-attention layers of VACE's branch, where the references are frames before the video's.

    The main branch has frames in their places, too, of which only the branch's hints make pictures.
    """

    def video(call: DenoiserCall) -> VideoTokens:
        found = latent_video(denoiser, call)
        control, own = call.arguments["control_hidden_states"], denoiser.config.in_channels
        if control.shape[2] != call.arguments["hidden_states"].shape[2]:
            msg = (
                f"Expected as many frames of conditions as of the video, got {control.shape[2]} and "
                f"{call.arguments['hidden_states'].shape[2]}. Give latents of the length that "
                "num_frames and the references make."
            )
            raise CaptureError(msg)
        # A frame of the video has latents of what shall change; a reference has zeros in their place.
        is_empty = (control[list(call.rows), own : 2 * own] == 0).all(1)
        given = _marked(is_empty.flatten(1), found.frames)
        return replace(found, given=given[::-1])  # The pipeline puts each before those it has put.

    return first_frame(denoiser, layers="vace_blocks.*.attn1", video=video)


def _vace_prepared(call: RunningCall) -> Preparations:
    """Return how the references were fitted into the video's frame, with margins."""
    pictures = call.variables.get("reference_images")
    if not pictures or not all(isinstance(picture, torch.Tensor) for picture in pictures[0]):
        return None
    multiple = getattr(call.variables["self"], "vae_scale_factor_spatial", 1)
    sizes = [picture.shape[-2:] for picture in pictures[0]]
    return [Fitted(height, width, multiple=multiple) for height, width in sizes]


register(
    Profile(
        "wan-vace",
        ("WanVACEPipeline", "WanVACETransformer3DModel"),
        _vace_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_vace_prepared,
        notes=ModelNotes(
            serves="Wan VACE with reference images",
            tokens="those of one latent frame for each picture: a token for 16 × 16 pixels",
            grid="the frame's",
            shares="the video's frames, other pictures",
            prepared="fitted into the video's frame, with margins",
            unseen=(
                "the main branch, into which the shown one's hints are added; a first frame that is given "
                "by `video` and `mask`"
            ),
            example=(
                'with capture(pipe, "run.zarr", sample="a") as recording:\n'
                '    frames = pipe(reference_images=[image], prompt="…", output_type="pil").frames[0]\n'
                "    stacked = np.concatenate([np.asarray(frame) for frame in frames[::4]])\n"
                "    recording.add_images(generated=stacked, reference=image)"
            ),
        ),
    )
)


# --- LTX-Video and LTX-2.


def _ltx_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield the video's self-attention layers of an LTX transformer; those of LTX-2's sound are others."""
    return first_frame(denoiser, layers="transformer_blocks.*.attn1", video=_ltx_video)


def _ltx_video(call: DenoiserCall) -> VideoTokens:
    """Return how the packed tokens lie: the video's, and before or after them those of keyframes.

    A keyframe has tokens of its own, as many as a latent frame. What is given is known by the timesteps
    of its tokens; pictures are numbered in the order of their times.
    """
    arguments = call.arguments
    tokens = arguments["hidden_states"].shape[1]
    places: Any = arguments.get("video_coords")
    if places is not None:  # (row, axis, token) or, of LTX-2, (row, axis, token, begin and end)
        places = places[call.rows[0]].reshape(3, tokens, -1)[..., 0].cpu()
    height, width = arguments.get("height"), arguments.get("width")
    if height is None or width is None:
        height, width = _grid_of(places[1:])
    frames = tokens // (height * width)
    given = _less_noisy(call, frames)
    if len(given) > 1 and places is not None:
        times = places[0, :: height * width].tolist()
        given = tuple(sorted(given, key=times.__getitem__))
    return VideoTokens(frames, height, width, given)


def _grid_of(places: torch.Tensor) -> tuple[int, int]:
    """Return (height, width) of a frame, from the places of all tokens, dims (y and x, token)."""
    rows, columns = (axis.unique() for axis in places)
    frame = torch.cartesian_prod(rows, columns).T
    frames, rest = divmod(places.shape[1], frame.shape[1])
    if rest or not torch.equal(places, frame.repeat(1, frames)):
        msg = (
            f"Expected tokens that lie frame by frame, row by row, got {places.shape[1]} of which "
            f"{len(rows)}×{len(columns)} make no frame, at video_coords. No profile reads that."
        )
        raise CaptureError(msg)
    return len(rows), len(columns)


def _ltx_prepared(call: RunningCall) -> Preparations:
    """Return how the picture was prepared, or the pictures of the conditions, in their order."""
    known = call.variables
    if "conditioning_tensors" in known:  # LTXConditionPipeline
        frames = [tensor.shape[2] for tensor in known["conditioning_tensors"]]
        if not frames:
            return None
        _check_conditions(known["frame_index"], known["strength"], frames)
        return [Stretched()] * len(frames)
    if "conditions" in known:  # LTX2ConditionPipeline
        conditions, last = known["conditions"] or [], known["latent_num_frames"]
        places = [c.index % last if c.index < 0 else c.index for c in conditions]
        frames = [_frame_count(c.frames) for c in conditions]
        _check_conditions(places, [c.strength for c in conditions], frames, last)
        return [Fitted(known["height"], known["width"], covers=True)] * len(frames)
    return _prepared(call)


def _frame_count(frames: Any) -> int:
    """Return how many pictures a condition of LTX-2 holds."""
    if isinstance(frames, list):
        return len(frames)
    return int(frames.shape[0]) if getattr(frames, "ndim", 3) == 4 else 1


def _check_conditions(
    places: Sequence[int], strengths: Sequence[float], frames: Sequence[int], stop: float = math.inf
) -> None:
    """Refuse conditions whose pictures could be taken for one another's."""
    is_ordered = all(before < after for before, after in pairwise(places))
    if is_ordered and max(places) < stop and min(strengths) > 0 and set(frames) == {1}:
        return
    msg = (
        f"Expected single pictures as conditions, in the order of their frames, got {list(frames)} at "
        f"frames {list(places)} with strengths {list(strengths)}. Sort them, and leave out videos, further "
        "ones of a frame and those without strength."
    )
    raise CaptureError(msg)


register(
    Profile(
        "ltx-first-frame",
        (
            "LTXImageToVideoPipeline",
            "LTXConditionPipeline",
            "LTX2ImageToVideoPipeline",
            "LTX2ConditionPipeline",
            "LTXVideoTransformer3DModel",
            "LTX2VideoTransformer3DModel",
        ),
        _ltx_layers,
        package=DIFFUSERS,
        generate=_generate_others,
        prepares=_ltx_prepared,
        notes=ModelNotes(
            serves="LTX-Video and LTX-2: image to video; conditions that are single pictures",
            tokens="those of one latent frame for each picture: a token for 32 × 32 pixels",
            grid="the frame's",
            shares="the other frames, other pictures",
            prepared="resized to the video's size, whatever its shape; LTX-2's conditions: cropped to it",
            unseen=(
                "what LTX-2's sound brings from one frame to another; a condition of strength below 1 "
                "is none in LTX-Video's late steps: leave them out with `steps=`"
            ),
            example=(
                'with capture(pipe, "run.zarr", sample="a") as recording:\n'
                '    frames = pipe(image=image, prompt="…", num_frames=121).frames[0]\n'
                "    later = np.concatenate([np.asarray(frame) for frame in frames[8::8]])\n"
                "    recording.add_images(generated=later, reference=image)"
            ),
        ),
    )
)


# --- HunyuanVideo.

# The latter two of HunyuanVideo 1.5, whose tokens of the picture count as text here.
_BEHIND_VIDEO = ("encoder_hidden_states", "encoder_hidden_states_2", "image_embeds")


def _hunyuan_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield the joint attention layers of a HunyuanVideo transformer: the video, then the text.

    With "token_replace" the first frame's tokens are the picture's; with "latent_concat" it is in
    further channels, the last of which is a mask.
    """

    def video(call: DenoiserCall) -> VideoTokens:
        found = latent_video(denoiser, call)
        given: tuple[int, ...] = (0,)
        if _condition_type(denoiser) != "token_replace":
            latents = call.arguments["hidden_states"]
            given = _marked(latents[list(call.rows), -1].flatten(1) > 0, found.frames)
        tokens = found.frames * found.height * found.width
        behind = [call.arguments.get(name) for name in _BEHIND_VIDEO]
        text = sum(states.shape[1] for states in behind if states is not None)
        return replace(found, given=given, text=slice(tokens, tokens + text))

    return first_frame(denoiser, layers="*transformer_blocks.*.attn", video=video)


def _condition_type(denoiser: Any) -> str | None:
    found: str | None = getattr(denoiser.config, "image_condition_type", None)
    return found


def _is_hunyuan_with_image(target: Any, denoiser: nn.Module) -> bool:
    names = class_names(target, DIFFUSERS)
    return (
        not names.isdisjoint({"HunyuanVideoImageToVideoPipeline", "HunyuanVideoTransformer3DModel"})
        and "HunyuanVideoTransformer3DModel" in class_names(denoiser, DIFFUSERS)
        and _condition_type(denoiser) is not None
    )


def _generate_hunyuan(
    pipeline: Any, samples: Sequence[SampleInputs], settings: GenerationSettings
) -> list[Image.Image]:
    """Run the pipeline on a manifest's rows; of "latent_concat" it drops the first frame itself."""
    is_kept = _condition_type(pipeline.transformer) == "token_replace"
    return generate(pipeline, samples, settings, first_frame=int(is_kept))


register(
    Profile(
        "hunyuan-first-frame",
        ("HunyuanVideoImageToVideoPipeline", "HunyuanVideoTransformer3DModel"),
        _hunyuan_layers,
        package=DIFFUSERS,
        recognise=_is_hunyuan_with_image,
        generate=_generate_hunyuan,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves=(
                "HunyuanVideo image-to-video, with replaced tokens and with further channels; "
                "if you name the profile, also 1.5"
            ),
            tokens="those of one latent frame: a token for 16 × 16 pixels",
            grid="the frame's",
            shares="text, the other frames",
            prepared="resized to the video's size, whatever its shape",
            unseen=(
                "Llava's tokens of the picture, which stand before the text's and count as text: 144, "
                "or 288 with further channels"
            ),
            example=(
                'with capture(pipe, "run.zarr", sample="a") as recording:\n'
                '    frames = pipe(image=image, prompt="…", num_frames=61).frames[0]\n'
                "    others = frames[4::4]  # frames[::4] with further channels: the first are cut off\n"
                "    later = np.concatenate([np.asarray(frame) for frame in others])\n"
                "    recording.add_images(generated=later, reference=image)"
            ),
            has_text=True,
        ),
    )
)
