"""What keys do, listed in one place for the window, its tooltips and its help.

A key that napari gives to a kind of layer never reaches the window while such a layer is active, so
none of these is one of napari's, for any kind of layer or menu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.viewer.data.axes import AVERAGEABLE_DIMS

if TYPE_CHECKING:
    from i2am.viewer.session.session import Session

__all__ = ["CLEAR_KEYS", "SHORTCUTS", "Shortcut", "bind_shortcuts", "show_shortcuts"]


@dataclass(frozen=True)
class Shortcut:
    """One key.

    Parameters
    ----------
    key : str
        As napari writes it.
    what : str
        In words, for the help.
    do : callable (Session)
    """

    key: str
    what: str
    do: Callable[[Session], None]

    @property
    def label(self) -> str:
        """The key as people write it."""
        return self.key.replace("-", "+")


def _step(dim: str, by: int) -> Callable[[Session], None]:
    def move(session: Session) -> None:
        session.move(dim, by)

    return move


def _toggle(dim: str) -> Callable[[Session], None]:
    return lambda session: session.set_averaged(dim, dim not in session.averaged_dims)


def _next_direction(session: Session) -> None:
    known = ("both", "r2g", "g2r")
    session.set_appearance(direction=known[(known.index(session.appearance.direction) + 1) % 3])


def _toggle_contrast(session: Session) -> None:
    session.set_appearance(
        contrast="slice" if session.appearance.contrast == "shared" else "shared"
    )


def _toggle_polarity(session: Session) -> None:
    session.set_appearance(
        polarity="inverted" if session.appearance.polarity == "direct" else "direct"
    )


def _toggle_everything(session: Session) -> None:
    session.set_averaged_dims(
        frozenset()
        if session.averaged_dims == frozenset(AVERAGEABLE_DIMS)
        else frozenset(AVERAGEABLE_DIMS)
    )


SHORTCUTS: Final[dict[str, Shortcut]] = {
    "next_layer": Shortcut("K", "next layer", _step(LAYER, 1)),
    "last_layer": Shortcut("J", "previous layer", _step(LAYER, -1)),
    "next_step": Shortcut(".", "next timestep", _step(STEP, 1)),
    "last_step": Shortcut(",", "previous timestep", _step(STEP, -1)),
    "next_head": Shortcut("H", "next head", _step(HEAD, 1)),
    "last_head": Shortcut("G", "previous head", _step(HEAD, -1)),
    "next_sample": Shortcut("N", "next sample", _step("sample", 1)),
    "last_sample": Shortcut("Shift-N", "previous sample", _step("sample", -1)),
    "mean_layer": Shortcut("Shift-K", "mean over layers, on or off", _toggle(LAYER)),
    "mean_step": Shortcut("Shift-T", "mean over timesteps, on or off", _toggle(STEP)),
    "mean_head": Shortcut("Shift-H", "mean over heads, on or off", _toggle(HEAD)),
    "everything": Shortcut("U", "the mean over everything (ULAM), or one map", _toggle_everything),
    "direction": Shortcut("Shift-D", "R2G and G2R, R2G alone, G2R alone", _next_direction),
    "contrast": Shortcut(
        "Shift-C", "contrast shared by a layer's maps, or each its own", _toggle_contrast
    ),
    "polarity": Shortcut("Shift-I", "heat where attention is high, or low", _toggle_polarity),
    "effects": Shortcut(
        "Shift-E",
        "attention maps, or measured effects",
        lambda s: s.set_shows_effects(not s.shows_effects),
    ),
    "volume": Shortcut(
        "Shift-Y",
        "timesteps as the third axis, or as a slider",
        lambda s: s.set_volume(not s.is_volume),
    ),
}


# Take the question away. napari's Shapes and Labels keep Escape for themselves while they are active.
CLEAR_KEYS: Final = ("Q", "Escape")


def bind_shortcuts(viewer: Any, session: Session) -> None:
    """Have the window's keys steer a session."""
    for shortcut in SHORTCUTS.values():

        def press(_: Any, do: Callable[[Session], None] = shortcut.do) -> None:
            if session.views:
                do(session)

        viewer.bind_key(shortcut.key, press, overwrite=True)


def show_shortcuts(parent: Any) -> Any:
    """Show what keys do, in a window that does not hold up the others; return it."""
    from qtpy.QtWidgets import QMessageBox

    rows = "".join(
        f"<tr><td><b>{one.label}</b></td><td>&nbsp;{one.what}</td></tr>"
        for one in SHORTCUTS.values()
    )
    extra = (
        "<tr><td><b>click</b></td><td>&nbsp;on a picture: what belongs to this patch</td></tr>"
        "<tr><td><b>Shift+drag</b></td><td>&nbsp;the same of a region</td></tr>"
        "<tr><td><b>Q, Esc</b></td><td>&nbsp;take the question away</td></tr>"
    )
    box = QMessageBox(parent)
    box.setWindowTitle("I²AM: keyboard and mouse")
    box.setText(f"<table>{rows}{extra}</table>")
    box.setModal(False)
    box.show()
    return box
