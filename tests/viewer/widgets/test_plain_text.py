"""What a store calls its samples and layers is shown as text: Qt would take it for HTML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QWidget

from i2am.viewer.notices import notify_error, notify_info, show_status
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.qt import plain_label, plain_tip
from tests.support.reference_maps import change_attributes
from tests.support.synthetic_run import SyntheticLayer, write_run

EVIL = "<img src=x><b>shirt"


def test_a_label_and_a_tool_tip_show_tags_as_text(qapp: Any) -> None:
    assert plain_label(EVIL).textFormat() == Qt.TextFormat.PlainText
    assert plain_label(EVIL).text() == EVIL
    assert "<img" not in plain_tip(EVIL)
    assert plain_tip("down.0\nhead 3") == "down.0\nhead 3"
    assert plain_tip("a\x1b\u202e") == r"a\x1b\u202e"


def test_no_label_of_a_window_takes_a_name_for_html(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / f"{EVIL}.zarr", ["a", "b"], [SyntheticLayer(f"{EVIL}.attn2")])
    change_attributes(run / "a", model=EVIL)
    viewer = open_window(run)
    docks = [
        viewer.window.add_plugin_dock_widget("i2am", name)[1]
        for name in ("Run browser", "Panels", "Compare", "Ask a patch")
    ]
    session = session_of(viewer)
    assert session.views[0].source.sample == "a"
    labels = [label for dock in docks for label in dock.findChildren(QLabel)]
    named = [label for label in labels if "<img" in label.text()]
    assert named  # The model's name, at least.
    assert all(label.textFormat() == Qt.TextFormat.PlainText for label in named)
    widgets = [widget for dock in docks for widget in dock.findChildren(QWidget)]
    assert not [widget for widget in widgets if "<img" in widget.toolTip()]


def test_what_the_window_tells_is_no_html_either(
    open_window: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = open_window(write_run(tmp_path / "run.zarr", ["a"], [SyntheticLayer("attn2")]))
    told: list[str] = []
    for name in ("show_error", "show_info"):
        monkeypatch.setattr(f"napari.utils.notifications.{name}", told.append)
    notify_error(EVIL)
    notify_info(EVIL)
    show_status(viewer, EVIL)
    told.append(viewer.status)
    assert len(told) == 3
    assert not any(Qt.mightBeRichText(text) for text in told)
    assert Qt.mightBeRichText(EVIL)
