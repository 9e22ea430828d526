"""The page in a notebook: a widget whose answers come from this process.

The page asks by messages, and a thread answers, so that the notebook goes on and a question that nobody
waits for any more is dropped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.maps.analyze import analyze
from i2am.analysis.maps.live_sram import LiveSram
from i2am.analysis.stores.layers import sram_layers
from i2am.analysis.stores.reader import Maps, Run
from i2am.page.document import bundle_file
from i2am.page.report import head_facts, run_data, store_name
from i2am.page.sample_data import describe_sample, provenance
from i2am.page.sample_maps import curves, map_means, matrices
from i2am.page.stores import open_pair
from i2am.schemas import AnalysisError, I2AMError, did_you_mean
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.directions import DIRECTIONS
from i2am.schemas.optional import require
from i2am.schemas.text import safe_text
from i2am.storage.addresses import StoreLike

__all__ = ["Answers", "show"]

# Samples that stay open: their keys and lists of layers are read once.
_OPEN_SAMPLES: Final = 4
# A click is answered while a slow map is computed.
_THREADS: Final = 2
_NOTHING: Final = "There is no map here: the layer has no such head or no grid."

# What answers one message: the message to send, and the plane that goes with it.
Reply = tuple[dict[str, Any], NDArray[np.float32] | None]


def show(
    run: Run | StoreLike, sample: str | None = None, *, maps: Maps | StoreLike | None = None
) -> Any:
    """Return the page over a run as a widget for a notebook.

    Parameters
    ----------
    run : Run, str, Path or zarr Store
        As `open_run` gives it, or what it takes; or maps, which name their run.
    sample : str, optional
        The one to open first; by default the table of all is shown.
    maps : Maps, str, Path or zarr Store, optional
        By default those beside the run, if any; without, maps are computed when they are looked at.

    Returns
    -------
    anywidget.AnyWidget
        Shown where it is a cell's result.

    Raises
    ------
    MissingExtra
        If anywidget is not installed.
    StoreError
        If a store is missing or of another kind.
    AnalysisError
        If there is no such sample, or `run` is one sample of a run.

    Examples
    --------
    In a notebook:

    ::

        i2am.show(i2am.DEMO_RUN, "truck")
    """
    require("anywidget", "to show a run in a notebook", "notebook")
    opened, stored = open_pair(run, maps)
    if sample is not None and sample not in opened:
        msg = f"Expected a sample of the run, got {sample!r}, at sample. {did_you_mean(sample, opened)}"
        raise AnalysisError(msg)
    return _widget_class()(Answers(opened, stored), sample=sample or "")


@cache
def _widget_class() -> Any:
    """Return the widget's class, made when anywidget is there."""
    anywidget: Any = require("anywidget", "to show a run in a notebook", "notebook")
    traitlets: Any = require("traitlets", "to show a run in a notebook", "notebook")

    class RunPage(anywidget.AnyWidget):  # type: ignore[misc]
        """A run's page in a notebook."""

        _esm = bundle_file("widget.js")
        _css = bundle_file("page.css")
        sample = traitlets.Unicode("").tag(sync=True)

        def __init__(self, answers: Answers, **traits: Any) -> None:
            super().__init__(**traits)
            self._desk = _Desk(answers, self._say)
            self.on_msg(lambda _, message, __: self._desk.take(message))

        def _say(self, message: dict[str, Any], plane: NDArray[np.float32] | None) -> None:
            self.send(message, [] if plane is None else [np.ascontiguousarray(plane, "<f4").data])

        def close(self) -> None:
            """Stop answering, too."""
            self._desk.close()
            super().close()

    return RunPage


class _Desk:
    """Takes questions and answers them in threads; forgets those that were cancelled."""

    def __init__(
        self,
        answers: Answers,
        say: Callable[[dict[str, Any], NDArray[np.float32] | None], None],
    ) -> None:
        self._answers, self._say = answers, say
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="i2am-page")
        self._open: dict[int, threading.Event] = {}

    def take(self, message: Any) -> None:
        """Begin to answer a message; what is no question of the page is not answered."""
        if not isinstance(message, dict) or not isinstance(message.get("id"), int):
            return
        number = message["id"]
        if message.get("ask") == "cancel":
            if (stopped := self._open.pop(number, None)) is not None:
                stopped.set()
            return
        self._open[number] = stopped = threading.Event()
        self._pool.submit(self._answer, number, message, stopped)

    def close(self) -> None:
        for stopped in self._open.values():
            stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, number: int, message: dict[str, Any], stopped: threading.Event) -> None:
        try:
            for content, plane in self._answers.to(message, stopped.is_set):
                if stopped.is_set():
                    return
                self._say({"id": number, **content}, plane)
        except I2AMError as e:
            self._say({"id": number, "error": safe_text(e)}, None)
        except Exception as e:  # noqa: BLE001 - a thread's error would be lost: the page says it
            told = f"Expected no such error, got {type(e).__name__}: {e}."
            self._say({"id": number, "error": safe_text(told)}, None)
        finally:
            self._open.pop(number, None)


@dataclass(frozen=True)
class _OpenSample:
    sample: xr.DataTree
    maps: xr.DataTree
    sram: LiveSram
    has_sram: bool
    is_stored: bool
    described: dict[str, Any]

    @property
    def axes(self) -> dict[str, list[Any]]:
        axes: dict[str, list[Any]] = self.described["axes"]
        return axes


class Answers:
    """The answers to the page's questions about a run.

    Parameters
    ----------
    run : Run
    maps : Maps, optional
        Samples that it does not hold are analyzed when their maps are looked at.
    """

    def __init__(self, run: Run, maps: Maps | None = None) -> None:
        self._run, self._maps = run, maps
        self._opened: OrderedDict[str, _OpenSample] = OrderedDict()
        self._lock = threading.Lock()

    def to(
        self, message: Mapping[str, Any], is_stopped: Callable[[], bool] = bool
    ) -> Iterator[Reply]:
        """Yield the answers to a question of the page.

        Parameters
        ----------
        message : mapping
            ``ask``: "samples", "open", "map" or "sram", and what belongs to it.
        is_stopped : callable
            Returns True once nobody waits for the answer.

        Yields
        ------
        dict
            Of JSON.
        array (y, x), float32, or None
        """
        match message.get("ask"):
            case "samples":
                yield {"run": self._described()}, None
            case "open":
                yield {"sample": self._sample_data(str(message["name"]))}, None
            case "map":
                yield self._map(self._open(str(message["name"])), message)
            case "sram":
                yield from self._sram(self._open(str(message["name"])), message, is_stopped)
            case other:
                msg = f"Expected a question of the page, got {other!r}, at ask. Update i2am."
                raise AnalysisError(msg)

    def _described(self) -> dict[str, Any]:
        names = list(self._run)
        first = self._run.attributes_of(names[0]) if names else {}
        facts = [*head_facts([dict(provenance(first))]), ("samples", str(len(names)))]
        return run_data(
            "widget",
            store_name(self._run),
            facts,
            samples=[{"name": name, "scores": {}, "outliers": []} for name in names],
            left_out=0,
        )

    def _open(self, name: str) -> _OpenSample:
        with self._lock:
            if name not in self._opened:
                sample = self._run[name]
                stored = self._maps is not None and self._maps.holds(name)
                maps = self._maps[name] if self._maps is not None and stored else analyze(sample)
                self._opened[name] = _OpenSample(
                    sample,
                    maps,
                    LiveSram(sample),
                    bool(sram_layers(sample)),
                    stored,
                    describe_sample(name, sample, maps),
                )
                while len(self._opened) > _OPEN_SAMPLES:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(name)
            return self._opened[name]

    def _sample_data(self, name: str) -> dict[str, Any]:
        own = self._open(name)
        data = own.described | {"curves": [], "matrix": [], "effects": None}
        if own.is_stored:  # Else it would have to be computed first.
            means, axes = map_means(own.sample, own.maps), own.axes
            data["curves"] = curves(means, own.sample)
            data["matrix"] = matrices(means, axes["layers"], axes["heads"])
        has = {direction: direction in own.maps.children for direction in DIRECTIONS}
        return data | {"scores": {}, "figures": [], "has": has | {"sram": own.has_sram}}

    def _map(self, own: _OpenSample, message: Mapping[str, Any]) -> Reply:
        direction = message["direction"]
        if direction not in own.maps.children:
            return {"absent": "There is no map of this direction for this sample."}, None
        levels = own.maps.children[direction].dataset
        labels = _labels(own.axes, message)
        if all(label is None for label in labels.values()):
            return _plane(levels["ulam"])
        volume = levels["volume"]
        for dim, label in labels.items():
            if label is not None:
                if label not in volume[dim].values.tolist():
                    return {"absent": _NOTHING}, None
                volume = volume.sel({dim: label})
        dims = [dim for dim in (LAYER, STEP, HEAD) if dim in volume.dims]
        return _plane(volume.mean(dims, dtype=np.float64, skipna=True) if dims else volume)

    def _sram(
        self, own: _OpenSample, message: Mapping[str, Any], is_stopped: Callable[[], bool]
    ) -> Iterator[Reply]:
        labels = _labels(own.axes, message)
        place = float(message["y"]), float(message["x"])
        side = {"generated": place} if message["side"] == "generated" else {"reference": place}
        try:
            estimates = own.sram.ask(
                **side,
                layers=labels[LAYER],
                steps=labels[STEP],
                heads=labels[HEAD],
                stop=is_stopped,
            )
        except AnalysisError as e:  # Such as a place that the model did not see: no fault.
            yield {"absent": safe_text(e)}, None
            return
        for estimate in estimates:
            told, plane = _plane(estimate.values)
            yield told | {"share": float(estimate.share)}, plane


def _labels(axes: Mapping[str, list[Any]], message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels at the page's positions of layer, step and head; None for the mean."""
    of_dims = {
        LAYER: axes["layers"],
        STEP: [int(step) for step in axes["steps"]],
        HEAD: [int(head) for head in axes["heads"]],
    }
    found = {}
    for dim, labels in of_dims.items():
        at = message.get(dim)
        if at is not None and not (isinstance(at, int) and 0 <= at < len(labels)):
            msg = f"Expected a position below {len(labels)}, got {at!r}, at {dim}. Update i2am."
            raise AnalysisError(msg)
        found[dim] = None if at is None else labels[at]
    return found


def _plane(values: xr.DataArray) -> Reply:
    plane = values.compute().to_numpy().astype(np.float32)
    if not np.isfinite(plane).any():
        return {"absent": _NOTHING}, None
    return {"plane": {"height": plane.shape[0], "width": plane.shape[1]}}, plane
