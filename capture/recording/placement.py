"""Which part of each stored picture the model saw, over which the layers' grids lie.

The family says so while its pipeline runs (`CallPictures`), the user may say it himself, and what
nobody says is checked: a picture must then have the shape of its tokens' grid, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pydantic import ValidationError
from torch import nn

from i2am.capture.hooks.picture_log import PictureLog
from i2am.capture.profiles.preparation import (
    CanvasPart,
    Preparation,
    Preparations,
    SeenPart,
    is_same_shape,
    painted_part,
)
from i2am.capture.profiles.profile import Profile, class_names
from i2am.capture.profiles.running_call import RunningCall, call_in_progress
from i2am.schemas import Box, CaptureError, ImageAttributes, LayerAttributes, SchemaError

__all__ = ["CallPictures", "Placement", "checked_boxes"]

_PROCESSORS = ("feature_extractor", "image_processor")
_GENERATED, _REFERENCE = "generated", "reference"


class CallPictures:
    """Reads from a pipeline's running call how its pictures were prepared.

    Parameters
    ----------
    target : pipeline or Module
    denoiser : Module
        Of the target, or the target itself.
    profile : Profile
    """

    def __init__(self, target: Any, denoiser: nn.Module, profile: Profile) -> None:
        self._target, self._profile = target, profile
        self._denoiser: nn.Module | None = denoiser
        processors = {id(p): p for p in (getattr(target, name, None) for name in _PROCESSORS)}
        self._log = PictureLog(
            p for p in processors.values() if "ImageProcessingMixin" in class_names(p)
        )

    def watch(self, stack: ExitStack) -> None:
        """Note what the pipeline's image processors prepare, until `stack` closes."""
        self._log.watch(stack)
        stack.callback(self._forget)

    def read(self, samples: int, grid: tuple[int, int]) -> list[Placement]:
        """Return how the pictures of each sample were prepared; called while the denoiser runs.

        Parameters
        ----------
        samples : int
            Number of images that the call generates.
        grid : (height, width)
            Of the generated patches, in the layer that is read first.
        """
        running = self._denoiser and call_in_progress(self._target, self._denoiser)
        variables = running.variables if running else {}
        call = RunningCall(self._target, variables, self._log.take(), samples=samples, grid=grid)
        prepares = self._profile.prepares or (lambda _call: None)
        painted = (self._profile.paints or painted_part)(call)
        return [
            Placement(painted, prepares(replace(call, sample=number))) for number in range(samples)
        ]

    def _forget(self) -> None:
        self._target = self._denoiser = None  # The recording may live longer than the model.
        self._log = PictureLog(())


@dataclass(frozen=True)
class Placement:
    """How one sample's pictures were prepared for the model.

    Parameters
    ----------
    generated : Preparation, optional
        None if the model painted the whole picture.
    references : Preparation, sequence of Preparation, or None
        One for all references, or one for each; None is unknown.
    """

    generated: Preparation | None
    references: Preparations

    def box(
        self, name: str, height: int, width: int, layers: Iterable[LayerAttributes], sample: str
    ) -> Box | None:
        """Return the part of a stored image that the model saw; None for all of it.

        Parameters
        ----------
        name : str
            Of the image.
        height, width : int
            Of the image, in pixels.
        layers : iterable of LayerAttributes
            Of the sample.
        sample : str
            Its name.

        Raises
        ------
        CaptureError
            If it cannot be known, or the image is not the one that the model was given or painted.
        """
        if name == _GENERATED:
            preparation, layer = self.generated, _finest(layers)
        elif (index := _reference_index(name)) is not None:
            preparation = self._of_reference(index)
            layer = _finest_of_reference(layers, index)
        else:
            return None
        place = f"at image {name!r} of sample {sample!r}"
        if preparation is None:
            if layer is not None:
                _check_shape(name, (height, width), layer, place)
            return None
        box = preparation.box(height, width)
        if box is not None:
            _check_overlap(name, box, (height, width), place)
            return None if box.is_whole(height, width) else box
        if layer is not None:
            _refuse_other_picture(name, preparation, (height, width), place)
        return None  # No token is a place of this reference.

    def _of_reference(self, index: int) -> Preparation | None:
        if not isinstance(self.references, Sequence):
            return self.references
        return self.references[index] if index < len(self.references) else None


def checked_boxes(boxes: Mapping[str, Any] | None, images: Mapping[str, Any]) -> dict[str, Box]:
    """Return the boxes that a user gives for images.

    Raises
    ------
    SchemaError
        If one is for no image that can have one, or is no box.
    """
    found = {}
    for name, box in (boxes or {}).items():
        if name not in images or (name != _GENERATED and _reference_index(name) is None):
            msg = (
                f"Expected boxes of generated or reference images that are added with them, got "
                f"one of {name!r}, at boxes. Give it with its image."
            )
            raise SchemaError(msg)
        try:
            found[name] = ImageAttributes(box=Box(*box)).box
        except (ValidationError, TypeError) as e:
            msg = (
                f"Expected a box (y0, x0, y1, x1) in pixels with y0 < y1 and x0 < x1, got {box!r}, "
                f"at boxes[{name!r}]. Give the part of the image that the model saw."
            )
            raise SchemaError(msg) from e
    return found


def _reference_index(name: str) -> int | None:
    """Return the number of a reference image; None for another image."""
    if name == _REFERENCE:
        return 0
    number = name.removeprefix(f"{_REFERENCE}_")
    return int(number) if number != name and number.isdecimal() else None


def _finest(layers: Iterable[LayerAttributes]) -> LayerAttributes | None:
    return max(layers, key=LayerAttributes.generated_tokens, default=None)


def _finest_of_reference(layers: Iterable[LayerAttributes], index: int) -> LayerAttributes | None:
    own = [layer for layer in layers if layer.reference_index == index and layer.reference_grid]
    return max(own, key=lambda layer: layer.reference_tokens() or 0, default=None)


def _check_shape(name: str, size: tuple[int, int], layer: LayerAttributes, place: str) -> None:
    """Refuse an image that has another shape than the grid which is to lie over it."""
    height, width = size
    told = f"got {height}×{width} px, {place}"
    say = f"add_images(…, boxes={{{name!r}: (y0, x0, y1, x1)}})"
    if name == _GENERATED:
        rows, columns = layer.generated_grid
        # Each frame's rounding is its own.
        if is_same_shape((rows / layer.frames, columns), (height / layer.frames, width)):
            return
        frames = f" ({layer.frames} frames above one another)" if layer.frames > 1 else ""
        msg = (
            f"Expected the generated image in the shape of its {rows}×{columns} patches{frames}, "
            f"{told}. Store it as the model painted it, whole (not in tiles or views), or say which "
            f"part that is: {say}."
        )
        raise CaptureError(msg)
    grid = layer.reference_grid
    if grid is None or is_same_shape(grid, size):
        return
    msg = (
        f"Expected a reference in the shape of its {grid[0]}×{grid[1]} tokens, as nothing tells how it "
        f"was prepared, {told}. Say what the model saw: {say}, or in the Profile: prepares=, or "
        "layout= if it is another grid."
    )
    raise CaptureError(msg)


def _check_overlap(name: str, box: Box, size: tuple[int, int], place: str) -> None:
    height, width = size
    if box.overlaps(height, width):
        return
    msg = (
        f"Expected a model that sees the picture, got one that sees {tuple(box)} of its "
        f"{height}×{width} px: a crop meant for another picture, {place}. Call it without that crop."
    )
    raise CaptureError(msg)


def _refuse_other_picture(
    name: str, preparation: Preparation, size: tuple[int, int], place: str
) -> NoReturn:
    if isinstance(preparation, CanvasPart):
        raise CaptureError(_neither_part_nor_canvas(name, preparation, size, place))
    given = (
        f" of {preparation.height}×{preparation.width} px"
        if isinstance(preparation, SeenPart)
        else ""
    )
    msg = (
        f"Expected the picture{given} that the model's call had, in its shape, got "
        f"{size[0]}×{size[1]} px, {place}. Store that picture, or say which part of this one the "
        f"model saw: add_images(…, boxes={{{name!r}: (y0, x0, y1, x1)}})."
    )
    raise CaptureError(msg)


def _neither_part_nor_canvas(
    name: str, preparation: CanvasPart, size: tuple[int, int], place: str
) -> str:
    rows, columns = preparation.grid
    canvas = f"{rows / preparation.part.height:g}×{columns / preparation.part.width:g}"
    return (
        f"Expected the painted part, in the shape of its {rows}×{columns} patches, or the canvas, of "
        f"{canvas}, got {size[0]}×{size[1]} px, {place}, which does not tell. Store one of them, or say "
        f"where the part lies: add_images(…, boxes={{{name!r}: (y0, x0, y1, x1)}})."
    )
