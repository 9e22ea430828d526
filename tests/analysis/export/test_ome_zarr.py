"""OME-Zarr: valid, with the same values, and each image where it lies on its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import xarray as xr
import zarr
from ome_zarr_models import open_ome_zarr

from i2am.analysis import analyze_run, export_ome_zarr, open_run
from i2am.schemas import AnalysisError, StoreError
from tests.analysis.export.conftest import BOX, SAMPLES, contents
from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LEVELS = ("ulam", "tlam", "hlam", "llam", "mass", "volume")
PICTURES = {
    "generated": "r2g",
    "source": "r2g",
    "inpainting_mask": "r2g",
    "reference": "g2r",
    "reference_mask": "g2r",
}


def images_of(sample: zarr.Group) -> dict[str, zarr.Group]:
    """Return the images of a sample by direction and path, in the order of their lists."""
    found: dict[str, zarr.Group] = {}
    for direction in (name for name in ("r2g", "g2r") if name in sample):
        group: Any = sample[direction]
        series = group["OME"].attrs["ome"]["series"]
        found |= {f"{direction}/{path}": group[path] for path in series}
    return found


def pixels_of(image: zarr.Group) -> Any:
    array: Any = image["0"]
    return array[:]


def centres(image: zarr.Group, dataset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return where the metadata place the centres of an image's rows and columns."""
    own: Any = image.attrs["ome"]
    datasets = own["multiscales"][0]["datasets"]
    array: Any = image[datasets[dataset]["path"]]
    transforms = datasets[dataset]["coordinateTransformations"]
    if transforms[0]["type"] == "sequence":
        transforms = transforms[0]["transformations"]
    scale, translation = transforms[0]["scale"], transforms[1]["translation"]
    assert scale[:-2] == [1] * (array.ndim - 2)
    assert translation[:-2] == [0] * (array.ndim - 2)
    y, x = (np.arange(array.shape[axis]) * scale[axis] + translation[axis] for axis in (-2, -1))
    return y, x


def channels_of(image: zarr.Group) -> list[dict[str, Any]]:
    own: Any = image.attrs["ome"]
    found: list[dict[str, Any]] = own["omero"]["channels"]
    return found


@pytest.fixture(scope="module")
def exported(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> zarr.Group:
    out = tmp_path_factory.mktemp("ome") / "maps.ome.zarr"
    export_ome_zarr(stores["maps"], out, levels=LEVELS)
    return zarr.open_group(out, mode="r")


def sample_of(root: zarr.Group, name: str = "007") -> zarr.Group:
    found = root[name]
    assert isinstance(found, zarr.Group)
    return found


def test_every_image_is_valid(exported: zarr.Group) -> None:
    for name in SAMPLES:
        images = images_of(sample_of(exported, name))
        for path, image in images.items():
            opened = open_ome_zarr(image, version="0.5")
            assert type(opened).__name__ == "Image", path
        assert set(images) > {f"{where}/{picture}" for picture, where in PICTURES.items()}
        assert {f"r2g/{level}" for level in LEVELS[:-1]} < set(images)
        assert "g2r/mass" not in images


def test_maps_have_the_values_and_the_places_of_the_store(
    exported: zarr.Group, stores: dict[str, Path]
) -> None:
    images = images_of(sample_of(exported))
    for direction, dataset in contents(stores["maps"], "maps")["007"].items():
        for level in (own for own in dataset.data_vars if own != "volume"):
            image, wanted = images[f"{direction}/{level}"], dataset[level]
            pixels = pixels_of(image)
            np.testing.assert_array_equal(pixels.squeeze(), wanted.to_numpy().squeeze())
            assert image["0"].metadata.dimension_names == tuple("tcyx"[-pixels.ndim :])  # type: ignore[union-attr]
            for found, dim in zip(centres(image), wanted.dims[-2:], strict=True):
                np.testing.assert_allclose(found, wanted[dim])


def test_a_volume_is_an_image_for_each_layer_of_the_heads_that_it_has(
    exported: zarr.Group, stores: dict[str, Path]
) -> None:
    sample = sample_of(exported)
    volume = contents(stores["maps"], "maps")["007"]["r2g"]["volume"]
    for layer, heads in (("down<b> é&;", 2), ("up.attn", 3)):
        image = images_of(sample)[f"r2g/volume/{layer}"]
        np.testing.assert_array_equal(pixels_of(image), volume.sel(layer=layer)[:, :heads])
        assert [own["label"] for own in channels_of(image)] == [f"head {n}" for n in range(heads)]
        told: Any = image.attrs["i2am"]
        assert told["step"] == [0, 1, 2, 3]
        assert told["timestep"] == volume["timestep"].values.tolist()


def test_channels_have_names_and_one_scale(exported: zarr.Group) -> None:
    images = images_of(sample_of(exported))
    llam = channels_of(images["r2g/llam"])
    assert [own["label"] for own in llam] == ["down<b> é&;", "up.attn"]
    values = pixels_of(images["r2g/llam"])
    window = {"min": values.min(), "max": values.max(), "start": values.min(), "end": values.max()}
    assert all(own["window"] == pytest.approx(window) for own in llam)
    hidden = {path for path, image in images.items() if not channels_of(image)[0]["active"]}
    assert hidden == {"r2g/source", "r2g/inpainting_mask", "g2r/reference_mask"}
    assert list(images_of(sample_of(exported)))[-1] == "g2r/ulam"  # On top of its picture.


def test_pictures_lie_beside_the_maps_in_their_own_pixels(
    exported: zarr.Group, stores: dict[str, Path]
) -> None:
    images = images_of(sample_of(exported))
    stored = open_run(stores["run"])["007"]["images"].to_dataset()
    for name, direction in PICTURES.items():
        wanted, image = stored[name].to_numpy(), images[f"{direction}/{name}"]
        pixels = pixels_of(image)
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0).squeeze(), wanted)
        for found, size in zip(centres(image), wanted.shape, strict=False):
            np.testing.assert_array_equal(found, np.arange(size) + 0.5)
    # What the model saw is what the map covers: from half a cell before the first centre on.
    y, x = centres(images["r2g/ulam"])
    half = (y[1] - y[0]) / 2, (x[1] - x[0]) / 2
    edges = (y[0] - half[0], x[0] - half[1], y[-1] + half[0], x[-1] + half[1])
    assert edges == BOX


def test_a_large_picture_has_smaller_copies_in_the_same_place(tmp_path: Path) -> None:
    layer = SyntheticLayer("down", (4, 4), (2, 2))
    run = write_run(tmp_path / "run.zarr", ["a"], [layer], steps=1, size_px=(6, 1301))
    out = export_ome_zarr(run, tmp_path / "out", levels=["ulam"])
    image: Any = zarr.open_group(out, mode="r")["a/r2g/generated"]
    assert [image[str(n)].shape for n in range(3)] == [(3, 6, 1301), (3, 3, 651), (3, 2, 326)]
    assert "3" not in image
    full, half = image["0"][:].astype(float), image["1"][:]
    means = full[:, ::2, :-1:2] + full[:, 1::2, :-1:2] + full[:, ::2, 1::2] + full[:, 1::2, 1::2]
    np.testing.assert_array_equal(half[:, :, :-1], np.rint(means / 4))
    y, x = centres(image, 1)
    assert (y[0], x[0], x[1]) == (1, 1, 3)  # Between the first two pixels; then the next two.


def test_the_list_of_images_is_ome_xml_that_readers_go_by(
    exported: zarr.Group, stores: dict[str, Path]
) -> None:
    sample = sample_of(exported)
    folder = Path(str(sample.store_path).removeprefix("file://"))
    for direction in ("r2g", "g2r"):
        group: Any = sample[direction]
        assert group.attrs["ome"] == {"version": "0.5", "bioformats2raw.layout": 3}
        root = ET.fromstring((folder / direction / "OME" / "METADATA.ome.xml").read_bytes())
        (namespace,) = {node.tag.partition("}")[0].strip("{") for node in root.iter()}
        assert namespace == "http://www.openmicroscopy.org/Schemas/OME/2016-06"
        paths = [node.attrib["ID"].removeprefix("Image:") for node in root]
        assert paths == group["OME"].attrs["ome"]["series"]
        for node, path in zip(root, paths, strict=True):
            own = node[0].attrib
            sizes = {key[-1].lower(): int(size) for key, size in own.items() if "Size" in key}
            shape = dict(zip("xyct", reversed(pixels_of(group[path]).shape), strict=False))
            assert sizes == {"z": 1, "t": 1} | shape


def test_the_draft_has_a_coordinate_system_for_each_picture(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    out = export_ome_zarr(stores["run"], tmp_path / "out", version="0.6", samples=["007"])
    images = images_of(sample_of(zarr.open_group(out, mode="r")))
    systems = {}
    for path, image in images.items():
        own: Any = image.attrs["ome"]
        assert own["version"] == "0.6"
        (multiscale,) = own["multiscales"]
        (system,) = multiscale["coordinateSystems"]
        (transform,) = multiscale["datasets"][0]["coordinateTransformations"]
        assert transform["input"] == {"path": "0"}
        assert transform["output"] == {"name": system["name"]}
        assert [axis["name"] for axis in system["axes"]] == list("tcyx"[-pixels_of(image).ndim :])
        assert "axes" not in multiscale
        systems[path] = system["name"]
    assert systems["r2g/source"] == systems["r2g/tlam"] == "generated"
    assert systems["g2r/reference_mask"] == systems["g2r/hlam"] == "reference"
    wanted = contents(stores["maps"], "maps")["007"]["r2g"]
    np.testing.assert_allclose(centres(images["r2g/ulam"])[1], wanted["x"])


def test_an_average_and_maps_without_their_run_have_no_pictures(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    out = export_ome_zarr(stores["average"], tmp_path / "average", levels=["ulam"])
    sample = sample_of(zarr.open_group(out, mode="r"), "all")
    assert list(images_of(sample)) == [
        "r2g/ulam_variance", "r2g/ulam", "g2r/ulam_variance", "g2r/ulam",
    ]  # fmt: skip
    run = write_run(tmp_path / "run.zarr", ["a"], [SyntheticLayer("down", (4, 4), (2, 2))], steps=1)
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    run.rename(tmp_path / "elsewhere.zarr")
    out = export_ome_zarr(maps, tmp_path / "maps.ome.zarr", levels=["ulam"])
    assert list(images_of(sample_of(zarr.open_group(out, mode="r"), "a"))) == [
        "r2g/ulam",
        "g2r/ulam",
    ]


def test_one_token_and_maps_without_pixels_count_positions(one_token: Path, tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps.zarr", {"a": {"r2g": spot_volume()}}, source="none.zarr")
    out = export_ome_zarr(maps, tmp_path / "out", levels=["ulam"])
    images = images_of(sample_of(zarr.open_group(out, mode="r"), "a"))
    assert list(images) == ["r2g/ulam"]
    y, _ = centres(images["r2g/ulam"])
    np.testing.assert_array_equal(y, np.arange(8) + 0.5)
    own: Any = images["r2g/ulam"].attrs["ome"]
    assert "unit" not in own["multiscales"][0]["axes"][-1]
    out = export_ome_zarr(one_token, tmp_path / "placed", levels=["ulam"])
    own = images_of(sample_of(zarr.open_group(out, mode="r"), "a"))["r2g/ulam"].attrs["ome"]
    assert own["multiscales"][0]["axes"][-1]["unit"] == "pixel"


def test_an_earlier_export_alone_may_be_replaced(stores: dict[str, Path], tmp_path: Path) -> None:
    out = export_ome_zarr(stores["maps"], tmp_path / "out", levels=["ulam"], samples=["007"])
    with pytest.raises(StoreError, match=r"new folder, got an earlier export.*Allow overwriting"):
        export_ome_zarr(stores["maps"], out, levels=["ulam"])
    export_ome_zarr(stores["maps"], out, levels=["tlam"], samples=["été@1"], overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["zarr.json", "été@1"]
    (other := tmp_path / "mine").mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"new folder, got something else.* Name another"):
        export_ome_zarr(stores["maps"], other, overwrite=True)
    with pytest.raises(StoreError, match=r"outside of stores, got one inside the store"):
        export_ome_zarr(stores["maps"], stores["run"], overwrite=True)
    with pytest.raises(StoreError, match=r"outside of stores, got one inside the store"):
        export_ome_zarr(stores["maps"], stores["run"] / "new")
    with pytest.raises(AnalysisError, match=r"known version, got '0\.4'"):
        export_ome_zarr(stores["maps"], tmp_path / "new", version="0.4")  # type: ignore[arg-type]
    assert (
        json.loads((stores["run"] / "zarr.json").read_text())["attributes"]["i2am"]["kind"] == "run"
    )


def test_a_head_that_no_layer_has_any_value_of_is_shown_all_the_same() -> None:
    from i2am.analysis.export.ome_zarr import _channels, _map

    values = xr.DataArray(np.full((2, 3, 3), np.nan, np.float32), dims=("head", "y", "x"))
    image = _map(
        "hlam_variance", "r2g hlam_variance", values.assign_coords(head=[0, 1]), "generated"
    )
    assert _channels(image)[0]["window"] == {"min": 0, "max": 1, "start": 0, "end": 1}
