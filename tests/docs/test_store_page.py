"""The page of the store names every array, dimension and kind that the contract knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from i2am.schemas import dims
from i2am.schemas.attributes import CONVENTION

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "store.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")


def rows(heading: str) -> dict[str, str]:
    """Return the second cell of each row of a part's tables, by the names in the first."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE)
    return {name: cell for names, cell in found for name in re.findall(r"`(\w+)`", names)}


def listed(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", cell))


def test_every_array_of_a_run_is_there_with_its_dimensions() -> None:
    told = rows("A run")
    wanted = {name: (*left_out, *always) for name, (left_out, always) in dims.LAYER_ARRAYS.items()}
    wanted |= dims.IMAGE_ARRAYS
    assert {name: listed(cell) for name, cell in told.items()} == wanted


def test_every_level_of_maps_is_there_with_its_dimensions() -> None:
    told = {name: listed(cell.partition(":")[0]) for name, cell in rows("Maps").items()}
    assert told == {name: own or ("none",) for name, own in dims.LEVELS.items()}


def test_every_array_of_effects_is_there_with_its_dimensions() -> None:
    told = {name: listed(cell) for name, cell in rows("Measured effects").items()}
    assert told == dims.EFFECT_ARRAYS
    text = PAGE.read_text(encoding="utf-8")
    for name, own in dims.EFFECT_COORDINATES.items():
        if name not in dims.GENERATED_PLANE:
            assert f"`{name} ({', '.join(own)})`" in text


def test_the_convention_is_as_it_is_written() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for key, value in CONVENTION.items():
        assert f'"{key}": "{value}"' in text
