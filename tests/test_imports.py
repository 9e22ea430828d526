"""What an import and a command load: a capture node has no napari, a laptop no torch, and neither
``--help`` nor a look at a store waits for what it does not use.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import i2am
from i2am.analysis import analyze_run
from tests.support.synthetic_run import write_run

HEAVY = {
    *("torch", "diffusers", "transformers"),
    *("numpy", "zarr", "xarray", "dask", "distributed", "pandas"),
    *("scipy", "skimage", "numba", "matplotlib", "PIL", "pyarrow"),
    *("napari", "qtpy", "pyqtgraph"),
}
REPORT = f"import sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
STORE = {"numpy", "zarr"}
LABELLED = {*STORE, "xarray", "dask", "pandas", "pyarrow", "scipy"}  # Dask needs the last three.
COMMAND = "from i2am.cli import main\ntry: main({!r})\nexcept SystemExit: pass"


def _loaded_after(code: str) -> set[str]:
    """Return the heavy packages that a new interpreter holds after `code`."""
    call = [sys.executable, "-c", f"{code}\n{REPORT}"]
    answer = subprocess.run(call, capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the paths of a run and of its maps, as they are named in the table."""
    folder = tmp_path_factory.mktemp("stores")
    run = write_run(folder / "run.zarr", ["a"], steps=2)
    return {"RUN": str(run), "MAPS": str(analyze_run(run, folder / "maps.zarr", progress=False))}


# Each door, and which heavy packages it may load: none that it does not need.
DOORS = {
    "i2am": ("import i2am, i2am.schemas, i2am.cli, i2am.cli.demo", set()),
    "help": (COMMAND.format(["analyze", "--help"]), set()),
    "viewer": ("import i2am.viewer", set()),
    "analysis": ("import i2am.analysis", set()),
    "figures": ("from i2am.analysis.figures import FIGURES", STORE),
    "heat": ("import i2am.analysis.figures.heat, i2am.analysis.figures.captions", LABELLED),
    "all of analysis": ("from i2am.analysis import *", LABELLED),
    "open_run": ("from i2am.analysis import open_run\nlist(open_run('RUN'))", STORE),
    "analyze": (
        "from i2am.analysis import analyze, open_run\nanalyze(open_run('RUN')['a'])",
        LABELLED,
    ),
    "capture": ("import i2am.capture", set()),
    "all of capture": ("from i2am.capture import *", {*STORE, "torch", "PIL"}),
    "info of a run": (COMMAND.format(["info", "RUN"]), STORE),
    "info of maps": (COMMAND.format(["info", "MAPS"]), STORE),
    "validate a run": (COMMAND.format(["validate", "RUN"]), STORE),
    "validate maps": (COMMAND.format(["validate", "MAPS"]), STORE),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_loads_no_more_than_it_needs(door: str, stores: dict[str, str]) -> None:
    code, allowed = DOORS[door]
    for name, path in stores.items():
        code = code.replace(name, path)
    assert _loaded_after(code) - allowed == set()


def test_the_report_of_loaded_packages_sees_one() -> None:
    assert "numpy" in _loaded_after("import numpy")


def test_a_stage_comes_on_first_use() -> None:
    assert _loaded_after("import i2am; assert i2am.schemas.SCHEMA_VERSION == 1") == set()
    assert "zarr" in _loaded_after("import i2am; i2am.open_run")


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


@pytest.mark.parametrize("name", ["analysis", "capture"])
def test_a_stages_names_are_those_that_type_checkers_read(name: str) -> None:
    stage = importlib.import_module(f"i2am.{name}")
    everything: dict[str, object] = {}
    exec(f"from i2am.{name} import *", everything)
    assert {*stage.__all__} == everything.keys() - {"__builtins__"}
    assert len({*stage.__all__}) == len(stage.__all__) > 40
    for public in stage.__all__:
        found = getattr(stage, public)
        assert found is everything[public] is vars(stage)[public]
    assert {*stage.__all__, "__all__"} <= set(dir(stage))


def test_a_sub_package_is_an_attribute_of_its_stage_and_nothing_else_is() -> None:
    code = "import i2am.analysis as a; print(a.figures.FigureKind.__name__); a.figuress"
    call = [sys.executable, "-c", code]
    answer = subprocess.run(call, capture_output=True, text=True, check=False)
    assert answer.stdout == "FigureKind\n"
    assert "module 'i2am.analysis' has no attribute 'figuress'" in answer.stderr


def test_a_profile_of_ones_own_is_the_last_whatever_is_imported_first() -> None:
    code = """
from i2am.capture import Profile, register
register(Profile("unet", ("MyDenoiser",), list))
from i2am.capture.families.lookup import known_profiles
print(known_profiles()[-1].classes, len(known_profiles()) > 20)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "('MyDenoiser',) True\n"


def test_the_public_names_are_listed_and_exist() -> None:
    assert {*i2am.__all__, "analysis", "capture", "schemas", "viewer"} <= set(dir(i2am))
    assert all(hasattr(i2am, name) for name in i2am.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'i2am' has no attribute 'captur'"):
        i2am.captur  # noqa: B018
