from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr

from i2am.analysis import (
    default_effects_path,
    describe_store,
    effect_share,
    find_effects,
    open_effects,
    open_run,
    summarise_store,
)
from i2am.analysis.inspection.condition import examine_store, take_out
from i2am.analysis.stores.effects import check_same_capture
from i2am.cli import main
from i2am.schemas import AnalysisError, StoreError, find_faults
from tests.support import reference_maps
from tests.support.effects_store import NAMES, effect_arrays, write_effects
from tests.support.synthetic_run import write_run

Arrays = dict[str, Any]


@pytest.fixture
def arrays() -> Arrays:
    return effect_arrays(orders=("map", "random"))


def test_effects_are_a_mapping_of_complete_samples(tmp_path: Path, arrays: Arrays) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays, "b": arrays})
    reference_maps.change_attributes(path / "b", status="running")
    effects = open_effects(path)
    assert list(effects) == ["a"]
    with pytest.raises(StoreError, match="Expected a complete sample, got none named 'c'"):
        effects["c"]
    with pytest.raises(StoreError, match="Expected a complete sample, got 'b' unfinished"):
        effects["b"]


def test_a_sample_is_labelled_and_lazy(tmp_path: Path, arrays: Arrays) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays})
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        found = open_effects(path)["a"]
        assert found["region"].dims == ("cut", "y", "x")
        assert found["layer_effect"].dims == ("layer", "y", "x")
        assert found["layer"].values.tolist() == list(NAMES)
        assert found["order"].values.tolist() == ["map", "random"]
        assert found["cut_box"].values[1].tolist() == [0, 16, 16, 32]
        assert found["y"].attrs["units"] == "px"
        assert found["y"].values[:2].tolist() == [2, 6]
    np.testing.assert_array_equal(found["layer_effect"], arrays["layer"].astype(np.float32))
    np.testing.assert_array_equal(found["order_cut"], arrays["order_cut"])


def test_edges_and_direct_effects_are_read_under_names_that_are_no_dimensions(
    tmp_path: Path, arrays: Arrays
) -> None:
    more = {
        "edge_name": ["reference->text"],
        "edge": arrays["region"][:1],
        "direct_region": arrays["region"],
        "direct_floor": arrays["floor"],
        "direct_ceiling": arrays["ceiling"],
        "occlusion": arrays["region"],
    }
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays | more})
    found = open_effects(path)["a"]
    assert found["edge"].values.tolist() == ["reference->text"]
    assert found["edge_effect"].shape == (1, 8, 8)
    assert found["occlusion"].dims == found["direct_region"].dims == ("cut", "y", "x")


def _without(name: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.__delitem__(name)


def _changed(name: str, values: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.__setitem__(name, values(arrays[name]))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_without("y"), "a/y: expected an array beside"),
        (_without("cut_box"), "a/cut_box: expected an array beside"),
        (_without("layer_name"), "a/layer_name: expected an array beside"),
        (_without("ceiling"), "a/ceiling: expected an array beside"),
        (_without("order_cut"), "a/order_cut: expected an array beside"),
        (_changed("layer", lambda v: v[:2]), "a/layer_name: expected 2 along 'layer', got 3"),
        (_changed("region", lambda v: v[:, :4]), "expected"),
        (_changed("cut_box", lambda v: v[:, :3]), "a/cut_box: expected 4 along 'corner', got 3"),
        (_changed("layer_name", lambda v: [v[0]] * 3), "expected names that differ"),
        (_changed("y", lambda v: v[::-1]), "a/y: expected numbers that rise"),
    ],
)
def test_a_sample_that_breaks_the_contract_is_refused_and_validation_says_why(
    tmp_path: Path,
    arrays: Arrays,
    spoil: Callable[[Arrays], None],
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(arrays)
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays})
    with pytest.raises(StoreError, match=fault):
        open_effects(path)["a"]
    assert main(["validate", str(path)]) == 1
    assert fault in capsys.readouterr().out


def test_unknown_arrays_groups_and_wrong_types_are_faults(tmp_path: Path, arrays: Arrays) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays})
    group = reference_maps.stored(path / "a")
    group.create_group("more")
    group.create_array("regiom", data=np.zeros(2), dimension_names=["cut"])
    del group["floor"]
    group.create_array("floor", data=np.zeros((8, 8)), dimension_names=["y", "x"])
    faults = [str(fault) for fault in find_faults(describe_store(path))]
    assert faults == [
        "a/more: expected no group here, got one",
        "a/floor: expected dtype float32, got float64",
        "a/regiom: unknown array. Did you mean 'region'?",
    ]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "cut_box",
            [[0, 0, 0, 8]] * 4,
            "boxes with y0 < y1 and x0 < x1, got \\[0.0, 0.0, 0.0, 8.0\\]",
        ),
        (
            "order_cut",
            [[0, 1, 2, 3], [0, 1, 2, 2]],
            "each of 4 regions once, got another, at 'random'",
        ),
        ("count", [0, 1, 2, 3, 5], "counts of at most 4 regions, got 5"),
    ],
)
def test_boxes_orders_and_counts_that_cannot_be_are_refused(
    tmp_path: Path, arrays: Arrays, name: str, values: Any, message: str
) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays | {name: np.array(values)}})
    with pytest.raises(StoreError, match=message):
        open_effects(path)["a"]


def test_stores_of_other_kinds_and_newer_schemas_are_refused(
    tmp_path: Path, arrays: Arrays
) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays})
    run = write_run(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match="Expected an effects store, got a run store"):
        open_effects(run)
    with pytest.raises(StoreError, match="Expected a run store, got an effects store"):
        open_run(path)
    with pytest.raises(StoreError, match="got a sample's group"):
        open_effects(path / "a")
    reference_maps.change_attributes(path, schema=2)
    with pytest.raises(StoreError, match="Expected schema 1, got 2"):
        open_effects(path)


def test_a_root_with_a_status_of_its_own_is_no_sample(tmp_path: Path, arrays: Arrays) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays})
    reference_maps.change_attributes(path, status="complete")
    assert list(open_effects(path)) == ["a"]


def test_effects_of_a_sample_that_was_captured_again_are_told_apart(
    tmp_path: Path, arrays: Arrays
) -> None:
    run = open_run(write_run(tmp_path / "run.zarr", ["a"]))
    effects = open_effects(write_effects(tmp_path / "effects.zarr", {"a": arrays}))
    check_same_capture(effects, run, "a")
    reference_maps.change_attributes(tmp_path / "run.zarr" / "a", created="2026-02-02T00:00:00Z")
    with pytest.raises(StoreError, match="Measure the sample again"):
        check_same_capture(effects, open_run(tmp_path / "run.zarr"), "a")
    # Two that were captured in one second differ in their inventories.
    own = {"source_contents": "another"}
    other = open_effects(write_effects(tmp_path / "other.zarr", {"a": arrays}, own=own))
    with pytest.raises(StoreError, match="Measure the sample again"):
        check_same_capture(other, run, "a")


def test_effects_lie_beside_their_run(tmp_path: Path, arrays: Arrays) -> None:
    run = write_run(tmp_path / "run.zarr")
    assert find_effects(run) is None
    path = write_effects(default_effects_path(run), {"first": arrays}, source="../run.zarr")
    assert find_effects(run) == path
    reference_maps.change_attributes(path, source="../other.zarr")
    assert find_effects(run) is None
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="where the effects of"):
        find_effects(run)


def test_the_summary_tells_what_was_measured(
    tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays["layer"] = np.stack([arrays["ceiling"] * share for share in (0.8, 0.1, 0.004)])
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays, "b": arrays})
    reference_maps.change_attributes(path / "b", status="running")
    facts = summarise_store(path)
    assert facts["kind"] == "effects"
    assert facts["samples"] == "1 complete, 1 not: a"
    assert facts["regions"] == "4"
    assert facts["layers"] == [
        f"{name}: {share} of the effect of all"
        for name, share in zip(NAMES, ("0.800", "0.100", "0.004"), strict=True)
    ]
    assert main(["info", str(path)]) == 0
    assert "deletion (2 order) (5 count)" in capsys.readouterr().out
    assert main(["validate", str(path)]) == 0


def test_damaged_samples_are_taken_out(tmp_path: Path, arrays: Arrays) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays, "b": arrays})
    (path / "a" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    condition = examine_store(path)
    assert list(condition.faults) == ["a"]
    take_out(path, condition.faults, "damaged")
    assert list(open_effects(path)) == ["b"]
    own: Any = zarr.open_group(path / "a", mode="r").attrs["i2am"]
    assert own["status"] == "failed"


def test_the_commands_look_at_every_value_and_take_damaged_samples_out(
    tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays, "b": arrays})
    assert main(["validate", "--deep", str(path)]) == 0
    assert "a: without checksums" in capsys.readouterr().out
    (path / "a" / "zarr.json").write_text("{}")
    assert main(["repair", str(path), "--apply"]) == 0
    assert "1 taken out" in capsys.readouterr().out
    assert list(open_effects(path)) == ["b"]


def test_attributes_of_effects_are_checked(tmp_path: Path, arrays: Arrays) -> None:
    own = {"repaint_difference": -1.0, "pictures": "many"}
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays}, own=own)
    reference_maps.change_attributes(path, source=3)
    places = [fault.place for fault in find_faults(describe_store(path))]
    assert places == ["/attributes", "a/attributes", "a/attributes"]


def test_no_share_is_told_where_the_reference_has_no_effect() -> None:
    import xarray as xr

    nothing = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"))
    with pytest.raises(AnalysisError, match="the model does not use the reference here"):
        effect_share(nothing, nothing)
