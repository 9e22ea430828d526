"""The session of a window: made at the first call, closed with the window."""

from __future__ import annotations

import weakref
from typing import Any

from i2am.viewer.scene.theme import follow_theme
from i2am.viewer.session.samples import SampleOpener
from i2am.viewer.session.session import Session
from i2am.viewer.session.shortcuts import bind_shortcuts

__all__ = ["session_of"]

# What else belongs to a window is a child of its session.
_windows: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(viewer: Any) -> Session:
    """Return the session of a napari viewer, made at the first call."""
    own = getattr(viewer, "__wrapped__", viewer)  # Widgets are given a proxy.
    if own not in _windows:
        session = _windows[own] = Session(own, SampleOpener())
        bind_shortcuts(own, session)
        follow_theme(own)
        _close_with_window(own, session)
    return _windows[own]


def _close_with_window(viewer: Any, session: Session) -> None:
    known = weakref.ref(viewer)

    def close() -> None:
        session.close()
        if (own := known()) is not None:
            _windows.pop(own, None)

    viewer.window.main_menu.window().destroyed.connect(close)
