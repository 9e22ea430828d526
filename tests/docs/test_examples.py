"""Every public name shows how it is used, or it is said why it need not."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from i2am.analysis.figures import FIGURES
from i2am.schemas import I2AMError

PACKAGES = ("capture", "analysis", "analysis.figures", "page", "viewer", "schemas")
# The gallery shows each of them, and how it is called.
SHOWN = {kind.replace("-", "_") for kind in FIGURES}


def without_example(package: str) -> Iterator[str]:
    module = importlib.import_module(f"i2am.{package}")
    for name in module.__all__:
        own: Any = getattr(module, name)
        is_documented = inspect.isclass(own) or inspect.isfunction(own)
        # Errors have a page of their own, with causes and ways out.
        is_error = inspect.isclass(own) and issubclass(own, (I2AMError, Warning))
        is_shown = package == "analysis.figures" and name in SHOWN
        if (
            is_documented
            and not is_error
            and not is_shown
            and "Examples" not in (own.__doc__ or "")
        ):
            yield f"{package}.{name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_example(package: str) -> None:
    assert list(without_example(package)) == []
