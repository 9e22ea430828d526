"""The guide to models of your own: its code runs as it stands, and published profiles are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from i2am.capture.profiles import profile as profiles
from tests.support.compvis.models import PLMSSampler, dci_vton

GUIDE = Path(__file__).parents[3] / "docs" / "own-models.md"
PUBLISHED = """
from i2am.capture import Profile, cross_attention
mine = Profile("mine", ("MyDenoiser",), cross_attention)
other = "something else"
"""
ASKED = """
from torch import nn
from i2am.capture.profiles.profile import find_profile
class MyDenoiser(nn.Module): ...
print(find_profile(MyDenoiser()).name)
"""


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_code_of_the_guide_runs_from_the_top_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiles, "_profiles", dict(profiles._profiles))  # It registers one.
    model = dci_vton()
    names = {"__name__": "guide", "model": model, "sampler": PLMSSampler(model)}
    code = fences("python")
    assert len(code) == 7
    for fence in code:
        exec(compile(fence, str(GUIDE), "exec"), names)
    assert {path.name for path in Path("run.zarr").iterdir() if path.is_dir()} == {
        *("one", "cropped", "two", "joint", "shirt-001")
    }


def ask_with_entry_point(folder: Path, value: str) -> subprocess.CompletedProcess[str]:
    """Install a package that publishes `value`, and look for a profile in a new interpreter."""
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "profiles.py").write_text(PUBLISHED)
    installed = folder / "my_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[i2am.profiles]\nmine = {value}\n")
    call = [sys.executable, "-c", ASKED]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(call, capture_output=True, text=True, check=False, env=environment)


def test_a_profile_that_a_package_publishes_as_the_guide_says_is_found(tmp_path: Path) -> None:
    (fence,) = fences("toml")
    points = tomllib.loads(fence)["project"]["entry-points"]["i2am.profiles"]
    answer = ask_with_entry_point(tmp_path, points["mine"])
    assert (answer.stdout, answer.returncode) == ("mine\n", 0), answer.stderr


@pytest.mark.parametrize(
    ("value", "came"),
    [
        ("my_package.profiles:other", "got 'something else'"),
        ("my_package.absent:mine", "got ModuleNotFoundError"),
    ],
)
def test_an_entry_point_that_leads_to_no_profile_is_named(
    tmp_path: Path, value: str, came: str
) -> None:
    answer = ask_with_entry_point(tmp_path, value)
    assert answer.returncode == 1
    assert f"Expected a Profile at entry point '{value}', {came}" in answer.stderr
