"""What the window tells in its status bar and in the notes in its corner.

Qt guesses there whether a text is HTML: a name in a store could become a picture or a link.
"""

from __future__ import annotations

from typing import Any

from i2am.schemas.errors import I2AMError
from i2am.schemas.text import safe_text

__all__ = ["notify_error", "notify_info", "plain_notice", "show_status", "what_failed"]


def plain_notice(text: str) -> str:
    """Return a text that Qt takes for plain text, with ‹ for <.

    Examples
    --------
    >>> print(plain_notice("no layer '<img src=x>'"))
    no layer '‹img src=x>'
    """
    return safe_text(text, keep="\n").replace("<", "‹")


def what_failed(error: Exception, place: str = "") -> str:
    """Return what to tell of an error: ours speaks for itself, another one has its kind before it."""
    if isinstance(error, I2AMError):
        return str(error)
    where = f", at {place}. Try 'i2am validate' on it." if place else ""
    return f"{type(error).__name__}: {error}{where}"


def notify_error(text: str) -> None:
    """Show what is wrong in a corner of the window."""
    from napari.utils.notifications import show_error

    show_error(plain_notice(text))


def notify_info(text: str) -> None:
    """Show what was done in a corner of the window."""
    from napari.utils.notifications import show_info

    show_info(plain_notice(text))


def show_status(viewer: Any, text: str) -> None:
    """Show a line in a window's status bar."""
    viewer.status = plain_notice(text)
