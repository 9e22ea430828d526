"""Measured effects in place of the attention maps: what is picked shows what cutting it changed.

Effects are read in a thread as soon as a sample is in view. While they are shown no SRAM is: the two
answer different questions, and a picture of one must not be taken for the other.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Signal

from i2am.viewer.data.effects import Effects, NoEffects, effects_of_view
from i2am.viewer.notices import notify_error, show_status, what_failed
from i2am.viewer.picking.effect_layers import EffectLayers
from i2am.viewer.picking.sram_controller import SramController, sram_controller_of

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView
    from i2am.viewer.picking.pick import Pick
    from i2am.viewer.session.session import Session

__all__ = ["LEGEND", "EffectController", "effect_controller_of"]

LEGEND: Final = "measured effect: change of the latent when this region is cut"
_LEGEND_OF_ALL: Final = "measured effect: change of the latent when the reference is cut"
_READING: Final = "measured effects are being read"
_NO_REGION: Final = "No region was cut at this part of the reference."


def effect_controller_of(session: Session) -> EffectController:
    """Return the controller of a session's window, made at the first call."""
    known: EffectController | None = session.findChild(EffectController)
    return known or EffectController(session)


class EffectController(QObject):  # type: ignore[misc]  # Qt has no types here
    """Reads the measured effects of the samples in view, and shows them where they are wanted.

    Parameters
    ----------
    session : Session
        Its ``shows_effects`` says whether they are wanted.

    Attributes
    ----------
    changed : Signal()
        Effects have been read, or are shown, or no more.
    """

    changed = Signal()
    _read = Signal(object, object)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._sram: SramController = sram_controller_of(session)
        # Of each sample in view; None while they are being read.
        self._found: WeakKeyDictionary[SampleView, Effects | NoEffects | None]
        self._found = WeakKeyDictionary()
        self._layers = [EffectLayers(session, i, self._sram.outlines(i)) for i in (0, 1)]
        self._told: set[str] = set()  # refusals: each once
        self._is_showing = False
        self._thread = ThreadPoolExecutor(1, "i2am-effects")
        self._read.connect(self._receive)
        self._sram.requested.connect(self._show)
        self._sram.cleared.connect(self._show)
        session.effects_switched.connect(self._switch)
        session.moved.connect(self._show)
        session.reopened.connect(self._follow)
        session.closed.connect(self.close)
        self._follow()

    @property
    def is_on(self) -> bool:
        """Whether effects are shown: they are wanted, and the first sample in view has some.

        Also as long as they are read, when nothing lies over the images: maps would flash up.
        """
        return self._session.shows_effects and not isinstance(self.effects_at(0), NoEffects)

    def effects_at(self, view_index: int) -> Effects | NoEffects | None:
        """Return the effects of a sample in view, or why there are none; None as long as they are read."""
        views = self._session.views
        if view_index >= len(views):
            return NoEffects("No sample is in view.")
        return self.effects_of(views[view_index])

    def effects_of(self, view: SampleView) -> Effects | NoEffects | None:
        """Return what `effects_at` does, of a sample in view."""
        return self._found.get(view)

    def close(self) -> None:
        """Stop the thread; called when the window is gone."""
        self._found.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _follow(self) -> None:
        """Read the effects of the samples that have come into view."""
        for layers in self._layers[len(self._session.views) :]:
            layers.remove()
        for layers in self._layers[: len(self._session.views)]:
            layers.leave()
        for view in self._session.views:
            if view not in self._found:
                self._found[view] = None
                self._thread.submit(self._run, view)
        self._show()
        self.changed.emit()

    def _run(self, view: SampleView) -> None:
        """Read the effects of a sample, in the thread."""
        if view not in self._found:
            return
        try:
            found: Any = effects_of_view(view)
        except Exception as e:  # noqa: BLE001  # whatever it is, it is shown to the user
            found = NoEffects(what_failed(e, view.source.effects or "the effects"), True)
        self._read.emit(view, found)

    def _receive(self, view: SampleView, found: Effects | NoEffects) -> None:
        if view not in self._session.views:
            return
        self._found[view] = found
        if isinstance(found, NoEffects) and found.is_refused and found.reason not in self._told:
            self._told.add(found.reason)
            notify_error(found.reason)
        self._show()
        self.changed.emit()

    def _switch(self) -> None:
        self._show()
        found = self.effects_at(0)
        if self._session.shows_effects and isinstance(found, NoEffects):
            show_status(self._session.viewer, found.reason)

    def _show(self) -> None:
        """Bring the layers in step with what is wanted, read and picked."""
        views, was_showing = self._session.views, self._is_showing
        self._is_showing = self.is_on
        if not self._is_showing:
            for layers in self._layers:
                layers.hide()
            self._session.describe_effects("")
            self._sram.set_paused(False)
        else:
            self._sram.set_paused(True)
            for view_index, layers in enumerate(self._layers[: len(views)]):
                self._show_view(view_index, layers)
            for layers in self._layers[len(views) :]:
                layers.hide()
        if was_showing != self._is_showing:
            self.changed.emit()

    def _show_view(self, view_index: int, layers: EffectLayers) -> None:
        found, pick = self.effects_at(view_index), self._sram.pick_in(view_index)
        if isinstance(found, Effects):
            known = [self.effects_at(index) for index in range(len(self._session.views))]
            layers.show(found, pick, [one for one in known if isinstance(one, Effects)])
            words = describe_effects(found, pick)
        else:
            layers.show_nothing()
            words = _READING
        if view_index == 0:
            self._session.describe_effects(words)


def describe_effects(effects: Effects, pick: Pick | None) -> str:
    """Say in words which effects are in view, and what a reader must know of them."""
    noise = f"rounding alone {effects.noise:.2g}"
    of_all = "all layers and timesteps"
    if pick is None:
        whole, most = effects.whole, float(effects.by_region.max())
        return (
            f"{_LEGEND_OF_ALL}\n"
            f"left: all of it, {whole:.2g} on average · right: each region alone, up to {most:.2g}\n"
            f"{of_all} · {noise}"
        )
    if pick.side == "generated":
        values = effects.on_patches(pick.area)
        patches = "this patch" if pick.is_point else "these patches"
        words = f"right: how much cutting each region alone changed {patches}"
    else:
        cuts = effects.cuts_at(pick.area)
        if not cuts:
            return f"{LEGEND}\n{_NO_REGION}"
        values = effects.region[cuts].mean(axis=0)
        words = "left: what cutting this region alone changed"
        if len(cuts) > 1:
            words = f"left: what cutting {len(cuts)} regions, each alone, changed on average"
    return f"{LEGEND}\n{words}, up to {float(values.max()):.2g}\n{of_all} · {noise}"
