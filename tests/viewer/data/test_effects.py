"""Measured effects as the viewer reads them: of this sample or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.schemas import StoreError
from i2am.viewer.data.effects import (
    Effects,
    NoEffects,
    check_effects,
    effects_of_view,
    read_effects,
)
from i2am.viewer.data.open_sample import open_view
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.maps_store import NAMES, spot_volume, write_maps
from tests.support.synthetic_run import LAYERS, write_run

QUARTERS = ((0, 0, 16, 16), (0, 16, 16, 32), (16, 0, 32, 16))
SIXTEENTHS = ((16, 16, 24, 24), (16, 24, 24, 32), (24, 16, 32, 24), (24, 24, 32, 32))
ADAPTIVE = QUARTERS + SIXTEENTHS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.zarr", ("first", "second"))


def read(run: Path, **options: Any) -> Effects:
    found = read_effects(str(run), "first", **options)
    assert isinstance(found, Effects), found
    return found


def why_none(run: Path, **options: Any) -> NoEffects:
    found = read_effects(str(run), "first", **options)
    assert isinstance(found, NoEffects)
    return found


def in_latents(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the effects without those in pixels."""
    return {name: values for name, values in arrays.items() if not name.endswith("_pixels")}


def adaptive_arrays() -> dict[str, Any]:
    """Return effects of three regions of a quarter of the reference, and of four of a sixteenth."""
    arrays = in_latents(effect_arrays())
    region = np.random.default_rng(3).uniform(0.1, 1, (len(ADAPTIVE), 8, 8))
    return arrays | {"cut_box": np.array(ADAPTIVE), "region": region}


def test_effects_are_read_as_they_were_stored(run: Path) -> None:
    arrays = effect_arrays()
    write_effects(run.parent / "effects.zarr", {"first": arrays})
    effects = read(run)
    np.testing.assert_array_equal(effects.region, arrays["region"].astype(np.float32))
    np.testing.assert_array_equal(effects.cut_boxes, arrays["cut_box"])
    assert tuple(effects.box) == (0, 0, 32, 32)
    assert effects.noise == pytest.approx(1e-6)
    whole = np.sqrt((arrays["ceiling"] ** 2).mean())
    assert effects.whole == pytest.approx(whole)
    assert effects.layer_shares == pytest.approx(
        {
            name: np.sqrt((own**2).mean()) / whole
            for name, own in zip(NAMES, arrays["layer"], strict=True)
        }
    )


def test_a_pixel_has_the_effects_of_its_patch_and_an_area_those_of_all_its_patches(
    run: Path,
) -> None:
    arrays = effect_arrays()
    write_effects(run.parent / "effects.zarr", {"first": arrays})
    effects = read(run)
    np.testing.assert_allclose(
        effects.on_patches((9, 30, 10, 31)), arrays["region"][:, 2, 7], rtol=1e-6
    )
    assert tuple(effects.patch_box((9, 30, 10, 31))) == (8, 28, 12, 32)
    wanted = np.sqrt((arrays["region"][:, 1:3, 0:2] ** 2).mean((1, 2)))
    np.testing.assert_allclose(effects.on_patches((6, 0, 12, 5)), wanted, rtol=1e-6)
    assert tuple(effects.patch_box((6, 0, 12, 5))) == (4, 0, 12, 8)


def test_a_place_of_the_reference_has_the_effect_of_the_region_that_holds_it(run: Path) -> None:
    arrays = adaptive_arrays()
    write_effects(run.parent / "effects.zarr", {"first": arrays})
    effects = read(run)
    for (y, x), cut in (((0, 0), 0), ((15, 16), 1), ((16, 15), 2), ((16, 16), 3), ((31, 31), 6)):
        assert effects.cuts_at((y, x, y + 1, x + 1)) == [cut]
    own: Any = effects.of_regions((20, 20, 21, 21))
    np.testing.assert_allclose(own, arrays["region"][3], rtol=1e-6)
    own = effects.of_regions((20, 20, 21, 26))
    np.testing.assert_allclose(own, arrays["region"][3:5].mean(0), rtol=1e-6)


def test_regions_of_several_sizes_are_painted_where_they_lie(run: Path) -> None:
    write_effects(run.parent / "effects.zarr", {"first": adaptive_arrays()})
    painted = read(run).paint(np.arange(7, dtype=np.float32))
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 4], [2, 2, 5, 6]]
    np.testing.assert_array_equal(painted, expected)


def test_regions_on_no_common_grid_are_painted_pixel_by_pixel(run: Path) -> None:
    arrays = effect_arrays(cuts=(1, 2))
    boxes = np.array([(0, 0, 32, 11.0), (0, 21, 32, 32)])  # a gap between them
    write_effects(run.parent / "effects.zarr", {"first": arrays | {"cut_box": boxes}})
    effects = read(run)
    painted = effects.paint(np.array([5, 6], np.float32))
    assert painted.shape[1] == 32
    np.testing.assert_array_equal(painted[0], [5] * 11 + [np.nan] * 10 + [6] * 11)
    assert effects.of_regions((3, 15, 4, 16)) is None


def test_without_effects_there_is_a_reason_and_no_alarm(run: Path) -> None:
    found = why_none(run)
    assert found == NoEffects("No effects were measured of this run: 'i2am causal' does.")
    write_effects(run.parent / "effects.zarr", {"second": effect_arrays()})
    assert why_none(run) == NoEffects("effects.zarr holds no finished effects of 'first'.")


def test_a_named_store_comes_before_the_one_beside_the_run(run: Path, tmp_path: Path) -> None:
    write_effects(run.parent / "effects.zarr", {"first": effect_arrays()})
    own = write_effects(tmp_path / "mine.zarr", {"first": effect_arrays(seed=5)}, source="x.zarr")
    np.testing.assert_allclose(
        read(run, effects=own).region, effect_arrays(seed=5)["region"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "other.zarr"}, "has the effects of another run, 'other.zarr'"),
        ({"own": {"source_created": "2025-01-01T00:00:00Z"}}, "it was captured anew"),
        ({"own": {"source_contents": "0123"}}, "it was captured anew"),
    ],
    ids=["another run", "another day", "other contents"],
)
def test_effects_of_another_run_or_of_a_changed_sample_are_refused(
    run: Path, change: dict[str, Any], message: str
) -> None:
    write_effects(run.parent / "effects.zarr", {"first": effect_arrays()}, **change)
    found = why_none(run)
    assert found.is_refused
    assert message in found.reason


def test_a_named_store_of_a_changed_sample_is_refused_too(run: Path, tmp_path: Path) -> None:
    own = {"source_created": "2025-01-01T00:00:00Z"}
    path = write_effects(tmp_path / "mine.zarr", {"first": effect_arrays()}, own=own)
    assert why_none(run, effects=path).is_refused


def test_unfinished_effects_do_not_exist_yet(run: Path) -> None:
    write_effects(
        run.parent / "effects.zarr", {"first": effect_arrays()}, own={"status": "running"}
    )
    assert why_none(run) == NoEffects("effects.zarr holds no finished effects of 'first'.")


def _without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("ceiling"), "first/ceiling: expected an array"),
        (lambda a: a | {"ceiling": a["ceiling"][:4]}, "expected 4 along 'y', got 8"),
        (lambda a: a | {"region": -a["region"]}, "none below 0, got others, at region of first"),
        (lambda a: a | {"layer": a["layer"] * np.nan}, "Expected finite numbers"),
        (lambda a: a | {"cut_box": a["cut_box"][:, ::-1]}, "Expected boxes with y0 < y1"),
    ],
    ids=["no ceiling", "another grid", "negative", "not a number", "no area"],
)
def test_what_breaks_the_contract_is_an_error(
    run: Path, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    arrays = change(in_latents(effect_arrays()))
    write_effects(run.parent / "effects.zarr", {"first": arrays})
    with pytest.raises(StoreError, match=message):
        read_effects(str(run), "first")


def test_without_effects_of_layers_no_layer_has_a_share(run: Path) -> None:
    arrays = in_latents(effect_arrays())
    del arrays["layer"], arrays["layer_name"]
    write_effects(run.parent / "effects.zarr", {"first": arrays})
    assert read(run).layer_shares == {}


def test_effects_do_not_lie_over_another_reference(tmp_path: Path) -> None:
    layers = [replace(LAYERS[0], name=f"{LAYERS[0].name}.reference_1", reference_index=1)]
    run = write_run(tmp_path / "run.zarr", ("first",), layers)
    write_effects(tmp_path / "effects.zarr", {"first": in_latents(effect_arrays())})
    found = effects_of_view(open_view(run))
    assert isinstance(found, NoEffects)
    assert "Effects are of the first reference" in found.reason
    run = write_run(tmp_path / "b" / "run.zarr", ("first",))
    write_effects(tmp_path / "b" / "effects.zarr", {"first": in_latents(effect_arrays())})
    assert isinstance(effects_of_view(open_view(run)), Effects)


def test_another_kind_of_store_is_an_error(run: Path, tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps.zarr", {"first": {"r2g": spot_volume()}})
    with pytest.raises(StoreError, match="Expected an effects store, got a maps store"):
        check_effects(maps)
    with pytest.raises(StoreError, match="Expected a store, got nothing"):
        check_effects(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match="got a run store"):
        read_effects(str(run), "first", run)
