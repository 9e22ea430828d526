from __future__ import annotations

import json
from pathlib import Path

import pytest

from i2am.schemas import MissingExtra, require


def test_an_installed_package_is_returned() -> None:
    assert require("json", "to test", "capture") is json


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part"])
def test_a_missing_package_is_named_with_its_purpose_and_extra(name: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        require(name, "to draw", "viewer")
    assert str(caught.value) == (
        "The no_such_package package is needed to draw; install with pip install 'i2am[viewer]'."
    )
    assert caught.value.name == "no_such_package"


def test_a_package_that_is_broken_inside_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_inside.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        require("broken_inside", "to test", "capture")
    assert not isinstance(caught.value, MissingExtra)
