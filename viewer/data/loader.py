"""Fill a sample's volumes in a thread: what is in view first, then the rest."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from i2am.viewer.data.map_readers import Maps
from i2am.viewer.data.volume import Volume

__all__ = ["Loader"]

Piece = tuple[int, list[int]]


class Loader:
    """Reads maps into volumes until all are there, but for those that cannot be read.

    Parameters
    ----------
    maps : Maps
    volumes : mapping of direction to Volume
    arrived : callable ()
        Called in the thread after each piece, and when it ends.
    failed : callable (Exception)
        Called in the thread once, when the first piece cannot be read.

    Attributes
    ----------
    error : Exception or None
        Why maps are missing, once nothing more is read.
    """

    def __init__(
        self,
        maps: Maps,
        volumes: Mapping[str, Volume],
        arrived: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        self._maps, self._volumes = maps, volumes
        self._arrived, self._failed = arrived, failed
        self.error: Exception | None = None
        self._wanted: deque[Piece] = deque()
        self._is_stopped = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="i2am-maps", daemon=True)

    def start(self) -> None:
        """Begin, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Read no further piece; does not wait for the one that is under way."""
        self._is_stopped = True

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until all is read."""
        self._thread.join(timeout_s)

    def want(self, layers: Sequence[int], steps: Sequence[int]) -> bool:
        """Read these before all others; of earlier wishes only what is under way stays."""
        # One step of each layer first: a mean over some of all is a fair estimate.
        middle = steps[len(steps) // 2]
        wanted = [(layer, self._maps.soonest(layer, middle)) for layer in layers]
        if len(steps) > 1:
            wanted += [(layer, piece) for layer in layers for piece in self._maps.pieces(layer)]
        with self._lock:
            self._wanted = deque(wanted)
        return True

    def read_now(self, layers: Sequence[int], steps: Sequence[int]) -> bool:
        """Read in the caller's thread, for one who cannot be told later."""
        for layer in layers:
            for piece in self._maps.pieces(layer):
                if not set(piece).isdisjoint(steps):
                    self._read(layer, piece)
        return True

    @property
    def _volume(self) -> Volume:
        return next(iter(self._volumes.values()))

    def _run(self) -> None:
        first: Exception | None = None
        for layer, steps in self._pieces():
            try:
                self._read(layer, steps)
            except Exception as e:  # noqa: BLE001  # whatever it is, the user is told
                if first is None and not self._is_stopped:
                    self._failed(e)
                first = first or e
            if self._is_stopped:
                return
            self._arrived()
        self.error = first
        self._arrived()

    def _pieces(self) -> Iterator[Piece]:
        """Yield what is wished for, and between wishes everything else."""
        rest = iter(self._everything())
        while not self._is_stopped:
            piece = self._next_wish() or next(rest, None)
            if piece is None:
                return
            yield piece

    def _next_wish(self) -> Piece | None:
        with self._lock:
            while self._wanted:
                layer, steps = self._wanted.popleft()
                if self._volume.missing([layer], steps):
                    return layer, steps
        return None

    def _everything(self) -> Iterable[Piece]:
        for layer in range(len(self._volume.names.layers)):
            for steps in self._maps.pieces(layer):
                if self._volume.missing([layer], steps):
                    yield layer, steps

    def _read(self, layer: int, steps: list[int]) -> None:
        missing = [step for _, step in self._volume.missing([layer], steps)]
        if not missing:
            return
        maps = self._maps.read(layer, missing)
        for direction, volume in self._volumes.items():
            volume.add(layer, missing, maps.get(direction))
