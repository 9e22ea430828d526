from __future__ import annotations

import numpy as np
import pytest

from i2am.analysis.scores.detection import Box, bounding_box, box_iou, detect_box, random_box


def heat_of(
    *boxes: Box, size: tuple[int, int] = (60, 80)
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    heat = np.zeros(size)
    for x, y, width, height in boxes:
        heat[y : y + height, x : x + width] = 1
    return heat


def test_a_bright_square_is_boxed_and_grows_by_the_dilation() -> None:
    assert detect_box(heat_of((20, 10, 16, 12))) == (18, 8, 20, 16)


def test_specks_are_opened_away_and_narrow_gaps_closed() -> None:
    specks_and_halves = heat_of((3, 50, 3, 3), (20, 10, 10, 12), (33, 10, 10, 12))
    assert detect_box(specks_and_halves) == (18, 8, 27, 16)


def test_the_box_with_most_foreground_wins() -> None:
    assert detect_box(heat_of((2, 2, 10, 10), (40, 20, 20, 20))) == (38, 18, 24, 24)


def test_what_touches_the_edge_is_not_eaten_by_it() -> None:
    assert detect_box(heat_of((0, 10, 3, 20))) == (0, 8, 5, 24)
    assert detect_box(heat_of((20, 10, 3, 20))) is None


def test_a_constant_map_has_no_box() -> None:
    assert detect_box(np.ones((20, 20))) is None


def test_only_the_brightest_third_is_foreground() -> None:
    heat = np.tile(np.arange(100.0), (40, 1))
    assert detect_box(heat) == (63, 0, 37, 40)  # 65 and above, less the dilation


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0),
        ((0, 0, 4, 4), (4, 0, 4, 4), 0.0),
        ((0, 0, 4, 4), (9, 9, 1, 1), 0.0),
        ((0, 0, 4, 4), (2, 2, 4, 4), 4 / 28),
        ((0, 0, 10, 10), (2, 3, 5, 4), 0.2),
    ],
)
def test_iou_is_the_shared_area_by_the_united(first: Box, second: Box, wanted: float) -> None:
    assert box_iou(first, second) == pytest.approx(wanted)
    assert box_iou(second, first) == pytest.approx(wanted)


def test_the_bounding_box_of_nothing_is_none() -> None:
    assert bounding_box(np.zeros((3, 3))) is None
    assert bounding_box(heat_of((5, 6, 7, 8))) == (5, 6, 7, 8)


def test_random_boxes_keep_to_their_area_aspect_and_the_image() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((400, 600), rng) for _ in range(2000)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 600).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 400).all()
    area = boxes[:, 2] * boxes[:, 3] / (400 * 600)
    aspect = boxes[:, 2] / boxes[:, 3]
    assert 0.098 < area.min() < 0.11
    assert 0.28 < area.max() < 0.302
    assert 0.49 < aspect.min() < 0.52
    assert 1.9 < aspect.max() < 2.02
