"""GLM-Image: the references' keys come from a cache, then text and the generated picture.

The cache is filled before the first step, by a call of the transformer for each reference; these calls
are no steps, and where the references lie is noted in them. The unconditional branch does not read the
cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from i2am.capture.hooks.denoiser import bind
from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, Edit, LayerTap, Receive
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    SequenceReader,
    generated,
    reference,
    same_for_kept_rows,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import stretched
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.schemas import CaptureError

__all__ = ["cached_reference_layers"]


def cached_reference_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer of a GLM-Image transformer."""
    config: Any = denoiser.config
    places = _CachedPlaces(denoiser, int(config.patch_size))
    reader = SequenceReader(places.segments, "Call GlmImagePipeline with an image.")
    for name, module in denoiser.named_modules():
        if name.endswith(".attn1"):
            yield _Tap(name, module, block_of(name), read=reader.read, places=places)


@dataclass
class _CachedPlaces:
    """Where the references of each cache of keys lie.

    Parameters
    ----------
    denoiser : Module
    patch : int
        Side of a token, in latents.
    """

    denoiser: nn.Module = field(repr=False)
    patch: int
    # cache -> prompt -> the grids of its references
    _of_cache: WeakKeyDictionary[Any, dict[int, list[tuple[int, int]]]] = field(
        default_factory=WeakKeyDictionary, init=False
    )
    _is_watching: bool = field(default=False, init=False)

    def watch(self, stack: ExitStack) -> None:
        """Note the places in every call that fills a cache, until `stack` closes."""
        if self._is_watching:
            return
        handle = self.denoiser.register_forward_hook(self._note, with_kwargs=True)
        self._is_watching = True
        stack.callback(setattr, self, "_is_watching", False)
        stack.callback(handle.remove)

    def _note(self, module: nn.Module, arguments: Any, options: Any, _output: Any) -> None:
        named = bind(type(module).forward, (module, *arguments), options)
        if is_step(named):
            return
        cache, grid = named["kv_caches"], self._grid(named)
        prompt = cache[0].current_sample_idx
        grids = self._of_cache.setdefault(cache, {})
        if cache[0].k_caches[prompt].shape[1] == grid[0] * grid[1]:
            grids[prompt] = []  # It is the first of its prompt.
        grids[prompt].append(grid)

    def _grid(self, named: Mapping[str, Any]) -> tuple[int, int]:
        height, width = named["hidden_states"].shape[-2:]
        return height // self.patch, width // self.patch

    def segments(self, source: DenoiserCall) -> JointSequence:
        """Return the segments of a call of the denoiser.

        Raises
        ------
        CaptureError
            If its references come from a cache that was filled before the capture, or it has none
            because it is unconditional.
        """
        named = source.arguments
        own = text(named["encoder_hidden_states"].shape[1]), generated(self._grid(named))
        cache: Any = named.get("kv_caches")
        mode = _mode(named)
        if mode == "skip":
            msg = (
                "Expected a guidance branch that reads the reference, got the unconditional one, which "
                "does not. Capture with guidance='conditional'."
            )
            raise CaptureError(msg)
        filled = cache[0].k_caches if mode == "read" else []

        def of_row(row: int) -> JointSequence:
            # As GlmImageLayerKVCache.get shares them out.
            prompt = row * len(filled) // source.batch
            grids = self._grids(cache, prompt, filled[prompt].shape[1])
            references = [reference(grid, index) for index, grid in enumerate(grids)]
            return JointSequence((*references, *own), own)

        return same_for_kept_rows(source, of_row) if filled else JointSequence(own)

    def _grids(self, cache: Any, prompt: int, tokens: int) -> list[tuple[int, int]]:
        grids = self._of_cache.get(cache, {}).get(prompt, [])
        if sum(height * width for height, width in grids) == tokens:
            return grids
        msg = (
            "Expected the references' keys to be made in this capture, got a cache that was filled before "
            "it. Begin the capture before the pipeline is called."
        )
        raise CaptureError(msg)


@dataclass(frozen=True)
class _Tap(KernelTap):
    places: _CachedPlaces = field(repr=False)

    def attach(
        self, receive: Receive, current_call: Any, stack: ExitStack, edit: Edit | None = None
    ) -> None:
        """See `LayerTap`."""
        self.places.watch(stack)
        super().attach(receive, current_call, stack, edit)


def is_step(arguments: Mapping[str, Any]) -> bool:
    """Return whether a call of the denoiser does not fill a cache; see `Profile.is_step`."""
    return _mode(arguments) != "write"


def _mode(arguments: Mapping[str, Any]) -> str | None:
    cache = arguments.get("kv_caches")
    mode: str | None = None if cache is None else cache[0].mode
    return mode


register(
    Profile(
        "glm-image",
        ("GlmImagePipeline", "GlmImageTransformer2DModel"),
        cached_reference_layers,
        is_batched=False,
        is_step=is_step,
        package=DIFFUSERS,
        prepares=stretched,
        notes=ModelNotes(
            serves="GLM-Image with one picture or several; the conditional branch alone",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared="resized to multiples of 16 pixels",
            unseen=(
                "what the language model makes of the pictures: its plan of the result is added to the "
                "generated patches"
            ),
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(prompt="make it a king", image=[cat], height=1024, width=1024).images[0]
    recording.add_images(generated=image, reference=cat)""",
            has_text=True,
        ),
    )
)
