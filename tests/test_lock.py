"""The lock holds what pyproject.toml asks for, and nothing that `make setup` must not install."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "requirements.lock").is_file(), reason="needs the source tree"
)


@pytest.fixture(scope="module")
def locked() -> dict[str, Requirement]:
    return read_lock("requirements.lock")


def test_every_direct_dependency_is_pinned_to_a_version_that_is_allowed(
    locked: dict[str, Requirement],
) -> None:
    for wanted in (*dependencies(), *tools()):
        pin = locked[canonicalize_name(wanted.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert wanted.specifier.contains(exact.version), f"{wanted} is locked at {exact}"


def test_the_lock_names_no_index_and_no_cuda_libraries(locked: dict[str, Requirement]) -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "make lock" in text.splitlines()[1]
    assert "://" not in text
    assert not [name for name in locked if re.match("nvidia|cuda|triton", name)]
    assert str(locked["torch"].specifier) == "==2.13.0"


def test_the_lowest_versions_are_tested_as_they_stand_in_pyproject() -> None:
    lowest = read_lock("requirements-lowest.lock")
    for wanted in dependencies():
        (bound,) = wanted.specifier
        assert bound.operator == ">="
        (pin,) = lowest[canonicalize_name(wanted.name)].specifier
        if wanted.name == "torch":  # The Makefile says why.
            assert pin.version == "2.13.0"
        else:
            assert Version(pin.version) == Version(bound.version), wanted


def read_lock(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    found: dict[str, Requirement] = {canonicalize_name(pin.name): pin for pin in pins}
    assert len(found) == len(pins), "one version serves every platform and Python"
    return found


def dependencies() -> Iterator[Requirement]:
    """Yield what pyproject.toml asks for, in all extras."""
    project = read_pyproject()["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from (Requirement(line) for line in group if not line.startswith("i2am["))


def tools() -> Iterator[Requirement]:
    groups = read_pyproject()["dependency-groups"]
    assert {"include-group": "docs"} in groups["dev"]
    for line in (*groups["dev"], *groups["docs"]):
        if isinstance(line, str):
            yield Requirement(line)


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
