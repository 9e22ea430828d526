"""Load a sample's maps in a thread: what is in view first, then the rest."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from i2am.viewer.data.map_readers import MapReader
from i2am.viewer.data.volume import LoadedMaps

__all__ = ["Loader"]

Batch = tuple[int, list[int]]


class Loader:
    """Reads maps until all are there, but for those that cannot be read.

    Parameters
    ----------
    reader : MapReader
        Reads them.
    loaded : mapping of direction to LoadedMaps
        Takes them; all of the same layers and steps.
    arrived : callable ()
        Called in the thread after each batch, and when it ends.
    failed : callable (Exception)
        Called in the thread once, when the first batch cannot be read.

    Attributes
    ----------
    error : Exception or None
        Why maps are missing, once nothing more is read.
    """

    def __init__(
        self,
        maps: MapReader,
        loaded: Mapping[str, LoadedMaps],
        arrived: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        self._reader, self._loaded = maps, loaded
        self._arrived, self._failed = arrived, failed
        self.error: Exception | None = None
        self._wanted: deque[Batch] = deque()
        self._is_stopped = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="i2am-maps", daemon=True)

    def start(self) -> None:
        """Begin, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Read no further batch; does not wait for the one that is under way."""
        self._is_stopped = True

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until all is read."""
        self._thread.join(timeout_s)

    def prioritize(self, layers: Sequence[int], steps: Sequence[int]) -> bool:
        """Read these before all others, in place of those that were prioritized before."""
        # One step of each layer first: a mean over some of all is a fair estimate.
        middle = steps[len(steps) // 2]
        wanted = [(layer, self._reader.preview_steps(layer, middle)) for layer in layers]
        if len(steps) > 1:
            wanted += [
                (layer, batch) for layer in layers for batch in self._reader.step_batches(layer)
            ]
        with self._lock:
            self._wanted = deque(wanted)
        return True

    def read_blocking(self, layers: Sequence[int], steps: Sequence[int]) -> bool:
        """Read in the caller's thread, and return when all is read."""
        for layer in layers:
            for batch in self._reader.step_batches(layer):
                if not set(batch).isdisjoint(steps):
                    self._read(layer, batch)
        return True

    def _missing(self, layer: int, steps: Sequence[int]) -> list[int]:
        """Return which of some steps of a layer are not loaded yet."""
        first = next(iter(self._loaded.values()))
        return [step for _, step in first.missing([layer], steps)]

    def _run(self) -> None:
        first: Exception | None = None
        for layer, steps in self._batches():
            try:
                self._read(layer, steps)
            except Exception as e:  # noqa: BLE001  # whatever it is, it is shown to the user
                if first is None and not self._is_stopped:
                    self._failed(e)
                first = first or e
            if self._is_stopped:
                return
            self._arrived()
        self.error = first
        self._arrived()

    def _batches(self) -> Iterator[Batch]:
        """Yield what is prioritized, then everything else."""
        rest = iter(self._everything())
        while not self._is_stopped:
            batch = self._next_wanted() or next(rest, None)
            if batch is None:
                return
            yield batch

    def _next_wanted(self) -> Batch | None:
        with self._lock:
            while self._wanted:
                layer, steps = self._wanted.popleft()
                if self._missing(layer, steps):
                    return layer, steps
        return None

    def _everything(self) -> Iterable[Batch]:
        for layer in range(len(next(iter(self._loaded.values())).axes.layers)):
            for steps in self._reader.step_batches(layer):
                if self._missing(layer, steps):
                    yield layer, steps

    def _read(self, layer: int, steps: list[int]) -> None:
        missing = self._missing(layer, steps)
        if not missing:
            return
        maps = self._reader.read(layer, missing)
        for direction, loaded in self._loaded.items():
            loaded.add(layer, missing, maps.get(direction))
