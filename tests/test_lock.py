"""The lock holds what pyproject.toml asks for, and nothing that `make setup` must not install."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "requirements.lock").is_file(), reason="needs the source tree"
)


@pytest.fixture(scope="module")
def locked() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    found: dict[str, Requirement] = {canonicalize_name(pin.name): pin for pin in pins}
    assert len(found) == len(pins), "one version serves every platform and Python"
    return found


def test_every_direct_dependency_is_pinned_to_a_version_that_is_allowed(
    locked: dict[str, Requirement],
) -> None:
    for wanted in direct_dependencies():
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


def direct_dependencies() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    for group in (project["project"]["dependencies"], *extras, project["dependency-groups"]["dev"]):
        for line in group:
            if not line.startswith("i2am["):
                yield Requirement(line)
