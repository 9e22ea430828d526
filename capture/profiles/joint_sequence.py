"""Joint attention over one sequence: text, the generated image and the references, one after another.

A family says of each call of its denoiser which segments the sequence has; from their lengths follow
the indices of every token. The segments are those of the batch indices that are kept: what the others
hold need not be known. A kernel call over other tokens (an adapter's, a reference's own) is left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, Literal, TypeVar

import torch

from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    Tokens,
)
from i2am.capture.hooks.kernel_tap import KernelCall
from i2am.capture.hooks.taps import DenoiserCall
from i2am.schemas import CaptureError

__all__ = [
    "JointSequence",
    "OncePerCall",
    "Segment",
    "SequenceReader",
    "generated",
    "other",
    "pictures_of_ids",
    "reference",
    "same_for_kept_rows",
    "text",
]

Role = Literal["text", "generated", "reference", "other"]
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Segment:
    """A run of tokens of a joint sequence; `text`, `generated`, `reference` and `other` make one.

    Parameters
    ----------
    role : {"text", "generated", "reference", "other"}
    tokens : int
    layout : ReferenceLayout, optional
        How the tokens of a picture lie on it.
    index : int
        Number of the reference.
    frames : int
        Of the generated picture; they are stacked along the grid's height.
    """

    role: Role
    tokens: int
    layout: ReferenceLayout | None = None
    index: int = 0
    frames: int = 1


def text(tokens: int) -> Segment:
    """Return a segment of text."""
    return Segment("text", tokens)


def other(tokens: int) -> Segment:
    """Return a segment that shares the softmax, and is no text and no picture: padding, a timestep."""
    return Segment("other", tokens)


def generated(grid: tuple[int, int], frames: int = 1) -> Segment:
    """Return the generated patches, row-major over a grid (height, width)."""
    height, width = grid
    return Segment("generated", height * width, ReferenceLayout(0, grid), frames=frames)


def reference(
    grid: tuple[int, int] | None, index: int, tokens: int = 0, special_tokens: int = 0
) -> Segment:
    """Return the tokens of one reference.

    Parameters
    ----------
    grid : (height, width) or None
    index : int
        Number of the reference, from 0.
    tokens : int
        How many there are, where no grid says it.
    special_tokens : int
        How many stand before the grid.

    Examples
    --------
    >>> reference((2, 3), 0).tokens, reference(None, 0, tokens=4).tokens
    (6, 4)
    """
    count = tokens if grid is None else special_tokens + grid[0] * grid[1]
    return Segment("reference", count, ReferenceLayout(special_tokens, grid), index)


@dataclass(frozen=True)
class JointSequence:
    """The segments of the keys of a joint attention, and of its queries where they are others.

    Parameters
    ----------
    keys : tuple of Segment
    queries : tuple of Segment, optional
        None for the same tokens as the keys.

    Examples
    --------
    >>> sequence = JointSequence((text(3), generated((2, 2)), reference((2, 1), 0)))
    >>> sequence.key_count, sequence.query_count
    (9, 9)
    """

    keys: tuple[Segment, ...]
    queries: tuple[Segment, ...] | None = None

    @property
    def key_count(self) -> int:
        """Number of keys."""
        return sum(segment.tokens for segment in self.keys)

    @property
    def query_count(self) -> int:
        """Number of queries."""
        return sum(segment.tokens for segment in self.queries or self.keys)

    def check_has_reference(self, hint: str) -> None:
        """Refuse a sequence without a reference.

        Parameters
        ----------
        hint : str
            What to call, and with what.

        Raises
        ------
        CaptureError
        """
        if not any(segment.role == "reference" for segment in self.keys):
            msg = f"Expected reference tokens, got none in the call of the denoiser. {hint}"
            raise CaptureError(msg)

    def without_text(self) -> JointSequence:
        """Return the sequence with text as any other token: where the pictures lie is left."""
        queries = None if self.queries is None else _merged(self.queries)
        return JointSequence(_merged(self.keys), queries)

    def read(self, call: KernelCall) -> Iterator[AttentionInputs]:
        """Yield the inputs of the generated patches' softmax, if a kernel call is over these tokens."""
        counts = call.query.shape[2], call.key.shape[2]
        if counts != (self.query_count, self.key_count):
            return
        queries = self.keys if self.queries is None else self.queries
        ((own, patches),) = _spans(queries, "generated")
        assert own.layout is not None
        assert own.layout.grid is not None
        references = tuple(
            ReferenceKeys(tokens, segment.layout, segment.index)
            for segment, tokens in _spans(self.keys, "reference")
            if segment.layout is not None
        )
        yield call.attention_inputs(
            patches,
            own.layout.grid,
            references,
            own.frames,
            text=_text_tokens(self.keys),
            text_queries=_text_tokens(queries),
        )


def _merged(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return the segments with runs of text and other tokens as one."""
    found: list[Segment] = []
    for segment in segments:
        if segment.role in ("generated", "reference"):
            found.append(segment)
        elif found and found[-1].role == "other":
            found[-1] = other(found[-1].tokens + segment.tokens)
        else:
            found.append(other(segment.tokens))
    return tuple(segment for segment in found if segment.tokens)


def _spans(segments: Iterable[Segment], role: Role) -> Iterator[tuple[Segment, slice]]:
    start = 0
    for segment in segments:
        if segment.role == role:
            yield segment, slice(start, start + segment.tokens)
        start += segment.tokens


def _text_tokens(segments: Iterable[Segment]) -> Tokens | None:
    """Return the indices of all text; None without any."""
    spans = [span for segment, span in _spans(segments, "text") if segment.tokens]
    if len(spans) < 2:
        return spans[0] if spans else None
    return torch.cat([torch.arange(span.start, span.stop) for span in spans])


class OncePerCall(Generic[_Value]):
    """Computes something of the denoiser's call once, for all layers: it may wait for the device.

    Parameters
    ----------
    compute : callable (DenoiserCall) -> value
    """

    def __init__(self, compute: Callable[[DenoiserCall], _Value]) -> None:
        self._compute = compute
        self._latest: tuple[Callable[[], DenoiserCall | None], _Value] | None = None

    def __call__(self, source: DenoiserCall) -> _Value:
        """Return the value of a call of the denoiser."""
        if self._latest is None or self._latest[0]() is not source:
            # Its tensors are not kept for longer.
            self._latest = weakref.ref(source), self._compute(source)
        return self._latest[1]


class SequenceReader:
    """Reads the kernel calls of all layers by the segments of the denoiser's call.

    Parameters
    ----------
    segments_of : callable (DenoiserCall) -> JointSequence
        Asked once for each call of the denoiser.
    hint : str
        What to call, and with what, where a call has no reference.

    Examples
    --------
    ::

        reader = SequenceReader(segments_of, "Call MyPipeline with an image.")
        yield KernelTap(name, module, block_of(name), read=reader.read)
    """

    def __init__(self, segments_of: Callable[[DenoiserCall], JointSequence], hint: str) -> None:
        self._segments_of, self._hint = segments_of, hint
        self.sequence_of = OncePerCall(self._checked)

    def read(self, call: KernelCall) -> Iterator[AttentionInputs]:
        """Yield the inputs of one kernel call's softmax; none of a call over other tokens.

        Raises
        ------
        CaptureError
            If the call of the denoiser has no reference.
        """
        yield from self.sequence_of(call.source).read(call)

    def _checked(self, source: DenoiserCall) -> JointSequence:
        sequence = self._segments_of(source)
        sequence.check_has_reference(self._hint)
        return sequence


def pictures_of_ids(ids: Any, target: float = 0, first_index: int = 0) -> tuple[Segment, ...]:
    """Return the segments of the pictures whose tokens have these ids, in their order.

    Parameters
    ----------
    ids : Tensor, dims (token, 3 or more) or (batch, token, 3 or more)
        The number of the picture, then the token's row and column. It is read, which waits for the
        device.
    target : float
        Number of the generated picture; all others are references.
    first_index : int
        Number that the first reference gets.

    Raises
    ------
    CaptureError
        If the tokens of a picture are not a row-major grid.

    Examples
    --------
    >>> ids = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 5, 0], [1, 6, 0]])
    >>> [(one.role, one.layout.grid) for one in pictures_of_ids(ids)]
    [('generated', (1, 2)), ('reference', (2, 1))]
    """
    own = (ids[0] if ids.ndim == 3 else ids).detach().float().cpu()[:, :3].tolist()
    found: list[Segment] = []
    index = first_index
    for number, run in groupby(own, key=lambda token: token[0]):
        places = [(row, column) for _, row, column in run]
        rows, columns = (sorted(set(axis)) for axis in zip(*places, strict=True))
        grid = len(rows), len(columns)
        if places != [(row, column) for row in rows for column in columns]:
            msg = (
                f"Expected the tokens of a picture as a grid, row by row, got {len(places)} that are none, "
                f"at picture {number:g} of img_ids. Call the pipeline as it is, without ids of your own."
            )
            raise CaptureError(msg)
        if number == target:
            found.append(generated(grid))
        else:
            found.append(reference(grid, index))
            index += 1
    return tuple(found)


def same_for_kept_rows(
    source: DenoiserCall, segments_of: Callable[[int], JointSequence]
) -> JointSequence:
    """Return the segments that all kept batch indices share.

    Where their texts alone differ in length, and padding makes up for it, the text is not told apart.

    Parameters
    ----------
    source : DenoiserCall
    segments_of : callable (batch index) -> JointSequence

    Raises
    ------
    CaptureError
        If the pictures do not lie in the same places for all of them.
    """
    every = [segments_of(row) for row in source.rows]
    plain = [sequence.without_text() for sequence in every]
    for first, *others in (every, plain):
        if all(one == first for one in others):
            return first
    msg = (
        "Expected pictures in the same places for every image and guidance branch that is kept, got "
        "others: texts of different lengths, or a branch without the reference. Generate one image a "
        "call, with guidance='conditional'."
    )
    raise CaptureError(msg)
