"""Analyse a whole run into a maps store: sample by sample, out of core, on threads or a cluster.

A sample's metadata is written first, its chunks in any order, its status last; so whatever stops
the work, what is marked complete is complete, and a re-run does only the rest.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from tqdm.auto import tqdm

from i2am.analysis.address import StoreLike, is_url
from i2am.analysis.cluster import computing_on
from i2am.analysis.grid import Grid
from i2am.analysis.maps import Convention, Normalisation, analyze, check_options
from i2am.analysis.store import Run, open_root, open_run, own_attributes
from i2am.schemas import (
    SCHEMA_VERSION,
    I2AMError,
    MapsAttributes,
    StoreError,
    did_you_mean,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import CONDITIONAL, LAYER, STEP

__all__ = ["analyze_run"]

# A chunk of a volume: one layer's heads and whole maps of a few steps, quick to fetch and show.
_CHUNK_BYTES: Final = 4 * 2**20


def analyze_run(
    run: StoreLike,
    out: str | Path,
    *,
    samples: Iterable[str] | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    convention: Convention = "i2am",
    normalisation: Normalisation = "mass",
    layers: str | Iterable[str] | None = None,
    guidance: str = CONDITIONAL,
    time_groups: int = 5,
    grid: Grid | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write every map of a run's samples to a maps store; finished samples are skipped.

    Parameters
    ----------
    run : str, Path or zarr Store
        The capture store.
    out : str or Path
        The maps store: a local folder that is new, or that an earlier call with the same options
        wrote.
    samples : iterable of str, optional
        All complete samples by default.
    scheduler : str, optional
        Address of a Dask cluster that is there already; it must see both stores.
    workers : int, optional
        Start a local cluster of that many processes, of one thread each. By default Dask's own:
        threads, or the client that is active in this process.
    convention, normalisation, layers, guidance, time_groups, grid
        As in `analyze`.
    progress : bool
        Show a bar over the samples.
    overwrite : bool
        Replace a maps store that was written with other options.

    Returns
    -------
    Path
        The maps store.

    Raises
    ------
    StoreError
        If the run is missing, has no such sample or cannot be read, or `out` is a URL, or something
        else stands there.
    AnalysisError
        If an option is unknown, a label was not captured, or the cluster does not answer.
    """
    check_options(convention, normalisation, grid)
    patterns = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    options: dict[str, Any] = {
        "convention": convention,
        "normalisation": normalisation,
        "layers": patterns,
        "guidance": guidance,
        "time_groups": time_groups,
        "grid": None if grid is None else (grid[0], grid[1]),
    }
    opened = open_run(run)
    names = _names(opened, samples)
    if is_url(out):
        msg = f"Expected a local folder for the maps, got a URL, at {out}. Write them locally."
        raise StoreError(msg)
    out = Path(out)
    analyze(opened[names[0]], **options)  # Says what is wrong before anything is written.
    with computing_on(scheduler, workers):
        root = _open_output(out, _source(run, out), options, overwrite=overwrite)
        for name in tqdm(names, desc="analyze", unit="sample", disable=not progress):
            _analyze_sample(opened, name, root, options)
    return out


def _analyze_sample(run: Run, name: str, root: zarr.Group, options: dict[str, Any]) -> None:
    """Write a sample's maps unless they are there; what goes wrong says where."""
    sample = run[name]
    created = str(sample.attrs[ATTRIBUTE_KEY].get("created"))
    if _is_finished(root, name, created):
        return
    try:
        _write_sample(root, name, analyze(sample, **options), created)
    except I2AMError:
        raise
    except (RuntimeError, OSError, ValueError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        msg = (
            f"Expected to read the sample and write its maps, got '{reason}', "
            f"at {name} of {run.path}. Check both stores; a re-run goes on from here."
        )
        raise StoreError(msg) from e


def _names(run: Run, samples: Iterable[str] | None) -> list[str]:
    known = list(run)
    names = known if samples is None else list(dict.fromkeys(samples))
    for name in names:
        if name not in known:
            msg = (
                f"Expected a complete sample, got none named {name!r}, at {run.path}. "
                f"{did_you_mean(name, known)}"
            )
            raise StoreError(msg)
    if not names:
        msg = f"Expected complete samples, got none, at {run.path}. Capture some first."
        raise StoreError(msg)
    return names


def _source(run: StoreLike, out: Path) -> str:
    """Return where the run is: relative when it lies beside the maps, so that both may move."""
    if not isinstance(run, str | Path) or is_url(run):
        return str(run)
    path = Path(run).resolve()
    return (
        os.path.relpath(path, out.resolve()) if path.parent == out.resolve().parent else str(path)
    )


def _open_output(out: Path, source: str, options: dict[str, Any], *, overwrite: bool) -> zarr.Group:
    """Return the maps store's root, new or the one that these options wrote."""
    attributes = MapsAttributes(
        convention=options["convention"],
        normalisation=options["normalisation"],
        source=source,
        options={key: options[key] for key in ("layers", "guidance", "time_groups", "grid")},
    ).to_store()
    if out.exists() and (out.is_file() or any(out.iterdir())):
        own = own_attributes(open_root(out))
        if own["kind"] != "maps":
            msg = f"Expected a maps store to write to, got a {own['kind']} store, at {out}. "
            msg += "Give another output."
            raise StoreError(msg)
        if own == attributes[ATTRIBUTE_KEY]:
            return zarr.open_group(out, mode="r+")
        if not overwrite:
            changed = sorted(_flat(own).items() ^ _flat(attributes[ATTRIBUTE_KEY]).items())
            names = ", ".join(dict.fromkeys(name for name, _ in changed))
            msg = (
                f"Expected the options that this store was written with, got other {names}, "
                f"at {out}. Give another output, or overwrite."
            )
            raise StoreError(msg)
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return zarr.create_group(out, attributes=attributes)


def _flat(attributes: dict[str, Any]) -> dict[str, str]:
    nested = attributes.get("options") or {}
    return {k: repr(v) for k, v in (attributes | nested).items() if k != "options"}


def _is_finished(root: zarr.Group, name: str, created: str) -> bool:
    """Return whether a sample's maps are complete and of this very capture."""
    group = root.get(name)
    own = own_attributes(group) if isinstance(group, zarr.Group) else {}
    return own.get("status") == "complete" and own.get("source_created") == created


def _write_sample(root: zarr.Group, name: str, maps: xr.DataTree, created: str) -> None:
    """Write one sample, its status last."""
    status = {
        "kind": "maps",
        "schema": SCHEMA_VERSION,
        "status": "running",
        "source_created": created,
    }
    sample = root.create_group(name, overwrite=True, attributes={ATTRIBUTE_KEY: status})
    sources: list[da.Array] = []
    targets: list[zarr.Array[Any]] = []
    for direction, node in maps.children.items():
        levels = node.to_dataset()
        extra = [str(c) for c in levels.coords if c not in levels.dims]
        # xarray's own mark: without it other readers take timestep and the like for data.
        group = sample.create_group(direction, attributes={"coordinates": " ".join(extra)})
        for coordinate, values in levels.coords.items():
            _create_coordinate(group, str(coordinate), values)
        for level, values in levels.data_vars.items():
            chunks = _chunks(values)
            targets.append(
                group.create_array(
                    str(level),
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=chunks,
                    dimension_names=[str(dim) for dim in values.dims],
                )
            )
            sources.append(values.data.rechunk(chunks))
    da.store(sources, targets, lock=False)
    sample.update_attributes({ATTRIBUTE_KEY: status | {"status": "complete"}})


def _create_coordinate(group: zarr.Group, name: str, coordinate: xr.DataArray) -> None:
    values = coordinate.to_numpy()
    if values.dtype.kind == "U":
        values = values.astype(np.dtypes.StringDType())
    group.create_array(name, data=values, dimension_names=[str(dim) for dim in coordinate.dims])


def _chunks(values: xr.DataArray) -> tuple[int, ...]:
    """Return one chunk for a level; for a volume one for each layer and few steps."""
    sizes = dict(values.sizes)
    if STEP in sizes and LAYER in sizes:
        step_bytes = values.dtype.itemsize * math.prod(values.shape) // (sizes[LAYER] * sizes[STEP])
        sizes |= {LAYER: 1, STEP: min(sizes[STEP], max(1, _CHUNK_BYTES // step_bytes))}
    return tuple(sizes.values())
