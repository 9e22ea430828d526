"""What an import loads: a capture node has no napari, a laptop no torch, and ``--help`` waits for
neither.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import i2am

HEAVY = {
    *("torch", "diffusers", "transformers"),
    *("numpy", "zarr", "xarray", "dask", "distributed", "pandas", "matplotlib"),
    *("napari", "qtpy"),
}
REPORT = f"import sys; print(*sorted({HEAVY!r} & set(sys.modules)))"


def _loaded_after(code: str) -> set[str]:
    """Return the heavy packages that a new interpreter holds after `code`."""
    call = [sys.executable, "-c", f"{code}\n{REPORT}"]
    answer = subprocess.run(call, capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        pytest.param("import i2am, i2am.schemas, i2am.cli, i2am.cli.demo", HEAVY, id="i2am"),
        pytest.param(
            "import i2am.analysis",
            {"torch", "diffusers", "transformers", "napari", "qtpy", "distributed", "matplotlib"},
            id="analysis",
        ),
        pytest.param(
            "import i2am.analysis.figures.heat, i2am.analysis.figures.captions",
            {"torch", "napari", "qtpy", "matplotlib"},
            id="heat",
        ),
        pytest.param("import i2am.viewer", HEAVY, id="viewer"),
        pytest.param(
            "import i2am.capture",
            {"dask", "distributed", "xarray", "napari", "qtpy", "pandas", "matplotlib"},
            id="capture",
        ),
        pytest.param(
            "from i2am.cli import main\ntry: main(['analyze', '--help'])\nexcept SystemExit: pass",
            HEAVY,
            id="help",
        ),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, forbidden: set[str]) -> None:
    assert _loaded_after(code) & forbidden == set()


def test_the_report_of_loaded_packages_sees_one() -> None:
    assert "numpy" in _loaded_after("import numpy")


def test_a_stage_comes_on_first_use() -> None:
    assert _loaded_after("import i2am; assert i2am.schemas.SCHEMA_VERSION == 1") == set()
    assert {"xarray", "zarr"} <= _loaded_after("import i2am; i2am.open_run")


@pytest.mark.parametrize("name", ["analyze", "open_maps", "open_run", "sram"])
def test_a_public_name_is_the_one_of_its_stage(name: str) -> None:
    assert getattr(i2am, name) is getattr(importlib.import_module("i2am.analysis"), name)


@pytest.mark.parametrize("name", ["analysis", "capture", "schemas", "viewer"])
def test_a_stage_is_its_module_however_it_is_asked_for(name: str) -> None:
    module = importlib.import_module(f"i2am.{name}")
    assert i2am.__getattr__(name) is module
    assert getattr(i2am, name) is module
    # A function of the same name, as capture has, must not take the stage's place.
    assert vars(module)["__name__"] == f"i2am.{name}"


def test_the_public_names_are_listed_and_exist() -> None:
    assert {*i2am.__all__, "analysis", "capture", "schemas", "viewer"} <= set(dir(i2am))
    assert all(hasattr(i2am, name) for name in i2am.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'i2am' has no attribute 'captur'"):
        i2am.captur  # noqa: B018
