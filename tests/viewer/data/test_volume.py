"""Volumes and what fills them, without a window."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import i2am.viewer.data.volume
from i2am.viewer.data.axes import MEANS, Names, Place
from i2am.viewer.data.loader import Loader
from i2am.viewer.data.volume import Volume

NAMES = Names(
    tuple("abc"), ((4, 4),) * 3, (True,) * 3, (0, 1, 2, 3), (900.0, 600.0, 300.0, 1.0), (0, 1)
)
SHAPE = (*NAMES.shape, 4, 5)
EVERY_MEANS = [frozenset(one) for n in range(4) for one in itertools.combinations(MEANS, n)]
Array = np.ndarray[Any, np.dtype[np.float32]]


class _Maps:
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

    def pieces(self, layer: int) -> list[list[int]]:
        return [[0, 1], [2, 3]]

    def soonest(self, layer: int, step: int) -> list[int]:
        return [step]


def _volume(**options: Any) -> Volume:
    return Volume(NAMES, np.ones((3, 2), bool), (4, 5), **options)


def _loaded(maps: _Maps) -> Volume:
    volume = _volume()
    Loader(maps, {"r2g": volume}).read_now(range(3), range(4))
    return volume


@pytest.mark.parametrize("means", EVERY_MEANS, ids=lambda means: "+".join(sorted(means)) or "none")
def test_every_mean_is_that_of_the_maps_that_are_there(means: frozenset[str]) -> None:
    maps = _Maps()
    volume = _loaded(maps)
    axes = tuple(i for i, dim in enumerate(MEANS) if dim in means)
    for place in (Place(0, 1, 0), Place(2, 3, 1), Place(1, 0, 1)):
        at = tuple(slice(None) if i in axes else place[i] for i in range(3))
        truth = np.nanmean(maps.values[at].astype(float).reshape(-1, 4, 5), axis=0)
        np.testing.assert_allclose(volume.plane(place, means), truth, rtol=1e-6)  # type: ignore[arg-type]


def test_a_head_that_a_layer_lacks_has_no_map_and_is_known_to_be_missing() -> None:
    volume = _loaded(_Maps())
    assert np.isnan(volume.plane(Place(1, 0, 0), frozenset())).all()  # type: ignore[arg-type]
    assert volume.present.tolist() == [[True, True], [False, True], [True, True]]


def test_a_mean_over_what_is_loaded_is_an_estimate_that_gets_better() -> None:
    maps, volume = _Maps(), _volume()
    place, means = Place(0, 0, 1), frozenset({"step"})
    assert volume.plane(place, means) is None
    volume.add(0, [2], maps.values[0, [2]])
    np.testing.assert_allclose(volume.plane(place, means), maps.values[0, 2, 1])  # type: ignore[arg-type]
    assert not volume.is_whole(place, means)
    volume.add(0, [0, 1, 2, 3], maps.values[0])  # the third a second time: it counts once
    truth = maps.values[0, :, 1].mean(axis=0)
    np.testing.assert_allclose(volume.plane(place, means), truth, rtol=1e-6)  # type: ignore[arg-type]
    assert volume.is_whole(place, means)


def test_stored_means_are_shown_before_anything_is_loaded() -> None:
    stored = np.full((4, 5), 7, np.float32)
    volume = _volume(levels={frozenset(MEANS): stored})
    found = volume.plane(Place(0, 0, 0), frozenset(MEANS))
    np.testing.assert_array_equal(found, stored)


def test_concentration_and_the_share_inside_come_with_the_maps() -> None:
    mask = np.zeros((8, 10))
    mask[:, :5] = 1
    volume = _volume(mask=mask)
    assert np.isnan(volume.inside).all()
    left = np.zeros((1, 2, 4, 5), np.float32)
    left[..., 0] = 1
    volume.add(2, [1], left)
    assert volume.inside[2, 1].tolist() == [1, 1]
    np.testing.assert_allclose(volume.concentration[2, 1], 0.5)  # 2 of the 4 hot ones
    assert volume.chance == pytest.approx(0.5)
    assert np.isnan(volume.inside[0, 1]).all()


def test_what_is_cut_out_of_a_volume_is_what_numpy_cuts() -> None:
    maps = _Maps()
    volume = _loaded(maps)
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


def test_a_large_volume_lies_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(i2am.viewer.data.volume, "_MEMORY_BYTES", 100)
    maps = _Maps()
    volume = _loaded(maps)
    assert isinstance(volume._maps, np.memmap)
    np.testing.assert_array_equal(np.asarray(volume), maps.values[None])


def test_what_is_in_view_is_read_before_all_else() -> None:
    maps, volume = _Maps(), _volume()
    maps.may_go_on.clear()
    loader = Loader(maps, {"r2g": volume})
    loader.want([2], [3])
    loader.start()
    loader.want([1], [2])  # another slice came into view meanwhile
    maps.may_go_on.set()
    loader.join(20)
    assert volume.share_loaded == 1
    first_two = maps.calls[:2]
    assert (1, (2,)) in first_two
    steps = [(layer, step) for layer, steps in maps.calls for step in steps]
    assert len(steps) == len(set(steps)) == 12  # nothing is read twice


def test_a_mean_over_layers_begins_with_one_step_of_each() -> None:
    maps, volume = _Maps(), _volume()
    loader = Loader(maps, {"r2g": volume})
    loader.want(range(3), range(4))
    loader.start()
    loader.join(20)
    assert maps.calls[:3] == [(0, (2,)), (1, (2,)), (2, (2,))]


def test_a_loader_that_is_stopped_reads_no_further() -> None:
    maps, volume = _Maps(), _volume()
    maps.may_go_on.clear()
    told: list[object] = []
    loader = Loader(maps, {"r2g": volume}, arrived=lambda *at: told.append(at))
    loader.start()
    loader.stop()
    maps.may_go_on.set()
    loader.join(20)
    assert len(maps.calls) <= 1
    assert not told


def test_what_cannot_be_read_is_told_once_and_the_rest_comes() -> None:
    maps, volume = _Maps(fails_at=1), _volume()
    errors: list[Exception] = []
    loader = Loader(maps, {"r2g": volume}, failed=errors.append)
    loader.start()
    loader.join(20)
    assert [str(error) for error in errors] == ["no such chunk"]
    assert loader.error is errors[0]
    assert volume.share_loaded == pytest.approx(2 / 3)
