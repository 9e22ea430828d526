"""VisualCloze: examples and a query in rows of pictures, one of which is generated.

Each row is a canvas of its own: its pictures lie side by side, and the rows follow each other in one
sequence, behind the text. The last row is the query. Its generated picture attends to all others, which
are the references, in the order in which they are given. How wide each is says the running call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from i2am.capture.families.canvas import Picture, box_tokens, host_ids, picture_grid
from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, ReferenceLayout
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.denoisers import find_denoiser
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparation, Preparations, SeenPart
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall, call_in_progress
from i2am.schemas import Box, CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["row_layers"]


@dataclass(frozen=True)
class _Layout:
    """The pictures of one sample.

    Parameters
    ----------
    widths : tuple of tuple of int
        Of the pictures of each row, in pixels.
    target : int
        Which of the last row is generated.
    """

    widths: tuple[tuple[int, ...], ...]
    target: int


def row_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer of VisualCloze's transformer, which is FLUX'."""
    for name, module in denoiser.named_modules():
        if "FluxAttention" in class_names(module):
            yield KernelTap(name, module, block_of(name), read=partial(_read, name, denoiser))


def _read(name: str, denoiser: nn.Module, call: KernelCall) -> Iterator[AttentionInputs]:
    layout = _layout(denoiser)
    ids = host_ids(call.source.arguments["img_ids"])
    text = call.source.arguments["encoder_hidden_states"].shape[1]
    if call.key.shape[2] != text + len(ids):
        return  # An IP-Adapter's own call, over other tokens.
    found, start = [], text
    for row, widths in enumerate(layout.widths, 1):
        own = ids[ids[:, 0] == row]
        picture = Picture(picture_grid(own), start)
        parts = _side_by_side(widths)
        found += [box_tokens(part, picture, name, call.query.device) for part in parts]
        start += len(own)
    generated, grid = found.pop(len(found) - len(layout.widths[-1]) + layout.target)
    references = tuple(
        ReferenceKeys(tokens, ReferenceLayout(0, own_grid), index)
        for index, (tokens, own_grid) in enumerate(found)
    )
    own_text = slice(0, text)
    yield call.attention_inputs(generated, grid, references, text=own_text, text_queries=own_text)


def _side_by_side(widths: Sequence[int]) -> Iterator[Box]:
    """Yield the part of a row that each picture fills, in fractions of it."""
    start, whole = 0, sum(widths)
    for width in widths:
        yield Box(0, start / whole, 1, (start + width) / whole)
        start += width


def _layout(denoiser: nn.Module) -> _Layout:
    """Return how the pictures of the running call lie.

    Raises
    ------
    CaptureError
        If none is running, its samples differ, or it does not generate one picture alone.
    """
    told = _processed(denoiser)
    if told is None:
        msg = (
            "Expected a running call of VisualClozeGenerationPipeline, which tells how its pictures lie, got "
            "none. Call the pipeline, not its transformer."
        )
        raise CaptureError(msg)
    samples = {
        _Layout(tuple(tuple(size[1] for size in row) for row in rows), _target(positions))
        for rows, positions in zip(told["image_size"], told["target_position"], strict=True)
    }
    if len(samples) > 1:
        msg = (
            "Expected samples whose pictures lie alike, got others in one call. Give them one call each, with "
            "recording.next_sample('NAME') before it."
        )
        raise CaptureError(msg)
    return samples.pop()


def _target(positions: Sequence[int]) -> int:
    if sum(positions) == 1:
        return list(positions).index(1)
    msg = (
        f"Expected one picture to be generated, got {sum(positions)} of {len(positions)} in the last row. Ask "
        "for one of them, and give the others."
    )
    raise CaptureError(msg)


def _processed(denoiser: nn.Module) -> Mapping[str, Any] | None:
    """Return what the running pipeline made of its pictures; None if none is running."""
    running = call_in_progress(denoiser, denoiser)
    return None if running is None else running.variables.get("processor_output")


def _prepared(call: RunningCall) -> Preparations:
    """Return which part of each given picture is left, in their order."""
    denoiser = find_denoiser(call.target)
    running, told = call_in_progress(denoiser, denoiser), _processed(denoiser)
    if running is None or told is None:
        return None
    given = running.variables["image"]
    samples = given if isinstance(running.variables["task_prompt"], list) else [given]
    number = call.sample % len(samples)
    sizes = [size for row in told["image_size"][number] for size in row]
    pictures = [picture for row in samples[number] for picture in row]
    return [
        _cropped(picture, *size)
        for picture, size in zip(pictures, sizes, strict=True)
        if picture is not None  # The one that is generated.
    ]


def _cropped(picture: Any, height: int, width: int) -> Preparation | None:
    """Return the middle of a picture that covers a size.

    Notes
    -----
    As ``VaeImageProcessor.resize`` does it, with ``resize_mode="crop"``.
    """
    if not isinstance(picture, Image.Image):
        return None
    is_narrower = width / height > picture.width / picture.height
    resized_width = width if is_narrower else picture.width * height // picture.height
    resized_height = picture.height * width // picture.width if is_narrower else height
    per_row, per_column = picture.height / resized_height, picture.width / resized_width
    y0 = (resized_height // 2 - height // 2) * per_row
    x0 = (resized_width // 2 - width // 2) * per_column
    seen = Box(y0, x0, y0 + height * per_row, x0 + width * per_column)
    return SeenPart(picture.height, picture.width, seen)


register(
    Profile(
        "visualcloze",
        ("VisualClozePipeline", "VisualClozeGenerationPipeline"),
        row_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="`VisualClozeGenerationPipeline`, and `VisualClozePipeline` with `upsampling_strength=0`",
            tokens="a token for 16 × 16 pixels, of each given picture",
            grid="the picture's",
            shares="text, the generated patches, other pictures",
            prepared="resized and cropped in the middle to its row's size",
            unseen="–",
            example=(
                'with capture(pipe.generation_pipe, "run.zarr", sample="cat") as recording:\n'
                "    rows = [[example, its_result], [picture, None]]\n"
                "    ((image,),) = pipe.generation_pipe(task_prompt=task, content_prompt=text, image=rows)[0]\n"
                "    recording.add_images(generated=image, reference=example, reference_1=its_result,\n"
                "                         reference_2=picture)"
            ),
            has_text=True,
        ),
    )
)
