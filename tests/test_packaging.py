"""What a wheel holds, read off pyproject.toml and the tree: a forgotten line shows in a wheel only."""

from __future__ import annotations

import ast
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import i2am
from i2am.schemas.manifest import read_manifest

ROOT = Path(__file__).parents[1]
STAGES = ("analysis", "capture", "page", "schemas", "viewer")
# What the page's script is built from: for those who build it.
SOURCES = ROOT / "page" / "web"
MOST_MODULES = 11
EXTENSION_POINTS = ("families", "scores", "figures")

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree"
)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _package_folder(package: str, project: dict[str, Any]) -> Path:
    mapped: dict[str, str] = project["tool"]["setuptools"]["package-dir"]
    for stage, folder in mapped.items():
        if f"{package}.".startswith(f"{stage}."):
            return ROOT / folder / package.removeprefix(stage).strip(".").replace(".", "/")
    return ROOT / package.replace(".", "/")


def _files(folder: Path) -> list[Path]:
    """Return a stage's files, without what Python leaves behind."""
    return [
        f
        for f in folder.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and SOURCES not in f.parents
    ]


def test_the_packages_named_are_those_of_the_tree(project: dict[str, Any]) -> None:
    found = {"i2am", "i2am.cli", "i2am.storage", "i2am.storage.guard"}
    for stage in STAGES:
        for module in (ROOT / stage).rglob("__init__.py"):
            found.add(".".join(("i2am", *module.parent.relative_to(ROOT).parts)))
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(found)
    assert project["tool"]["setuptools"]["package-dir"] == {f"i2am.{s}": s for s in STAGES}


def test_every_file_that_is_no_module_is_package_data_and_every_pattern_has_a_file(
    project: dict[str, Any],
) -> None:
    patterns: dict[str, list[str]] = project["tool"]["setuptools"]["package-data"]
    matched: set[Path] = set()
    for package, globs in patterns.items():
        folder = _package_folder(package, project)
        for pattern in globs:
            files = {f for f in folder.glob(pattern) if f.is_file()}
            assert files, f"{pattern} of {package} matches nothing"
            matched |= files
    shipped = {f for s in STAGES for f in _files(ROOT / s) if f.suffix != ".py"}
    shipped.add(ROOT / "i2am" / "py.typed")
    assert {str(f.relative_to(ROOT)) for f in matched} == {
        str(f.relative_to(ROOT)) for f in shipped
    }


def test_a_sub_package_says_what_it_is_for_and_is_small(project: dict[str, Any]) -> None:
    packages: list[str] = project["tool"]["setuptools"]["packages"]
    folders = [_package_folder(package, project) for package in packages if package.count(".") > 1]
    assert folders
    for folder in folders:
        tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), folder
        modules = [f for f in folder.glob("*.py") if f.name != "__init__.py"]
        assert len(modules) > 1, folder
        # A model family, a score, a figure is a file of its own, however many there are.
        assert len(modules) <= MOST_MODULES or folder.name in EXTENSION_POINTS, folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_link_leads_to_the_stage_that_is_imported(stage: str) -> None:
    link = ROOT / "i2am" / stage
    assert link.is_symlink()
    assert link.readlink() == Path("..", stage)
    assert Path(str(i2am.__getattr__(stage).__file__)).parent.resolve() == ROOT / stage


def test_the_demos_pictures_are_all_there() -> None:
    rows = read_manifest(ROOT / "capture" / "demo" / "manifest.csv")
    assert len(rows) >= 3
    assert all(row.reference_mask for row in rows)


def test_the_entry_points_are_installed_and_load() -> None:
    points = metadata.distribution("i2am").entry_points
    (script,) = points.select(group="console_scripts")
    assert (script.name, script.value) == ("i2am", "i2am.cli:main")
    assert callable(script.load())
    (manifest,) = points.select(group="napari.manifest")
    assert manifest.value == "i2am.viewer:napari.yaml"


def test_the_licence_expression_is_covered_by_files(project: dict[str, Any]) -> None:
    assert metadata.version("i2am") == project["project"]["version"]
    for name in project["project"]["license-files"]:
        assert (ROOT / name).stat().st_size > 0
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for part in project["project"]["license"].split(" AND ")[1:]:
        kind = part.rsplit("-", 1)[0]  # Without the version, which prose writes in its own way.
        assert kind in notice, f"NOTICE says nothing of {part}"


def test_the_whole_is_the_sum_of_the_extras(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    parts = {"capture", "analysis", "viewer", "notebook", "export"}
    assert set(extras) == {*parts, "all", "ome", "metrics"}
    (whole,) = (line for line in extras["all"] if line.startswith("i2am["))
    assert set(whole.removeprefix("i2am[").removesuffix("]").split(",")) == parts
