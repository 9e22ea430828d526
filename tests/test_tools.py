"""What the scripts of ``tools/`` find."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

ROOT = Path(__file__).parents[1]
COMPARE = ROOT / "tools" / "compare_stores.py"

pytestmark = pytest.mark.skipif(not COMPARE.is_file(), reason="needs the source tree")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """A tiny store and its copy, in which two facts differ that differ from run to run."""
    first, second = tmp_path / "a.zarr", tmp_path / "b.zarr"
    root: Any = zarr.create_group(first, attributes={"i2am": {"schema": 1, "source": "run.zarr"}})
    facts = {"created": "today", "scale": 0.5, "grid": [1, 2]}
    sample: Any = root.create_group("one", attributes={"i2am": facts})
    values = np.array([[1.0, np.nan, -0.0], [2.0, 3.0, 4.0]], np.float32)
    sample.create_array("map", data=values, dimension_names=("y", "x"))
    sample.create_array("name", data=np.array(["up", "down"], np.dtypes.StringDType()))
    sample.create_array("scalar", data=np.array(7))
    shutil.copytree(first, second)
    other: Any = zarr.open_group(second, mode="r+")
    other.attrs["i2am"] = {"schema": 1, "source": "elsewhere.zarr"}
    other["one"].attrs["i2am"] = facts | {"created": "tomorrow"}
    return first, second


def compare(first: Path, second: Path) -> tuple[int, list[str]]:
    call = [sys.executable, "-W", "ignore", str(COMPARE), str(first), str(second)]
    answer = subprocess.run(call, capture_output=True, text=True, check=False)
    assert not answer.stderr
    return answer.returncode, answer.stdout.splitlines()


def edited(store: Path) -> Any:
    root: Any = zarr.open_group(store, mode="r+")
    return root["one"]


def test_a_copy_is_identical(stores: tuple[Path, Path]) -> None:
    assert compare(*stores) == (0, ["2 groups and 3 arrays are bit-identical"])


def test_a_value_that_differs_by_a_bit_is_found(stores: tuple[Path, Path]) -> None:
    array = edited(stores[1])["map"]
    values = array[...]
    values.view(np.uint32)[1, 0] ^= 1
    array[...] = values
    code, lines = compare(*stores)
    assert (code, lines[0]) == (1, "one/map: 1 of 6 values differ")


@pytest.mark.parametrize(
    "value", [pytest.param(0.0, id="sign of zero"), pytest.param(-np.nan, id="sign of NaN")]
)
def test_bits_are_compared_and_not_values(stores: tuple[Path, Path], value: float) -> None:
    place = (0, 1) if np.isnan(value) else (0, 2)
    edited(stores[1])["map"][place] = np.float32(value)
    assert compare(*stores)[1][0] == "one/map: 1 of 6 values differ"


def test_another_text_is_found(stores: tuple[Path, Path]) -> None:
    edited(stores[1])["name"][1] = "mid"
    assert compare(*stores)[1][0] == "one/name: 1 of 2 values differ"


@pytest.mark.parametrize("missing", ["first", "second"])
def test_a_missing_array_is_found(stores: tuple[Path, Path], missing: str) -> None:
    there = {"first": 1, "second": 0}[missing]
    shutil.rmtree(stores[1 - there] / "one" / "map")
    held = {"first": "second", "second": "first"}[missing]
    code, lines = compare(*stores)
    assert (code, lines[0]) == (1, f"one/map: only in the {held} store")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param({"scale": 0.25}, "one: attribute i2am scale: 0.5 or 0.25", id="changed"),
        pytest.param({"seed": 1}, "one: attribute i2am seed: 'absent' or 1", id="new"),
        pytest.param(
            {"grid": [1, 3]}, "one: attribute i2am grid: [1, 2] or [1, 3]", id="in a list"
        ),
    ],
)
def test_a_changed_attribute_is_found(
    stores: tuple[Path, Path], change: dict[str, Any], line: str
) -> None:
    sample = edited(stores[1])
    sample.attrs["i2am"] = sample.attrs["i2am"] | change
    code, lines = compare(*stores)
    assert (code, lines[0]) == (1, line)


@pytest.mark.parametrize(
    ("values", "dims", "line"),
    [
        pytest.param(np.zeros((2, 3), "f8"), ("y", "x"), "dtype float32 or float64", id="dtype"),
        pytest.param(np.zeros((3, 3), "f4"), ("y", "x"), "shape (2, 3) or (3, 3)", id="shape"),
        pytest.param(
            np.array([[1, np.nan, -0.0], [2, 3, 4]], "f4"),
            ("x", "y"),
            "dimension names ('y', 'x') or ('x', 'y')",
            id="dims",
        ),
    ],
)
def test_another_kind_of_array_is_found(
    stores: tuple[Path, Path], values: Any, dims: tuple[str, ...], line: str
) -> None:
    sample = edited(stores[1])
    del sample["map"]
    sample.create_array("map", data=values, dimension_names=dims)
    assert compare(*stores)[1][0] == f"one/map: {line}"
