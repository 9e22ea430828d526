"""A run and its maps, whichever of the two was named."""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from i2am.analysis.stores.reader import Maps, Run, open_maps, open_root, open_run
from i2am.analysis.stores.related import find_maps, run_of
from i2am.schemas import AnalysisError, StoreError
from i2am.storage.addresses import StoreLike, is_url, own_attributes

__all__ = ["open_pair"]


def open_pair(
    store: Run | StoreLike, maps: Maps | StoreLike | None = None
) -> tuple[Run, Maps | None]:
    """Open a run and its maps: those that were named, or those beside it, if any.

    Parameters
    ----------
    store : Run, str, Path or zarr Store
        The run; or maps, which name the run that they were made from.
    maps : Maps, str, Path or zarr Store, optional

    Raises
    ------
    AnalysisError
        If `store` is one sample of a run.
    StoreError
        If a store is missing or of another kind, `store` and `maps` are both maps, or maps name no run
        that may be followed.
    """
    _check_no_sample(store)
    if not isinstance(store, Run) and _is_maps(store):
        if maps is not None:
            msg = f"Expected a run beside the maps {maps}, got a maps store, at {store}. Give one of them."
            raise StoreError(msg)
        found = open_maps(store)
        try:
            return run_of(found), found
        except StoreError as e:
            msg = f"{e}\nMaps alone show no picture. Name their run, and these as its maps."
            raise StoreError(msg) from e
    run = store if isinstance(store, Run) else open_run(store)
    if maps is None and isinstance(run.path, str | Path) and not is_url(run.path):
        maps = find_maps(run.path)
    return run, maps if maps is None or isinstance(maps, Maps) else open_maps(maps)


def _check_no_sample(store: object) -> None:
    if isinstance(store, xr.DataTree):
        msg = (
            f"Expected a run, got a sample of it, {store.name!r}, at run. Give the run, and the name "
            "of the sample."
        )
        raise AnalysisError(msg)


def _is_maps(store: StoreLike) -> bool:
    place = os.fspath(store) if isinstance(store, os.PathLike) else store
    return str(own_attributes(open_root(place))["kind"]) == "maps"
