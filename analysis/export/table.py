"""A tidy table: one row for each position of each map, as statistics programs take it.

It is written part by part: what is in memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from i2am.analysis.export.source import (
    ALL_KINDS,
    DEFAULT_LEVELS,
    PLANES,
    open_source,
)
from i2am.analysis.stores.tables import TableWriter, check_table_path, writing_table
from i2am.schemas import AnalysisError
from i2am.schemas.choices import LEVEL_NAMES, check_choice
from i2am.schemas.dims import (
    COUNT,
    CUT,
    CUT_BOX,
    EDGE,
    FIRST_STEP,
    HEAD,
    LAST_STEP,
    LAYER,
    LEVELS,
    ORDER,
    PIXEL_UNITS,
    STEP,
    TIME,
    TIMESTEP,
)
from i2am.storage.addresses import StoreLike

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["export_table", "to_table"]

# The columns of a cut's box.
_BOX: Final = ("cut_y0", "cut_x0", "cut_y1", "cut_x1")
# The columns of each leading dimension: its own label, and what belongs to it.
_COLUMNS: Final = {
    LAYER: {LAYER: "string"},
    STEP: {STEP: "Int64", TIMESTEP: "float64"},
    TIME: {FIRST_STEP: "Int64", LAST_STEP: "Int64"},
    HEAD: {HEAD: "Int64"},
    CUT: {CUT: "Int64"} | dict.fromkeys(_BOX, "float64"),
    EDGE: {EDGE: "string"},
    ORDER: {ORDER: "string"},
    COUNT: {COUNT: "Int64"},
}
_DIMS_OF_EFFECTS: Final = (CUT, LAYER, EDGE, ORDER, COUNT)
# Rows that are written together: some tens of megabytes.
_ROWS: Final = 2**19


def export_table(
    store: StoreLike,
    out: str | Path,
    *,
    maps: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    levels: Iterable[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **selection: Any,
) -> Path:
    """Write maps or measured effects as one tidy table, and return its path.

    Parameters
    ----------
    store, maps, samples, levels, overwrite, progress, **selection
        As in `export_netcdf`.
    out : str or Path
        Ends in ``.csv`` or ``.parquet``.

    Returns
    -------
    Path

    Raises
    ------
    StoreError, AnalysisError
        As `export_netcdf`; also if the name has another ending.
    MissingExtra
        If it is Parquet and pyarrow is not installed.

    Notes
    -----
    Columns: those of `to_table`, after ``sample``. About half a million rows are in memory at a time.
    A table is long: a map of 64 × 64 positions has 4,096 rows.

    Examples
    --------
    ::

        export_table("maps.zarr", "hlam.parquet", levels=["hlam"])
        pandas.read_parquet("hlam.parquet").groupby(["direction", "head"])["value"].max()
    """
    path = check_table_path(out, overwrite=overwrite)
    source = open_source(
        store, ALL_KINDS, maps=maps, samples=samples, levels=levels, selection=selection
    )
    dims = _DIMS_OF_EFFECTS if source.levels is None else _dims_of(source.levels)
    with writing_table(path) as write, _gathered(write) as gather:
        for sample in source.opened(progress=progress):
            for part in _parts(sample.groups, dims):
                names = pd.Series(sample.name, part.index, dtype="string")
                part.insert(0, "sample", names)
                gather(part)
    return path


def to_table(
    maps: xr.DataTree | xr.Dataset, levels: str | Iterable[str] = DEFAULT_LEVELS
) -> pd.DataFrame:
    """Return one sample's maps, or its measured effects, as a tidy table in memory.

    Parameters
    ----------
    maps : DataTree or Dataset
        As `analyze` or a sample of `open_maps` gives it; or one of `open_effects`, of which all is taken.
    levels : str or iterable of str
        Of ulam, tlam, hlam, llam, mass and volume; those that the maps have.

    Returns
    -------
    DataFrame
        One row for each position of each map, with the columns

        - direction (str): r2g or g2r; effects do not have it
        - level (str): the level, or the name of the effect
        - as far as the levels have them: layer (str); step (int) and timestep (float); first_step and
          last_step (int) of a time group; head (int). Of effects: layer, edge and order (str), cut and
          count (int), and the box of a cut in pixels of the reference
        - row, column (int): the position in the map's grid, from 0
        - y, x (float): its centre in pixels of the stored picture; NaN where the maps do not tell it
        - value (float32)

        A map that is NaN throughout, as that of a head which a layer lacks, has no rows.

    Raises
    ------
    AnalysisError
        If a level is unknown.

    Examples
    --------
    >>> levels = xr.Dataset({"ulam": (("y", "x"), np.array([[0.25, 0.75]], np.float32))})
    >>> to_table(xr.DataTree.from_dict({"r2g": levels}), "ulam").drop(columns=["y", "x"])
      direction level  row  column  value
    0       r2g  ulam    0       0   0.25
    1       r2g  ulam    0       1   0.75
    """
    if isinstance(maps, xr.Dataset):
        parts = list(_parts({"": maps}, _DIMS_OF_EFFECTS))
    else:
        wanted = [levels] if isinstance(levels, str) else list(levels)
        for level in wanted:
            check_choice("level", level, LEVEL_NAMES, AnalysisError)
        groups = {
            direction: node.to_dataset()[[name for name in wanted if name in node.data_vars]]
            for direction, node in maps.children.items()
        }
        parts = list(_parts(groups, _dims_of(wanted)))
    if not parts:
        msg = (
            "Expected maps to make a table of, got none, at levels. Name those that the sample has."
        )
        raise AnalysisError(msg)
    return pd.concat(parts, ignore_index=True)


def _dims_of(levels: Iterable[str]) -> tuple[str, ...]:
    """Return the leading dimensions that some of the levels have."""
    own = {dim for level in levels for dim in LEVELS.get(level, ())}
    return tuple(dim for dim in (LAYER, STEP, TIME, HEAD) if dim in own)


@contextmanager
def _gathered(write: TableWriter) -> Iterator[TableWriter]:
    """Give a function that takes parts, and writes many small ones as one."""
    waiting: list[pd.DataFrame] = []

    def flush() -> None:
        if waiting:
            write(pd.concat(waiting, ignore_index=True))
            waiting.clear()

    def gather(part: pd.DataFrame) -> None:
        waiting.append(part)
        if sum(map(len, waiting)) >= _ROWS:
            flush()

    yield gather
    flush()


def _parts(groups: Mapping[str, xr.Dataset], dims: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield the rows of every map, in parts of bounded size."""
    for direction, dataset in groups.items():
        for name, values in _with_boxes(dataset).data_vars.items():
            if values.dims[-2:] in PLANES:
                for block in _blocks(values):
                    yield _rows(block, direction, str(name), dims)


def _with_boxes(dataset: xr.Dataset) -> xr.Dataset:
    """Return effects with the box of each cut as coordinates along the cuts; maps as they are."""
    if CUT_BOX not in dataset.coords:
        return dataset
    corners = dataset[CUT_BOX].to_numpy().T
    return dataset.assign_coords(
        {name: (CUT, own) for name, own in zip(_BOX, corners, strict=True)}
    )


def _blocks(values: xr.DataArray) -> Iterator[xr.DataArray]:
    """Yield maps in memory: of a volume one layer at a time is read, and cut to size then."""
    if values.chunks is not None and values.dims[0] == LAYER:
        for layer in range(values.sizes[LAYER]):
            yield from _blocks(values[layer : layer + 1].load())
        return
    first = next((dim for dim in values.dims[:-2] if values.sizes[dim] > 1), None)
    if first is None or values.size <= _ROWS:
        yield values
        return
    for index in range(values.sizes[first]):
        yield from _blocks(values.isel({first: slice(index, index + 1)}))


def _rows(values: xr.DataArray, direction: str, level: str, dims: Sequence[str]) -> pd.DataFrame:
    """Return the rows of maps (…, y, x), without those that are NaN throughout."""
    own = values.to_numpy().astype(np.float32)
    height, width = own.shape[-2:]
    kept = np.atleast_1d(~np.isnan(own).all(axis=(-2, -1)))
    indices = np.nonzero(kept)
    each, count = height * width, len(indices[0])
    rows = count * each
    columns: dict[str, Any] = {}
    if direction:
        columns["direction"] = pd.array([direction], dtype="string").repeat(rows)
    columns["level"] = pd.array([level], dtype="string").repeat(rows)
    # A single map has no leading dimension.
    of_dims = dict(zip(map(str, values.dims[:-2]), indices, strict=False))
    for dim in dims:
        labels = _labels(values, dim) if dim in of_dims else {}
        for name, dtype in _COLUMNS[dim].items():
            found: Any = pd.Series(labels[name] if labels else [np.nan], dtype=dtype).array
            taken = found.take(of_dims[dim]) if labels else found.repeat(count)
            columns[name] = taken.repeat(each)
    row, column = (np.tile(index.ravel(), count) for index in np.indices((height, width)))
    columns |= {"row": row, "column": column}
    columns["y"] = _pixels(values, values.dims[-2])[row]
    columns["x"] = _pixels(values, values.dims[-1])[column]
    columns["value"] = own.reshape(*kept.shape, height, width)[kept].ravel()
    return pd.DataFrame(columns)


def _labels(values: xr.DataArray, dim: str) -> dict[str, Any]:
    """Return the labels of a leading dimension, by column; its positions where it has none."""
    found: dict[str, Any] = {}
    for name in _COLUMNS[dim]:
        if name in values.coords:
            found[name] = values[name].to_numpy()
        elif name == dim:
            found[name] = np.arange(values.sizes[dim])
        else:
            found[name] = [np.nan] * values.sizes[dim]
    return found


def _pixels(values: xr.DataArray, dim: Any) -> NDArray[np.float64]:
    """Return where positions lie in pixels of the picture; NaN where the maps do not tell it."""
    own = values.coords.get(dim)
    if own is None or own.attrs.get("units") != PIXEL_UNITS:
        return np.full(values.sizes[dim], np.nan)
    centres: NDArray[np.float64] = own.to_numpy().astype(np.float64)
    return centres
