"""Figures as files: those of a run's samples, and a comparison with its tables and maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import xarray as xr
import zarr
from tqdm.auto import tqdm

from i2am.analysis.figures import FIGURES, existing_kinds, load_figure, report_kinds
from i2am.analysis.intervals.bootstrap import DEFAULT_CONFIDENCE, check_confidence
from i2am.analysis.intervals.clusters import sample_clusters
from i2am.analysis.maps.analyze import maps_of
from i2am.analysis.statistics.comparison import compare_sample, summarise_comparison
from i2am.analysis.statistics.run_pair import RunPair, SampleWithMaps, differences_of
from i2am.analysis.stores.effects import own_effects
from i2am.analysis.stores.maps_writer import COORDINATE_CODECS, MAP_CODECS
from i2am.analysis.stores.tables import write_table
from i2am.files import (
    check_new_file,
    check_not_in_store,
    check_outputs,
    outputs_written_whole,
    written_whole,
)
from i2am.schemas import SCHEMA_VERSION, AnalysisError, StoreError, did_you_mean
from i2am.schemas.attributes import root_attributes
from i2am.schemas.choices import FIGURE_FORMATS, FigureFormat, check_choice
from i2am.schemas.dims import LAYER, STEP
from i2am.storage.addresses import StoreLike, is_url

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from i2am.analysis.figures.style import FigureStyle

__all__ = [
    "FigureOptions",
    "figure_path",
    "selected_maps",
    "write_comparison",
    "write_figures",
]


_STORE: Final = "differences.zarr"
_TABLE: Final = "comparison.csv"
_SUMMARY: Final = "summary.csv"
_CHUNK_BYTES: Final = 4 * 2**20


@dataclass(frozen=True)
class FigureOptions:
    """What is drawn of each sample, beyond the style.

    Parameters
    ----------
    at : sequence of (y, x), optional
        Places in the generated image, in its pixels, for the kinds that ask single patches.
    selection : mapping
        ``layers``, ``steps``, ``heads`` and ``guidance``, as `analyze` takes them, for the kinds that
        are drawn from the sample itself. The maps of the others are selected by `selected_maps`.
    other : Mapping of str to DataTree, optional
        A second run, for ``before-after``.
    formats : sequence of "png", "pdf" and "svg"
        A figure is written as each of them.

    Examples
    --------
    >>> FigureOptions(at=[(20, 12)], formats=("pdf",)).of("sram")
    {'at': [(20, 12)]}
    """

    at: Sequence[tuple[float, float]] | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, xr.DataTree] | None = None
    formats: Sequence[FigureFormat] = ("png",)

    def __post_init__(self) -> None:
        for one in self.formats:
            check_choice("format", one, FIGURE_FORMATS, AnalysisError)

    def of(self, kind: str) -> dict[str, Any]:
        """Return what a kind of figure takes of them."""
        given = {"at": self.at, **self.selection}
        return {name: given[name] for name in FIGURES[kind].takes if given.get(name) is not None}


def write_figures(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    sample_names: Iterable[str],
    out_dir: Path,
    kinds: Sequence[str] | None = None,
    overwrite: bool = False,
    style: FigureStyle | None = None,
    progress: bool = False,
    effects: Mapping[str, xr.Dataset] | None = None,
    options: FigureOptions | None = None,
) -> list[Path]:
    """Write ``SAMPLE-KIND.png`` for each sample and kind, and return the paths.

    A figure that does not exist for a sample is left out; one of the whole run is ``KIND.png``. Names
    and existing files are checked before anything is drawn.

    Parameters
    ----------
    run, maps : Mapping of str to DataTree
        As `open_run` and `open_maps` give them.
    sample_names : iterable of str
    out_dir : Path
    kinds : sequence of str, optional
        Of `FIGURES`; by default those that the report shows.
    overwrite : bool
        Whether the files may exist.
    style : FigureStyle, optional
    progress : bool
        Show a bar over the figures.
    effects : Mapping of str to Dataset, optional
        As `open_effects` gives it, for figures of measured effects. A sample that was captured again
        since has none.
    options : FigureOptions, optional

    Raises
    ------
    AnalysisError
        If a kind is not in `FIGURES`, or a sample is in the run or the maps alone.
    StoreError
        If a file exists and `overwrite` is false, or `out_dir` is a store or inside one.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import maps_of
    >>> run = i2am.open_run(i2am.DEMO_RUN)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_figures(run, maps_of(run), ["truck"], Path(folder), kinds=["overview"])
    >>> [path.name for path in written]
    ['truck-overview.png']
    """
    from i2am.analysis.figures.sheet import render  # Bring Matplotlib.
    from i2am.analysis.figures.style import DEFAULT_STYLE

    style, options = style or DEFAULT_STYLE, options or FigureOptions()
    names = list(dict.fromkeys(sample_names))
    kinds = report_kinds() if kinds is None else kinds
    _check_known(kinds, FIGURES, "figure", "kinds")
    _check_known(names, run, "sample of the run", "samples")
    _check_known(names, maps, "sample of the maps", "samples")
    check_not_in_store(out_dir, is_folder=True)
    wanted = _existing(run, names, kinds, effects, options)
    for name, kind in wanted:
        for one in options.formats:
            check_new_file(figure_path(out_dir, name, kind, one), overwrite=overwrite)
    paths = []
    with tqdm(total=len(wanted), desc="figures", unit="figure", disable=not progress) as bar:
        for name, kind in wanted:
            figure = _draw(name, kind, run, maps, names, style, effects, options)
            for one in options.formats:
                path = figure_path(out_dir, name, kind, one)
                path.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(path) as unfinished:
                    unfinished.write_bytes(render(figure, one))
                paths.append(path)
            bar.update()
    return paths


def _existing(
    run: Mapping[str, xr.DataTree],
    names: Iterable[str],
    kinds: Iterable[str],
    effects: Mapping[str, xr.Dataset] | None,
    options: FigureOptions,
) -> list[tuple[str | None, str]]:
    """Return sample and kind of each figure that there is; None is the whole run."""
    kinds = list(dict.fromkeys(kinds))
    needs_effects = any(FIGURES[kind].needs for kind in kinds)
    found: list[tuple[str | None, str]] = []
    of_run = set()
    for name in names:
        sample = run[name]
        measured = own_effects(effects, name, sample) if needs_effects else None
        has_other = options.other is not None and name in options.other
        for kind in existing_kinds(sample, kinds, measured, has_other=has_other):
            if FIGURES[kind].is_of_run:
                of_run.add(kind)
            else:
                found.append((name, kind))
    return found + [(None, kind) for kind in kinds if kind in of_run]


def _draw(
    name: str | None,
    kind: str,
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    names: list[str],
    style: FigureStyle,
    effects: Mapping[str, xr.Dataset] | None,
    options: FigureOptions,
) -> Figure:
    draw, given = load_figure(kind), options.of(kind)
    if name is None:
        return draw(run, maps, samples=names, style=style, **given)
    sample = run[name]
    if FIGURES[kind].needs:
        return draw(sample, own_effects(effects, name, sample), style=style)
    if FIGURES[kind].needs_other and options.other is not None:
        given["other"] = options.other[name]
    return draw(sample, maps[name], style=style, **given)


def selected_maps(
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    selection: Mapping[str, Any],
) -> Mapping[str, xr.DataTree]:
    """Return the maps of a part of each sample: made from the run, unless all of it is asked for.

    Parameters
    ----------
    run, maps : Mapping of str to DataTree
        As `open_run` and `maps_of` give them.
    selection : mapping
        What `analyze` takes, by name; None is its default.

    Examples
    --------
    >>> import i2am
    >>> from i2am.analysis import maps_of
    >>> run = i2am.open_run(i2am.DEMO_RUN)
    >>> early = selected_maps(run, maps_of(run), {"steps": slice(0, 2)})
    >>> early["truck"]["r2g/volume"].sizes["step"]
    2
    """
    given = {name: value for name, value in selection.items() if value is not None}
    return maps_of(run, **given) if given else maps


def figure_path(
    out_dir: str | Path, sample: str | None, kind: str, file_format: FigureFormat = "png"
) -> Path:
    """Return where `write_figures` writes a figure: of a sample, or with None of the whole run."""
    stem = kind if sample is None else f"{sample}-{kind}"
    return Path(out_dir) / f"{stem}.{file_format}"


def _check_known(names: Iterable[str], known: Mapping[str, object], what: str, at: str) -> None:
    for name in names:
        if name not in known:
            msg = f"Expected a {what}, got {name!r}, at {at}. {did_you_mean(name, known)}"
            raise AnalysisError(msg)


def write_comparison(
    pair: RunPair,
    out: str | Path,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    cluster: str = "picture",
    by_step: bool = False,
    progress: bool = True,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Compare every pair of samples, and write tables, difference maps and figures.

    Parameters
    ----------
    pair : RunPair
        As `pair_runs` gives it.
    out : str or Path
        A folder for comparison.csv and summary.csv, the tables of `compare_runs` and
        `summarise_comparison`; differences.zarr, a Zarr v3 store with the `difference_maps` of each
        sample in groups SAMPLE/r2g and SAMPLE/g2r; and SAMPLE.png of each sample.
    confidence : float
        Of the summary's intervals.
    cluster : str
        What makes pairs one cluster in these intervals, as `by` of `sample_clusters`.
    by_step : bool
        Compare every denoising step, too.
    progress : bool
        Show a bar over the samples.
    overwrite : bool
        Whether these may be there already; whatever else is there stays. The earlier ones stay, too,
        until all that replaces them is there.

    Returns
    -------
    DataFrame
        As `compare_runs`. In memory are one sample's maps at a time, and this table.

    Raises
    ------
    StoreError
        If `out` is a file, a URL, a store or inside one, or one of the outputs is there and `overwrite` is false.
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample's maps share no direction.

    Examples
    --------
    ::

        table = write_comparison(pair_runs("guided.zarr", "free.zarr"), "comparison")
    """
    check_confidence(confidence)
    clusters = sample_clusters(pair.run_a, pair.names, cluster)
    out = _check_room(pair, out, overwrite=overwrite)
    note = f"A: {_short(pair.run_a.path)}; B: {_short(pair.run_b.path)}"
    opened = tqdm(
        pair.opened(), "compare", total=len(pair.names), unit="sample", disable=not progress
    )
    with outputs_written_whole(out) as folder:
        zarr.create_group(folder / _STORE, attributes=root_attributes(_attributes(pair)))
        parts = [_write_sample(*each, folder, note, by_step=by_step) for each in opened]
        table = pd.concat(parts, ignore_index=True)
        write_table(table, folder / _TABLE)
        write_table(summarise_comparison(table, confidence, clusters), folder / _SUMMARY)
    return table


def _check_room(pair: RunPair, out: str | Path, *, overwrite: bool) -> Path:
    """Return the folder, in which earlier outputs of these names may be replaced."""
    check_not_in_store(out, is_folder=True)
    folder = Path(out)
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if is_url(out) or file is not None:
        got = "a URL" if is_url(out) else "a file"
        msg = f"Expected a local folder, got {got}, at {file or out}. Name another folder."
        raise StoreError(msg)
    names = [_TABLE, _SUMMARY, _STORE, *(f"{name}.png" for name in pair.names)]
    check_outputs(folder, names, "comparison", overwrite=overwrite)
    return folder


def _attributes(pair: RunPair) -> dict[str, Any]:
    return {
        "kind": "differences",
        "schema": SCHEMA_VERSION,
        "a": _address(pair.run_a.path),
        "b": _address(pair.run_b.path),
        "convention": pair.convention,
        "normalisation": pair.normalisation,
    }


def _address(path: StoreLike) -> str:
    if is_url(path) or not isinstance(path, str | Path):
        return str(path)
    return str(Path(path).resolve())


def _short(path: StoreLike) -> str:
    """Return the end of an address, which fits into a line."""
    return "/".join(_address(path).split("/")[-2:])


def _write_sample(
    name: str, a: SampleWithMaps, b: SampleWithMaps, folder: Path, note: str, *, by_step: bool
) -> pd.DataFrame:
    from i2am.analysis.figures.comparison import draw_comparison  # Brings matplotlib.
    from i2am.analysis.figures.sheet import render

    for direction, node in differences_of(a, b).children.items():
        _write_levels(node.to_dataset(), folder / _STORE, f"{name}/{direction}")
    figure = draw_comparison(a, b, f"{name}. {note}")
    with written_whole(folder / f"{name}.png") as unfinished:
        unfinished.write_bytes(render(figure))
    return compare_sample(name, a, b, by_step=by_step)


def _write_levels(levels: xr.Dataset, store: Path, group: str) -> None:
    if LAYER in levels:  # Zarr's own text; of a fixed width it has no specification.
        levels = levels.assign_coords({LAYER: levels[LAYER].values.astype(object)})
    if "volume" in levels:
        volume = levels["volume"]
        levels["volume"] = volume.copy(data=volume.data.rechunk(_chunks(volume)))
    # Each chunk with its checksum, as maps have it.
    encoding = {
        name: {"compressors": MAP_CODECS["compressors"]}
        if name in levels.data_vars
        else {"compressors": COORDINATE_CODECS["compressors"]}
        for name in levels.variables
    }
    levels.to_zarr(
        store,
        group=group,
        mode="a",
        zarr_format=3,
        consolidated=False,
        encoding=encoding,
        write_empty_chunks=True,
    )


def _chunks(volume: xr.DataArray) -> tuple[int, ...]:
    """Return chunks of one layer's heads and whole maps of a few steps."""
    sizes = dict(volume.sizes)
    step_bytes = volume.nbytes // (sizes[LAYER] * sizes[STEP])
    sizes |= {LAYER: 1, STEP: min(sizes[STEP], max(1, _CHUNK_BYTES // step_bytes))}
    return tuple(sizes.values())
