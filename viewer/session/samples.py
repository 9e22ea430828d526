"""Which samples a window shows: opened and filled in threads, found again in the layers.

Stores are opened and maps are read in threads; what they find comes back by Qt's signals.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QObject, Signal

from i2am.schemas.errors import I2AMError
from i2am.viewer.data.axes import Place
from i2am.viewer.data.loader import Loader
from i2am.viewer.data.open_sample import Store, open_row
from i2am.viewer.data.sample import Row
from i2am.viewer.data.volume import AXES
from i2am.viewer.scene.layers import Box, boxes_of, own_layers, sample_layers, show_layers

__all__ = ["ShownRows"]


class ShownRows(QObject):  # type: ignore[misc]  # Qt has no types here
    """The samples in view: none, one, or one and that which it is compared with.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    rows : list of Row
    boxes : list of dict
        Of each row, where its pictures lie.
    samples : tuple of str
        The complete samples of the first row's run, once they are listed.
    means : frozenset of str
        What is averaged over: of "layer", "step" and "head".
    """

    reopened = Signal()
    _arrived = Signal()
    _found = Signal(object, object)
    _broke = Signal(object)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = weakref.ref(viewer)
        self.rows: list[Row] = []
        self.boxes: list[dict[str, Box]] = []
        self.samples: tuple[str, ...] = ()
        self.means: frozenset[str] = frozenset()
        self._loaders: list[Loader] = []
        self._opener = ThreadPoolExecutor(1, "i2am-open")
        self._awaited: dict[int, str] = {}
        self._is_following = False
        self._found.connect(lambda receive, found: receive(found))
        self._broke.connect(self._tell)
        viewer.layers.events.inserted.connect(self._adopt)
        viewer.layers.events.removed.connect(self._adopt)

    @property
    def viewer(self) -> Any:
        """The napari viewer."""
        return self._viewer()

    @property
    def load_error(self) -> Exception | None:
        """Why maps in view are missing; None if there are none, or some may still come."""
        return next((loader.error for loader in self._loaders if loader.error), None)

    @property
    def place(self) -> Place:
        """Indices where the sliders of layer, timestep and head stand."""
        layer = own_layers(self.viewer).get("r2g")
        if layer is None or not self.rows:
            return Place(0, 0, 0)
        point = self.viewer.dims.point[-len(AXES) :]
        return self.rows[0].names.clipped([point[i] / layer.scale[i] for i in (1, 2, 3)])

    def show(self, row: Row, number: int = 0) -> None:
        """Put a sample into view, in place of the one in that row."""
        above = self.boxes[0] if number else None
        boxes = boxes_of(row, above)
        if number:
            for volume in row.volumes.values():
                volume.align(self.rows[0].names)
        for volume in row.volumes.values():
            volume.samples = max(1, len(self.samples))
        layers = sample_layers(row, boxes, number)
        active = self.viewer.layers.selection.active
        events = self.viewer.layers.events
        with events.inserted.blocker(self._adopt), events.removed.blocker(self._adopt):
            is_new = number >= len(self.rows)
            show_layers(self.viewer, layers, number=number, is_new=is_new)
        if active in self.viewer.layers:
            self.viewer.layers.selection.active = active
        self._take(row, boxes, number)

    def show_sample(self, name: str) -> None:
        """Put another sample of the run into view as soon as it is open."""
        if self.rows and name != self.rows[0].origin.sample:
            self._open(replace(self.rows[0].origin, sample=name))

    def analyse(self, *, guidance: str | None = None, normalisation: str | None = None) -> None:
        """Show another half of the guidance, or another normalisation."""
        for number, row in enumerate(self.rows):
            own = row.origin
            changed = replace(
                own,
                guidance=guidance or own.guidance,
                normalisation=normalisation or own.normalisation,
            )
            self._open(changed, number)

    def compare(self, run: Store, sample: str | None = None) -> None:
        """Show another sample below, with the same sliders."""
        own = self.rows[0].origin
        self._awaited[1] = str(run)
        options = {"guidance": own.guidance, "normalisation": own.normalisation}
        self._work(lambda: open_row(run, sample, **options), lambda row: self.show(row, 1))

    def stop_comparing(self) -> None:
        """Take the second row away."""
        for layer in own_layers(self.viewer, number=1).values():
            self.viewer.layers.remove(layer)

    def _open(self, origin: Any, number: int = 0) -> None:
        self._awaited[number] = origin.sample

        def show(row: Row) -> None:
            if self._awaited.get(number) == row.origin.sample:  # else another was asked for since
                self.show(row, number)

        self._work(
            lambda: open_row(
                origin.run,
                origin.sample,
                origin.maps,
                guidance=origin.guidance,
                normalisation=origin.normalisation,
            ),
            show,
        )

    def _work(self, find: Callable[[], Any], receive: Callable[[Any], None]) -> None:
        """Find something in the thread that opens, and receive it in the window's."""

        def work() -> None:
            try:
                found = find()
            except Exception as e:  # noqa: BLE001  # whatever it is, the user is told
                self._broke.emit(e)
            else:
                self._found.emit(receive, found)

        self._opener.submit(work)

    def _take(self, row: Row, boxes: dict[str, Box], number: int) -> None:
        """Make a row that is shown one of the session's: fill its volumes."""
        is_other_run = number == 0 and (not self.rows or self.rows[0].origin.run != row.origin.run)
        if number < len(self.rows):
            self._loaders[number].stop()
            self.rows[number], self.boxes[number] = row, boxes
        else:
            self.rows.append(row)
            self.boxes.append(boxes)
            self._loaders.append(row.loader())
        loader = Loader(
            row.source,
            row.volumes,
            lambda: self._arrived.emit(),
            lambda error: self._broke.emit(error),
        )
        self._loaders[number] = loader
        for volume in row.volumes.values():
            volume.means, volume.fetch = self.means, loader.want
        loader.want([self.place.layer], [self.place.step])
        loader.start()
        if number == 0 and len(self.rows) > 1:
            self._keep_comparing(row)
        if is_other_run:
            self.samples = ()
            self._work(lambda: _names_of(row.origin.run), self._list)
        elif number == 0 and row.origin.sample in self.samples:
            self._stand_on(row.origin.sample)
        self._came(is_other_run=is_other_run)
        self.reopened.emit()

    def _keep_comparing(self, row: Row) -> None:
        """Bring the second row in step: another run's sample of the same name, or as it is."""
        other = self.rows[1]
        if other.origin.run != row.origin.run and other.origin.sample != row.origin.sample:
            self._open(replace(other.origin, sample=row.origin.sample), 1)
        else:
            self.show(other, 1)

    def _list(self, names: tuple[str, ...]) -> None:
        """Give the sample slider its length, now that it is known."""
        self.samples = names
        for number, row in enumerate(self.rows):
            for volume in row.volumes.values():
                volume.samples = max(1, len(names))
            for role in row.volumes:
                layer = own_layers(self.viewer, number=number)[role]
                layer.data = layer.data  # napari measures it again
        if self.rows and self.rows[0].origin.sample in names:
            self._stand_on(self.rows[0].origin.sample)
        self.reopened.emit()

    def _stand_on(self, sample: str) -> None:
        """Have the sample slider stand on the sample in view."""
        axis = self.viewer.dims.ndim - len(AXES)
        self._is_following = True  # itself
        self.viewer.dims.set_point(axis, self.samples.index(sample))
        self._is_following = False

    def _adopt(self, event: Any = None) -> None:
        """Bring the rows in step with the layers that are there, whoever put them there."""
        for number in (0, 1):
            layers = own_layers(self.viewer, number=number)
            row = getattr(layers["r2g"].data, "row", None) if "r2g" in layers else None
            if row is None and number < len(self.rows):
                self._drop(number)
            elif isinstance(row, Row) and row not in self.rows and number == 0:
                self._take(row, boxes_of(row), number)
            elif row is not None:
                self._dress()

    def _drop(self, number: int) -> None:
        for loader in self._loaders[number:]:
            loader.stop()
        del self.rows[number:], self.boxes[number:], self._loaders[number:]
        if not number:
            self.samples = ()
            self._gone()
        self.reopened.emit()

    def _tell(self, error: Exception) -> None:
        from napari.utils.notifications import show_error

        told = str(error)
        if not isinstance(error, I2AMError):
            where = self.rows[0].origin.run if self.rows else "the store"
            told = f"{type(error).__name__}: {error}, at {where}. Try 'i2am validate' on it."
        show_error(told)
        self.reopened.emit()  # Who asked for another sample goes back to the one in view.

    def _came(self, *, is_other_run: bool) -> None:
        """Draw what has come into view."""
        raise NotImplementedError

    def _dress(self) -> None:
        """Draw layers that came after their row like those before."""
        raise NotImplementedError

    def _gone(self) -> None:
        """Clear away what told of the sample that is gone."""
        raise NotImplementedError


def _names_of(run: Store) -> tuple[str, ...]:
    from i2am.analysis import open_run

    return tuple(open_run(os.fspath(run)))
