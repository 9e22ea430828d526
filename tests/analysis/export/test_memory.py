"""What is in memory does not grow with the layers of a volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from dask.local import get_sync

from i2am.analysis import export_numpy, export_ome_zarr, export_table, open_maps
from tests.support.maps_store import spot_volume, write_maps

LAYERS = [f"layer.{number}" for number in range(9)]


@pytest.mark.parametrize(
    ("export", "name"),
    [(export_numpy, "out.npz"), (export_table, "out.parquet"), (export_ome_zarr, "out.zarr")],
)
def test_a_volume_is_read_layer_by_layer(
    export: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    volume = spot_volume(9, 4, 2, (16, 16))
    maps = write_maps(tmp_path / "maps.zarr", {"a": {"r2g": volume}}, layers=LAYERS)
    read: list[int] = []

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        found = get_sync(graph, keys, **options)
        read.append(sum(one.nbytes for one in _arrays(found)))
        return found

    with dask.config.set(scheduler=get):
        export(maps, tmp_path / name, levels=["volume"])
    assert sum(read) >= volume.nbytes
    assert max(read) == volume.nbytes // 9
    assert open_maps(maps)["a"]["r2g/volume"].nbytes == volume.nbytes


def _arrays(found: Any) -> list[Any]:
    if isinstance(found, np.ndarray):
        return [found]
    return (
        [array for one in found for array in _arrays(one)]
        if isinstance(found, list | tuple)
        else []
    )
