"""One file a figure. Matplotlib is used here alone.

May import every other folder of analysis. A figure is a function ``draw(sample, maps, style=…)`` in
a file of its own, and one entry in `FIGURES`: the command line, the files and the report take it from
there, and it is a name of this package. It is imported when it is first drawn, and Matplotlib with it.
One of measured effects is a function ``draw(sample, effects, style=…)``, and says which of them it
needs; one of a whole run is ``draw(run, maps, style=…)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.dims import GUIDANCE
from i2am.schemas.directions import DIRECTIONS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES",
    "FigureKind",
    "FigureOptions",
    "FigureStyle",
    "before_after",
    "curves",
    "effects",
    "evolution",
    "existing_kinds",
    "flow",
    "guidance",
    "hlam",
    "layer_effects",
    "llam",
    "load_figure",
    "matrix",
    "overview",
    "references",
    "render",
    "report_kinds",
    "roads",
    "selected_maps",
    "sources",
    "sram",
    "sram_grid",
    "time_heads",
    "tlam",
    "write_comparison",
    "write_figures",
]

# Nothing here imports what takes time: the shell lists the kinds at TAB.
_HOMES: Final = {
    "FigureOptions": "i2am.analysis.figures.files:FigureOptions",
    "FigureStyle": "i2am.analysis.figures.style:FigureStyle",
    "render": "i2am.analysis.figures.sheet:render",
    "selected_maps": "i2am.analysis.figures.files:selected_maps",
    "sram_grid": "i2am.analysis.figures.patch_maps:sram_grid",
    "write_comparison": "i2am.analysis.figures.files:write_comparison",
    "write_figures": "i2am.analysis.figures.files:write_figures",
}
# What `analyze` and `sram` take to select a part of a sample.
_SELECTION: Final = ("layers", "steps", "heads", "guidance")


def _always(_sample: xr.DataTree) -> bool:
    return True


def _has_sram(sample: xr.DataTree) -> bool:
    from i2am.analysis.stores.layers import sram_layers

    return bool(sram_layers(sample))


def _has_branches(sample: xr.DataTree) -> bool:
    return GUIDANCE in sample.coords and sample.sizes[GUIDANCE] > 1


def _has_mask(sample: xr.DataTree) -> bool:
    images = sample.children["images"].dataset
    return any(direction.mask in images for direction in DIRECTIONS.values())


def _has_references(sample: xr.DataTree) -> bool:
    from i2am.analysis.stores.layers import layer_attributes

    return len({own.reference_index for own in layer_attributes(sample).values()}) > 1


def _has_roads(sample: xr.DataTree) -> bool:
    layers = sample.children["layers"].children.values()
    return all({"text_key", "text_query"} <= set(layer.data_vars) for layer in layers)


def _has_sources(sample: xr.DataTree) -> bool:
    return all(
        "logsumexp" in layer.data_vars for layer in sample.children["layers"].children.values()
    )


def _has_shared_references(sample: xr.DataTree) -> bool:
    return _has_references(sample) and _has_sources(sample)


_NEEDS_EFFECTS: Final = "It shows measured effects: run 'i2am causal' first."
_NEEDS_GRID: Final = "It asks single patches: capture layers with several reference tokens in a grid, and not as maps."


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Parameters
    ----------
    function : str
        ``module:function``, called as ``function(sample, maps, style=…)``; returns a Matplotlib
        Figure.
    caption : str
        What the figure shows, for the report.
    exists : callable (DataTree) -> bool
        Whether a captured sample has this figure.
    is_in_report : bool
        Whether `write_figures` writes it by default, and the report prints it: but for maps that its page
        shows itself.
    needs : tuple of str
        The measured effects that it is drawn from, by their names in a sample of `open_effects`. It is
        then called as ``function(sample, effects, style=…)``, where they are given.
    takes : tuple of str
        What else it may be asked for, by name: "at", places (y, x) of the generated image; "layers",
        "steps", "heads", "guidance", where it does not draw the maps that it is given.
    needs_other : bool
        Whether it also takes ``other``, the same sample of another run, and exists with that alone.
    is_of_run : bool
        Whether it shows all samples, and is called as ``function(run, maps, style=…)`` with mappings.
    missing : str
        What to do where a sample does not have it, as a sentence.

    Examples
    --------
    >>> FIGURES["sram"].takes[0], FIGURES["before-after"].needs_other
    ('at', True)
    """

    function: str
    caption: str
    exists: Callable[[xr.DataTree], bool] = _always
    is_in_report: bool = True
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    needs_other: bool = False
    is_of_run: bool = False
    missing: str = ""


FIGURES: Final[dict[str, FigureKind]] = {
    "overview": FigureKind(
        "i2am.analysis.figures.maps:overview",
        "The images, and the maps averaged over layers, steps and heads: R2G shows which generated "
        "regions use the reference, G2R which parts of the reference were used.",
    ),
    "tlam": FigureKind(
        "i2am.analysis.figures.maps:tlam",
        "When the reference is used, and where: one map per group of denoising steps, noisiest "
        "first, averaged over layers and heads.",
    ),
    "hlam": FigureKind(
        "i2am.analysis.figures.maps:hlam",
        "What each attention head looks at: one map per head, averaged over layers and steps.",
    ),
    "llam": FigureKind(
        "i2am.analysis.figures.maps:llam",
        "What each layer looks at: one map per attention layer, averaged over steps and heads.",
        is_in_report=False,
    ),
    "matrix": FigureKind(
        "i2am.analysis.figures.tables:matrix",
        "What each head of each layer looks at, averaged over steps.",
        is_in_report=False,
    ),
    "time-heads": FigureKind(
        "i2am.analysis.figures.tables:time_heads",
        "What each head looks at as the image comes out of the noise, averaged over layers.",
        is_in_report=False,
    ),
    "guidance": FigureKind(
        "i2am.analysis.figures.branches:guidance",
        "The unified maps with and without the condition: those of each branch of classifier-free "
        "guidance.",
        exists=_has_branches,
        is_in_report=False,
        takes=("layers", "steps", "heads"),
        missing="It compares the branches of classifier-free guidance: capture with --guidance both.",
    ),
    "sram": FigureKind(
        "i2am.analysis.figures.patch_maps:sram",
        "For each numbered patch of the generated image, where on the reference it looks; and which "
        "patches look at that place. Averaged over layers, steps and heads.",
        exists=_has_sram,
        takes=("at", *_SELECTION),
        missing=_NEEDS_GRID,
    ),
    "flow": FigureKind(
        "i2am.analysis.figures.colors_of_places:flow",
        "Where each generated patch comes from: it has the color of the place that it reads most, the "
        "stronger the more of its attention lies there.",
        exists=_has_sram,
        is_in_report=False,
        takes=_SELECTION,
        missing=_NEEDS_GRID,
    ),
    "references": FigureKind(
        "i2am.analysis.figures.reference_shares:references",
        "Which reference each patch reads most; the color is stronger where the others are read less.",
        exists=_has_shared_references,
        is_in_report=False,
        takes=_SELECTION,
        missing="It compares references that share a softmax: capture a model with two or more.",
    ),
    "before-after": FigureKind(
        "i2am.analysis.figures.two_runs:before_after",
        "What the same patches read in two runs, on one scale.",
        exists=_has_sram,
        is_in_report=False,
        takes=("at", *_SELECTION),
        needs_other=True,
        missing=f"{_NEEDS_GRID} And a second run that holds the sample: name it with --after.",
    ),
    "evolution": FigureKind(
        "i2am.analysis.figures.over_time:evolution",
        "How much of the attention lies inside the masks at each denoising step: the mean over samples "
        "with its interval.",
        exists=_has_mask,
        is_in_report=False,
        is_of_run=True,
        missing="It is compared with a mask: capture with one, an inpainting mask or a reference's.",
    ),
    "roads": FigureKind(
        "i2am.analysis.figures.text_roads:roads",
        "By which road the reference comes: the attention that goes to it directly, and that which goes "
        "to text that has read it in earlier layers; averaged over layers, steps and heads.",
        exists=_has_roads,
        takes=_SELECTION,
        missing="It needs the attention of the text: capture with --text-roads.",
    ),
    "sources": FigureKind(
        "i2am.analysis.figures.text_roads:sources",
        "How the attention of each patch is shared among text, the generated picture itself and each "
        "reference, averaged over layers, steps and heads.",
        exists=_has_sources,
        is_in_report=False,
        takes=_SELECTION,
        missing="It needs layers whose softmax other tokens share, as in FLUX and Qwen.",
    ),
    "effects": FigureKind(
        "i2am.analysis.figures.effect_maps:effects",
        "What the object and two of its patches read of each region of the reference, beside what cutting "
        "that region changes there. Where the two look alike, the map may be believed.",
        exists=_has_sram,
        is_in_report=False,
        needs=("region", "ceiling"),
        missing=_NEEDS_EFFECTS,
    ),
    "curves": FigureKind(
        "i2am.analysis.figures.effect_plots:curves",
        "How much of the effect of the whole reference comes and goes as its regions are cut one after the "
        "other, in several orders.",
        is_in_report=False,
        needs=("deletion", "ceiling"),
        missing=f"{_NEEDS_EFFECTS} With --curves.",
    ),
    "layer_effects": FigureKind(
        "i2am.analysis.figures.effect_plots:layer_effects",
        "What cutting the reference in one layer alone changes, as share of what cutting it in all layers "
        "changes.",
        is_in_report=False,
        needs=("layer_effect", "ceiling"),
        missing=f"{_NEEDS_EFFECTS} With --cut-layers.",
    ),
}


def report_kinds() -> tuple[str, ...]:
    """Return the kinds of figures that the report shows.

    Examples
    --------
    >>> "overview" in report_kinds()
    True
    """
    return tuple(name for name, kind in FIGURES.items() if kind.is_in_report)


def existing_kinds(
    sample: xr.DataTree,
    kinds: Iterable[str],
    effects: xr.Dataset | None = None,
    *,
    has_other: bool = False,
) -> list[str]:
    """Return those of the kinds that exist for a sample, and for its measured effects.

    Parameters
    ----------
    sample : DataTree
    kinds : iterable of str
        Of `FIGURES`.
    effects : Dataset, optional
        This sample of `open_effects`.
    has_other : bool
        Whether a second run holds the sample, too.

    Examples
    --------
    >>> import i2am
    >>> sample = i2am.open_run(i2am.DEMO_RUN)["truck"]
    >>> existing_kinds(sample, ["overview", "roads"])  # it reads no text
    ['overview']
    """
    measured = set() if effects is None else set(effects.data_vars)
    return [
        kind
        for kind in kinds
        if measured.issuperset(FIGURES[kind].needs)
        and (has_other or not FIGURES[kind].needs_other)
        and FIGURES[kind].exists(sample)
    ]


def load_figure(kind: str) -> Callable[..., Figure]:
    """Return the function that draws a kind of figure.

    Raises
    ------
    AnalysisError
        If there is no such kind.

    Examples
    --------
    >>> load_figure("overview").__name__
    'overview'
    """
    if kind not in FIGURES:
        msg = f"Expected a figure, got {kind!r}, at kinds. {did_you_mean(kind, FIGURES)}"
        raise AnalysisError(msg)
    found: Callable[..., Figure] = _load(FIGURES[kind].function)
    return found


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def __getattr__(name: str) -> Any:
    kind = name.replace("_", "-") if name not in FIGURES else name
    if name in _HOMES:
        return _load(_HOMES[name])
    if kind in FIGURES:
        return load_figure(kind)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
