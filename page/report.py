"""A run's findings as one HTML file, which needs no network: to mail, to archive, to read on a phone.

The file holds the data, the script that shows them, and, for print and for whoever runs no scripts, the
table of scores and the overview of each sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pandas as pd
import xarray as xr
from markupsafe import Markup
from PIL import Image

from i2am.analysis.figures import FIGURES, existing_kinds, load_figure, report_kinds
from i2am.analysis.figures.captions import seen_notes
from i2am.analysis.figures.files import figure_path
from i2am.analysis.figures.sheet import render
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.stores.effects import own_effects
from i2am.files import check_new_file, written_whole
from i2am.page.document import bundle_file, json_script, page_html, policy
from i2am.page.sample_data import (
    describe_sample,
    effects_data,
    encode_webp,
    provenance,
    thumbnail,
)
from i2am.page.sample_maps import curves, map_means, map_stacks, matrices, shown_step_groups
from i2am.page.score_table import ScoreTable, score_table
from i2am.page.sram_cells import sram_stacks
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.directions import DIRECTIONS
from i2am.schemas.text import safe_text

__all__ = ["head_facts", "run_data", "store_name", "write_report"]

# The run's facts in the head of the page: one value if all samples have it, or else each value once.
_HEAD_FIELDS: Final = ("model", "pipeline", "scheduler", "steps", "guidance_scale", "created")
_VERSIONS: Final = ("i2am", "torch", "diffusers")
_MOST_VALUES: Final = 8
# The figure beside what is said of measured effects.
_BELIEF: Final = "effects"
# Of these the page has the maps themselves.
_SHOWN_BY_PAGE: Final = ("tlam", "hlam", "sram")
_CSS_PX_PER_INCH: Final = 96
# A figure is for print and for no scripts: on paper this is 170 dots an inch.
_FIGURE_PX: Final = 1200
_QUALITY: Final = 62


def write_report(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    scores: pd.DataFrame | None,
    out: Path,
    *,
    overwrite: bool = False,
    samples: Iterable[str] | None = None,
    sort: str | None = None,
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
    samples : iterable of str, optional
        By default all.
    sort : str, optional
        A score: the samples in its order, the highest first, and those without it last. By default they
        are in the run's order.
    max_samples : int
        Samples that are shown; the summary counts them all, and the page says how many it leaves out.
    style : FigureStyle
        Of the figures that are printed.
    figures_dir : Path, optional
        Where `write_figures` has written these samples' figures in this style: what is there is
        taken, not drawn again.
    effects : Mapping of str to Dataset, optional
        As `open_effects` gives it: the page then says of each sample that was measured whether its map
        can be believed.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        If `out` exists and `overwrite` is false.
    AnalysisError
        If run and maps share no sample, or one of `samples` is not among those they share; `scores` lacks
        a column or has names that are not text; or no scores are given to sort by, or none of that name.

    Examples
    --------
    ::

        run, maps = open_run("run.zarr"), open_maps("maps.zarr")
        write_report(run, maps, read_scores("scores.csv"), Path("report.html"))
    """
    out = check_new_file(out, overwrite=overwrite)
    names = _shared_names(run, maps, samples)
    table = None if scores is None else score_table(scores, names)
    shown = _sorted(names, sort, table)[:max_samples]
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as unfinished:
        unfinished.touch()  # Before the work, which takes minutes, it is known whether it can be kept.
        sections = [
            _section(number, name, run[name], maps[name], style, figures_dir, effects, table)
            for number, name in enumerate(shown)
        ]
        page = _page(store_name(run), sections, len(names), table)
        unfinished.write_text(page, encoding="utf-8", newline="\n")
    return out


@dataclass(frozen=True)
class _Figure:
    """A figure for print: the page's script takes the picture from the document."""

    identifier: str
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
class _Section:
    """What the page holds of one sample."""

    name: str
    entry: dict[str, Any]
    script: Markup
    provenance: dict[str, str]
    notes: tuple[str, ...]
    figures: tuple[_Figure, ...]


def _page(title: str, sections: Sequence[_Section], count: int, table: ScoreTable | None) -> str:
    facts = [*head_facts(section.provenance for section in sections), ("samples", str(count))]
    left_out = count - len(sections)
    notes = []
    if left_out:
        note = f"This page shows {len(sections)} of {count} samples."
        notes.append(note + " The summary counts all of them." * (table is not None))
    run = run_data(  # How many are left out, the page says itself.
        "report",
        title,
        facts,
        scores=[] if table is None else table.described(),
        samples=[section.entry for section in sections],
        left_out=left_out,
    )
    script = bundle_file("report.js")
    return page_html(
        title=title,
        facts=facts,
        notes=notes,
        sections=sections,
        summary=[] if table is None else table.summary(),
        columns=[] if table is None else table.described(),
        scripts=[json_script("i2am-run", run), *(section.script for section in sections)],
        policy=policy(script=script),
        script=Markup(script),
        style=Markup(bundle_file("page.css")),
    )


def _shared_names(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    samples: Iterable[str] | None,
) -> list[str]:
    """Return the samples of the run that the maps hold, or those of them that are asked for."""
    in_maps = set(maps)
    names = [name for name in run if name in in_maps]
    if not names:
        msg = (
            f"Expected samples that run and maps share, got none, at {store_name(run)} and "
            f"{store_name(maps)}. Analyze this run first."
        )
        raise AnalysisError(msg)
    if samples is None:
        return names
    asked = list(dict.fromkeys(samples))
    for name in asked:
        if name not in names:
            msg = (
                f"Expected samples of the run and its maps, got {name!r}, at samples. "
                f"{did_you_mean(name, names)}"
            )
            raise AnalysisError(msg)
    return asked


def _sorted(names: list[str], sort: str | None, table: ScoreTable | None) -> list[str]:
    """Return the samples in the order of a score, those without it last."""
    if sort is None:
        return names
    if table is None:
        msg = (
            f"Expected scores to sort by, got none, at sort={sort!r}. Give scores, or leave it out."
        )
        raise AnalysisError(msg)
    return table.sorted_names(names, sort)


def _section(
    number: int,
    name: str,
    sample: xr.DataTree,
    maps: xr.DataTree,
    style: FigureStyle,
    figures_dir: Path | None,
    effects: Mapping[str, xr.Dataset] | None,
    table: ScoreTable | None,
) -> _Section:
    measured = own_effects(effects, name, sample)
    printed = [kind for kind in report_kinds() if kind not in _SHOWN_BY_PAGE]
    shown: list[tuple[str, Any]] = [(kind, maps) for kind in existing_kinds(sample, printed)]
    if measured is not None and existing_kinds(sample, [_BELIEF], measured):
        shown.append((_BELIEF, measured))
    told = effects_data(sample, measured)
    figures: list[_Figure] = []
    for kind, of in shown:
        belief = tuple(told["sentences"]) if told and kind == _BELIEF else ()
        identifier = f"figure-{number}-{len(figures)}"
        figures.append(_figure(identifier, kind, name, sample, of, style, figures_dir, belief))
    values = {} if table is None else table.values_of(name)
    data = _sample(name, sample, maps) | {
        "effects": told,
        "scores": values,
        "figures": [
            {
                "title": own.title,
                "caption": own.caption,
                "alt": own.alt,
                "url": f"#{own.identifier}",
            }
            for own in figures
        ],
    }
    entry = {
        "name": data["name"],
        "thumbs": {
            image: uri
            for image in (direction.image for direction in DIRECTIONS.values())
            if (uri := thumbnail(sample, image)) is not None
        },
        "scores": values,
        "outliers": [] if table is None else table.outliers_of(name),
    }
    return _Section(
        name=data["name"],
        entry=entry,
        script=json_script(f"i2am-sample-{number}", data),
        provenance=dict(provenance(sample.attrs[ATTRIBUTE_KEY])),
        notes=tuple(data["notes"]),
        figures=tuple(figures),
    )


def _sample(name: str, sample: xr.DataTree, maps: xr.DataTree) -> dict[str, Any]:
    """Return a sample's data without its scores and figures."""
    described = describe_sample(safe_text(name), sample, maps, shown_step_groups(maps))
    means = map_means(sample, maps)
    stacks, coarser = map_stacks(means, maps)
    axes = described["axes"]
    cells, answers = sram_stacks(sample)
    return described | {
        "notes": [*described["notes"], *coarser, *answers],
        "maps": stacks,
        "sram": cells,
        "curves": curves(means, sample),
        "matrix": matrices(means, axes["layers"], axes["heads"]),
    }


def _figure(
    identifier: str,
    kind: str,
    name: str,
    sample: xr.DataTree,
    shown: xr.DataTree | xr.Dataset,
    style: FigureStyle,
    figures_dir: Path | None,
    belief: tuple[str, ...],
) -> _Figure:
    path = None if figures_dir is None else figure_path(figures_dir, name, kind)
    if path is not None and path.is_file():
        png = path.read_bytes()
    else:
        png = render(load_figure(kind)(sample, shown, style=style))
    with Image.open(BytesIO(png)) as picture:
        size = picture.size
        share = min(1.0, _FIGURE_PX / size[0])
        smaller = (round(size[0] * share), max(1, round(size[1] * share)))
        printed = picture.convert("RGB").resize(smaller, Image.Resampling.LANCZOS)
    source = encode_webp(printed, _QUALITY)
    caption = FIGURES[kind].caption
    title = kind.capitalize() if kind in ("overview", _BELIEF) else kind.upper()
    alt = safe_text(f"{title} of sample {name}. {caption}")
    width_px, height_px = (round(pixels * _CSS_PX_PER_INCH / style.dpi) for pixels in size)
    notes = tuple(seen_notes(sample, shown)) if isinstance(shown, xr.DataTree) else ()
    return _Figure(identifier, title, caption, alt, source, width_px, height_px, notes, belief)


def head_facts(provenances: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield what samples have in common; values that differ are listed, dates as a range."""
    every = list(provenances)
    for field in (*_HEAD_FIELDS, *(f"versions.{package}" for package in _VERSIONS)):
        found = sorted({own[field] for own in every if own.get(field) not in (None, "None")})
        if not found:
            continue
        label = field.removeprefix("versions.").replace("_", " ")
        if field == "created" and len(found) > 1:
            yield label, f"{found[0]} to {found[-1]}"
        else:
            more = f" and {len(found) - _MOST_VALUES} more" * (len(found) > _MOST_VALUES)
            yield label, ", ".join(found[:_MOST_VALUES]) + more


def run_data(
    kind: str, title: str, facts: Iterable[tuple[str, str]], **more: Any
) -> dict[str, Any]:
    """Return what a page knows of a run before a sample is opened: its title, facts, and what is given."""
    told = {"format": 1, "kind": kind, "title": safe_text(title), "facts": [*map(list, facts)]}
    return told | {"notes": [], "scores": []} | more


def store_name(store: Mapping[str, Any]) -> str:
    """Return a store's own name: its folder's, where it lies in one."""
    return Path(str(getattr(store, "path", "run"))).name
