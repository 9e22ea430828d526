"""FLUX.2: text, target and references in one sequence, in double and in single blocks.

``img_ids`` tells them apart: its first column is 0 for the target, 10 for the first reference, 20 for
the second. Klein's KV pipeline puts the references before the target, and calls the model with them at
the first step alone: afterwards their keys come from a cache, and the call says no more than how many
they are. Where they lie is noted when the cache is made, whether that step is kept or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image
from torch import nn

from i2am.capture.hooks.denoiser import bind
from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, Edit, LayerTap, Receive
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    Segment,
    SequenceReader,
    pictures_of_ids,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import (
    CentreCrop,
    Preparation,
    Preparations,
    SeenPart,
    Stretched,
    filled_canvas,
)
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

__all__ = ["area_resized", "centre_cropped", "joint_layers"]

_ATTENTION = {"Flux2Attention", "Flux2ParallelSelfAttention"}
_MAX_AREA = 1024 * 1024  # pixels of a reference


def joint_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer of a FLUX.2 transformer."""
    places = _CachedPlaces(denoiser)
    reader = SequenceReader(places.segments, "Call a pipeline of FLUX.2 with an image.")
    for name, module in denoiser.named_modules():
        if not _ATTENTION.isdisjoint(class_names(module)):
            yield _Tap(name, module, block_of(name), read=reader.read, places=places)


@dataclass
class _CachedPlaces:
    """Where the references of each cache of keys lie.

    Parameters
    ----------
    denoiser : Module
    """

    denoiser: nn.Module = field(repr=False)
    _of_cache: WeakKeyDictionary[Any, tuple[Segment, ...]] = field(
        default_factory=WeakKeyDictionary, init=False
    )
    _is_watching: bool = field(default=False, init=False)

    def watch(self, stack: ExitStack) -> None:
        """Note the places in every call that makes a cache, until `stack` closes."""
        if self._is_watching:
            return
        handle = self.denoiser.register_forward_hook(self._note, with_kwargs=True)
        self._is_watching = True
        stack.callback(setattr, self, "_is_watching", False)
        stack.callback(handle.remove)

    def _note(self, module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        named = bind(type(module).forward, (module, *arguments), options)
        if named.get("kv_cache_mode") == "extract" and named.get("num_ref_tokens"):
            cache = output.kv_cache if hasattr(output, "kv_cache") else output[1]
            self._of_cache[cache] = pictures_of_ids(named["img_ids"])[:-1]

    def segments(self, source: DenoiserCall) -> JointSequence:
        """Return the segments of a call of the denoiser.

        Raises
        ------
        CaptureError
            If its references come from a cache that was made before the capture.
        """
        named = source.arguments
        words = text(named["encoder_hidden_states"].shape[1])
        mode, cache = named.get("kv_cache_mode"), named.get("kv_cache")
        pictures = pictures_of_ids(named["img_ids"])
        if mode == "cached" and cache is not None:
            if cache not in self._of_cache:
                msg = (
                    "Expected the references' keys from a step of this capture, got a cache that was "
                    "made before it. Begin the capture before the pipeline is called."
                )
                raise CaptureError(msg)
            return JointSequence((words, *self._of_cache[cache], *pictures), (words, *pictures))
        if mode == "extract" and named.get("num_ref_tokens"):
            return JointSequence((words, *pictures), (words, pictures[-1]))
        return JointSequence((words, *pictures))


@dataclass(frozen=True)
class _Tap(KernelTap):
    places: _CachedPlaces = field(repr=False)

    def attach(
        self, receive: Receive, current_call: Any, stack: ExitStack, edit: Edit | None = None
    ) -> None:
        """See `LayerTap`."""
        self.places.watch(stack)
        super().attach(receive, current_call, stack, edit)


def _prepared(call: RunningCall) -> Preparations:
    """Return how the references were cropped, or which crop of the picture is painted over."""
    variables = call.variables
    if "condition_images" in variables:
        given, prepared = variables["image"], variables["condition_images"] or ()
        pictures = given if isinstance(given, list) else [given] if prepared else ()
        return [
            centre_cropped(picture, area_resized(picture), tuple(tensor.shape[-2:]))
            for picture, tensor in zip(pictures, prepared, strict=True)
        ]
    if "image_reference" not in variables:
        return None
    found: list[Preparation | None] = [_painted_over(variables)]
    pictures = _own_pictures(variables["image_reference"], call)
    size = variables.get("image_reference_height"), variables.get("image_reference_width")
    return [*found, *(_inpainting_reference(picture, size) for picture in pictures)]


def area_resized(picture: Image.Image, area: int = _MAX_AREA) -> tuple[int, int]:
    """Return the size (height, width) of a picture that is resized if it is larger than an area."""
    width, height = picture.size
    if width * height <= _MAX_AREA:
        return height, width
    factor = (area / (width * height)) ** 0.5
    return int(height * factor), int(width * factor)


def centre_cropped(
    picture: Image.Image, resized: tuple[int, int], crop: tuple[int, int]
) -> SeenPart:
    """Return the middle of a resized picture, as FLUX.2's image processor cuts it out."""
    height, width = picture.height, picture.width
    return SeenPart(height, width, CentreCrop(resized, crop).box(height, width))


def _painted_over(variables: Any) -> Preparation | None:
    """Return how the picture that an inpainting pipeline paints over was prepared."""
    if "raw_h" not in variables:
        return None  # It was given as latents.
    if (crop := variables.get("crops_coords")) is None:
        return Stretched()
    canvas = filled_canvas(crop, variables["height"], variables["width"])
    return SeenPart(variables["raw_h"], variables["raw_w"], canvas)


def _own_pictures(given: Any, call: RunningCall) -> list[Any]:
    """Return the pictures of one sample: its own of as many as there are samples, or all of them."""
    pictures = given if isinstance(given, list) else [] if given is None else [given]
    return [pictures[call.sample]] if len(pictures) == call.samples else pictures


def _inpainting_reference(picture: Any, size: tuple[Any, Any]) -> Preparation | None:
    if not isinstance(picture, Image.Image):
        return None if None in size else Stretched()  # Tensors are not cropped.
    return centre_cropped(picture, (picture.height, picture.width), size)


register(
    Profile(
        "flux2",
        (
            "Flux2Pipeline",
            "Flux2KleinPipeline",
            "Flux2KleinInpaintPipeline",
            "Flux2KleinKVPipeline",
            "Flux2ModularPipeline",
            "Flux2Transformer2DModel",
        ),
        joint_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="FLUX.2 dev, Klein, Klein KV and Klein inpainting, with one picture or several",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared=(
                "made smaller if it has more than 1024 × 1024 pixels, then cropped in the middle to "
                "multiples of 16; the picture that is painted over is resized, with `padding_mask_crop` "
                "its crop alone is read"
            ),
            unseen="dev reads the prompt's rewriting by a language model, which may have seen the picture",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(prompt="the cat as a king", image=[cat, crown]).images[0]
    recording.add_images(generated=image, reference=cat, reference_1=crown)""",
            has_text=True,
        ),
    )
)
