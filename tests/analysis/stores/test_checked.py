"""What `i2am validate` finds wrong with a sample, whoever opens the sample is told, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import analyze_run, describe_store, open_maps, open_run
from i2am.analysis.maps.analyze import analyze
from i2am.schemas import I2AMError, StoreError, find_faults
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("one", (2, 2), (2, 2), channels=3, weights=(0.5, 1.0), masked=True),
    SyntheticLayer("two", (2, 2), (2, 2), representation="maps", other_keys=2),
)
Change = Callable[[zarr.Group], None]


def _own(path: str, **values: Any) -> Change:
    def change(root: zarr.Group) -> None:
        own: Any = root[path].attrs["i2am"]
        root[path].attrs["i2am"] = own | values

    return change


def _put(path: str, values: Any, *dims: str | None) -> Change:
    def change(root: zarr.Group) -> None:
        root.create_array(
            path, data=np.asarray(values), dimension_names=dims or None, overwrite=True
        )

    return change


def _delete(path: str) -> Change:
    def change(root: zarr.Group) -> None:
        del root[path]

    return change


def _group(path: str) -> Change:
    def change(root: zarr.Group) -> None:
        root.create_group(path)

    return change


QUERY = ("step", "head", "generated", "channel")
OF_A_RUN: dict[str, Change] = {
    "schema 99": _own("a", schema=99),
    "int16": _put("a/layers/one/query", np.zeros((2, 2, 4, 3), np.int16), *QUERY),
    "no dims": _put("a/layers/one/query", np.zeros((2, 2, 4, 3), np.float16)),
    "a dim without a name": _put(
        "a/layers/one/query", np.zeros((2, 2, 4, 3), np.float16), *QUERY[:3], None
    ),
    "dims in another order": _put(
        "a/layers/one/query", np.zeros((2, 2, 3, 4), np.float16), *QUERY[:2], *QUERY[:1:-1]
    ),
    "steps unlike the coordinate": _put(
        "a/layers/one/query", np.zeros((3, 2, 4, 3), np.float16), *QUERY
    ),
    "no query": _delete("a/layers/one/query"),
    "no layer's metadata": _delete("a/layers/two/r2g"),
    "no step": _delete("a/step"),
    "no layers": _delete("a/layers"),
    "no picture": _delete("a/images/reference"),
    "steps twice": _put("a/step", [1, 1], "step"),
    "a scale of 0": _own("a/layers/one", scale=0),
    "no weight": _put("a/layers/one/weight", np.array([1, np.nan], np.float32), "step"),
    "a region beyond 1": _put("a/layers/one/region", np.full(4, 2, np.float32), "generated"),
    "a box outside": _own("a", box=[100, 100, 5, 5]),
    "another grid": _own("a/layers/one", generated_grid=[4, 1], reference_grid=[1, 1]),
}
OF_MAPS: dict[str, Change] = {
    "no level": _delete("a/r2g/tlam"),
    "int16": _put("a/r2g/ulam", np.zeros((2, 2), np.int16), "y", "x"),
    "steps that fall": _put("a/r2g/step", [1, 0], "step"),
    "heads unlike the volume": _put("a/g2r/head", [0, 1, 2], "head"),
    "pixels that fall": _put("a/r2g/y", [24.0, 8.0], "y"),
    "unknown direction": _group("a/r2r"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.zarr", ["a", "b"], LAYERS, steps=2)


def _refused(stored: Any, path: Path, change: Change) -> str:
    """Change a store, and return what is said when a sample of it is opened."""
    change(zarr.open_group(path, mode="r+"))
    first = next(find_faults(describe_store(path)))
    with pytest.raises(StoreError, match="Expected a sample that keeps the contract") as told:
        stored["a"]
    assert str(first) in str(told.value)
    assert str(told.value).endswith(f"Run 'i2am validate {path}' for all that is wrong with it.")
    assert stored["b"].name == "b"
    return str(told.value)


@pytest.mark.parametrize("change", OF_A_RUN.values(), ids=OF_A_RUN)
def test_a_sample_that_validation_refuses_does_not_open(run: Path, change: Change) -> None:
    assert open_run(run)["a"].name == "a"
    _refused(open_run(run), run, change)


@pytest.mark.parametrize("change", OF_MAPS.values(), ids=OF_MAPS)
def test_maps_that_validation_refuses_do_not_open(
    run: Path, change: Change, tmp_path: Path
) -> None:
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    root = zarr.open_group(maps, mode="r+")
    # As another program writes them: what is changed later has no checksum.
    for group in (root, root["a"], root["b"]):
        own: Any = group.attrs["i2am"]
        group.attrs["i2am"] = {k: v for k, v in own.items() if k not in ("objects", "digest")}
    assert open_maps(maps)["a"].name == "a"
    _refused(open_maps(maps), maps, change)


def test_analysis_goes_on_with_the_other_samples_and_tells_of_the_one(
    run: Path, tmp_path: Path
) -> None:
    _own("b", schema=99)(zarr.open_group(run, mode="r+"))
    with pytest.raises(I2AMError, match=r"'b/attributes: schema: input should be 1, got 99'"):
        analyze_run(run, tmp_path / "maps.zarr", progress=False)
    assert list(open_maps(tmp_path / "maps.zarr")) == ["a"]


def test_the_check_reads_nothing_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_run(run)
    reads = watch_reads(monkeypatch)
    sample = opened["a"]
    keys = [key for key, _ in reads if not key.endswith("zarr.json")]
    assert len(keys) == len(set(keys))
    analyze(sample)
