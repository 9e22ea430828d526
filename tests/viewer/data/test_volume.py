"""Volumes and what fills them, without a window."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from i2am.viewer.data.axes import AVERAGEABLE_DIMS, MapAxes, SliderPosition
from i2am.viewer.data.loader import Loader
from i2am.viewer.data.scores import MapSpread
from i2am.viewer.data.volume import LoadedMaps, MapVolume

AXES_OF_TEST = MapAxes(
    tuple("abc"), ((4, 4),) * 3, (True,) * 3, (0, 1, 2, 3), (900.0, 600.0, 300.0, 1.0), (0, 1)
)
SHAPE = (*AXES_OF_TEST.shape, 4, 5)
EVERY_MEANS = [
    frozenset(one) for n in range(4) for one in itertools.combinations(AVERAGEABLE_DIMS, n)
]
Array = np.ndarray[Any, np.dtype[np.float32]]


class _MapReader:
    """Maps in memory; of layer "b" the first head is missing."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.values: Array = np.random.default_rng(0).random(SHAPE).astype(np.float32)
        self.values[1, :, 0] = np.nan
        self.fails_at = fails_at
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Array]:
        self.may_go_on.wait(20)
        self.calls.append((layer, tuple(steps)))
        if layer == self.fails_at:
            raise OSError("no such chunk")
        return {"r2g": self.values[layer, list(steps)]}

    def step_batches(self, layer: int) -> list[list[int]]:
        return [[0, 1], [2, 3]]

    def preview_steps(self, layer: int, step: int) -> list[int]:
        return [step]


def _empty(**options: Any) -> LoadedMaps:
    return LoadedMaps(AXES_OF_TEST, np.ones((3, 2), bool), (4, 5), **options)


def _loaded(maps: _MapReader, **options: Any) -> LoadedMaps:
    loaded = _empty(**options)
    Loader(maps, {"r2g": loaded}).read_blocking(range(3), range(4))
    return loaded


@pytest.mark.parametrize(
    "averaged_dims",
    EVERY_MEANS,
    ids=lambda averaged_dims: "+".join(sorted(averaged_dims)) or "none",
)
def test_every_mean_is_that_of_the_maps_that_are_there(averaged_dims: frozenset[str]) -> None:
    maps = _MapReader()
    loaded = _loaded(maps)
    axes = tuple(i for i, dim in enumerate(AVERAGEABLE_DIMS) if dim in averaged_dims)
    for position in (SliderPosition(0, 1, 0), SliderPosition(2, 3, 1), SliderPosition(1, 0, 1)):
        at = tuple(slice(None) if i in axes else position[i] for i in range(3))
        truth = np.nanmean(maps.values[at].astype(float).reshape(-1, 4, 5), axis=0)
        np.testing.assert_allclose(loaded.plane(position, averaged_dims), truth, rtol=1e-6)  # type: ignore[arg-type]


def test_a_head_that_a_layer_lacks_has_no_map_and_is_known_to_be_missing() -> None:
    loaded = _loaded(_MapReader())
    assert np.isnan(loaded.plane(SliderPosition(1, 0, 0), frozenset())).all()  # type: ignore[arg-type]
    assert loaded.present.tolist() == [[True, True], [False, True], [True, True]]


def test_a_mean_over_what_is_loaded_is_an_estimate_that_gets_better() -> None:
    maps, loaded = _MapReader(), _empty()
    position, averaged_dims = SliderPosition(0, 0, 1), frozenset({"step"})
    assert loaded.plane(position, averaged_dims) is None
    loaded.add(0, [2], maps.values[0, [2]])
    np.testing.assert_allclose(loaded.plane(position, averaged_dims), maps.values[0, 2, 1])  # type: ignore[arg-type]
    assert not loaded.is_whole(position, averaged_dims)
    loaded.add(0, [0, 1, 2, 3], maps.values[0])  # the third a second time: it counts once
    truth = maps.values[0, :, 1].mean(axis=0)
    np.testing.assert_allclose(loaded.plane(position, averaged_dims), truth, rtol=1e-6)  # type: ignore[arg-type]
    assert loaded.is_whole(position, averaged_dims)


def test_stored_means_are_shown_before_anything_is_loaded() -> None:
    stored = np.full((4, 5), 7, np.float32)
    loaded = _empty(levels={frozenset(AVERAGEABLE_DIMS): stored})
    found = loaded.plane(SliderPosition(0, 0, 0), frozenset(AVERAGEABLE_DIMS))
    np.testing.assert_array_equal(found, stored)


def test_concentration_and_the_share_inside_come_with_the_maps() -> None:
    mask = np.zeros((8, 10))
    mask[:, :5] = 1
    spread = MapSpread(AXES_OF_TEST.shape, mask)
    loaded = _empty(added=spread.add)
    assert np.isnan(spread.inside).all()
    left = np.zeros((1, 2, 4, 5), np.float32)
    left[..., 0] = 1
    loaded.add(2, [1], left)
    assert spread.inside[2, 1].tolist() == [1, 1]
    np.testing.assert_allclose(spread.concentration[2, 1], 0.5)  # 2 of the 4 hot ones
    assert spread.chance == pytest.approx(0.5)
    assert np.isnan(spread.inside[0, 1]).all()


def test_what_is_cut_out_of_a_volume_is_what_numpy_cuts() -> None:
    maps = _MapReader()
    volume = MapVolume(_loaded(maps))
    whole = maps.values[None]
    for key in (
        (0, 2, 1, 1),
        (0, 2, slice(None), 1),
        (0, slice(0, 2), slice(1, 4), 1, slice(1, 3), slice(None)),
        (slice(None), 0, 0, 0, 2, 3),
        0,
    ):
        np.testing.assert_array_equal(volume[key], whole[key])
    np.testing.assert_array_equal(np.asarray(volume), whole)


def test_maps_that_are_too_large_for_memory_lie_in_a_file() -> None:
    maps = _MapReader()
    loaded = _loaded(maps, max_memory_bytes=100)
    assert loaded.is_in_file
    assert not _loaded(maps).is_in_file
    np.testing.assert_array_equal(np.asarray(MapVolume(loaded)), maps.values[None])


def test_what_is_in_view_is_read_before_all_else() -> None:
    maps, loaded = _MapReader(), _empty()
    maps.may_go_on.clear()
    loader = Loader(maps, {"r2g": loaded})
    loader.prioritize([2], [3])
    loader.start()
    loader.prioritize([1], [2])  # another slice came into view meanwhile
    maps.may_go_on.set()
    loader.join(20)
    assert loaded.share_loaded == 1
    first_two = maps.calls[:2]
    assert (1, (2,)) in first_two
    steps = [(layer, step) for layer, steps in maps.calls for step in steps]
    assert len(steps) == len(set(steps)) == 12  # nothing is read twice


def test_a_mean_over_layers_begins_with_one_step_of_each() -> None:
    maps, loaded = _MapReader(), _empty()
    loader = Loader(maps, {"r2g": loaded})
    loader.prioritize(range(3), range(4))
    loader.start()
    loader.join(20)
    assert maps.calls[:3] == [(0, (2,)), (1, (2,)), (2, (2,))]


def test_a_loader_that_is_stopped_reads_no_further() -> None:
    maps, loaded = _MapReader(), _empty()
    maps.may_go_on.clear()
    told: list[object] = []
    loader = Loader(maps, {"r2g": loaded}, arrived=lambda *at: told.append(at))
    loader.start()
    loader.stop()
    maps.may_go_on.set()
    loader.join(20)
    assert len(maps.calls) <= 1
    assert not told


def test_what_cannot_be_read_is_reported_once_and_the_rest_comes() -> None:
    maps, loaded = _MapReader(fails_at=1), _empty()
    errors: list[Exception] = []
    loader = Loader(maps, {"r2g": loaded}, failed=errors.append)
    loader.start()
    loader.join(20)
    assert [str(error) for error in errors] == ["no such chunk"]
    assert loader.error is errors[0]
    assert loaded.share_loaded == pytest.approx(2 / 3)
