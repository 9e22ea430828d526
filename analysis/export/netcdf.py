"""NetCDF: labelled arrays for any tool of the geosciences' format, with groups as in the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from i2am.analysis.export.outputs import one_file_or_one_each
from i2am.analysis.export.source import ALL_KINDS, ExportSample, open_source
from i2am.schemas import require
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.storage.addresses import StoreLike

__all__ = ["export_netcdf"]

# Smaller than it was, and a damaged chunk is told when it is read.
_FILTERS: Final = {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True}


def export_netcdf(
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
    """Write maps or measured effects as NetCDF, and return the path.

    Parameters
    ----------
    store : str, Path or zarr Store
        A run, maps, an average, differences or measured effects.
    out : str or Path
        A file that ends in ``.nc``, with a group for each sample; or a folder, with a file for each.
    maps : str, Path or zarr Store, optional
        Of a run: by default those beside it, or else they are made on the way.
    samples : iterable of str, optional
        All by default; of an average its groups of samples.
    levels : iterable of str, optional
        Of ulam, tlam, hlam, llam, mass and volume; by default all that there are but the volume.
    overwrite : bool
        Whether what is there may be replaced.
    progress : bool
        Show a bar over the samples.
    **selection
        ``layers``, ``steps``, ``heads``, ``guidance``, ``within`` and ``time_groups``, as `analyze` takes
        them: then the maps are made from the run, of that part of it.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        If a store or a sample is missing, or something is at `out` and `overwrite` is false.
    AnalysisError
        If a level does not exist, or the store has nothing to select.
    MissingExtra
        If h5netcdf is not installed.

    Notes
    -----
    In a sample's group are the groups r2g and g2r of the store with the same variables, dimensions and
    coordinates; effects lie in the sample's own. NetCDF has no nested attributes: a mapping, a list, None
    and a truth value are each written as JSON. The attribute ``i2am`` is one such text.

    Examples
    --------
    ::

        export_netcdf("maps.zarr", "maps.nc")
        tree = xarray.open_datatree("maps.nc", engine="h5netcdf")
        tree["shirt-001/r2g/ulam"], json.loads(tree["shirt-001"].attrs["i2am"])
    """
    require("h5netcdf", "to write NetCDF", "export")
    source = open_source(
        store, ALL_KINDS, maps=maps, samples=samples, levels=levels, selection=selection
    )
    with one_file_or_one_each(out, ".nc", source.names, overwrite=overwrite) as place_of:
        for sample in source.opened(progress=progress):
            _write(sample, *place_of(sample.name))
    return Path(out)


def _write(sample: ExportSample, path: Path, place: str) -> None:
    attributes = _flat({ATTRIBUTE_KEY: {**sample.attributes, "sample": sample.name}})
    own = sample.groups.get("", xr.Dataset()).assign_attrs(attributes)
    for group, dataset in {"": own, **{k: v for k, v in sample.groups.items() if k}}.items():
        inside = "/".join(part for part in (place, group) if part)
        written = dataset.copy()
        for name, variable in written.variables.items():
            written[name].attrs = _flat(variable.attrs)
        written.to_netcdf(
            path,
            mode="a" if path.exists() else "w",
            group=inside or None,
            engine="h5netcdf",
            encoding={name: _encoding(written[name]) for name in written.variables},
        )


def _encoding(variable: xr.DataArray) -> dict[str, Any]:
    """Return how a variable is stored: no value of ours stands for one that is missing."""
    filters = dict(_FILTERS) if variable.ndim and variable.dtype.kind in "fiu" else {}
    return filters | ({"_FillValue": None} if variable.dtype.kind == "f" else {})


def _flat(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes that NetCDF has: text and numbers; anything else as JSON."""
    return {
        str(key): value
        if isinstance(value, str | float | np.number)
        or (isinstance(value, int) and not isinstance(value, bool))
        else json.dumps(value)
        for key, value in attributes.items()
    }
