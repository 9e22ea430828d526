"""SRAM at once: what `sram` returns, read without Dask, as estimates that get better and better.

A click cannot wait for every step of every layer, nor for a graph that plans to read them. So this
reads whole chunks of steps, of all layers in turn, the first ones far apart; and each pass over the
layers gives an estimate in which every layer has the weight that it has in the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.finite import is_all_finite, not_finite_error
from i2am.analysis.kernel.logits import AttentionLogits, block_logits
from i2am.analysis.kernel.resize import resize_to_grid
from i2am.analysis.kernel.softmax import region_means, row_shares
from i2am.analysis.maps.analyze import check_options
from i2am.analysis.maps.layer_maps import check_frames
from i2am.analysis.maps.regions import REGION, Regions, SramRequest, check_one_side, check_request
from i2am.analysis.stores.chunks import (
    CACHED_KEY_BYTES,
    HAS_ZARRS,
    StoreReads,
    chunk_lengths,
    touched_bytes,
)
from i2am.analysis.stores.layers import Labels, SelectedLayer, select_layers, step_labels
from i2am.schemas import AnalysisError
from i2am.schemas.choices import Normalisation
from i2am.schemas.dims import (
    CONDITIONAL,
    GENERATED,
    GUIDANCE,
    HEAD,
    LAYER,
    REFERENCE,
    STEP,
)

__all__ = [
    "DEFAULT_READING",
    "LayerSram",
    "LiveSram",
    "ReadTask",
    "Reading",
    "SramEstimate",
    "van_der_corput_order",
    "whole_sram",
]

_THREADS: Final = min(4, os.cpu_count() or 1)
_CACHED_SELECTIONS: Final = 16
_MAX_TASK_BYTES: Final = 32 * 2**20
# Query rows of several steps that are multiplied with the same keys at once.
_MAX_QUERY_ROWS: Final = 256
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """How much `LiveSram` reads before the first estimate and between two of them.

    Parameters
    ----------
    single_pass_bytes : int
        A sample of which no more is to be read gives one estimate, the last, without threads.
    pass_bytes : int
        What is read between two estimates, about, once the first one is there.
    slow_chunk_bytes : int
        If the chunks of a step are larger, a layer begins with one step of a chunk alone.
    cached_key_bytes : int
        Limit for the keys in memory.
    use_zarrs : bool
        Read a local store without zarr, which is faster; default: if zarrs is installed.
    """

    single_pass_bytes: int = 8 * 2**20
    pass_bytes: int = 64 * 2**20
    slow_chunk_bytes: int = 2**20
    cached_key_bytes: int = CACHED_KEY_BYTES
    use_zarrs: bool = HAS_ZARRS


DEFAULT_READING: Final = Reading()


class SramEstimate(NamedTuple):
    """An estimate of an SRAM.

    Attributes
    ----------
    values : DataArray
        As `sram` returns it, in memory.
    share : float
        Of all steps of all layers, 0..1; 1 for the last one, which is `sram` itself.

    Examples
    --------
    Show each estimate of a slow bucket as it comes; the last one is exact:

    ::

        for estimate in LiveSram(sample).ask(generated=(200, 120)):
            draw(estimate.values, f"{estimate.share:.0%} is read")
    """

    values: xr.DataArray
    share: float


class LiveSram:
    """SRAM of one sample, for one region after the other; from any thread, also several at once.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    guidance, normalisation
        As in `analyze`.
    reading : Reading, optional
        How much to read at a time.

    Raises
    ------
    AnalysisError
        If the normalisation is unknown.

    Examples
    --------
    >>> from i2am.schemas import LayerAttributes
    >>> layer = LayerAttributes(  # one head that looks from each of four patches at one token
    ...     scale=1.0, generated_grid=(2, 2), reference_grid=(2, 2), special_tokens=0, order=0,
    ...     block="down", representation="logits", causal=True,
    ... )
    >>> logits = 50 * np.eye(4, dtype=np.float32)[None, None]  # (step, head, P, R)
    >>> dims = ("step", "head", "generated", "reference")
    >>> blank = np.zeros((8, 8, 3), np.uint8)
    >>> sample = xr.DataTree.from_dict({
    ...     "/": xr.Dataset(coords={"step": [0]}),
    ...     "/images": xr.Dataset({
    ...         "generated": (("y", "x", "rgb"), blank),
    ...         "reference": (("reference_y", "reference_x", "rgb"), blank),
    ...     }),
    ...     "/layers/down.0": xr.Dataset(
    ...         {"logits": (dims, logits)}, attrs={"i2am": layer.model_dump(mode="json")}
    ...     ),
    ... })
    >>> for estimate in LiveSram(sample).ask(generated=(0, 7)):  # the patch at the upper right
    ...     print(estimate.share, estimate.values.to_numpy().round(2).tolist())
    1.0 [[0.0, 1.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        sample: xr.DataTree,
        *,
        guidance: str = CONDITIONAL,
        normalisation: Normalisation = "mass",
        reading: Reading | None = None,
    ) -> None:
        check_options("i2am", normalisation)
        self._reading = reading or DEFAULT_READING
        self._sample, self._guidance = sample, guidance
        self._normalisation = normalisation
        self._reads = StoreReads(
            cached_key_bytes=self._reading.cached_key_bytes, use_zarrs=self._reading.use_zarrs
        )
        self._select = lru_cache(_CACHED_SELECTIONS)(self._select_layers)

    def ask(
        self,
        *,
        generated: Regions | None = None,
        reference: Regions | None = None,
        layers: str | Iterable[str] | None = None,
        steps: Labels = None,
        heads: Labels = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[SramEstimate]:
        """Yield better and better estimates; the last is what `sram` returns for the same arguments.

        Parameters
        ----------
        generated, reference, layers, steps, heads
            As in `sram`; a few dozen regions at most.
        stop : callable, optional
            Called between two reads, from several threads: once it returns True, nothing more is
            read, and no further estimate comes.

        Yields
        ------
        SramEstimate
            The first after a few steps of each layer, or after all of them if they are few bytes.

        Raises
        ------
        AnalysisError
            As `sram`, when this is called.
        """
        check_one_side(generated, reference)
        named = layers if layers is None or isinstance(layers, str) else tuple(layers)
        labels = step_labels(self._sample, steps)
        selected = self._select(named, tuple(labels), _hashable(heads))
        request = check_request(self._sample, selected, named, generated, reference)
        return self._estimates(request, labels, stop or _never)

    def _select_layers(
        self,
        layers: str | tuple[str, ...] | None,
        steps: tuple[int, ...],
        heads: _HashableLabels,
    ) -> list[SelectedLayer]:
        labels = slice(*heads.ends) if isinstance(heads, _HashableSlice) else heads
        return select_layers(self._sample, layers, steps, labels, self._guidance)

    def _estimates(
        self, request: SramRequest, steps: Sequence[int], stop: Callable[[], bool]
    ) -> Iterator[SramEstimate]:
        layers = _layers(
            request, steps, self._guidance, self._normalisation, self._reading, self._reads
        )
        all_steps = len(steps) * len(layers)
        with _threads(layers, self._reading) as mapped:
            for tasks in _passes(layers, self._reading):
                maps = mapped(lambda task: None if stop() else task.maps(), tasks)
                for task, found in zip(tasks, maps, strict=True):
                    if found is None:
                        return
                    task.layer.add(found, len(task.steps))
                share = sum(layer.steps_done for layer in layers) / all_steps
                means = xr.DataArray(_estimate(layers), dims=(REGION, *request.plane))
                values = request.label(means, (LAYER, STEP, HEAD), self._normalisation)
                yield SramEstimate(values, share)


def whole_sram(
    request: SramRequest, steps: Sequence[int], guidance: str, normalisation: Normalisation
) -> NDArray[np.float32]:
    """Return the mean over all layers, steps and heads, read in one go.

    Parameters
    ----------
    request : SramRequest
        Of a few dozen regions at most.
    steps : sequence of int
        The labels of the requested steps, in the order in which they were captured.
    guidance, normalisation
        As in `analyze`.

    Returns
    -------
    array (region, y, x), float32
        On the request's grid.

    Raises
    ------
    AnalysisError
        If a layer's frames do not fit into the common grid, or a value is not finite.
    """
    layers = _layers(request, steps, guidance, normalisation, DEFAULT_READING, StoreReads())
    tasks = [task for layer in layers for task in layer.tasks(0, layer.step_batches)]
    with _threads(layers, DEFAULT_READING) as mapped:
        for task, found in zip(tasks, mapped(ReadTask.maps, tasks), strict=True):
            task.layer.add(found, len(task.steps))
    return _estimate(layers)


def _layers(
    request: SramRequest,
    steps: Sequence[int],
    guidance: str,
    normalisation: Normalisation,
    reading: Reading,
    reads: StoreReads,
) -> list[LayerSram]:
    branches = request.sample.coords.get(GUIDANCE)
    index = 0 if branches is None else branches.to_numpy().tolist().index(guidance)
    known = request.sample[STEP].to_numpy().tolist()
    positions = [known.index(step) for step in steps]
    return [
        LayerSram(
            layer,
            request.sample["layers"].children[layer.name].dataset,
            request,
            steps=positions,
            guidance_index=index,
            density=normalisation == "density",
            reads=reads,
            slow_chunk_bytes=reading.slow_chunk_bytes,
            offset=number,
        )
        for number, layer in enumerate(request.layers)
    ]


@dataclass(frozen=True)
class _HashableSlice:
    """A slice as the key of a cache: before Python 3.12 a slice has no hash."""

    ends: tuple[Any, Any, Any]


_HashableLabels = int | _HashableSlice | tuple[int, ...] | None


def _hashable(labels: Labels) -> _HashableLabels:
    if isinstance(labels, slice):
        return _HashableSlice((labels.start, labels.stop, labels.step))
    return tuple(labels) if isinstance(labels, Iterable) else labels


def _never() -> bool:
    return False


@contextmanager
def _threads(layers: Sequence[LayerSram], reading: Reading) -> Iterator[Callable[..., Any]]:
    """Yield what applies a function to tasks, in order: with threads, if the layers have many bytes.

    To start threads and to hand tasks to them takes longer than to read a small run.
    """
    if _is_small(layers, reading):
        yield map
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield pool.map


def _is_small(layers: Sequence[LayerSram], reading: Reading) -> bool:
    batches = max(layer.step_batches for layer in layers)
    return batches * sum(layer.chunk_bytes for layer in layers) <= reading.single_pass_bytes


def _passes(layers: Sequence[LayerSram], reading: Reading) -> Iterator[list[ReadTask]]:
    """Yield the reads between two estimates: of each layer the same number of step batches."""
    batch_bytes = sum(layer.chunk_bytes for layer in layers)
    longest = max(layer.step_batches for layer in layers)
    begin, count = 0, longest if _is_small(layers, reading) else 1
    while begin < longest:
        yield [task for layer in layers for task in layer.tasks(begin, begin + count)]
        begin, count = begin + count, max(1, reading.pass_bytes // batch_bytes)


def _estimate(layers: Sequence[LayerSram]) -> NDArray[np.float32]:
    """Return the mean over layers, steps and heads, as if all steps of a layer were like those read."""
    sums: Any = sum(layer.sums * layer.weight for layer in layers)
    counts: Any = sum(layer.counts * layer.weight for layer in layers)
    with np.errstate(invalid="ignore"):  # NaN where no map has a value, as in the mean.
        means: NDArray[np.float32] = (sums / counts).astype(np.float32)
    return means


class LayerSram:
    """SRAM of one layer: the sums of its maps over the steps that were read.

    Parameters
    ----------
    layer : SelectedLayer
    arrays : Dataset
        All arrays that were captured of it.
    request : SramRequest
    steps : sequence of int
        The positions of the requested steps, ascending.
    guidance_index : int
        The position of the guidance branch.
    density : bool
        Multiply by the number of positions of the softmax.
    reads : StoreReads
        Of the sample.
    slow_chunk_bytes : int
        As in `Reading`.
    offset : int
        The layer's number: each layer begins with other steps, so that together they soon cover the
        whole run.

    Attributes
    ----------
    step_batches : int
        How many there are; see `van_der_corput_order`.
    chunk_bytes : int
        What is read for a step batch, about.
    sums, counts : array (region, y, x), float64
        Over steps and heads: the sum of the maps on the common grid, and how many have a value.
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
        request: SramRequest,
        *,
        steps: Sequence[int],
        guidance_index: int,
        density: bool,
        reads: StoreReads,
        slow_chunk_bytes: int,
        offset: int,
    ) -> None:
        self._layer, self._from_reference, self._grid = layer, request.from_reference, request.grid
        if self._from_reference:
            check_frames(layer, self._grid)
        self._is_density, self._guidance_index, self._reads = density, guidance_index, reads
        names = [name for name in ("query", "key", "logits", "logsumexp") if name in arrays]
        self._arrays = {
            n: arrays[n] for n in names if not (self._from_reference and n == "logsumexp")
        }
        self._rows, self._shares = row_shares(request.query_rows(layer))
        self._step_labels = request.sample[STEP].to_numpy().tolist()
        known = layer.attributes.heads
        every_head = list(range(arrays.sizes[HEAD]) if known is None else known)
        self._heads = [every_head.index(head) for head in layer.heads]
        main = self._arrays["query" if "query" in self._arrays else "logits"]
        chunks = chunk_lengths(main)
        self.chunk_bytes = touched_bytes(main, chunks, self._index(steps[:1]))
        # One step of a large chunk takes less time than all of it, though as much is read.
        is_slow = self.chunk_bytes > slow_chunk_bytes
        self._batches = van_der_corput_order(steps, chunks[STEP], offset, one_first=is_slow)
        self.step_batches, self._steps = len(self._batches), len(steps)
        self.steps_done = 0
        self.sums: Floats = np.zeros((len(self._shares), *self._grid))
        self.counts: Floats = np.zeros_like(self.sums)

    @property
    def weight(self) -> float:
        """The number of all steps divided by that of the steps read."""
        return self._steps / self.steps_done

    def tasks(self, begin: int, end: int) -> Iterator[ReadTask]:
        """Yield the reads of some step batches; neighbours are read together if they are small."""
        max_batches = max(1, _MAX_TASK_BYTES // self.chunk_bytes)
        together: list[int] = []
        count = 0
        for batch in sorted(self._batches[begin:end]):
            if together and (count == max_batches or batch[0] > together[-1] + 1):
                yield ReadTask(self, together)
                together, count = [], 0
            together, count = together + batch, count + 1
        if together:
            yield ReadTask(self, together)

    def add(self, maps: tuple[Floats, Floats], steps: int) -> None:
        """Add what `maps` returned for a number of steps."""
        self.sums += maps[0]
        self.counts += maps[1]
        self.steps_done += steps

    def maps(self, steps: Sequence[int]) -> tuple[Floats, Floats]:
        """Read some steps and return their sums and counts, to be added to `sums` and `counts`."""
        own = self._layer.attributes
        grid = own.generated_grid if self._from_reference else own.reference_grid
        frames, special = (own.frames, 0) if self._from_reference else (1, own.special_tokens)
        sums, counts = np.zeros_like(self.sums), np.zeros_like(self.sums)
        read = self._read(steps)
        for arrays, shares in self._blocks(read):
            logits, total, _ = block_logits(tuple(arrays.values()), list(arrays), own.scale)
            with np.errstate(invalid="ignore", over="ignore"):
                means = self._means(logits, shares, total)
            if not is_all_finite(means):
                raise self._not_finite(read, steps)
            factor = means.shape[2] if self._is_density else 1
            shape = (means.shape[0] * means.shape[1] // len(sums), len(sums))
            flat = means[..., special:]
            maps = resize_to_grid(flat, grid or (1, 1), self._grid, shape, factor, frames)
            sums += np.nansum(maps, axis=0, dtype=np.float64)
            counts += np.count_nonzero(~np.isnan(maps), axis=0)
        return sums, counts

    def _not_finite(
        self, arrays: Mapping[str, NDArray[Any]], steps: Sequence[int]
    ) -> AnalysisError:
        """Return what to tell of values that are not finite, with the place of the first."""
        side = REFERENCE if self._from_reference else GENERATED
        labels = {
            STEP: [self._step_labels[step] for step in steps],
            HEAD: self._layer.heads,
            side: self._rows.tolist(),
        }
        dims = {
            name: [str(dim) for dim in one.dims if dim != GUIDANCE]
            for name, one in self._arrays.items()
        }
        return not_finite_error(self._layer.name, self._layer.sample, arrays, dims, labels)

    def _means(
        self,
        logits: AttentionLogits,
        shares: NDArray[np.float32],
        logsumexp: NDArray[Any] | None,
    ) -> NDArray[np.float32]:
        region = self._layer.region
        if self._from_reference:
            means = region_means(logits.transposed(), shares)
            return means if region is None else means * region
        if region is not None:  # Of the rows of each step that was put into one matrix.
            region = np.tile(region[self._rows], shares.shape[1] // len(self._rows))
        return region_means(logits, shares, logsumexp, region)

    def _index(self, steps: Sequence[int]) -> dict[str, Sequence[int]]:
        dim = REFERENCE if self._from_reference else GENERATED
        return {
            GUIDANCE: [self._guidance_index],
            STEP: steps,
            HEAD: self._heads,
            dim: self._rows.tolist(),
        }

    def _read(self, steps: Sequence[int]) -> dict[str, NDArray[Any]]:
        index = self._index(steps)
        return {
            name: self._key(one)
            if name == "key" and STEP not in one.dims
            else self._reads.read(one, index)
            for name, one in self._arrays.items()
        }

    def _key(self, key: xr.DataArray) -> NDArray[Any]:
        whole = self._reads.key(self._layer.name, key, self._guidance_index)[self._heads]
        return whole[:, self._rows] if self._from_reference else whole

    def _blocks(
        self, arrays: dict[str, NDArray[Any]]
    ) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]]:
        """Yield the arrays, and the share (region, row) of each query row in each region.

        If all steps have the same keys, the query rows of several steps are put into one matrix,
        with regions of their own for each step, so that there is one product with the keys.
        """
        if self._from_reference or "key" not in arrays or arrays["key"].ndim == 4:
            yield arrays, self._shares
            return
        together = max(1, _MAX_QUERY_ROWS // len(self._rows))
        for first in range(0, len(arrays["query"]), together):
            block = {
                name: one if name == "key" else _steps_as_rows(one[first : first + together])
                for name, one in arrays.items()
            }
            count = block["query"].shape[2] // len(self._rows)
            yield block, np.kron(np.eye(count, dtype=np.float32), self._shares)


class ReadTask(NamedTuple):
    """Some steps of one layer, to be read in one go."""

    layer: LayerSram
    steps: list[int]

    def maps(self) -> tuple[Floats, Floats]:
        """Read them; return their sums and counts."""
        return self.layer.maps(self.steps)


def van_der_corput_order(
    steps: Sequence[int], length: int, offset: int = 0, *, one_first: bool = False
) -> list[list[int]]:
    """Return step batches, the steps of one chunk each, in an order whose first few lie far apart.

    Parameters
    ----------
    steps : sequence of int
        Positions, ascending.
    length : int
        Of a chunk.
    offset : int
        Begin this many chunks later.
    one_first : bool
        Begin with one step alone; the others of its chunk come last.

    Notes
    -----
    The van der Corput sequence: the bits of 1, 2, 3, … in reverse are binary fractions.

    Examples
    --------
    >>> van_der_corput_order(range(8), 2), van_der_corput_order([1, 2, 9], 5)
    ([[4, 5], [2, 3], [6, 7], [0, 1]], [[9], [1, 2]])
    >>> van_der_corput_order(range(6), 3, one_first=True), van_der_corput_order(range(6), 3, offset=1)
    ([[4], [0, 1, 2], [3, 5]], [[0, 1, 2], [3, 4, 5]])
    """
    by_chunk: dict[int, list[int]] = {}
    for step in steps:
        by_chunk.setdefault(step // length, []).append(step)
    chunks = list(by_chunk.values())
    count, bits = len(chunks), len(chunks).bit_length()
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in (*range(1, 2**bits), 0))
    order = list(dict.fromkeys(fraction * count >> bits for fraction in reversed_bits))
    start = offset % count
    batches = [chunks[at] for at in order[start:] + order[:start]]
    if one_first and len(batches[0]) > 1:
        first = batches[0]
        middle = first[len(first) // 2]
        batches = [[middle], *batches[1:], [step for step in first if step != middle]]
    return batches


def _steps_as_rows(values: NDArray[Any]) -> NDArray[Any]:
    """Return (step, head, row, …) as (1, head, step and row, …)."""
    steps, heads, rows, *rest = values.shape
    return values.swapaxes(0, 1).reshape(1, heads, steps * rows, *rest)
