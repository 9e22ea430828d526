"""The session of a window: made when it is first asked for, with its keys."""

from __future__ import annotations

import weakref
from typing import Any

from i2am.viewer.session.session import Session

__all__ = ["session_of"]

_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(viewer: Any) -> Session:
    """Return the session of a napari viewer, made when it is first asked for."""
    own = getattr(viewer, "__wrapped__", viewer)  # Widgets are given a proxy.
    if own not in _sessions:
        _sessions[own] = Session(own)
    return _sessions[own]
