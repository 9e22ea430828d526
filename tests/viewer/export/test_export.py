"""What leaves the window: files are read back and compared with what was put in."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2am.schemas import AnalysisError, MissingExtra, StoreError
from i2am.viewer.export.figure import FigureRow, SceneFigure
from i2am.viewer.export.pictures import write_picture
from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import write_run

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

COLORS = [(200, 30, 40), (20, 180, 60), (30, 60, 190)]
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 31, 4), np.uint8)


def _frames(height: int = 32, width: int = 48) -> list[Pixels]:
    return [np.full((height, width, 3), color, np.uint8) for color in COLORS]


def _captioned(picture: Pixels, caption: str) -> Pixels:
    return SceneFigure((FigureRow(picture),), caption).painted()


def _read_gif(path: Path) -> list[Pixels]:
    with Image.open(path) as file:
        found = []
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            found.append(np.asarray(file.convert("RGB")))
    return found


def _read_mp4(path: Path) -> tuple[float, list[Pixels]]:
    """Return frames a second, and the frames, as ffmpeg itself tells them."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([*command, *raw], capture_output=True, check=True)
    told = done.stderr.decode()
    size, rate = re.search(r", (\d+)x(\d+)", told), re.search(r", ([\d.]+) fps", told)
    assert size
    assert rate
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3)
    return float(rate[1]), list(frames)


def test_a_png_holds_every_pixel(tmp_path: Path) -> None:
    path = write_picture(PICTURE, tmp_path / "picture.png")
    with Image.open(path) as file:
        np.testing.assert_array_equal(np.asarray(file), PICTURE)


@pytest.mark.parametrize("name", ["picture.jpg", "picture.JPEG", "picture.webp", "picture.tiff"])
def test_other_kinds_are_written_by_the_files_ending(name: str, tmp_path: Path) -> None:
    flat = np.full((16, 16, 4), (200, 100, 50, 255), np.uint8)
    with Image.open(write_picture(flat, tmp_path / name)) as file:
        np.testing.assert_allclose(np.asarray(file.convert("RGB")), flat[..., :3], atol=3)


def test_a_file_that_is_there_stays_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"Expected no file, got one, at .*picture.png"):
        write_picture(PICTURE, path)
    assert path.read_bytes() == b"mine"
    write_picture(PICTURE, path, overwrite=True)
    assert path.read_bytes() != b"mine"


def test_a_name_or_place_that_cannot_be_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"ends in one of \.png.* Call it picture\.png"):
        write_picture(PICTURE, tmp_path / "picture")
    with pytest.raises(StoreError, match=r"Expected a folder, got none, at .*nowhere"):
        write_picture(PICTURE, tmp_path / "nowhere" / "picture.png")


def test_a_caption_stands_below_the_picture_which_stays_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 300, 4), np.uint8)
    captioned = _captioned(picture, "step 3: timestep 1\nhead 0")
    np.testing.assert_array_equal(captioned[:40], picture[..., :3])
    below = captioned[40:].max(axis=2)
    lines = np.flatnonzero(below.max(axis=1) > 128)
    assert lines.size
    assert np.diff(lines).max() > 2  # two lines of text, and room between them
    assert not below[0].any()
    assert not below[-1].any()


def test_a_long_caption_is_written_small_enough_to_fit() -> None:
    picture = np.zeros((40, 200, 3), np.uint8)
    captioned = _captioned(picture, "down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    assert captioned[40:].any()
    assert not captioned[40:, -2:].any()


def test_a_gif_has_every_frame_for_its_time(tmp_path: Path) -> None:
    from i2am.viewer.export.animation import write_animation

    path = write_animation(_frames(), tmp_path / "moving.gif", frames_per_second=5)
    for frame, expected in zip(_read_gif(path), _frames(), strict=True):
        np.testing.assert_allclose(frame, expected, atol=2)
    with Image.open(path) as file:
        assert file.info["duration"] == 200
        assert file.info["loop"] == 0


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_an_mp4_has_every_frame_and_even_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    from i2am.viewer.export.animation import write_animation

    path = write_animation(_frames(*size), tmp_path / "moving.mp4", frames_per_second=4)
    rate, frames = _read_mp4(path)
    assert rate == 4
    assert frames[0].shape[:2] == (size[0] + size[0] % 2, 48)
    assert len(frames) == 3
    for frame, color in zip(frames, COLORS, strict=True):
        np.testing.assert_allclose(np.median(frame, axis=(0, 1)), color, atol=8)


def test_an_animation_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    from i2am.viewer.export.animation import write_animation

    def breaking() -> Iterator[Pixels]:
        yield from _frames()
        raise OSError("no more")

    for name in ("moving.gif", "moving.mp4"):
        path = tmp_path / name
        path.write_bytes(b"mine")
        with pytest.raises(StoreError, match=r"Expected no file, got one"):
            write_animation(_frames(), path)
        with pytest.raises(StoreError, match="no more"):
            write_animation(breaking(), path, overwrite=True)
        assert path.read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_animation_without_frames_or_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    from i2am.viewer.export.animation import write_animation

    with pytest.raises(AnalysisError, match="Expected at least one frame, got none"):
        write_animation([], tmp_path / "moving.gif")
    with pytest.raises(AnalysisError, match=r"one of \.gif, \.mp4, got moving\.avi"):
        write_animation(_frames(), tmp_path / "moving.avi")


def test_without_what_writes_mp4_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from i2am.viewer.export.animation import write_animation

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"needed to write an MP4; install with pip install"):
        write_animation(_frames(), tmp_path / "moving.mp4")


@pytest.fixture
def window(tmp_path: Path, open_window: Callable[..., Any], qtbot: Any) -> Any:
    """Return a window on maps whose hot patch is (layer + step, head), and its export widget."""
    from i2am.viewer.session.attach import session_of
    from i2am.viewer.widgets.export import ExportWidget

    run = write_run(tmp_path / "run.zarr")
    maps = {"r2g": spot_volume(), "g2r": spot_volume()[..., ::-1]}
    write_maps(tmp_path / "maps.zarr", {"first": maps})
    viewer = open_window(run)
    session = session_of(viewer)
    qtbot.waitUntil(lambda: session.share_loaded == 1, timeout=10_000)
    session.go_to(layer=0, step=1, head=1)
    widget = ExportWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Export")
    return viewer, session, widget


def _choose(monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
    """Let the user choose a path in Qt's dialog, or close it."""
    from qtpy.QtWidgets import QFileDialog

    answer = ("" if path is None else str(path), "")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)


def _press(button: Any, qtbot: Any) -> None:
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def _messages() -> list[str]:
    from napari.utils.notifications import notification_manager

    return [record.message for record in notification_manager.records]


def _saved(path: Path, qtbot: Any) -> Pixels:
    qtbot.waitUntil(lambda: any(m == f"Saved {path}" for m in _messages()), timeout=20_000)
    with Image.open(path) as file:
        return np.asarray(file)


def _hot_patch(figure: Pixels, scale: int) -> tuple[int, int]:
    """Return the patch (y, x) of the generated image that differs most from it."""
    generated = figure[-32 * scale :, : 32 * scale].astype(int)
    return tuple(np.argwhere(_patches(generated, scale) > 0.6)[0])


def _patches(region: Any, scale: int) -> Any:
    """Return how yellow, as inferno's hottest is, each of 8 × 8 patches is on average."""
    means = region[..., :3].reshape(8, 4 * scale, 8, 4 * scale, 3).mean(axis=(1, 3)) / 255
    return np.minimum(means[..., 0], means[..., 1]) * (means[..., 0] > 0.7)


def test_the_buttons_save_window_canvas_and_figure(
    window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, _, widget = window
    shape = viewer.screenshot(canvas_only=False, flash=False).shape
    for name, button in (
        ("window", widget.window_button),
        ("canvas", widget.canvas_button),
        ("figure", widget.figure_button),
    ):
        _choose(monkeypatch, path := tmp_path / f"{name}.png")
        _press(button, qtbot)
        picture = _saved(path, qtbot)
        assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 500, name
    with Image.open(tmp_path / "canvas.png") as file:
        np.testing.assert_allclose(np.asarray(file), viewer.screenshot(flash=False), atol=2)
    with Image.open(tmp_path / "window.png") as file:
        assert (file.height, file.width) == shape[:2]


def test_a_dialog_that_is_closed_saves_nothing(
    window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, widget = window
    there = set(tmp_path.iterdir())
    _choose(monkeypatch, None)
    for button in (widget.figure_button, widget.animation_button):
        _press(button, qtbot)
    qtbot.wait(200)
    assert set(tmp_path.iterdir()) == there
    assert widget.animation_button.isEnabled()


def test_a_figure_is_the_pictures_and_maps_alone_at_any_zoom(window: Any) -> None:
    from i2am.viewer.export.figure import figure_picture

    viewer, _, _ = window
    del viewer.layers["captions"]
    for layer in viewer.layers:
        layer.interpolation2d = "nearest"
    viewer.scene.camera.zoom *= 3
    zoom = viewer.scene.camera.zoom
    figure = figure_picture(viewer, 3)
    assert figure.shape[:2] == (3 * 32, 3 * 66)
    stored = np.repeat(np.repeat(viewer.layers["generated"].data, 3, 0), 3, 1)
    cold = np.ones((96, 96), bool)
    cold[12:24, 12:24] = False  # patch (1, 1) is hot
    np.testing.assert_allclose(figure[:, :96, :3][cold], stored[cold], atol=2)
    assert _hot_patch(figure, 3) == (1, 1)
    assert viewer.scene.camera.zoom == zoom
    assert viewer.canvas.overlays.text.visible
    assert figure_picture(viewer).shape[1] >= 1200


def test_a_figures_caption_says_which_map_it_is(
    window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, widget = window
    widget.scale.setValue(8)
    _choose(monkeypatch, path := tmp_path / "figure.png")
    _press(widget.figure_button, qtbot)
    captioned = _saved(path, qtbot)
    figure = widget.take_figure()
    assert figure.caption.splitlines() == [
        "first · R2G and G2R · conditional branch · mass · direct polarity",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "8×8 patches · step 1: timestep 654.333 · head 1",
        "highest: R2G 1 at (6, 6), G2R 1 at (6, 26)",
    ]
    np.testing.assert_array_equal(captioned, figure.painted())
    widget.caption.setChecked(False)
    _choose(monkeypatch, path := tmp_path / "plain.png")
    _press(widget.figure_button, qtbot)
    plain = widget.take_figure()
    assert plain.caption == ""
    np.testing.assert_array_equal(_saved(path, qtbot), plain.painted())
    np.testing.assert_array_equal(plain.rows[0].picture, figure.rows[0].picture)


def test_an_animation_shows_the_timesteps_and_puts_the_slider_back(
    window: Any,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    viewer, session, widget = window
    del viewer.layers["captions"]
    for layer in viewer.layers:
        if layer.name in ("R2G", "G2R"):
            layer.interpolation2d = "nearest"
    widget.scale.setValue(8)
    widget.frames_per_second.setValue(2)
    for ending, every in (("gif", 1), ("gif", 2), ("mp4", 1)):
        with subtests.test(ending=ending, every=every):
            widget.every.setValue(every)
            _choose(monkeypatch, path := tmp_path / f"moving-{every}.{ending}")
            _press(widget.animation_button, qtbot)
            assert not widget.animation_button.isEnabled()
            saved = f"Saved {path}"
            qtbot.waitUntil(lambda saved=saved: saved in _messages(), timeout=30_000)
            frames = _read_gif(path) if ending == "gif" else _read_mp4(path)[1]
            assert session.position == (0, 1, 1)
            assert widget.animation_button.isEnabled()
            assert not widget.cancel_button.isEnabled()
            height = len(widget.take_figure().rows[0].picture)
            assert [_hot_patch(frame[:height], 8) for frame in frames] == [
                (step, 1) for step in range(0, 4, every)
            ]
            captions = [frame[height:].astype(int) for frame in frames]  # each names its timestep
            assert all(np.abs(a - b).max() > 100 for a, b in pairwise(captions))


def test_a_cancelled_animation_leaves_no_file_and_the_slider_where_it_was(
    window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session, widget = window
    _choose(monkeypatch, path := tmp_path / "moving.gif")
    _press(widget.animation_button, qtbot)
    qtbot.waitUntil(lambda: session.position.step == 2, timeout=10_000)
    _press(widget.cancel_button, qtbot)
    qtbot.waitUntil(widget.animation_button.isEnabled, timeout=10_000)
    assert _messages()[-1] == "Animation cancelled"
    assert not list(tmp_path.glob("moving*"))
    assert not path.exists()
    assert session.position == (0, 1, 1)


def test_an_animation_that_cannot_be_written_puts_the_slider_back(
    window: Any, tmp_path: Path, qtbot: Any
) -> None:
    from i2am.viewer.export.animation import TimestepAnimation

    _, session, _ = window
    (folder := tmp_path / "gone").mkdir()
    animation = TimestepAnimation(session, folder / "moving.gif")
    with qtbot.waitSignal(animation.failed, timeout=20_000) as caught:
        folder.rmdir()
        animation.start()
    assert "Expected a folder, got none" in caught.args[0]
    assert session.position == (0, 1, 1)


@pytest.mark.parametrize("change", ["closed", "averaged"])
def test_what_stops_an_animation_on_its_way_is_reported(
    change: str, window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, session, widget = window
    _choose(monkeypatch, tmp_path / "moving.gif")
    _press(widget.animation_button, qtbot)
    qtbot.waitUntil(lambda: session.position.step == 2, timeout=10_000)
    if change == "closed":
        viewer.layers.clear()
    else:
        session.set_averaged("step", True)
    qtbot.waitUntil(widget.animation_button.isEnabled, timeout=10_000)
    expected = {"closed": "Expected a run to animate", "averaged": "got the mean over all of them"}
    assert expected[change] in _messages()[-1]
    assert session.averaged_dims == ({"step"} if change == "averaged" else set())
    assert not list(tmp_path.glob("moving*"))


def test_an_animation_waits_for_maps_that_are_not_loaded_yet(
    tmp_path: Path, open_window: Callable[..., Any], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from i2am.viewer.data.map_readers import StoredMapReader
    from i2am.viewer.export.animation import TimestepAnimation
    from i2am.viewer.session.attach import session_of

    read, may_read = StoredMapReader.read, threading.Event()

    def read_later(source: StoredMapReader, layer: int, steps: Any) -> Any:
        may_read.wait(30)
        return read(source, layer, steps)

    monkeypatch.setattr(StoredMapReader, "read", read_later)
    run = write_run(tmp_path / "run.zarr")
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": spot_volume()}})
    viewer = open_window(run)
    session = session_of(viewer)
    del viewer.layers["captions"]
    viewer.layers["R2G"].interpolation2d = "nearest"
    session.go_to(layer=2, head=1)
    animation = TimestepAnimation(session, tmp_path / "moving.gif", scale=8)
    taken: list[int] = []
    animation.progressed.connect(lambda count, _: taken.append(count))
    animation.start()
    qtbot.wait(300)
    assert not taken
    with qtbot.waitSignal(animation.finished, timeout=30_000):
        may_read.set()
    assert taken == [1, 2, 3, 4]
    frames = [frame[: 8 * 32] for frame in _read_gif(tmp_path / "moving.gif")]
    assert [_hot_patch(frame, 8) for frame in frames] == [(2 + step, 1) for step in range(4)]


def test_maps_that_cannot_be_read_end_an_animation_and_are_reported(
    tmp_path: Path, open_window: Callable[..., Any], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from i2am.viewer.data.map_readers import StoredMapReader
    from i2am.viewer.export.animation import TimestepAnimation
    from i2am.viewer.session.attach import session_of

    read = StoredMapReader.read

    def read_some(source: StoredMapReader, layer: int, steps: Any) -> Any:
        if layer == 2:
            raise OSError("no such chunk")
        return read(source, layer, steps)

    monkeypatch.setattr(StoredMapReader, "read", read_some)
    run = write_run(tmp_path / "run.zarr")
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": spot_volume()}})
    viewer = open_window(run)
    session = session_of(viewer)
    told = "of the maps could not be read"
    qtbot.waitUntil(lambda: told in viewer.canvas.overlays.text.text, timeout=20_000)
    qtbot.waitUntil(lambda: any("no such chunk" in m for m in _messages()), timeout=20_000)
    assert [message for message in _messages() if "no such chunk" in message] == [
        f"OSError: no such chunk, at {run}. Try 'i2am validate' on it."
    ]
    session.go_to(layer=2, step=0, head=1)
    animation = TimestepAnimation(session, tmp_path / "moving.gif", scale=8)
    with qtbot.waitSignal(animation.failed, timeout=20_000) as caught:
        animation.start()
    assert caught.args == ["no such chunk"]
    session.go_to(layer=1)
    animation = TimestepAnimation(session, tmp_path / "moving.gif", scale=8)
    with qtbot.waitSignal(animation.finished, timeout=30_000):
        animation.start()


def test_a_mean_over_the_timesteps_has_nothing_to_animate(
    window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session, widget = window
    session.set_averaged("step", True)
    _choose(monkeypatch, tmp_path / "moving.gif")
    _press(widget.animation_button, qtbot)
    assert "got the mean over all of them" in _messages()[-1]
    session.set_averaged("step", False)
    session.viewer.dims.ndisplay = 3
    _press(widget.animation_button, qtbot)
    assert "got a view of all of them" in _messages()[-1]
    assert widget.animation_button.isEnabled()


def test_a_wrong_name_is_shown_as_a_notification(
    window: Any, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, widget = window
    _choose(monkeypatch, tmp_path / "moving.avi")
    _press(widget.animation_button, qtbot)
    assert "Call it moving.gif" in _messages()[-1]
    _press(widget.canvas_button, qtbot)
    qtbot.waitUntil(lambda: "Call it moving.png" in _messages()[-1], timeout=5000)


def test_the_copied_python_makes_what_the_layer_shows(
    window: Any, qtbot: Any, subtests: pytest.Subtests
) -> None:
    from qtpy.QtGui import QGuiApplication

    viewer, session, widget = window
    for averaged_dims in ((), ("layer", "head")):
        for dim in averaged_dims:
            session.set_averaged(dim, True)
        for direction in ("R2G", "G2R"):
            with subtests.test(direction=direction, averaged_dims=averaged_dims):
                widget.which.setCurrentText(direction)
                QGuiApplication.clipboard().setText("")
                _press(widget.copy_button, qtbot)
                qtbot.waitUntil(lambda: QGuiApplication.clipboard().text() != "", timeout=5000)
                names: dict[str, Any] = {}
                exec(QGuiApplication.clipboard().text(), names)
                at = tuple(int(index) for index in viewer.dims.current_step[:4])
                shown = np.asarray(viewer.layers[direction].data[at])
                np.testing.assert_allclose(names["attention"], shown, rtol=1e-6)


def test_the_copied_python_of_a_picked_region_makes_its_sram(
    window: Any, tmp_path: Path, qtbot: Any
) -> None:
    from qtpy.QtGui import QGuiApplication

    from i2am.analysis import open_run, sram
    from i2am.viewer.picking.pick import Pick
    from i2am.viewer.picking.sram_controller import sram_controller_of

    _, session, widget = window
    widget.which.setCurrentText("SRAM")
    QGuiApplication.clipboard().setText("")
    _press(widget.copy_button, qtbot)
    assert "Expected a picked region, got none" in _messages()[-1]
    layer = session.views[0].axes.layers[0]
    sram_controller_of(session).request(
        Pick("", "first", "generated", (9, 20, 10, 21), (layer,), (1,), (1,))
    )
    _press(widget.copy_button, qtbot)
    qtbot.waitUntil(lambda: QGuiApplication.clipboard().text() != "", timeout=5000)
    names: dict[str, Any] = {}
    exec(QGuiApplication.clipboard().text(), names)
    sample = open_run(tmp_path / "run.zarr")["first"]
    expected = sram(sample, generated=(9, 20), layers=layer, steps=[1], heads=[1])
    np.testing.assert_allclose(names["attention"], expected, rtol=1e-6)


def test_without_a_run_the_widget_says_what_to_do(make_napari_viewer: Any, qtbot: Any) -> None:
    from i2am.viewer.widgets.export import ExportWidget

    viewer = make_napari_viewer(show=True)
    widget = ExportWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Export")
    for button in (widget.animation_button, widget.copy_button):
        _press(button, qtbot)
        assert "Open" in _messages()[-1]
