"""What `export_ome_zarr` writes is opened by napari's own reader of OME-Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze, export_ome_zarr, open_run
from tests.support.synthetic_run import SyntheticLayer, write_run

# What napari's reader and napari itself say of their own code.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

LAYERS = (SyntheticLayer("down", (4, 4), (2, 4), heads=2), SyntheticLayer("up", (8, 8), (4, 4)))
BOX = (2, 8, 30, 40)


def _edges(layer: Any) -> list[float]:
    """Return where a layer's first and last position begin and end in the world: y0, x0, y1, x1."""
    low, high = layer.extent.world
    y, x = layer.scale[-2:] / 2
    return [low[-2] - y, low[-1] - x, high[-2] + y, high[-1] + x]


def test_a_sample_opens_with_its_maps_over_its_pictures(
    tmp_path: Path, make_napari_viewer: Any
) -> None:
    run = write_run(
        tmp_path / "run.zarr", ["a"], LAYERS, steps=2, size_px=(32, 48), boxes={"generated": BOX}
    )
    levels = ["ulam", "tlam", "hlam", "llam", "volume"]
    out = export_ome_zarr(run, tmp_path / "out.ome.zarr", levels=levels, version="0.6")
    viewer = make_napari_viewer()
    viewer.open(str(out / "a" / "r2g"), plugin="napari-ome-zarr")
    layers = {layer.name: layer for layer in viewer.layers}
    sample: Any = open_run(run)["a"]
    maps: Any = analyze(sample)
    for channel, color in enumerate(("red", "green", "blue")):
        picture = layers[f"generated: {color}"]
        np.testing.assert_array_equal(picture.data, sample["images/generated"][..., channel])
        assert _edges(picture) == [0, 0, 32, 48]
    wanted = {
        "r2g ulam: attention": maps["r2g/ulam"],
        "r2g tlam: attention": maps["r2g/tlam"],
        "r2g hlam: head 1": maps["r2g/hlam"][1],
        "r2g llam: up": maps["r2g/llam"][1],
        "r2g volume down: head 1": maps["r2g/volume"][0, :, 1],
    }
    for name, values in wanted.items():
        np.testing.assert_array_equal(layers[name].data, values)
        assert _edges(layers[name]) == pytest.approx(BOX), name
    # A place on the picture is the same place on the map.
    y, x = maps["r2g/ulam"]["y"].values, maps["r2g/ulam"]["x"].values
    place = (0, y[3] + 1, x[5] - 0.75)
    assert layers["r2g ulam: attention"].get_value(place, world=True) == maps["r2g/ulam"][3, 5]
    shown = layers["generated: red"].get_value(place, world=True)
    assert shown == sample["images/generated"].values[int(place[1]), int(place[2]), 0]
    viewer.layers.clear()
    viewer.open(str(out / "a" / "g2r"), plugin="napari-ome-zarr")
    layers = {layer.name: layer for layer in viewer.layers}
    assert set(layers) > {"reference: green", "g2r ulam: attention"}
    assert {tuple(_edges(layer)) for layer in layers.values()} == {(0, 0, 32, 48)}


@pytest.mark.parametrize("version", ["0.5", "0.6"])
def test_an_image_of_either_version_opens_alone(
    version: Any, tmp_path: Path, make_napari_viewer: Any
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=2)
    out = export_ome_zarr(run, tmp_path / "out.ome.zarr", levels=["hlam"], version=version)
    viewer = make_napari_viewer()
    viewer.open(str(out / "a" / "g2r" / "hlam"), plugin="napari-ome-zarr")
    assert [layer.name for layer in viewer.layers] == ["g2r hlam: head 0", "g2r hlam: head 1"]
    wanted = analyze(open_run(run)["a"])["g2r/hlam"]
    for layer, values in zip(viewer.layers, wanted, strict=True):
        np.testing.assert_array_equal(layer.data, values)
        assert layer.contrast_limits == pytest.approx([float(wanted.min()), float(wanted.max())])
        np.testing.assert_array_equal(layer.scale, [8, 8])
