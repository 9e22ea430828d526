"""What must be known of a call before regions can be cut: its layers, their grids, where these lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from i2am.capture.causal.painting import Painting, WatchedDecoder
from i2am.capture.causal.repeated_call import PaintingCall
from i2am.capture.cuts.placing import Size
from i2am.capture.hooks.attention import layer_attributes
from i2am.capture.hooks.denoiser import LayerCall
from i2am.capture.profiles.profile import Profile
from i2am.capture.recording.hooked_target import hook_target
from i2am.capture.recording.options import CaptureOptions
from i2am.capture.recording.placement import CallPictures, Placement
from i2am.schemas import Box, CaptureError, LayerAttributes

__all__ = ["Surroundings", "look"]


@dataclass(frozen=True)
class Surroundings:
    """The layers of a call and where their grids lie.

    Parameters
    ----------
    layers : tuple of str
        Paths of the layers that read the reference, in the model's order.
    grid : (height, width)
        The finest of the generated patches.
    frames : int
        Of a video, how many of them the grid stacks above one another.
    has_regions : bool
        Whether some layer's tokens are places of the first reference.
    boxes : mapping of str to Box
        The part of "generated" and "reference" that the model saw, where that is known.
    painting : Painting, optional
        What was painted to know this: as it must come out again.
    """

    layers: tuple[str, ...]
    grid: tuple[int, int]
    frames: int = 1
    has_regions: bool = True
    boxes: Mapping[str, Box] = field(default_factory=dict)
    painting: Painting | None = None

    @classmethod
    def of(
        cls, paths: Iterable[str], layers: Collection[LayerAttributes], boxes: Mapping[str, Box]
    ) -> Surroundings:
        """Return them from what is known of each layer and each of its references."""
        finest = max(layers, key=LayerAttributes.generated_tokens)
        return cls(
            tuple(dict.fromkeys(paths)),
            finest.generated_grid,
            finest.frames,
            any(layer.reference_grid and not layer.reference_index for layer in layers),
            boxes,
        )

    def reference_box(self) -> Box:
        """Return the part of the reference that the model saw, which regions tile.

        Raises
        ------
        CaptureError
            If no token is a place of the reference, or its size is not known.
        """
        if not self.has_regions:
            msg = (
                "Expected reference tokens that are places of the picture, to cut its regions, got none. "
                "Measure layers alone: per=['layer'] (--no-regions)."
            )
            raise CaptureError(msg)
        if "reference" not in self.boxes:
            msg = (
                "Expected the reference, of which regions are cut, got none. Give it: "
                "pictures={'reference': picture}."
            )
            raise CaptureError(msg)
        return self.boxes["reference"]


def look(
    target: Any,
    call: PaintingCall,
    sizes: Mapping[str, Size],
    boxes: Mapping[str, Box],
    *,
    profile: str | Profile | None = None,
    denoiser: str | None = None,
) -> Surroundings:
    """Paint an image once, and return what its layers tell.

    Parameters
    ----------
    target, profile, denoiser
        See `i2am.capture.cut`.
    call : PaintingCall
    sizes : mapping of str to (height, width)
        Of the pictures, in pixels.
    boxes : mapping of str to Box
        The parts that are known already.

    Raises
    ------
    CaptureError
        If the model cannot be read, or no layer read the reference.
    """
    hooked = hook_target(target, CaptureOptions(profile=profile, denoiser=denoiser), 1)
    sink = _Sink(CallPictures(target, hooked.denoiser, hooked.profile))
    with ExitStack() as stack:
        decoder = WatchedDecoder(target, stack)
        hooked.hooks.attach(stack, sink)
        sink.pictures.watch(stack)
        output = call(1)
    if not sink.layers or sink.placement is None:
        msg = (
            "Expected a call in which layers read the reference, got none of them. Check the call."
        )
        raise CaptureError(msg)
    found = list(sink.layers.values())
    layers = [layer for each in found for layer in each]
    known = dict(boxes)
    for name, (height, width) in sizes.items():
        if name not in known:
            box = sink.placement.box(name, height, width, layers, "that is cut")
            known[name] = Box.whole(height, width) if box is None else box
    around = Surroundings.of(sink.layers, layers, known)
    return replace(around, painting=decoder.painting(output, 1, around.frames))


class _Sink:
    """Notes the layers of the first step."""

    def __init__(self, pictures: CallPictures) -> None:
        self.pictures = pictures
        self.placement: Placement | None = None
        self.layers: dict[str, list[LayerAttributes]] = {}

    def receive(self, call: LayerCall) -> None:
        """See `LayerSink`."""
        if self.placement is None:
            self.placement = self.pictures.read(1, call.inputs[0].grid)[0]
        if call.tap.name in self.layers or not any(one.references for one in call.inputs):
            return
        self.layers[call.tap.name] = [
            layer_attributes(inputs, own, call.tap.block, order=len(self.layers))
            for inputs in call.inputs
            for own in inputs.references
        ]

    def call_ended(self) -> None:
        """See `LayerSink`."""

    def last_step(self) -> None:
        """See `LayerSink`."""
