"""The answers that a notebook's page gets are those of the analysis; the widget speaks its messages."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import i2am
from i2am.analysis import analyze, analyze_run, open_maps, open_run, sram
from i2am.page import show
from i2am.page.widget import Answers
from i2am.schemas import AnalysisError
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run

DEEP = SyntheticLayer("deep.attn2", (4, 4), (4, 4), heads=3, block="mid")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widget")
    boxes = {"reference": [4, 8, 28, 24]}
    run = write_run(folder / "run.zarr", ["a", "b"], [*LAYERS, DEEP], steps=3, boxes=boxes)
    analyze_run(run, folder / "maps.zarr", progress=False)
    return run


@pytest.fixture(scope="module", params=["stored", "computed"])
def answers(request: pytest.FixtureRequest, run: Path) -> Answers:
    maps = open_maps(run.with_name("maps.zarr")) if request.param == "stored" else None
    return Answers(open_run(run), maps)


def one(answers: Answers, **message: Any) -> Any:
    (found,) = answers.to({"name": "a", **message})
    return found


def test_a_sample_is_told_as_in_a_report_but_for_its_maps(answers: Answers) -> None:
    told, _ = one(answers, ask="samples")
    assert [own["name"] for own in told["run"]["samples"]] == ["a", "b"]
    assert ["samples", "2"] in told["run"]["facts"]
    data, plane = one(answers, ask="open")
    assert plane is None
    sample = data["sample"]
    assert sample["has"] == {"r2g": True, "g2r": True, "sram": True}
    assert sample["axes"]["steps"] == ["0", "1", "2"]
    assert sample["images"]["reference"]["box"] == [4, 8, 28, 24]
    assert sample["images"]["generated"]["url"].startswith("data:image/webp;base64,")


@pytest.mark.parametrize("direction", ["r2g", "g2r"])
def test_maps_are_those_of_the_analysis(direction: str, answers: Answers, run: Path) -> None:
    levels = analyze(open_run(run)["a"])[direction].dataset.compute()
    axes = one(answers, ask="open")[0]["sample"]["axes"]
    for layer, step, head in ((None, None, None), (1, None, None), (3, 2, 2), (None, 0, 1)):
        asked = {"layer": layer, "step": step, "head": head}
        told, plane = one(answers, ask="map", direction=direction, **asked)
        volume = levels["volume"]
        for dim, at in asked.items():
            if at is not None:
                label = axes["layers"][at] if dim == "layer" else at
                volume = volume.sel({dim: label})
        wanted = volume.mean([dim for dim in asked if dim in volume.dims])
        np.testing.assert_allclose(plane, wanted, atol=1e-6)
        assert told["plane"] == {"height": plane.shape[0], "width": plane.shape[1]}
    lacking, plane = one(answers, ask="map", direction=direction, layer=0, step=None, head=2)
    assert plane is None
    assert "no such head" in lacking["absent"]


@pytest.mark.parametrize("side", ["generated", "reference"])
def test_a_click_is_answered_by_sram(side: str, answers: Answers, run: Path) -> None:
    sample = open_run(run)["a"]
    for asked in ({"layer": None, "step": None, "head": None}, {"layer": 2, "step": 1, "head": 0}):
        found = list(
            answers.to({"name": "a", "ask": "sram", "side": side, "y": 9.5, "x": 11.0, **asked})
        )
        told, plane = found[-1]
        assert told["share"] == 1
        of_one = {"layers": LAYERS[2].name, "steps": 1, "heads": 0}
        labels: dict[str, Any] = {} if asked["layer"] is None else of_one
        labels[side] = (9.5, 11.0)
        wanted = sram(sample, **labels)
        assert plane is not None
        np.testing.assert_allclose(plane, wanted, atol=1e-6)


def test_what_the_model_did_not_see_is_told_in_words(answers: Answers) -> None:
    asked = {"layer": None, "step": None, "head": None, "side": "reference"}
    told, plane = one(answers, ask="sram", y=1.0, x=1.0, **asked)
    assert plane is None
    assert "it saw rows 4 to 28, columns 8 to 24" in told["absent"]


def test_a_question_that_is_none_is_refused(answers: Answers) -> None:
    with pytest.raises(AnalysisError, match="Expected a question of the page, got 'eval', at ask"):
        one(answers, ask="eval")
    for at in (99, -1, "0"):
        with pytest.raises(AnalysisError, match="Expected a position below"):
            one(answers, ask="map", direction="r2g", layer=at, step=None, head=None)


# --- The widget itself.


class Heard:
    """What a widget sends, in place of a browser."""

    def __init__(self, widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: list[tuple[Any, Any]] = []
        self.arrived = threading.Event()
        monkeypatch.setattr(type(widget), "send", self._send)

    def _send(self, content: Any, buffers: Any = None) -> None:
        self.messages.append((content, buffers))
        self.arrived.set()

    def wait_for(self, number: int) -> list[tuple[Any, Any]]:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            own = [one for one in self.messages if one[0]["id"] == number]
            if own and own[-1][0].get("share", 1) == 1:
                return own
            self.arrived.wait(0.1)
            self.arrived.clear()
        raise AssertionError(self.messages)


def test_the_widget_answers_messages_with_float32(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("anywidget")
    widget = i2am.show(run, sample="a")
    heard = Heard(widget, monkeypatch)
    assert widget.sample == "a"
    assert "export" in widget._esm
    asked = {"id": 7, "ask": "sram", "name": "a", "side": "generated", "y": 9, "x": 11,
             "layer": None, "step": None, "head": None}  # fmt: skip
    widget._handle_custom_msg(asked, [])
    content, (buffer,) = heard.wait_for(7)[-1]
    plane = np.frombuffer(buffer, "<f4").reshape(content["plane"]["height"], -1)
    np.testing.assert_allclose(plane, sram(open_run(run)["a"], generated=(9, 11)), atol=1e-6)
    widget._handle_custom_msg({"id": 8, "ask": "open", "name": "nobody"}, [])
    ((content, _),) = heard.wait_for(8)
    assert "got none named 'nobody'" in content["error"]
    widget._handle_custom_msg({"id": 9, "ask": "map", "name": "a"}, [])
    ((content, _),) = heard.wait_for(9)
    assert content["error"].startswith("Expected no such error, got KeyError")
    for noise in ("text", {"ask": "samples"}, {"id": 10, "ask": "cancel"}):
        widget._handle_custom_msg(noise, [])
    widget.close()


def test_a_sample_in_place_of_its_run_is_refused(run: Path) -> None:
    pytest.importorskip("anywidget")
    sample: Any = open_run(run)["a"]
    with pytest.raises(
        AnalysisError, match=r"Expected a run, got a sample of it, 'a', at run\. Give"
    ):
        i2am.show(sample)


def test_an_unknown_sample_or_another_store_is_refused(run: Path) -> None:
    pytest.importorskip("anywidget")
    with pytest.raises(AnalysisError, match="got 'c', at sample"):
        show(run, sample="c")
    opened = open_run(run)
    assert show(opened, maps=run.with_name("maps.zarr")).sample == ""
