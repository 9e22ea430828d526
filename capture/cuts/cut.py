"""The context manager ``cut``: takes reference tokens out of a running model's attention.

The taps that capture reads the model with know which keys are whose. The same hooks, on the same layers,
have the model's own kernel run without some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from PIL import Image

from i2am.capture.cuts.editor import Cut, CutEditor
from i2am.capture.cuts.placing import PicturePlaces, Size
from i2am.capture.hooks.denoiser import LayerCall
from i2am.capture.profiles.profile import Profile, select_taps
from i2am.capture.recording.hooked_target import HookedTarget, hook_target
from i2am.capture.recording.options import CaptureOptions, StepsOption, check_heads
from i2am.capture.recording.placement import CallPictures, Placement
from i2am.capture.recording.roads import check_knows_text
from i2am.schemas import Box, CaptureError, SchemaError
from i2am.schemas.choices import EdgeName, GuidanceOption

__all__ = ["Cut", "cut", "cutting", "layer_names", "picture_size"]


def cut(
    target: Any,
    *,
    edges: EdgeName | Sequence[EdgeName] = "reference->generated",
    region: Any = None,
    generated: Any = None,
    layers: str | Sequence[str] | None = None,
    steps: StepsOption = None,
    heads: Sequence[int] | None = None,
    reference: int | None = None,
    scale: float = 0.0,
    pictures: Mapping[str, Any] | None = None,
    boxes: Mapping[str, Sequence[float]] | None = None,
    images: int = 1,
    guidance: GuidanceOption = "conditional",
    profile: str | Profile | None = None,
    denoiser: str | None = None,
) -> Any:
    """Return a context manager inside which `target` paints without some reference tokens.

    Keys and values are dropped before the model's own attention kernel; where only some patches, heads or
    images lose them, it is called for these apart. Afterwards nothing is left on the model.

    Parameters
    ----------
    target : diffusers pipeline, CompVis-style model, or denoiser module
    edges, region, generated, layers, steps, heads, reference, scale
        What is cut; see `Cut`. By default all reference tokens, out of what all generated patches read.
    pictures : mapping of str to picture, or to (height, width)
        Those that `region` ("reference", "reference_1" …) and `generated` ("generated") are of, where
        these are boxes: their size.
    boxes : mapping of str to (y0, x0, y1, x1), optional
        The part of such a picture that the model saw, as in `Recording.add_images`; where the pipeline
        tells it, that is found.
    images : int
        Number of images that a call generates; all of them get the cut.
    guidance : {"conditional", "both"}
        The branches in which the tokens are cut. The unconditional one of most models reads no picture;
        of those that read the same one there, too, give "both".
    profile, denoiser
        As in `capture`.

    Raises
    ------
    CaptureError
        If no profile serves the target, or no layer matches; from within the model's call, if a layer's
        attention cannot be cut; at the end, if nothing was cut.
    SchemaError
        If a value is not valid.

    Notes
    -----
    A cut shows how the tokens act on the picture through attention: what the model reads of the
    reference elsewhere (in its latents, channels or embeddings) stays. In a layer with one token, a cut
    makes the layer's contribution zero, which says nothing about where the model looks.

    Examples
    --------
    ::

        with cut(pipe, region=(0, 0, 256, 512), pictures={"reference": garment}):
            without_collar = pipe(image=person, mask_image=mask, example_image=garment).images[0]
    """
    own = Cut(
        edges=(edges,) if isinstance(edges, str) else tuple(edges),
        region=region,
        generated=generated,
        layers=layers,
        steps=steps,
        heads=heads,
        reference=reference,
        scale=scale,
    )
    return cutting(
        target,
        [own] * images,
        {name: picture_size(picture, name) for name, picture in (pictures or {}).items()},
        {name: Box(*box) for name, box in (boxes or {}).items()},
        guidance=guidance,
        profile=profile,
        denoiser=denoiser,
    )


@contextmanager
def cutting(
    target: Any,
    cuts: Sequence[Cut | None],
    sizes: Mapping[str, Size] | None = None,
    boxes: Mapping[str, Box] | None = None,
    *,
    guidance: GuidanceOption = "conditional",
    steps: StepsOption = None,
    profile: str | Profile | None = None,
    denoiser: str | None = None,
) -> Iterator[None]:
    """Cut something else of each image that a call generates, inside a ``with`` block.

    Parameters
    ----------
    target
        See `cut`.
    cuts : sequence of Cut or None
        Of each image; None leaves it as it is.
    sizes : mapping of str to (height, width)
        Of the stored pictures that regions are of, in pixels.
    boxes : mapping of str to Box
        The parts of them that the model saw, where known.
    guidance, profile, denoiser
        See `cut`.
    steps
        The steps at which the layers are looked at, where the model runs at some alone.

    Raises
    ------
    CaptureError
        As `cut`; nothing was cut of an image that has a cut.

    Examples
    --------
    The left half of the reference for the first image of a call, nothing for the second:

    ::

        with cutting(pipe, [Cut(region=(0, 0, 512, 256)), None], {"reference": (512, 512)}):
            images = pipe(image=person, mask_image=mask, num_images_per_prompt=2).images
    """
    options = CaptureOptions(guidance=guidance, steps=steps, profile=profile, denoiser=denoiser)
    hooked = hook_target(target, options, len(cuts))
    for each in cuts:
        if each is not None:
            _check(each, hooked)
    pictures = CallPictures(target, hooked.denoiser, hooked.profile)
    run = _Run(hooked, cuts, sizes or {}, boxes or {}, pictures)
    with ExitStack() as stack:
        hooked.hooks.attach(stack, run, run.editor)
        pictures.watch(stack)
        yield
    run.check_ended()


def layer_names(
    target: Any, *, profile: str | Profile | None = None, denoiser: str | None = None
) -> list[str]:
    """Return the paths of the layers that can be cut, in the order of the model's modules.

    Parameters
    ----------
    target, profile, denoiser
        See `cut`.

    Raises
    ------
    CaptureError
        If no profile serves the target.
    """
    hooked = hook_target(target, CaptureOptions(profile=profile, denoiser=denoiser), 1)
    return [tap.name for tap in hooked.hooks.taps]


class _Run:
    """What the block's calls of the model make known."""

    def __init__(
        self,
        hooked: HookedTarget,
        cuts: Sequence[Cut | None],
        sizes: Mapping[str, Size],
        boxes: Mapping[str, Box],
        pictures: CallPictures,
    ) -> None:
        self._hooks, self._cuts, self._pictures = hooked.hooks, cuts, pictures
        self._placement: Placement | None = None
        self.editor = CutEditor(cuts, PicturePlaces(sizes, boxes, self._ask))

    def receive(self, call: LayerCall) -> None:
        """See `LayerSink`."""

    def call_ended(self) -> None:
        """See `LayerSink`."""

    def last_step(self) -> None:
        """See `LayerSink`."""

    def _ask(self, grid: tuple[int, int]) -> Placement:
        if self._placement is None:
            # All images of the call are painted from pictures that lie alike.
            self._placement = self._pictures.read(len(self._cuts), grid)[0]
        return self._placement

    def check_ended(self) -> None:
        """Refuse a block in which the model did not run, or a cut took nothing out.

        Raises
        ------
        CaptureError
        """
        if not self._hooks.calls:
            msg = "Expected the model to run inside the with block, got no call of its denoiser. "
            raise CaptureError(msg + "Call the pipeline there.")
        self._hooks.check_ended()
        for image, own in enumerate(self._cuts):
            if own is not None and own.is_change and image not in self.editor.made:
                msg = (
                    f"Expected tokens to cut, got none, at image {image}: its region holds no token's "
                    "centre, or its layers, steps or edges have no such token. Give others."
                )
                raise CaptureError(msg)


def _check(own: Cut, hooked: HookedTarget) -> None:
    """Refuse a cut that this model has no layers, heads or text for."""
    taps = list(hooked.hooks.taps)
    if own.layers is not None:
        select_taps(taps, own.layers, type(hooked.denoiser).__name__)
    check_heads(taps, own.heads)
    check_knows_text(hooked.profile, [edge for edge in own.edges if "text" in edge])


def picture_size(picture: Any, name: str) -> Size:
    """Return (height, width) of a picture, or of what was given as its size."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    values = np.asarray(picture)
    if values.ndim >= 2:
        return int(values.shape[0]), int(values.shape[1])
    if values.shape == (2,) and (values > 0).all():
        return int(values[0]), int(values[1])
    msg = (
        f"Expected a picture or (height, width), got {picture!r}, at pictures[{name!r}]. Give one."
    )
    raise SchemaError(msg)
