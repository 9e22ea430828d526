"""The colours of napari's theme around the pictures, and of text that is read on them."""

from __future__ import annotations

import weakref
from typing import Any

from i2am.viewer.scene.layers import own_layers

__all__ = ["canvas_color", "follow_theme", "text_color"]


def canvas_color(viewer: Any) -> str:
    """Return the colour of the canvas around the pictures, ``#rrggbb``."""
    from napari.utils.theme import get_theme

    return str(get_theme(viewer.theme).canvas.as_hex(format="long"))


def text_color(paper: str) -> str:
    """Return black or white, whichever is read on a colour ``#rrggbb``.

    Examples
    --------
    >>> text_color("#ffffff"), text_color("#202830")
    ('#000000', '#ffffff')
    """
    red, green, blue = (int(paper[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#ffffff"


def follow_theme(viewer: Any) -> None:
    """Have the captions of a window legible in every theme from now on."""
    known = weakref.ref(viewer)

    def paint(_: Any = None) -> None:
        if (own := known()) is None:
            return
        color = text_color(canvas_color(own))
        for view_index in (0, 1):
            captions = own_layers(own, view_index).get("captions")
            if captions is not None:
                captions.text.color = color

    viewer.events.theme.connect(paint)
    viewer.layers.events.inserted.connect(paint)
    paint()
