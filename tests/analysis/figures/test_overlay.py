"""Heat lies where the map is high, and leaves the picture alone where it is low."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2am.analysis.figures.heat import enlarge, frame_of
from i2am.analysis.figures.overlay import colorbar_colors, heat_of, overlay, value_range
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.schemas import AnalysisError, Box

# The picture as it is, and heat of one channel that hides it.
PURE = FigureStyle(opacity=1, colormap="gray", base="picture")


@given(
    shape=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    size=st.tuples(st.integers(20, 70), st.integers(20, 70)),
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_hottest_pixel_lies_in_the_cell_where_the_map_peaks(
    shape: tuple[int, int], size: tuple[int, int], place: tuple[float, float]
) -> None:
    peak = tuple(int(share * count) for share, count in zip(place, shape, strict=True))
    values = np.zeros(shape)
    values[peak] = 3.0
    light = overlay(np.zeros((*size, 3), np.uint8), values, (0.0, 3.0)).sum(axis=-1)
    found = np.unravel_index(light.argmax(), light.shape)
    for pixel, count, cell, cells in zip(found, light.shape, peak, shape, strict=True):
        assert cell <= (pixel + 0.5) / count * cells <= cell + 1


def test_heat_is_upsampled_bilinearly_between_the_centres_of_cells() -> None:
    black = np.zeros((384, 384, 3), np.uint8)
    shown = overlay(black, [[0.0, 1.0, 0.5]] * 3, (0.0, 1.0), PURE)
    columns = (np.arange(384) + 0.5) / 384 * 3
    heat = np.interp(columns, [0.5, 1.5, 2.5], [0.0, 1.0, 0.5])
    # Grey as bright as the heat, as opaque as its root; the colormap has 256 greys.
    np.testing.assert_allclose(shown[5, :, 0] / 255, heat**1.5, atol=0.01)


def test_picture_is_untouched_where_heat_is_lowest_and_tinted_more_the_hotter() -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    values = [[0.0, 0.0, 1.0, 2.0, 2.0]] * 5
    shown = overlay(grey, values, (0.0, 2.0), FigureStyle(base="picture")).astype(int)
    change = np.abs(shown - 100).sum(axis=-1)[192, [20, 192, 370]]
    assert change[0] == 0
    assert 0 < change[1] < change[2]


def test_hottest_place_has_the_colormaps_last_color_at_the_given_opacity() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    shown = overlay(
        white,
        np.ones((2, 2)),
        (0.0, 1.0),
        FigureStyle(opacity=0.6, colormap="gray_r", base="picture"),
    )
    assert np.unique(shown).tolist() == [round(255 * 0.4)]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        pytest.param(FigureStyle(), [0, 0.25, 0.5, 1], id="direct"),
        pytest.param(FigureStyle(polarity="inverted"), [1, 0.75, 0.5, 0], id="inverted"),
        pytest.param(FigureStyle(threshold=0.25), [0, 0, 0.5, 1], id="at the threshold is cold"),
        pytest.param(
            FigureStyle(polarity="inverted", threshold=0.6),
            [1, 0.75, 0, 0],
            id="inverted, then cut",
        ),
    ],
)
def test_heat_is_min_max_then_polarity_then_threshold(
    style: FigureStyle, expected: list[float]
) -> None:
    assert heat_of([2.0, 3.0, 4.0, 6.0], (2.0, 6.0), style).tolist() == expected


def test_heat_of_a_flat_map_and_of_nan_is_cold() -> None:
    assert heat_of([5.0, 5.0], (5.0, 5.0), FigureStyle(polarity="inverted")).tolist() == [0, 0]
    assert heat_of([np.nan, 1.0], (0.0, 1.0)).tolist() == [0, 1]
    assert value_range([[np.nan, 2.0], [7.0]]) == (2.0, 7.0)
    assert value_range([[np.nan]]) == (0.0, 0.0)


def test_the_color_bar_has_the_colormaps_own_colors_whatever_the_opacity() -> None:
    pure = mpl.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3]
    for style in (DEFAULT_STYLE, FigureStyle(opacity=0.2, base="none")):
        np.testing.assert_allclose(colorbar_colors(style), pure, atol=0.002)
    inverted = FigureStyle(polarity="inverted", threshold=0.5)
    np.testing.assert_allclose(colorbar_colors(inverted)[:127], pure[:128:-1], atol=0.01)
    assert np.ptp(colorbar_colors(inverted)[129:]) == 0  # What is not drawn has no color.


def test_over_a_picture_in_grey_all_color_is_heat() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    shown = overlay(picture, [[0.0, 0.0, 1.0, 1.0]], (0.0, 1.0)).astype(int)
    quarter = shown.shape[1] // 4
    assert np.ptp(shown[:, :quarter], axis=-1).max() == 0
    assert shown[:, :quarter].max() <= 153
    assert np.ptp(shown[:, 3 * quarter :], axis=-1).min() > 60


def test_heat_alone_hides_the_picture_and_leaves_grey_where_no_value_is() -> None:
    style = FigureStyle(base="none", colormap="gray", opacity=0.1)
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
    shown = overlay(noise, [[0.0, 1.0]] * 2, (0.0, 1.0), style, Box(0, 0, 384, 192))
    assert np.unique(shown[:, 192:]).tolist() == [200]
    assert shown[0, [0, 191]].tolist() == [[0] * 3, [255] * 3]


def test_small_pictures_are_repeated_not_smoothed() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    shown = enlarge(picture)
    assert shown.shape == (512, 384, 3)
    np.testing.assert_array_equal(shown[::8, ::8], picture)
    np.testing.assert_array_equal(shown[7::8, 7::8], picture)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"polarity": "invert"}, "known polarity, got 'invert', at polarity. Did you mean 'inv"
        ),
        pytest.param({"contrast": "own"}, "Expected a known contrast, got 'own'"),
        pytest.param({"colormap": "infernal"}, "Did you mean 'inferno'"),
        pytest.param({"threshold": 1.0}, r"threshold in \[0, 1\), got 1.0"),
        pytest.param({"base": "gray"}, "known base, got 'gray', at base. Did you mean 'grey'"),
        pytest.param({"width": 0.5}, "width of 2 to 20 inches, got 0.5"),
        pytest.param({"opacity": 0.0}, r"opacity in \(0, 1\], got 0.0"),
    ],
)
def test_unknown_style_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        FigureStyle(**options)


def test_a_map_lies_in_its_box_and_the_rest_is_dimmed() -> None:
    # Of 400 x 1200 pixels the model saw 100 to 300 by 400 to 1000: cells of 100 x 200.
    grey = np.full((400, 1200, 3), 100, np.uint8)
    values = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    shown = overlay(grey, values, (0.0, 1.0), PURE, Box(100, 400, 300, 1000))[..., 0]
    assert shown.shape == (400, 1200)
    veil = round(100 * 0.35)
    outside = np.ones((400, 1200), bool)
    outside[100:300, 400:1000] = False
    assert np.unique(shown[outside]).tolist() == [veil]
    assert shown[100:300, 400:600].tolist() == np.full((200, 200), 100).tolist()
    # White at the centre of the hot cell and from there to the box's edge.
    assert np.unique(shown[100:150, 901:1000]).tolist() == [255]
    assert np.unique(shown[251:300, 400:1000]).tolist() == [100]
    assert shown[200, 950] < 255


def test_the_whole_image_as_a_box_is_drawn_as_without_one() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    values = np.random.default_rng(1).random((4, 6))
    without = overlay(picture, values, (0.0, 1.0))
    np.testing.assert_array_equal(
        overlay(picture, values, (0.0, 1.0), box=Box(0, 0, 30, 50)), without
    )
    # Nearly whole, it takes the other way to the same heat.
    near = overlay(picture, values, (0.0, 1.0), box=Box(0, 0, 30, 50 - 1e-9))
    np.testing.assert_allclose(near.astype(int), without, atol=1)


def test_a_box_beyond_the_image_is_drawn_with_the_padding_that_the_model_saw() -> None:
    black, box = np.zeros((400, 500, 3), np.uint8), Box(-100, 0, 300, 500)
    assert frame_of((400, 500), box) == Box(-100, 0, 400, 500)
    shown = overlay(black, np.zeros((2, 2)), (0.0, 1.0), PURE, box)[..., 0]
    assert shown.shape == (500, 500)
    assert np.unique(shown[:100]).tolist() == [200]
    assert np.unique(shown[100:]).tolist() == [0]
