"""Files are written whole, where they belong, and never over others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.image as mpl_image
import pytest
import xarray as xr

from i2am.analysis.figures.files import write_figures
from i2am.analysis.figures.maps import tlam
from i2am.schemas import AnalysisError, StoreError
from tests.support.pictured import Pictured, pictured


def test_files_are_written_per_sample_and_kind(tmp_path: Path) -> None:
    run, maps = _stores(a=pictured(), b=pictured(tokens="one"))
    paths = write_figures(run, maps, ["a", "b"], tmp_path / "new", kinds=("tlam", "sram"))
    # A reference of one token has no SRAM.
    assert [path.name for path in paths] == ["a-tlam.png", "a-sram.png", "b-tlam.png"]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    figure = tlam(run["a"], maps["a"])
    width, height = figure.get_size_inches() * 150
    assert mpl_image.imread(paths[0]).shape[:2] == (int(height), int(width))


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    run, maps = _stores(a=pictured(), b=pictured())
    (tmp_path / "b-tlam.png").write_text("mine")
    write: Callable[..., list[Path]] = write_figures
    with pytest.raises(StoreError, match=r"Expected no file, got one, at .*b-tlam\.png"):
        write(run, maps, ["a", "b"], tmp_path, ("tlam",))
    assert [path.name for path in tmp_path.iterdir()] == ["b-tlam.png"]
    assert (tmp_path / "b-tlam.png").read_text() == "mine"
    write(run, maps, ["b"], tmp_path, ("tlam",), overwrite=True)
    assert (tmp_path / "b-tlam.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("names", "kinds", "message"),
    [
        pytest.param(["a"], ["tlams"], "Expected a figure, got 'tlams'.*mean 'tlam'", id="kind"),
        pytest.param(["aa"], ["tlam"], "Expected a sample of the run, got 'aa'", id="sample"),
        pytest.param(["b"], ["tlam"], "Expected a sample of the maps, got 'b'", id="no maps"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    tmp_path: Path, names: list[str], kinds: list[str], message: str
) -> None:
    run, maps = _stores(a=pictured(), b=pictured())
    del maps["b"]
    with pytest.raises(AnalysisError, match=message):
        write_figures(run, maps, names, tmp_path / "new", kinds)
    assert not (tmp_path / "new").exists()


def _stores(**cases: Pictured) -> tuple[dict[str, xr.DataTree], dict[str, xr.DataTree]]:
    run = {name: case.sample for name, case in cases.items()}
    return run, {name: case.maps for name, case in cases.items()}
