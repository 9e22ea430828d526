"""NetCDF: what xarray opens is what was in the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, analyze_run, export_netcdf, open_run
from i2am.schemas import StoreError
from i2am.schemas.choices import LEVEL_NAMES
from i2am.schemas.dims import LAYER
from tests.analysis.export.conftest import SAMPLES, contents

KINDS = ("maps", "average", "differences", "effects")
LEVELS_OF = dict.fromkeys(KINDS[1:3], set(LEVEL_NAMES) - {"mass"}) | {"maps": set(LEVEL_NAMES)}


def assert_alike(found: xr.Dataset, wanted: xr.Dataset) -> None:
    """Assert equal values, coordinates, dtypes and attributes of variables."""
    xr.testing.assert_equal(found.load(), wanted)
    for name, variable in wanted.variables.items():
        assert found[name].attrs == variable.attrs, name
        if variable.dtype.kind != "U":
            assert found[name].dtype == variable.dtype, name
    assert found.coords.keys() == wanted.coords.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_each_kind_is_read_as_it_was(
    kind: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    levels = None if kind == "effects" else [own for own in LEVEL_NAMES if own in LEVELS_OF[kind]]
    out = export_netcdf(stores[kind], tmp_path / "out.nc", levels=levels)
    wanted = contents(stores[kind], kind)
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        assert set(tree.children) == set(wanted)
        for sample, groups in wanted.items():
            assert set(tree[sample].children) == {name for name in groups if name}
            for direction, dataset in groups.items():
                assert_alike(tree[f"{sample}/{direction}".strip("/")].to_dataset(), dataset)


def test_a_folder_has_a_file_for_each_sample(stores: dict[str, Path], tmp_path: Path) -> None:
    out = export_netcdf(stores["maps"], tmp_path / "new" / "out")
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.nc" for name in SAMPLES]
    wanted = contents(stores["maps"], "maps")["007"]["g2r"].drop_vars("volume")
    with xr.open_dataset(out / "007.nc", group="g2r", engine="h5netcdf") as found:
        xr.testing.assert_equal(found.load(), wanted[list(found.data_vars)])
        assert set(found.data_vars) == {"hlam", "llam", "tlam", "ulam"}


def test_what_the_store_says_is_one_text_of_json(stores: dict[str, Path], tmp_path: Path) -> None:
    out = export_netcdf(stores["maps"], tmp_path / "out.nc", samples=["007"])
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        told = json.loads(tree["007"].attrs["i2am"])
    assert (told["sample"], told["convention"], told["normalisation"]) == ("007", "i2am", "mass")
    assert told["time_groups"] == 2


def test_a_part_of_a_run_is_what_analyze_makes_of_it(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    part: dict[str, Any] = {"layers": "up*", "steps": [0, 2], "heads": [1, 2], "time_groups": 2}
    wanted = analyze(open_run(stores["run"])["007"], **part)
    for store in ("run", "maps"):
        out = export_netcdf(stores[store], tmp_path / f"{store}.nc", levels=["volume"], **part)
        with xr.open_datatree(out, engine="h5netcdf") as tree:
            for direction in ("r2g", "g2r"):
                found: Any = tree[f"007/{direction}/volume"]
                np.testing.assert_array_equal(found, wanted[f"{direction}/volume"])
                assert found[LAYER].values.tolist() == ["up.attn"]


def test_a_run_without_maps_is_analyzed_and_one_token_has_no_g2r(
    one_token: Path, tmp_path: Path
) -> None:
    out = export_netcdf(one_token, tmp_path / "out.nc")
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        assert list(tree["a"].children) == ["r2g"]
        wanted = analyze(open_run(one_token)["a"])["r2g/ulam"]
        np.testing.assert_array_equal(tree["a/r2g/ulam"], wanted)


def test_chunks_are_compressed_and_have_checksums(stores: dict[str, Path], tmp_path: Path) -> None:
    import h5py

    out = export_netcdf(stores["maps"], tmp_path / "out.nc", samples=["007"], levels=["volume"])
    with h5py.File(out) as file:
        volume = file["007/r2g/volume"]
        assert volume.fletcher32
        assert volume.shuffle
        assert volume.compression == "gzip"


def test_a_part_of_maps_is_made_with_their_options(stores: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(stores["run"], run := tmp_path / "run.zarr")
    maps = analyze_run(run, tmp_path / "maps.zarr", normalisation="density", progress=False)
    wanted = analyze(open_run(run)["007"], normalisation="density", layers="up*")["r2g/ulam"]
    for store in (run, maps):
        out = export_netcdf(store, tmp_path / f"{store.name}.nc", layers="up*", samples=["007"])
        with xr.open_datatree(out, engine="h5netcdf") as tree:
            np.testing.assert_array_equal(tree["007/r2g/ulam"], wanted)
            assert json.loads(tree["007"].attrs["i2am"])["normalisation"] == "density"


def test_maps_need_their_run_no_more_once_they_are_made(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(stores["maps"], tmp_path / "maps.zarr")
    shutil.copytree(stores["run"], tmp_path / "run.zarr")
    shutil.rmtree(tmp_path / "run.zarr" / "007" / "layers")
    out = export_netcdf(tmp_path / "maps.zarr", tmp_path / "out.nc", samples=["007"])
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        wanted = contents(stores["maps"], "maps")["007"]["r2g"]["ulam"]
        np.testing.assert_array_equal(tree["007/r2g/ulam"], wanted)
    with pytest.raises(StoreError, match="Expected a sample that keeps the contract"):
        export_netcdf(tmp_path / "maps.zarr", tmp_path / "part.nc", samples=["007"], layers="up*")
    assert not (tmp_path / "part.nc").exists()
