"""From a path and a sample's name to layers: opens the run, finds its maps or computes them."""

from __future__ import annotations

import os
from os import PathLike
from typing import TYPE_CHECKING

from i2am.schemas.errors import StoreError

if TYPE_CHECKING:
    from i2am.viewer.layers import LayerData

__all__ = ["open_layers", "sample_names"]

Store = str | PathLike[str]


def open_layers(
    run_path: Store, sample: str | None = None, maps: Store | None = None
) -> list[LayerData]:
    """Open one sample of a run as napari layers.

    Parameters
    ----------
    run_path : str or path
        A capture store.
    sample : str, optional
        Which sample; the first one if left out.
    maps : str or path, optional
        An analysis store to read the maps from. Without it the store that lies beside the run is
        read, if there is one (see `i2am.analysis.find_maps`). A sample that it does not hold is
        analysed now.

    Returns
    -------
    list of (data, keyword arguments, kind)
        See `i2am.viewer.layers.sample_layers`.

    Raises
    ------
    StoreError
        If a store cannot be read, or the run has no such sample, or none at all.
    """
    from i2am.analysis import analyze, find_maps, open_maps, open_run
    from i2am.viewer.layers import Origin, sample_layers

    run_path = os.fspath(run_path)
    run = open_run(run_path)
    name = next(iter(run), None) if sample is None else sample
    if name is None:
        msg = (
            f"Expected a run with at least one complete sample, got none, at {run_path}. "
            "Capture one with 'i2am capture'."
        )
        raise StoreError(msg)
    maps = find_maps(run_path) if maps is None else os.fspath(maps)
    stored = {} if maps is None else open_maps(maps)
    tree = stored[name] if name in stored else analyze(run[name])
    origin = Origin(
        run=run_path,
        sample=name,
        maps=None if maps is None else str(maps),
        computed=name not in stored,
    )
    return sample_layers(run[name], tree, origin)


def sample_names(run_path: Store) -> list[str]:
    """Return the names of a run's complete samples, in the run's order."""
    from i2am.analysis import open_run

    return list(open_run(os.fspath(run_path)))
