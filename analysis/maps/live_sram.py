"""Live questions: what `sram` answers, straight from the store and better with every estimate.

A click cannot wait for every step of every layer, nor for a graph that plans to read them. So steps
are read in the store's own chunks, those of all layers in turn and far apart first, and each pass
over the layers gives an estimate in which every layer weighs as it does in the last one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.logits import block_logits
from i2am.analysis.kernel.resize import resize_to_grid
from i2am.analysis.kernel.softmax import region_means, row_shares
from i2am.analysis.maps.analyze import check_options
from i2am.analysis.maps.layer_maps import check_frames
from i2am.analysis.maps.regions import REGION, Places, Question, check_one_side, check_question
from i2am.analysis.stores.chunks import DirectReads, chunk_lengths, touched_bytes
from i2am.analysis.stores.layers import SelectedLayer, select_layers
from i2am.schemas.choices import Normalisation
from i2am.schemas.dims import (
    CONDITIONAL,
    GENERATED,
    GENERATED_PLANE,
    GUIDANCE,
    HEAD,
    REFERENCE,
    REFERENCE_PLANE,
    STEP,
)

__all__ = ["Answer", "LayerQuestion", "Piece", "Questions", "step_groups"]

_THREADS: Final = min(4, os.cpu_count() or 1)


# Less than this is read at once; more than that only between two estimates.
_AT_ONCE_BYTES: Final = 8 * 2**20


_PASS_BYTES: Final = 64 * 2**20


_SELECTIONS: Final = 16


class Answer(NamedTuple):
    """An estimate of an SRAM.

    Attributes
    ----------
    values : DataArray
        As `sram` returns it, in memory.
    share : float
        Of all steps of all layers; 1 for the last answer, which is no estimate.
    """

    values: xr.DataArray
    share: float


class Questions:
    """What is asked of one sample, one place after the other; from any thread, also several.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    guidance, normalisation
        As in `analyze`.

    Raises
    ------
    AnalysisError
        If the normalisation is unknown.
    """

    def __init__(
        self,
        sample: xr.DataTree,
        *,
        guidance: str = CONDITIONAL,
        normalisation: Normalisation = "mass",
    ) -> None:
        check_options("i2am", normalisation)
        self._sample, self._guidance = sample, guidance
        self._is_density = normalisation == "density"
        self._reads = DirectReads()
        self._select = lru_cache(_SELECTIONS)(self._select_layers)

    def ask(
        self,
        *,
        generated: Places | None = None,
        reference: Places | None = None,
        layers: str | Iterable[str] | None = None,
        steps: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Answer]:
        """Yield ever better answers; the last is what `sram` returns for the same arguments.

        Parameters
        ----------
        generated, reference, layers, steps, heads
            As in `sram`; a few dozen places at most.
        stop : callable, optional
            Asked between two pieces of work, from several threads: once it returns True, nothing
            more is read, and no answer comes.

        Yields
        ------
        Answer
            The first after a few steps of each layer, or all of them where they are few bytes.

        Raises
        ------
        AnalysisError
            As `sram`, when this is called.
        """
        check_one_side(generated, reference)
        named = layers if layers is None or isinstance(layers, str) else tuple(layers)
        selected = self._select(named, _frozen(steps), _frozen(heads))
        question = check_question(self._sample, selected, named, generated, reference)
        known = self._sample[STEP].to_numpy().tolist()
        asked = range(len(known)) if steps is None else sorted({known.index(one) for one in steps})
        return self._answers(question, asked, stop or _never)

    def _select_layers(
        self,
        layers: str | tuple[str, ...] | None,
        steps: tuple[int, ...] | None,
        heads: tuple[int, ...] | None,
    ) -> list[SelectedLayer]:
        return select_layers(self._sample, layers, steps, heads, self._guidance)

    def _answers(
        self, question: Question, steps: Sequence[int], stop: Callable[[], bool]
    ) -> Iterator[Answer]:
        parts = self._parts(question, steps)
        every_step = len(steps) * len(parts)
        with ThreadPoolExecutor(_THREADS) as pool:
            for pieces in _passes(parts):
                maps = pool.map(lambda piece: None if stop() else piece.maps(), pieces)
                for piece, found in zip(pieces, maps, strict=True):
                    if found is None:
                        return
                    piece.part.add(found, len(piece.steps))
                share = sum(part.steps_done for part in parts) / every_step
                yield Answer(_estimate(question, parts), share)

    def _parts(self, question: Question, steps: Sequence[int]) -> list[LayerQuestion]:
        halves = self._sample.coords.get(GUIDANCE)
        half = 0 if halves is None else halves.to_numpy().tolist().index(self._guidance)
        return [
            LayerQuestion(
                layer,
                self._sample["layers"].children[layer.name].dataset,
                question,
                steps=steps,
                half=half,
                density=self._is_density,
                reads=self._reads,
                turn=number,
            )
            for number, layer in enumerate(question.layers)
        ]


def _frozen(labels: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if labels is None else tuple(labels)


def _never() -> bool:
    return False


def _passes(parts: Sequence[LayerQuestion]) -> Iterator[list[Piece]]:
    """Yield the pieces of work between two answers: of each layer as many groups of steps."""
    together = sum(part.chunk_bytes for part in parts)
    longest = max(part.groups for part in parts)
    begin, count = 0, 1 if longest * together > _AT_ONCE_BYTES else longest
    while begin < longest:
        yield [piece for part in parts for piece in part.pieces(begin, begin + count)]
        begin, count = begin + count, max(1, _PASS_BYTES // together)


def _estimate(question: Question, parts: Sequence[LayerQuestion]) -> xr.DataArray:
    """Return the mean over layers, steps and heads as if each layer's steps were all like these."""
    sums: Any = sum(part.sums * part.weight for part in parts)
    counts: Any = sum(part.counts * part.weight for part in parts)
    with np.errstate(invalid="ignore"):  # NaN where no map has a value, as in the mean.
        means = (sums / counts).astype(np.float32)
    plane = GENERATED_PLANE if question.of_reference else REFERENCE_PLANE
    return question.label(xr.DataArray(means, dims=(REGION, *plane)))


_PIECE_BYTES: Final = 32 * 2**20


_SLOW_CHUNK_BYTES: Final = 2**20  # One step of it is quicker than all, though as much is read.


_ROWS: Final = 256  # of steps that are multiplied with the same keys together


Floats = NDArray[np.float64]


class LayerQuestion:
    """A question's part in one layer, and the sums of its maps over the steps that were read.

    Parameters
    ----------
    layer : SelectedLayer
    arrays : Dataset
        All that was captured of it.
    question : Question
    steps : sequence of int
        The positions that are asked for, ascending.
    half : int
        The position of the guidance half, where there are several.
    density : bool
        Multiply by the number of positions that were softmaxed over.
    reads : DirectReads
        Of the sample.
    turn : int
        The layer's number: each begins with other steps, so that few of all see the whole run.

    Attributes
    ----------
    groups : int
        Of steps; see `step_groups`.
    chunk_bytes : int
        What is read for a group, about.
    sums, counts : array (region, y, x), float64
        Over steps and heads, of the maps on the common grid and of those that have a value.
    steps_done : int

    Raises
    ------
    AnalysisError
        If the layer's frames do not fit into the common grid.
    """

    def __init__(
        self,
        layer: SelectedLayer,
        arrays: xr.Dataset,
        question: Question,
        *,
        steps: Sequence[int],
        half: int,
        density: bool,
        reads: DirectReads,
        turn: int,
    ) -> None:
        self._layer, self._of_reference, self._grid = layer, question.of_reference, question.grid
        if self._of_reference:
            check_frames(layer, self._grid)
        self._is_density, self._half, self._reads = density, half, reads
        names = [name for name in ("query", "key", "logits", "logsumexp") if name in arrays]
        self._arrays = {
            n: arrays[n] for n in names if not (self._of_reference and n == "logsumexp")
        }
        self._rows, self._shares = row_shares(question.rows(layer))
        known = layer.attributes.heads
        every_head = list(range(arrays.sizes[HEAD]) if known is None else known)
        self._heads = [every_head.index(head) for head in layer.heads]
        main = self._arrays["query" if "query" in self._arrays else "logits"]
        chunks = chunk_lengths(main)
        self.chunk_bytes = touched_bytes(main, chunks, self._index(steps[:1]))
        is_slow = self.chunk_bytes > _SLOW_CHUNK_BYTES
        self._groups = step_groups(steps, chunks[STEP], turn, one_first=is_slow)
        self.groups, self._steps = len(self._groups), len(steps)
        self.steps_done = 0
        self.sums: Floats = np.zeros((len(self._shares), *self._grid))
        self.counts: Floats = np.zeros_like(self.sums)

    @property
    def weight(self) -> float:
        """All steps, by those that were read."""
        return self._steps / self.steps_done

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Yield some of the groups of steps, neighbours as one piece where they are small."""
        most = max(1, _PIECE_BYTES // self.chunk_bytes)
        piece: list[int] = []
        together = 0
        for group in sorted(self._groups[begin:end]):
            if piece and (together == most or group[0] > piece[-1] + 1):
                yield Piece(self, piece)
                piece, together = [], 0
            piece, together = piece + group, together + 1
        if piece:
            yield Piece(self, piece)

    def add(self, maps: tuple[Floats, Floats], steps: int) -> None:
        """Add what `maps` returned of so many steps."""
        self.sums += maps[0]
        self.counts += maps[1]
        self.steps_done += steps

    def maps(self, steps: Sequence[int]) -> tuple[Floats, Floats]:
        """Return the sums and counts of some steps, as `sums` and `counts` hold those of all."""
        own = self._layer.attributes
        grid = own.generated_grid if self._of_reference else own.reference_grid
        frames, special = (own.frames, 0) if self._of_reference else (1, own.special_tokens)
        sums, counts = np.zeros_like(self.sums), np.zeros_like(self.sums)
        for arrays, shares in self._blocks(self._read(steps)):
            logits, total, _ = block_logits(tuple(arrays.values()), list(arrays), own.scale)
            means = region_means(
                logits.transposed() if self._of_reference else logits, shares, total
            )
            factor = means.shape[2] if self._is_density else 1
            shape = (means.shape[0] * means.shape[1] // len(sums), len(sums))
            flat = means[..., special:]
            maps = resize_to_grid(flat, grid or (1, 1), self._grid, shape, factor, frames)
            sums += np.nansum(maps, axis=0, dtype=np.float64)
            counts += np.count_nonzero(~np.isnan(maps), axis=0)
        return sums, counts

    def _index(self, steps: Sequence[int]) -> dict[str, Sequence[int]]:
        dim = REFERENCE if self._of_reference else GENERATED
        return {
            GUIDANCE: [self._half],
            STEP: steps,
            HEAD: self._heads,
            dim: self._rows.tolist(),
        }

    def _read(self, steps: Sequence[int]) -> dict[str, NDArray[Any]]:
        index = self._index(steps)
        return {
            name: self._key(one)
            if name == "key" and STEP not in one.dims
            else self._reads.part(one, index)
            for name, one in self._arrays.items()
        }

    def _key(self, key: xr.DataArray) -> NDArray[Any]:
        whole = self._reads.key(self._layer.name, key, self._half)[self._heads]
        return whole[:, self._rows] if self._of_reference else whole

    def _blocks(
        self, arrays: dict[str, NDArray[Any]]
    ) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]]:
        """Yield the arrays and the share (region, row) of each row.

        Where all steps have the same keys, the rows of several steps become rows of one, and those
        of each step regions of their own: the keys are then multiplied with once.
        """
        if self._of_reference or "key" not in arrays or arrays["key"].ndim == 4:
            yield arrays, self._shares
            return
        together = max(1, _ROWS // len(self._rows))
        for first in range(0, len(arrays["query"]), together):
            block = {
                name: one if name == "key" else _steps_as_rows(one[first : first + together])
                for name, one in arrays.items()
            }
            count = block["query"].shape[2] // len(self._rows)
            yield block, np.kron(np.eye(count, dtype=np.float32), self._shares)


class Piece(NamedTuple):
    """A piece of work: some steps of one layer."""

    part: LayerQuestion
    steps: list[int]

    def maps(self) -> tuple[Floats, Floats]:
        """Return what `LayerQuestion.maps` does of them."""
        return self.part.maps(self.steps)


def step_groups(
    steps: Sequence[int], length: int, turn: int = 0, *, one_first: bool = False
) -> list[list[int]]:
    """Return the steps of each chunk in an order in which the first few lie far apart.

    Parameters
    ----------
    steps : sequence of int
        Positions, ascending.
    length : int
        Of a chunk.
    turn : int
        Begin so many chunks later.
    one_first : bool
        Begin with one step alone; the others of its chunk come last.

    Notes
    -----
    The van der Corput sequence: the bits of 1, 2, 3, … in reverse are binary fractions.

    Examples
    --------
    >>> step_groups(range(8), 2), step_groups([1, 2, 9], 5)
    ([[4, 5], [2, 3], [6, 7], [0, 1]], [[9], [1, 2]])
    >>> step_groups(range(6), 3, one_first=True), step_groups(range(6), 3, turn=1)
    ([[4], [0, 1, 2], [3, 5]], [[0, 1, 2], [3, 4, 5]])
    """
    by_chunk: dict[int, list[int]] = {}
    for step in steps:
        by_chunk.setdefault(step // length, []).append(step)
    chunks = list(by_chunk.values())
    count, bits = len(chunks), len(chunks).bit_length()
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in (*range(1, 2**bits), 0))
    order = list(dict.fromkeys(fraction * count >> bits for fraction in reversed_bits))
    start = turn % count
    groups = [chunks[at] for at in order[start:] + order[:start]]
    if one_first and len(groups[0]) > 1:
        first = groups[0]
        middle = first[len(first) // 2]
        groups = [[middle], *groups[1:], [step for step in first if step != middle]]
    return groups


def _steps_as_rows(values: NDArray[Any]) -> NDArray[Any]:
    """Return (step, head, row, …) as (1, head, step and row, …)."""
    steps, heads, rows, *rest = values.shape
    return values.swapaxes(0, 1).reshape(1, heads, steps * rows, *rest)
