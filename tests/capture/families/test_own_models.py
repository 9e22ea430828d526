"""What a package publishes, as the guide to models of your own says, is found."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from i2am.capture.families import lookup
from i2am.capture.families.lookup import find_profile
from i2am.capture.profiles import profile as profiles
from i2am.schemas import CaptureError

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "own-models.md"
PUBLISHED = """
from i2am.capture import Profile, cross_attention
mine = Profile("mine", ("MyDenoiser",), cross_attention)
other = "something else"
"""


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return what installs a package that publishes a value, as if the interpreter were new."""
    monkeypatch.setattr(profiles, "_profiles", dict(profiles._profiles))

    def install(value: str) -> None:
        package, installed = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
        package.mkdir()
        installed.mkdir()
        (package / "__init__.py").touch()
        (package / "profiles.py").write_text(PUBLISHED)
        about = "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n"
        (installed / "METADATA").write_text(about)
        (installed / "entry_points.txt").write_text(f"[i2am.profiles]\nmine = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        lookup._load_published.cache_clear()

    yield install
    lookup._load_published.cache_clear()
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_a_profile_that_a_package_publishes_as_the_guide_says_is_found(
    publish: Callable[[str], None],
) -> None:
    (fence,) = fences("toml")
    points = tomllib.loads(fence)["project"]["entry-points"]["i2am.profiles"]
    publish(points["mine"])
    mine = type("MyDenoiser", (nn.Module,), {})
    assert find_profile(mine()).name == "mine"


@pytest.mark.parametrize(
    ("value", "came"),
    [
        ("my_package.profiles:other", "got 'something else'"),
        ("my_package.absent:mine", "got ModuleNotFoundError"),
    ],
)
def test_an_entry_point_that_leads_to_no_profile_is_named(
    publish: Callable[[str], None], value: str, came: str
) -> None:
    publish(value)
    with pytest.raises(CaptureError) as caught:
        find_profile(nn.Identity())
    assert f"Expected a Profile at entry point '{value}', {came}" in str(caught.value)
