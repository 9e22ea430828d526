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

from i2am.analysis.direct_reads import DirectReads
from i2am.analysis.layer_questions import LayerQuestion, Piece
from i2am.analysis.maps import Normalisation, check_options
from i2am.analysis.places import REGION
from i2am.analysis.selection import SelectedLayer, select_layers
from i2am.analysis.sram import Places, Question, check_one_side, check_question
from i2am.schemas.dims import CONDITIONAL, GENERATED_PLANE, GUIDANCE, REFERENCE_PLANE, STEP

__all__ = ["Answer", "Questions"]

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
