"""What a comparison leaves behind: its tables, the difference maps, and a figure of each sample."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pandas as pd
import xarray as xr
import zarr
from tqdm.auto import tqdm

from i2am.analysis.address import StoreLike, is_url
from i2am.analysis.compare import compare_sample, summarise_comparison
from i2am.analysis.differences import difference_maps
from i2am.analysis.intervals import CONFIDENCE, check_confidence
from i2am.analysis.paired import Captured, RunPair
from i2am.analysis.tables import write_table
from i2am.schemas import SCHEMA_VERSION, StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import LAYER, STEP

__all__ = ["write_comparison"]

_STORE: Final = "differences.zarr"
_TABLE: Final = "comparison.csv"
_SUMMARY: Final = "summary.csv"
_CHUNK_BYTES: Final = 4 * 2**20


def write_comparison(
    pair: RunPair,
    out: str | Path,
    *,
    confidence: float = CONFIDENCE,
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
    progress : bool
        Show a bar over the samples.
    overwrite : bool
        Whether these may be there already; whatever else is there stays.

    Returns
    -------
    DataFrame
        As `compare_runs`. In memory are one sample's maps at a time, and this table.

    Raises
    ------
    StoreError
        If `out` is a file or a URL, or one of the outputs is there and `overwrite` is false.
    AnalysisError
        If `confidence` is not between 0 and 1, or a sample's maps share no direction.
    """
    check_confidence(confidence)
    folder = _make_room(pair, out, overwrite=overwrite)
    zarr.create_group(folder / _STORE, attributes={ATTRIBUTE_KEY: _attributes(pair)})
    note = f"A: {_short(pair.run_a.path)}; B: {_short(pair.run_b.path)}"
    opened = tqdm(
        pair.opened(), "compare", total=len(pair.names), unit="sample", disable=not progress
    )
    table = pd.concat([_write_sample(*each, folder, note) for each in opened], ignore_index=True)
    write_table(table, folder / _TABLE)
    write_table(summarise_comparison(table, confidence), folder / _SUMMARY)
    return table


def _make_room(pair: RunPair, out: str | Path, *, overwrite: bool) -> Path:
    """Return the folder, without earlier outputs of these names."""
    folder = Path(out)
    if is_url(out) or folder.is_file():
        msg = f"Expected a local folder, got {'a URL' if is_url(out) else 'a file'}, at {out}. "
        raise StoreError(msg + "Name another folder.")
    names = [_TABLE, _SUMMARY, _STORE, *(f"{name}.png" for name in pair.names)]
    found = [name for name in names if (folder / name).exists()]
    if found and not overwrite:
        more = f" and {len(found) - 1} more" if found[1:] else ""
        msg = (
            f"Expected no earlier comparison, got {found[0]}{more}, at {folder}. "
            "Allow overwriting or name another folder."
        )
        raise StoreError(msg)
    for path in (folder / name for name in found):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
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


def _write_sample(name: str, a: Captured, b: Captured, folder: Path, note: str) -> pd.DataFrame:
    from i2am.analysis.comparison_figure import draw_comparison  # Brings matplotlib.
    from i2am.analysis.panels import render

    for direction, node in difference_maps(a[1], b[1]).children.items():
        _write_levels(node.to_dataset(), folder / _STORE, f"{name}/{direction}")
    figure = draw_comparison(a, b, f"{name}. {note}")
    (folder / f"{name}.png").write_bytes(render(figure))
    return compare_sample(name, a, b)


def _write_levels(levels: xr.Dataset, store: Path, group: str) -> None:
    if LAYER in levels:  # Zarr's own text; of a fixed width it has no specification.
        levels = levels.assign_coords({LAYER: levels[LAYER].values.astype(object)})
    if "volume" in levels:
        volume = levels["volume"]
        levels["volume"] = volume.copy(data=volume.data.rechunk(_chunks(volume)))
    levels.to_zarr(store, group=group, mode="a", zarr_format=3, consolidated=False)


def _chunks(volume: xr.DataArray) -> tuple[int, ...]:
    """Return chunks of one layer's heads and whole maps of a few steps."""
    sizes = dict(volume.sizes)
    step_bytes = volume.nbytes // (sizes[LAYER] * sizes[STEP])
    sizes |= {LAYER: 1, STEP: min(sizes[STEP], max(1, _CHUNK_BYTES // step_bytes))}
    return tuple(sizes.values())
