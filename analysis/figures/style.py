"""How a figure looks: what a map is shown as, and how large the figure is printed.

Every kind of figure takes the same style, so that one set of options makes all figures of a paper alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import matplotlib as mpl

from i2am.schemas import AnalysisError
from i2am.schemas.choices import (
    CONTRASTS,
    FIGURE_BASES,
    FIGURE_INCHES,
    POLARITIES,
    Contrast,
    FigureBase,
    Polarity,
    check_choice,
)

__all__ = ["DEFAULT_STYLE", "FigureStyle"]

_SCREEN_DPI: Final = 150
_PRINT_DPI: Final = 300
_SCREEN_FONT_PT: Final = 8.5
_PRINT_FONT_PT: Final = 7.0


@dataclass(frozen=True)
class FigureStyle:
    """How figures look; values are never changed by it.

    Parameters
    ----------
    polarity : {"direct", "inverted"}
        Whether high or low attention is hot. The authors' code shows R2G inverted.
    threshold : float, in [0, 1)
        Heat at or below it is not drawn; 0 is a figure's lowest value, 1 its highest.
    colormap : str
        A matplotlib colormap; a perceptually uniform one does not distort the values.
    opacity : float, in (0, 1]
        Opacity of the hottest pixel over a picture.
    contrast : {"shared", "panel"}
        Whether one scale spans the panels of a direction, or each panel has its own.
    base : {"grey", "picture", "none"}
        What lies under the heat: the picture without its colors, so that all color is attention; the
        picture as it is; or nothing.
    width : float, optional
        Of the figure in inches, to be printed at that size: 3.3 for a column, 7 for a page. Text has
        7 pt then. By default a figure is as wide as its panels need on a screen.

    Raises
    ------
    AnalysisError
        If a value is none of these.

    Examples
    --------
    >>> FigureStyle(width=3.3, colormap="magma").base
    'grey'
    """

    polarity: Polarity = "direct"
    threshold: float = 0.0
    colormap: str = "inferno"
    opacity: float = 0.9
    contrast: Contrast = "shared"
    base: FigureBase = "grey"
    width: float | None = None

    def __post_init__(self) -> None:
        check_choice("polarity", self.polarity, POLARITIES, AnalysisError)
        check_choice("contrast", self.contrast, CONTRASTS, AnalysisError)
        check_choice("colormap", self.colormap, list(mpl.colormaps), AnalysisError)
        check_choice("base", self.base, FIGURE_BASES, AnalysisError)
        if not 0 <= self.threshold < 1:
            msg = (
                f"Expected a threshold in [0, 1), got {self.threshold}, at FigureStyle. "
                "Give it as a share of the figure's range."
            )
            raise AnalysisError(msg)
        if not 0 < self.opacity <= 1:
            msg = (
                f"Expected an opacity in (0, 1], got {self.opacity}, at FigureStyle. "
                "1 hides the image under the hottest pixel."
            )
            raise AnalysisError(msg)
        low, high = FIGURE_INCHES
        if self.width is not None and not low <= self.width <= high:
            msg = (
                f"Expected a width of {low:g} to {high:g} inches, got {self.width}, at FigureStyle. "
                "A column of a paper has 3.3, a page 7."
            )
            raise AnalysisError(msg)

    @property
    def dpi(self) -> int:
        """Pixels per inch of the figure as a PNG file."""
        return _SCREEN_DPI if self.width is None else _PRINT_DPI

    @property
    def font_pt(self) -> float:
        """Size of the text, in points."""
        return _SCREEN_FONT_PT if self.width is None else _PRINT_FONT_PT


DEFAULT_STYLE: Final = FigureStyle()
