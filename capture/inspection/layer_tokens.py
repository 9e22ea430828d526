"""What the tokens of an attention layer are: counts, grids, places. Of their values nothing is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, Tokens
from i2am.capture.recording.representation import visible_text

__all__ = ["LayerTokens", "ReferenceTokens", "SoftmaxTokens", "group_layers", "read_softmax"]


# A whole part of a layer's path, and what stands for it.
_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")
_HOLE = "#"


@dataclass(frozen=True)
class ReferenceTokens:
    """The tokens of one reference image.

    Parameters
    ----------
    index : int
        Number of the image, from 0.
    count, special_tokens : int
        How many there are, and how many of them stand before the grid.
    grid : (height, width) or None
    places : str
        Where they are among the keys of their softmax, counted from 0.
    weight : float
        Factor of their contribution.
    has_region : bool
        Whether a mask says to which patches they contribute.
    """

    index: int
    count: int
    special_tokens: int
    grid: tuple[int, int] | None
    places: str
    weight: float = 1.0
    has_region: bool = False


@dataclass(frozen=True)
class SoftmaxTokens:
    """The queries and keys of one softmax.

    Parameters
    ----------
    heads, channels : int
    scale : float
        Factor of Q·K.
    grid : (height, width)
        Of the generated patches, which are the queries; frames are stacked along the height.
    frames : int
    keys : int
        All of them.
    references : tuple of ReferenceTokens
    text : int
        Keys that are text and that the patches may see; 0 where none is known.
    hidden_text : int
        Keys that are text and that a mask hides, as padding.
    text_reads : bool
        Whether the text attends to the same keys.

    Examples
    --------
    >>> reference = ReferenceTokens(0, 24, 0, (4, 6), "31–54")
    >>> SoftmaxTokens(24, 128, 0.09, (4, 6), 1, 55, (reference,), text=7).others
    24
    """

    heads: int
    channels: int
    scale: float
    grid: tuple[int, int]
    frames: int
    keys: int
    references: tuple[ReferenceTokens, ...]
    text: int = 0
    hidden_text: int = 0
    text_reads: bool = False

    @property
    def queries(self) -> int:
        """Number of the generated patches."""
        return math.prod(self.grid)

    @property
    def others(self) -> int:
        """Number of keys that are neither a reference's nor text: the generated image's own, mostly."""
        known = sum(reference.count for reference in self.references)
        return self.keys - known - self.text - self.hidden_text


@dataclass(frozen=True)
class LayerTokens:
    """A layer that reads the reference.

    Parameters
    ----------
    name : str
    block : str
        The part of the denoiser.
    read_at : str
        Where queries and keys are read: "projections" or "kernel".
    softmaxes : tuple of SoftmaxTokens
        Of the first step; empty before the model ran, and of a layer that read no reference.
    """

    name: str
    block: str
    read_at: str
    softmaxes: tuple[SoftmaxTokens, ...] = ()


def read_softmax(inputs: AttentionInputs, batch_index: int) -> SoftmaxTokens:
    """Return what the tokens of a softmax are, at one batch index."""
    own = inputs.select_batch_index(batch_index)
    keys, seen, known = own.key.shape[2], visible_text(own), 0
    if own.text is not None:
        known = _count(own.text.tokens, keys)
    text = 0 if seen is None else _count(seen.tokens, keys)
    return SoftmaxTokens(
        heads=own.query.shape[1],
        channels=own.query.shape[3],
        scale=own.scale,
        grid=own.grid,
        frames=own.frames,
        keys=keys,
        references=tuple(_reference(reference, keys) for reference in own.references),
        text=text,
        hidden_text=known - text,
        text_reads=own.text is not None and own.text.query is not None,
    )


def _reference(reference: ReferenceKeys, keys: int) -> ReferenceTokens:
    layout = reference.layout
    return ReferenceTokens(
        index=reference.index,
        count=_count(reference.tokens, keys),
        special_tokens=layout.special_tokens,
        grid=layout.grid,
        places=_places(reference.tokens, keys),
        weight=reference.weight,
        has_region=reference.region is not None,
    )


def _indices(tokens: Tokens, keys: int) -> list[int]:
    found: list[int] = torch.arange(keys)[
        tokens if isinstance(tokens, slice) else tokens.cpu()
    ].tolist()
    return found


def _count(tokens: Tokens, keys: int) -> int:
    return len(_indices(tokens, keys))


def _places(tokens: Tokens, keys: int) -> str:
    indices = _indices(tokens, keys)
    first, last = min(indices), max(indices)
    among = "among " if last - first + 1 != len(indices) else ""
    return f"{among}{first}–{last}" if last > first else str(first)


def group_layers(layers: Sequence[LayerTokens]) -> Iterator[tuple[str, LayerTokens]]:
    """Yield layers with the same tokens, and names that differ in numbers alone, as one.

    Parameters
    ----------
    layers : sequence of LayerTokens

    Yields
    ------
    str
        Their common name, as "blocks.{0..39}.attn1".
    LayerTokens
        The first of them.

    Examples
    --------
    >>> layers = [LayerTokens(f"blocks.{n}.attn{k}", "blocks", "kernel") for k in (1, 2) for n in range(4)]
    >>> [name for name, _ in group_layers([*layers, LayerTokens("up.7.attn1", "up", "kernel")])]
    ['blocks.{0..3}.attn1', 'blocks.{0..3}.attn2', 'up.7.attn1']
    """
    groups: dict[tuple[str, LayerTokens], list[LayerTokens]] = {}
    for layer in layers:
        nameless = replace(layer, name="", block="")
        groups.setdefault((_NUMBER.sub(_HOLE, layer.name), nameless), []).append(layer)
    for (pattern, _), members in groups.items():
        numbers = [tuple(map(int, _NUMBER.findall(member.name))) for member in members]
        for ranges in _products(sorted(numbers)):
            filled = zip(pattern.split(_HOLE), [*map(_range, ranges), ""], strict=True)
            yield "".join(part for pair in filled for part in pair), members[0]


def _products(numbers: list[tuple[int, ...]]) -> Iterator[list[list[int]]]:
    """Yield the numbers at each place, of which all combinations are there."""
    places = [sorted(set(place)) for place in zip(*numbers, strict=True)]
    if math.prod(map(len, places)) == len(numbers):
        yield places
        return
    place = next(place for place, found in enumerate(places) if len(found) > 1)
    for number in places[place]:
        yield from _products([own for own in numbers if own[place] == number])


def _range(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if len(numbers) > 2 and numbers[-1] - numbers[0] + 1 == len(numbers):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
