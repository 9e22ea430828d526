"""A map by xarray's own plot stands as its image does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from i2am.analysis import analyze, open_run, plot_map
from i2am.schemas import AnalysisError
from tests.support.synthetic_run import LAYERS, write_run


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


def brightest(axes: Axes) -> tuple[float, float]:
    """Return where the brightest pixels of a drawn panel are, in shares of its height and width."""
    canvas: Any = axes.figure.canvas
    canvas.draw()
    shown = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    box = axes.get_window_extent()
    height = shown.shape[0]
    panel = shown[height - round(box.y1) : height - round(box.y0), round(box.x0) : round(box.x1)]
    # The axes' own lines are dark; the map is grey on black.
    y, x = np.nonzero(panel.sum(axis=-1) > 700)
    return float(y.mean() / panel.shape[0]), float(x.mean() / panel.shape[1])


def spot() -> xr.DataArray:
    """Return a map over an image of 40 x 80, bright in its second row and last column."""
    values = np.zeros((4, 8), np.float32)
    values[1, 7] = 1
    px = {"units": "px"}
    coordinates = {
        "y": ("y", np.arange(5.0, 40, 10), px),
        "x": ("x", np.arange(5.0, 80, 10), px),
    }
    return xr.DataArray(values, coordinates, ("y", "x"))


def test_what_is_on_top_of_the_image_is_drawn_on_top() -> None:
    drawn = plot_map(spot(), cmap="gray", add_colorbar=False)
    assert brightest(drawn.axes) == pytest.approx((1.5 / 4, 7.5 / 8), abs=0.02)
    assert drawn.axes.get_xlim() == (0, 80)
    assert drawn.axes.get_ylim() == (40, 0)
    assert drawn.axes.get_aspect() == 1
    # xarray's own plot does not: when it does, this function has no purpose any more.
    plt.figure()
    alone: Any = spot().plot.pcolormesh(cmap="gray", add_colorbar=False)
    assert brightest(alone.axes)[0] == pytest.approx(2.5 / 4, abs=0.02)


def test_each_panel_of_several_stands_upright_over_the_image() -> None:
    maps = xr.concat([spot(), spot()], "layer")
    image = np.zeros((40, 80, 3), np.uint8)
    grid = plot_map(maps, image=image, col="layer", cmap="gray", alpha=1, vmin=0, vmax=1)
    for axes in grid.axs.flat:
        assert brightest(axes) == pytest.approx((1.5 / 4, 7.5 / 8), abs=0.02)
        above, below = sorted(axes.images, key=lambda one: -one.zorder)
        assert above.get_array().shape == (4, 8)
        assert below.get_array().shape == image.shape
        assert list(below.get_extent()) == [0, 80, 40, 0]


def test_every_map_of_a_sample_can_be_plotted(tmp_path: Path) -> None:
    sample = open_run(write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=3))["a"]
    maps = analyze(sample, time_groups=3)
    for level, dim in (("tlam", "time"), ("hlam", "head"), ("llam", "layer")):
        plot_map(maps["g2r"].dataset[level], col=dim)
    reference = sample["images"].dataset["reference"]
    drawn = plot_map(maps["g2r"].dataset["ulam"], image=reference)
    assert drawn.axes.yaxis_inverted()


def test_what_is_no_single_map_is_refused() -> None:
    several = xr.concat([spot(), spot()], "layer")
    with pytest.raises(AnalysisError, match=r"got one of dims .*name it: col='layer'"):
        plot_map(several)
    with pytest.raises(AnalysisError, match=r"got a Dataset, at attention. Give one of its maps"):
        plot_map(several.to_dataset(name="llam"))  # type: ignore[arg-type]
    bare = spot().drop_vars(["y", "x"])
    assert plot_map(bare).axes.yaxis_inverted()
    with pytest.raises(AnalysisError, match="Expected a map whose coordinates are pixels"):
        plot_map(bare, image=np.zeros((4, 8, 3), np.uint8))
