"""One self-contained HTML page about a run: its figures, scores and provenance.

The page contains its images and its style, and needs no network and no scripts: it can be
mailed, archived, read on a phone, and printed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import jinja2
import pandas as pd
import xarray as xr
from PIL import Image

from i2am.analysis.figures import FIGURES, existing_kinds, load_figure, report_kinds
from i2am.analysis.figures.captions import absence, seen_notes, similarity_note
from i2am.analysis.figures.effect_words import belief_sentences
from i2am.analysis.figures.files import figure_path
from i2am.analysis.figures.sheet import render
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.scores.registry import score_meanings
from i2am.analysis.stores.effects import own_effects
from i2am.files import check_new_file, written_whole
from i2am.schemas import AnalysisError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.text import safe_text

__all__ = ["write_report"]

_SCORE_COLUMNS: Final = ("sample", "score", "value")
# The run's facts in the head of the page: one value if all samples have it, or else each value once.
_HEAD_FIELDS: Final = ("model", "pipeline", "scheduler", "steps", "guidance_scale", "created")
_CSS_PX_PER_INCH: Final = 96
_VERSIONS: Final = ("i2am", "torch", "diffusers")
# The figure beside what is said of measured effects.
_BELIEF: Final = "effects"


def write_report(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    scores: pd.DataFrame | None,
    out: Path,
    *,
    overwrite: bool = False,
    max_samples: int = 50,
    style: FigureStyle = DEFAULT_STYLE,
    figures_dir: Path | None = None,
    effects: Mapping[str, xr.Dataset] | None = None,
) -> Path:
    """Write a page about the samples that the run and the maps share, and return its path.

    Parameters
    ----------
    run, maps : Mapping of str to DataTree
        As `open_run` and `open_maps` give them.
    scores : DataFrame, columns sample (str), score (str), value (float), optional
        NaN stands for a score that does not exist.
    out : Path
        The page, for instance ``report.html``.
    overwrite : bool
        Whether `out` may exist.
    max_samples : int
        Samples with figures; the summary counts them all, and the page says how many it leaves out.
    style : FigureStyle
    figures_dir : Path, optional
        Where `write_figures` has written these samples' figures in this style: what is there is
        taken, not drawn again.
    effects : Mapping of str to Dataset, optional
        As `open_effects` gives it: the page then says of each sample that was measured whether its map
        can be believed.

    Raises
    ------
    StoreError
        If `out` exists and `overwrite` is false.
    AnalysisError
        If run and maps share no sample, or `scores` lacks a column or has names that are not text.
    """
    out = check_new_file(out, overwrite=overwrite)
    names = _shared_names(run, maps)
    if scores is not None:
        scores = _scores_of(scores, names)
    shown = names[:max_samples]
    # Not searched anew for each sample: a long run's table has millions of rows.
    own = None if scores is None else scores[scores["sample"].astype(str).isin(shown)]
    sections = [_section(n, run[n], maps[n], own, style, figures_dir, effects) for n in shown]
    page = _template().render(
        title=_name(run),
        head=dict(_head(sections)),
        sections=sections,
        count=len(names),
        summary=[] if scores is None else _summary(scores),
        version=version("i2am"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return out


@dataclass(frozen=True)
class _Figure:
    title: str
    caption: str
    alt: str
    source: str
    width_px: int
    height_px: int
    notes: tuple[str, ...] = ()
    # Whether the map can be believed, where that was measured.
    belief: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Score:
    name: str
    meaning: str
    value: str


@dataclass(frozen=True)
class _Section:
    """The part of the page about one sample."""

    name: str
    figures: tuple[_Figure, ...]
    notes: tuple[str, ...]
    scores: tuple[_Score, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _SummaryRow:
    name: str
    meaning: str
    mean: str
    low: str
    high: str
    count: int


def _shared_names(run: Mapping[str, xr.DataTree], maps: Mapping[str, xr.DataTree]) -> list[str]:
    """Return the samples of the run that the maps hold."""
    in_maps = set(maps)
    names = [name for name in run if name in in_maps]
    if not names:
        msg = (
            f"Expected samples that run and maps share, got none, at {_name(run)} and "
            f"{_name(maps)}. Analyze this run first."
        )
        raise AnalysisError(msg)
    return names


def _scores_of(scores: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the rows of the named samples."""
    if missing := set(_SCORE_COLUMNS) - set(scores.columns):
        msg = (
            f"Expected the columns {', '.join(_SCORE_COLUMNS)}, got none named "
            f"{', '.join(sorted(missing))}, at scores. Give the table that 'i2am score' writes."
        )
        raise AnalysisError(msg)
    others = [name for name in scores["sample"] if not isinstance(name, str)]
    if others:  # "NA" and "007", read by pandas' own rules, are no names any more.
        msg = (
            f"Expected the samples' names as text, got {others[0]!r}, at scores. Read the table with "
            "i2am.analysis.read_scores."
        )
        raise AnalysisError(msg)
    return scores[scores["sample"].isin(names)]


def _section(
    name: str,
    sample: xr.DataTree,
    maps: xr.DataTree,
    scores: pd.DataFrame | None,
    style: FigureStyle,
    figures_dir: Path | None,
    effects: Mapping[str, xr.Dataset] | None,
) -> _Section:
    figures = tuple(
        _figure(kind, name, sample, maps, style, figures_dir)
        for kind in existing_kinds(sample, report_kinds())
    )
    notes = []
    if note := similarity_note(sample, maps):
        notes.append(f"R2G: {note}.")
    if "g2r" not in maps.children:
        notes.append(absence(sample, "g2r"))
    meanings = score_meanings()
    own = [] if scores is None else scores[scores["sample"] == name].to_dict("records")
    values = tuple(
        _Score(row["score"], meanings.get(row["score"], ""), _number(row["value"])) for row in own
    )
    provenance = dict(_flat(sample.attrs[ATTRIBUTE_KEY]))
    measured = own_effects(effects, name, sample)
    if measured is not None and existing_kinds(sample, [_BELIEF], measured):
        belief = _figure(_BELIEF, name, sample, measured, style, figures_dir)
        sentences = tuple(belief_sentences(sample, measured))
        figures = (*figures, replace(belief, belief=sentences))
    return _Section(safe_text(name), figures, tuple(notes), values, provenance)


def _figure(
    kind: str,
    name: str,
    sample: xr.DataTree,
    shown: xr.DataTree | xr.Dataset,
    style: FigureStyle,
    figures_dir: Path | None,
) -> _Figure:
    path = None if figures_dir is None else figure_path(figures_dir, name, kind)
    if path is not None and path.is_file():
        png = path.read_bytes()
    else:
        png = render(load_figure(kind)(sample, shown, style=style))
    # WebP: a fifth of the PNG's size, which fifty samples in one file notice.
    image = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        picture.save(image, "webp", quality=88)
        size = picture.size
    source = f"data:image/webp;base64,{base64.b64encode(image.getvalue()).decode('ascii')}"
    caption = FIGURES[kind].caption
    title = kind.capitalize() if kind in ("overview", _BELIEF) else kind.upper()
    alt = f"{title} of sample {name}. {caption}"
    width_px, height_px = (round(pixels * _CSS_PX_PER_INCH / style.dpi) for pixels in size)
    notes = tuple(seen_notes(sample, shown)) if isinstance(shown, xr.DataTree) else ()
    return _Figure(title, caption, alt, source, width_px, height_px, notes)


def _head(sections: Iterable[_Section]) -> Iterator[tuple[str, str]]:
    """Return what the samples have in common; values that differ are listed, dates as a range."""
    every = [section.provenance for section in sections]
    for field in (*_HEAD_FIELDS, *(f"versions.{package}" for package in _VERSIONS)):
        found = sorted({str(p[field]) for p in every if p.get(field) is not None})
        if not found:
            continue
        is_range = field == "created" and len(found) > 1
        label = field.removeprefix("versions.").replace("_", " ")
        yield label, f"{found[0]} to {found[-1]}" if is_range else ", ".join(found)


def _summary(scores: pd.DataFrame) -> list[_SummaryRow]:
    rows, meanings = [], score_meanings()
    for name, values in scores.groupby("score", sort=False)["value"]:
        known = values.dropna()
        numbers = (_number(known.mean()), _number(known.min()), _number(known.max()))
        rows.append(_SummaryRow(str(name), meanings.get(str(name), ""), *numbers, len(known)))
    return rows


def _flat(attributes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested attributes with dotted names."""
    for name, value in attributes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _number(value: float) -> str:
    return "none" if pd.isna(value) else f"{value:.4f}"


def _name(store: Mapping[str, xr.DataTree]) -> str:
    """Return a store's own name: its folder's, where it lies in one."""
    return Path(str(getattr(store, "path", "run"))).name


def _template() -> jinja2.Template:
    text = files("i2am.analysis.figures").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Escapes keep HTML out; this keeps out what turns the direction of text round, or is unseen.
        finalize=lambda value: safe_text(value, keep="\n"),
    )
    return environment.from_string(text)
