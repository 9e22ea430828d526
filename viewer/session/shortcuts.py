"""What keys do, listed in one place for the window, its tooltips and its help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.viewer.data.axes import AVERAGEABLE_DIMS

if TYPE_CHECKING:
    from i2am.viewer.session.session import Session

__all__ = ["SHORTCUTS", "Shortcut", "bind_shortcuts", "show_shortcuts"]


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
    "next_layer": Shortcut("L", "next layer", _step(LAYER, 1)),
    "last_layer": Shortcut("Shift-L", "previous layer", _step(LAYER, -1)),
    "next_step": Shortcut("T", "next timestep", _step(STEP, 1)),
    "last_step": Shortcut("Shift-T", "previous timestep", _step(STEP, -1)),
    "next_head": Shortcut("H", "next head", _step(HEAD, 1)),
    "last_head": Shortcut("Shift-H", "previous head", _step(HEAD, -1)),
    "next_sample": Shortcut("S", "next sample", _step("sample", 1)),
    "last_sample": Shortcut("Shift-S", "previous sample", _step("sample", -1)),
    "mean_layer": Shortcut("Alt-L", "mean over layers, on or off", _toggle(LAYER)),
    "mean_step": Shortcut("Alt-T", "mean over timesteps, on or off", _toggle(STEP)),
    "mean_head": Shortcut("Alt-H", "mean over heads, on or off", _toggle(HEAD)),
    "everything": Shortcut("U", "the mean over everything (ULAM), or one map", _toggle_everything),
    "direction": Shortcut("D", "R2G and G2R, R2G alone, G2R alone", _next_direction),
    "contrast": Shortcut(
        "C", "contrast shared by a layer's maps, or each its own", _toggle_contrast
    ),
    "polarity": Shortcut("I", "heat where attention is high, or low", _toggle_polarity),
    "effects": Shortcut(
        "E",
        "attention maps, or measured effects",
        lambda s: s.set_shows_effects(not s.shows_effects),
    ),
    "volume": Shortcut(
        "V", "timesteps as the third axis, or as a slider", lambda s: s.set_volume(not s.is_volume)
    ),
}


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
        f"<tr><td><b>{one.key.replace('-', '+')}</b></td><td>&nbsp;{one.what}</td></tr>"
        for one in SHORTCUTS.values()
    )
    extra = (
        "<tr><td><b>click</b></td><td>&nbsp;on a picture: what belongs to this patch</td></tr>"
        "<tr><td><b>Shift+drag</b></td><td>&nbsp;the same of a region</td></tr>"
        "<tr><td><b>Esc</b></td><td>&nbsp;take the question away</td></tr>"
    )
    box = QMessageBox(parent)
    box.setWindowTitle("I²AM: keyboard and mouse")
    box.setText(f"<table>{rows}{extra}</table>")
    box.setModal(False)
    box.show()
    return box
