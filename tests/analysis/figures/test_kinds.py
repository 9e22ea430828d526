"""A figure is one file and one entry: the command line, the files and the report take it from there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis import analyze_run, figures
from i2am.analysis.figures import FIGURES, FigureKind, load_figure, report_kinds
from i2am.analysis.figures.files import write_figures
from i2am.cli import main
from i2am.page.report import write_report
from i2am.schemas import AnalysisError
from tests.support.pictured import pictured
from tests.support.synthetic_run import write_run


def draw(sample: xr.DataTree, maps: xr.DataTree, style: object = None) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, f"{len(sample.children)} {len(maps.children)} {style is None}")
    return figure


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("figure_from_outside")
    module.draw = draw  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = FigureKind(
        "figure_from_outside:draw",
        "Two numbers.",
        exists=lambda sample: "source" in sample["images"],
    )
    monkeypatch.setitem(FIGURES, "numbers", entry)
    return "numbers"


def test_a_new_kind_is_written_and_stands_in_the_report(kind: str, tmp_path: Path) -> None:
    assert report_kinds() == ("overview", "tlam", "hlam", "sram", "roads", kind)
    case, without = pictured(), pictured(source=False)
    run = {"one": case.sample, "other": without.sample}
    maps = {"one": case.maps, "other": without.maps}
    paths = write_figures(run, maps, run, tmp_path, [kind])
    assert [path.name for path in paths] == [f"one-{kind}.png"]
    text = write_report(run, maps, None, tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<strong>NUMBERS.</strong> Two numbers.") == 1


def test_the_command_line_takes_a_new_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    analyze_run(write_run(Path("run.zarr"), ["a"]), "maps.zarr", progress=False)
    assert main(["figure", "run.zarr", "--kinds", "overview", kind]) == 0
    drawn = sorted(path.name for path in Path("figures").iterdir())
    assert drawn == ["a-numbers.png", "a-overview.png"]
    with pytest.raises(SystemExit):
        main(["figure", "run.zarr", "--kinds", "number"])
    assert "'numbers'" in capsys.readouterr().err


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"got 'tlma', at kinds\. Did you mean 'tlam'"):
        load_figure("tlma")


def test_every_kind_is_a_public_function() -> None:
    for kind in FIGURES:
        name = kind.replace("-", "_")
        assert name in figures.__all__
        assert getattr(figures, name) is load_figure(kind)
    assert all(hasattr(figures, name) for name in figures.__all__)


def test_a_figure_that_a_sample_lacks_says_what_to_do() -> None:
    sample = pictured(tokens="one", mask=False).sample
    with pytest.raises(
        AnalysisError, match=r"'conditional' alone, .* Capture with guidance='both'"
    ):
        figures.guidance(sample)
    with pytest.raises(AnalysisError, match="grid of reference tokens, got none"):
        figures.sram(sample)
    with pytest.raises(AnalysisError, match="reference"):
        figures.flow(sample)
    with pytest.raises(AnalysisError, match="whose softmax other keys share"):
        figures.references(sample)
    with pytest.raises(AnalysisError, match=r"an inpainting mask or a reference's mask, got 1"):
        figures.evolution({"a": sample}, {"a": pictured(tokens="one").maps})
    wider = pictured().sample.copy()
    images = wider["images"].to_dataset()
    wider["images"] = xr.DataTree(images.isel(x=list(range(64)) * 2))
    with pytest.raises(AnalysisError, match=r"of one size, got \(64, 64\) and \(64, 128\)"):
        figures.before_after(pictured().sample, other=wider)
    # And every kind that may be missing says so on the command line.
    always = {"overview", "tlam", "hlam", "llam", "matrix", "time-heads"}
    assert {kind for kind, own in FIGURES.items() if not own.missing} == always
