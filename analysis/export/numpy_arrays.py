"""NumPy's own files: arrays by name, with the names of their dimensions; no pickle in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import xarray as xr
from numpy.lib import format as npy

from i2am.analysis.export.outputs import one_file_or_one_each
from i2am.analysis.export.source import ALL_KINDS, ExportSample, open_source
from i2am.schemas.dims import LAYER
from i2am.storage.addresses import StoreLike

__all__ = ["export_numpy"]


def export_numpy(
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
    """Write maps or measured effects as NumPy's ``.npz``, and return the path.

    Parameters
    ----------
    store, maps, samples, levels, overwrite, progress, **selection
        As in `export_netcdf`.
    out : str or Path
        A file that ends in ``.npz``, with all samples; or a folder, with a file for each.

    Returns
    -------
    Path

    Raises
    ------
    StoreError, AnalysisError
        As `export_netcdf`.

    Notes
    -----
    An array's name is its path: ``r2g/ulam``, ``r2g/y``; in one file of all samples with the sample's name
    before it. ``r2g/ulam.dims`` are the names of its dimensions, and ``attributes`` is JSON. A coordinate
    is the array of its own name. Nothing needs ``allow_pickle``.

    Examples
    --------
    ::

        export_numpy("maps.zarr", "maps.npz")
        with numpy.load("maps.npz") as arrays:
            arrays["shirt-001/r2g/ulam"], arrays["shirt-001/r2g/ulam.dims"]
    """
    source = open_source(
        store, ALL_KINDS, maps=maps, samples=samples, levels=levels, selection=selection
    )
    with one_file_or_one_each(out, ".npz", source.names, overwrite=overwrite) as place_of:
        for sample in source.opened(progress=progress):
            path, place = place_of(sample.name)
            with ZipFile(path, "a", ZIP_DEFLATED, compresslevel=1) as archive:
                for name, values in _arrays(sample):
                    _write(archive, f"{place}/{name}" if place else name, values)
    return Path(out)


def _arrays(sample: ExportSample) -> Iterator[tuple[str, xr.DataArray]]:
    """Yield each array of a sample by its path, with what tells of it."""
    attributes = json.dumps({**sample.attributes, "sample": sample.name})
    yield "attributes", xr.DataArray(attributes)
    for group, dataset in sample.groups.items():
        for name in dataset.variables:
            path = f"{group}/{name}" if group else str(name)
            values = dataset[name]
            yield path, values
            yield f"{path}.dims", xr.DataArray(np.array(values.dims, dtype=str))


def _write(archive: ZipFile, name: str, values: xr.DataArray) -> None:
    """Write an array; a volume layer by layer, so that one layer of it is in memory."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        if values.dims[:1] != (LAYER,) or values.chunks is None:
            npy.write_array(file, np.asarray(values), allow_pickle=False)
            return
        header = {
            "descr": npy.dtype_to_descr(values.dtype),
            "fortran_order": False,
            "shape": values.shape,
        }
        npy.write_array_header_2_0(file, header)
        for layer in values:
            file.write(np.ascontiguousarray(layer.to_numpy()).tobytes())
