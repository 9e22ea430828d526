"""Keys of a real window, held against napari's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import napari.layers
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import Qt
from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtTest import QTest

from i2am.viewer.session.attach import session_of
from i2am.viewer.session.shortcuts import CLEAR_KEYS, SHORTCUTS
from tests.support.wait import wait

KINDS: Final = {
    "Image": np.zeros((8, 8)),
    "Labels": np.zeros((8, 8), int),
    "Points": np.zeros((1, 2)),
    "Shapes": np.array([[[0, 0], [4, 4]]]),
    "Surface": (np.zeros((3, 2)), np.array([[0, 1, 2]])),
    "Tracks": np.array([[0, 0, 0, 0], [0, 1, 1, 1]]),
    "Vectors": np.zeros((1, 2, 2)),
}
# napari's Shapes and Labels keep it; Q does the same.
SHARED: Final = "Escape"
QT_KEYS: Final = {".": Qt.Key.Key_Period, ",": Qt.Key.Key_Comma}


def _own_keys() -> dict[Any, str]:
    names = [*(one.key for one in SHORTCUTS.values()), *CLEAR_KEYS]
    return {coerce_keybinding(name): name for name in names if name != SHARED}


def _napari_keys() -> Iterator[tuple[Any, str]]:
    """Yield each key that napari binds for a kind of layer or the window, and what for."""
    for action, keys in get_settings().shortcuts.shortcuts.items():
        yield from ((coerce_keybinding(key), str(action)) for key in keys)
    for action, keys in action_manager._shortcuts.items():
        yield from ((coerce_keybinding(key), action) for key in keys)
    kinds = [getattr(napari.layers, kind) for kind in KINDS]
    for kind in [*kinds, ViewerModel, napari.Viewer]:
        for base in kind.__mro__:
            keymap = getattr(base, "class_keymap", {})
            yield from ((key, f"{kind.__name__}: {function}") for key, function in keymap.items())


def test_no_key_is_one_of_naparis_for_any_kind_of_layer(
    run: Path, open_window: Callable[..., Any]
) -> None:
    assert {kind.capitalize() for kind in napari.layers.NAMES} == set(KINDS)
    viewer = open_window(run)
    own, taken = _own_keys(), dict(_napari_keys())
    assert len(own) == len(SHORTCUTS) + len(CLEAR_KEYS) - 1  # each once
    # What was seen to do something else once is among what is looked at.
    assert {"C", "V", "S", "P", "L", "T", "D", "E", "I"} <= {str(key) for key in taken}
    assert {name: taken[key] for key, name in own.items() if key in taken} == {}
    main = viewer.window.main_menu.window()
    menus = {sequence for action in main.findChildren(QAction) for sequence in action.shortcuts()}
    letters = {QKeySequence.mnemonic(action.text()) for action in viewer.window.main_menu.actions()}
    assert QKeySequence("Alt+F") in letters
    clashes = {
        name for name in own.values() if QKeySequence(name.replace("-", "+")) in menus | letters
    }
    assert not clashes


def test_every_key_works_whatever_layer_is_active(
    run: Path, open_window: Callable[..., Any], subtests: pytest.Subtests
) -> None:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1 and len(session.samples) == 2)
    # A sample that opens takes its time: those keys are pressed in test_window.py.
    shortcuts = [one for one in SHORTCUTS.values() if "sample" not in one.what]
    for kind, data in KINDS.items():
        layer = getattr(viewer, f"add_{kind.lower()}")(data)
        for shortcut in shortcuts:
            session.go_to(layer=1, step=1, head="next head" not in shortcut.what)
            viewer.layers.selection.active = layer
            before, mode = _state(session), str(layer.mode)
            with subtests.test(kind=kind, key=shortcut.key):
                _click(viewer, shortcut.key)
                changed = [a != b for a, b in zip(_state(session), before, strict=True)]
                assert sum(changed) == 1
                assert (str(layer.mode), viewer.layers.selection.active) == (mode, layer)
        viewer.layers.remove(layer)


def _state(session: Any) -> tuple[Any, ...]:
    return (
        session.position,
        session.averaged_dims,
        session.appearance,
        session.is_volume,
        session.shows_effects,
    )


def _click(viewer: Any, key: str) -> None:
    """Press a key on the canvas, as people do."""
    canvas = viewer.window._qt_viewer.canvas.native
    modifier, _, letter = key.rpartition("-")
    code = QT_KEYS.get(letter) or getattr(Qt.Key, f"Key_{letter}")
    held = Qt.KeyboardModifier.ShiftModifier if modifier else Qt.KeyboardModifier.NoModifier
    QTest.keyClick(canvas, code, held)
