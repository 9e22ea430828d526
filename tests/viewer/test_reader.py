from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import analyze_run
from i2am.schemas import StoreError
from i2am.viewer.reader import get_reader


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _broken(path: Path) -> Path:
    (_folder(path) / "zarr.json").write_text("{")
    return path


def _with_root(path: Path, root: Any) -> Path:
    (_folder(path) / "zarr.json").write_text(json.dumps(root))
    return path


def _array(path: Path) -> Path:
    zarr.create_array(path, data=np.zeros((4, 4)))
    return path


_SAMPLE_OF_MAPS = {"attributes": {"i2am": {"kind": "maps", "status": "complete"}}}
OTHERS: dict[str, Callable[[Path], Path]] = {
    "no path": lambda path: path,
    "empty folder": _folder,
    "broken metadata": _broken,
    "metadata that is a list": lambda path: _with_root(path, []),
    "attribute of another shape": lambda path: _with_root(path, {"attributes": {"i2am": "run"}}),
    "attributes null": lambda path: _with_root(path, {"attributes": None}),
    "plain Zarr array": _array,
    "sample of maps": lambda path: _with_root(path, _SAMPLE_OF_MAPS),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_the_reader_leaves_what_is_not_ours_to_others(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "other.zarr")
    assert get_reader(path) is None
    assert get_reader(str(path)) is None


def test_the_reader_accepts_one_run_alone(run: Path) -> None:
    assert get_reader(str(run)) is not None
    assert get_reader([str(run)]) is not None
    assert get_reader([str(run), str(run)]) is None
    assert get_reader([]) is None


def test_the_reader_gives_the_layers_of_the_first_sample(run: Path) -> None:
    reader = get_reader(str(run))
    assert reader is not None
    layers = reader(str(run))
    assert [options["name"] for _, options, _ in layers] == [
        "captions",
        "generated",
        "source",
        "inpainting mask",
        "R2G",
        "reference",
        "reference mask",
        "G2R",
    ]
    assert {options["metadata"]["i2am"]["sample"] for _, options, _ in layers} == {"first"}


def test_the_reader_opens_the_run_of_a_maps_store(run: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "other.zarr")
    analyze_run(run, path, samples=["second"], progress=False)
    reader = get_reader(path)
    assert reader is not None
    own = {options["name"]: options["metadata"]["i2am"] for _, options, _ in reader(path)}
    assert own["R2G"]["run"] == str(run)
    assert own["R2G"]["maps"] == path
    assert own["R2G"]["sample"] == "second"  # the first that has maps
    run.rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(StoreError, match=r"got nothing, at .*run\.zarr"):
        reader(path)


def test_the_manifest_is_valid_and_all_that_it_names_exists() -> None:
    path = Path(str(importlib.import_module("i2am.viewer").__file__)).parent / "napari.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", "--imports", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(path)
    contributions = manifest.contributions
    commands = {command.id: command.python_name for command in contributions.commands or ()}
    named: list[Any] = [*(contributions.readers or ()), *(contributions.widgets or ())]
    named += contributions.sample_data or ()
    assert manifest.name == "i2am"
    assert {each.command for each in named} == set(commands)
    for python_name in commands.values():
        module, _, name = str(python_name).partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_napari_opens_a_run_through_the_plugin(run: Path, make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    viewer.open(str(run), plugin="i2am")
    assert "R2G" in viewer.layers
    pictures = viewer.layers.extent.world[:, -2:]
    assert viewer.scene.camera.center[-1] == pytest.approx(pictures[:, 1].mean(), abs=1)  # both
    assert viewer.dims.axis_labels == ("sample", "layer", "timestep", "head", "y", "x")


def test_the_browser_serves_a_run_that_napari_opened(
    run: Path, make_napari_viewer_proxy: Any, qtbot: Any
) -> None:
    viewer = make_napari_viewer_proxy()
    _, browser = viewer.window.add_plugin_dock_widget("i2am", "Run browser")
    assert not browser.samples.isEnabled()
    viewer.open(str(run), plugin="i2am")
    qtbot.waitUntil(lambda: browser.samples.count() == 2)
    assert [browser.samples.itemText(i) for i in range(2)] == ["first", "second"]
    browser.samples.setCurrentText("second")
    qtbot.waitUntil(lambda: viewer.layers["R2G"].metadata["i2am"]["sample"] == "second")
    assert viewer.layers["R2G"].metadata["i2am"]["sample"] == "second"
    viewer.layers.clear()
    assert not browser.samples.isEnabled()
