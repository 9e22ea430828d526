"""Colour bars on the canvas: what a colour of the heat stands for, at the side of its picture."""

from __future__ import annotations

from typing import Any, Final

from i2am.viewer.scene.layers import own_metadata

__all__ = ["bars_of", "show_color_bars"]

_SIZE_PX: Final = (12, 90)
_FONT_SIZE: Final = 8
_HEAT: Final = ("r2g", "g2r", "sram", "effect")  # how the roles of layers of heat begin


def show_color_bars(viewer: Any, on: bool) -> None:
    """Show or hide a colour bar of each layer of heat, left for the left picture, right for the right."""
    middle = viewer.layers.extent.world[:, -1].mean() if len(viewer.layers) else 0
    for layer, bar in bars_of(viewer):
        is_left = layer.extent.world[:, -1].mean() < middle
        bar.position = "top_left" if is_left else "top_right"
        bar.size, bar.font_size = _SIZE_PX, _FONT_SIZE
        bar.visible = on


def bars_of(viewer: Any) -> list[tuple[Any, Any]]:
    """Return each layer of heat with its colour bar."""
    return [
        (layer, layer.colorbar)
        for layer in viewer.layers
        if str((own_metadata(layer) or {}).get("role", "")).startswith(_HEAT)
    ]
