"""``i2am export``: every format by the command line, and what is refused before any work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from obstore.store import from_url
from zarr.storage import ObjectStore

from i2am.analysis import export_netcdf, export_table, open_maps
from i2am.cli import main
from tests.analysis.export.conftest import LAYERS, SAMPLES
from tests.support.s3_bucket import credentials, serve_bucket
from tests.support.synthetic_run import write_run

FORMATS = {
    "ome-zarr": "out.zarr",
    "netcdf": "out.nc",
    "numpy": "out.npz",
    "table": "out.parquet",
    "pictures": "out",
    "animation": "out.gif",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_written_and_overwrites_when_asked_alone(
    kind: str,
    stores: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / FORMATS[kind]
    call = ["export", str(stores["run"]), f"--{kind}", str(out), "--samples", "007"]
    call += [] if kind == "animation" else ["--levels", "ulam"]
    assert main(call) == 0
    assert capsys.readouterr().out == f"Export: {out}\n"
    before = sorted(out.parent.rglob("*"))
    assert main(call) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("i2am: Expected ")
    assert sorted(out.parent.rglob("*")) == before
    assert main([*call, "--overwrite"]) == 0
    assert [path.name for path in out.parent.iterdir()] == [FORMATS[kind]]


def test_a_part_is_selected_as_in_other_commands(stores: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    call = f"export {stores['maps']} --table {out} --levels volume tlam --layers up* --steps 0,2"
    call += " --heads 1: --time-groups 2 --guidance conditional --within mask --samples 007"
    assert main(call.replace("1:", "1:3").split()) == 0
    found = pd.read_parquet(out)
    volume = found[found["level"] == "volume"]
    assert set(volume["layer"]) == {"up.attn"}
    assert set(volume["head"]) == {1, 2}
    assert set(volume["step"]) == {0, 2}
    assert set(found["first_step"].dropna()) == {0, 2}
    assert set(found["sample"]) == {"007"}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ("RUN --table out.csv --url x", "argument --url: not allowed with --table"),
        ("RUN --page out --levels ulam", "argument --levels: not allowed with --page"),
        ("RUN --animation out.gif --levels ulam", "--levels: not allowed with --animation"),
        ("RUN --netcdf out.nc --ome-version 0.6", "--ome-version: not allowed with --netcdf"),
        ("RUN", "one of the arguments --ome-zarr .* is required"),
        ("RUN --netcdf out.nc --numpy out.npz", "not allowed with argument"),
        ("RUN --netcdf s3://bucket/out.nc", "expected a local path, got the URL"),
    ],
)
def test_a_wrong_call_ends_with_2(
    call: str,
    match: str,
    stores: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["export", *call.replace("RUN", str(stores["run"])).split()])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert pd.Series([told]).str.contains(match).all(), told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ("run --netcdf out.nc --samples 008", "a sample of the store, got '008'.*mean '007'"),
        ("average --netcdf out.nc --samples none", "a sample of the store, got 'none'"),
        ("effects --ome-zarr out", "kind run, maps, average or differences .* got .*'effects'"),
        ("effects --netcdf out.nc --levels ulam", "no levels of measured effects, got 'ulam'"),
        ("average --pictures out", "kind run or maps .* got one of kind 'average'"),
        ("differences --animation out.gif", "kind run or maps .* got one of kind 'differences'"),
        ("average --numpy out --layers up*", "a run to select layers of, .*'average'"),
        ("maps --numpy out --maps MAPS", "a run beside maps, got a store of kind 'maps'"),
        ("average --table out.csv --levels mass", "Expected maps with mass, got none, at all"),
        ("run --table out.txt", "a .csv or .parquet file, got out.txt"),
        ("run --netcdf there/out.nc", "a folder for out.nc, got a file"),
        ("run --numpy there", "a folder, got a file"),
        ("run --pictures RUN/007", "a place outside of stores"),
        ("run --netcdf out.nc --layers nothing*", "a layer's name or pattern, got 'nothing"),
        ("run/007 --netcdf out.nc", "a run, maps or effects store of i2am, got a sample's group"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_is_written(
    call: str,
    match: str,
    stores: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("mine")
    kind, *rest = (
        call.replace("MAPS", str(stores["maps"])).replace("RUN", str(stores["run"])).split()
    )
    kind, _, sample = kind.partition("/")
    assert main(["export", str(stores[kind] / sample), *rest]) == 1
    told = capsys.readouterr().err.splitlines()
    (line,) = [line for line in told if line.startswith("i2am: ")]
    assert pd.Series([line]).str.contains(match).all(), line
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_an_error_in_the_middle_leaves_what_was_there(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = tmp_path / "maps.zarr"
    shutil.copytree(stores["maps"], maps)
    damaged = next((maps / SAMPLES[1] / "r2g" / "ulam" / "c").rglob("0"))
    damaged = damaged / "0" if damaged.is_dir() else damaged
    damaged.write_bytes(damaged.read_bytes()[:-3])
    outs = {kind: tmp_path / f"kept-{name}" for kind, name in FORMATS.items()}
    for kind in ("netcdf", "numpy", "table"):
        outs[kind].write_text("mine")
        assert main(["export", str(maps), f"--{kind}", str(outs[kind]), "--overwrite"]) == 1
        assert outs[kind].read_text() == "mine"
    assert main(["export", str(maps), "--ome-zarr", str(outs["ome-zarr"])]) == 1
    assert main(["export", str(maps), "--netcdf", str(tmp_path / "folder")]) == 1
    kept = {outs[kind].name for kind in ("netcdf", "numpy", "table")}
    assert {path.name for path in tmp_path.iterdir()} == {"maps.zarr", *kept}
    assert capsys.readouterr().err.count("i2am: Expected") == 5


def test_maps_of_another_place_are_those_that_were_named(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run.zarr"
    shutil.copytree(stores["run"], run)
    shutil.copytree(stores["maps"], moved := tmp_path / "moved.zarr")
    call = ["export", str(run), "--netcdf", str(tmp_path / "out.nc"), "--levels", "tlam"]
    assert main([*call, "--maps", str(moved)]) == 0
    with xr.open_datatree(tmp_path / "out.nc", engine="h5netcdf") as tree:
        assert tree["007/r2g"].sizes["time"] == 2  # As the maps have it; else they were five.


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_bucket() as (address, _):
        yield address


def test_a_run_and_maps_in_a_bucket_are_exported_as_local_ones(
    endpoint: str, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    store: Any = ObjectStore(from_url("s3://bucket/run.zarr"))
    boxes = {"generated": (0, 8, 32, 40)}
    write_run(store, SAMPLES, LAYERS, size_px=(32, 48), boxes=boxes)
    bucket: Any = from_url("s3://bucket/maps.zarr")
    for file in (file for file in stores["maps"].rglob("*") if file.is_file()):
        bucket.put(file.relative_to(stores["maps"]).as_posix(), file.read_bytes())
    near = open_maps(stores["maps"])["007"]
    for kind in ("run", "maps"):
        out = (
            export_netcdf(f"s3://bucket/{kind}.zarr", f"{kind}.nc", time_groups=2)
            if (kind == "run")
            else export_netcdf(f"s3://bucket/{kind}.zarr", f"{kind}.nc")
        )
        with xr.open_datatree(out, engine="h5netcdf") as tree:
            for level in ("ulam", "tlam", "hlam", "llam"):
                np.testing.assert_allclose(
                    tree[f"007/g2r/{level}"], near[f"g2r/{level}"], rtol=1e-6
                )
    call = "export s3://bucket/run.zarr --ome-zarr out.zarr --levels ulam --samples 007"
    assert main(call.split()) == 0
    image: Any = zarr.open_group("out.zarr", mode="r")["007/r2g/ulam/0"]
    np.testing.assert_array_equal(image[0], near["r2g/ulam"])
    table = export_table("s3://bucket/maps.zarr", "out.csv", levels=["ulam"])
    assert len(pd.read_csv(table)) == 2 * (64 + 16)
