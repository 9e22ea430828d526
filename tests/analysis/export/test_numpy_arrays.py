"""NumPy's files hold every array, its dimensions and no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import export_numpy
from tests.analysis.export.conftest import SAMPLES, contents


@pytest.mark.parametrize("kind", ["maps", "average", "differences", "effects"])
def test_a_store_of_each_kind_is_loaded_as_it_was(
    kind: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    levels = None if kind == "effects" else ["ulam", "tlam", "hlam", "llam", "volume"]
    out = export_numpy(stores[kind], tmp_path / "out.npz", levels=levels)
    with np.load(out, allow_pickle=False) as arrays:
        for sample, groups in contents(stores[kind], kind).items():
            for direction, dataset in groups.items():
                own = dataset.drop_vars("mass", errors="ignore")
                for name, variable in own.variables.items():
                    path = "/".join(part for part in (sample, direction, str(name)) if part)
                    np.testing.assert_array_equal(arrays[path], variable)
                    assert arrays[path].dtype == variable.dtype
                    assert tuple(arrays[f"{path}.dims"]) == variable.dims


def test_an_array_is_labelled_again_by_its_names(stores: dict[str, Path], tmp_path: Path) -> None:
    out = export_numpy(stores["maps"], tmp_path / "out", levels=["llam"])
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.npz" for name in SAMPLES]
    with np.load(out / "été@1.npz") as arrays:
        dims = arrays["r2g/llam.dims"].tolist()
        labelled = xr.DataArray(
            arrays["r2g/llam"], {dim: arrays[f"r2g/{dim}"] for dim in dims}, dims
        )
        told = json.loads(str(arrays["attributes"]))
    wanted = contents(stores["maps"], "maps")["été@1"]["r2g"]["llam"]
    np.testing.assert_array_equal(labelled.sel(layer="down<b> é&;"), wanted[0])
    assert labelled["y"].values.tolist() == wanted["y"].values.tolist()
    assert told["sample"] == "été@1"
