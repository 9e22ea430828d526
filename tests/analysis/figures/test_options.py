"""The options of `i2am figure`: what of a sample is shown, how it looks, and as which files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2am.analysis import analyze, maps_of, open_run
from i2am.analysis.figures import FigureOptions, selected_maps
from i2am.analysis.figures.maps import hlam
from i2am.cli import main
from i2am.schemas import AnalysisError
from tests.support.figure_reading import titles_of
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (SyntheticLayer("down.0.attn2"), SyntheticLayer("up.0.attn2", (4, 4), block="up"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options")
    write_run(path / "run.zarr", ["a", "b"], LAYERS, guidance=True)
    write_run(path / "other.zarr", ["a"], LAYERS, guidance=True, seed=1)
    write_run(path / "plain.zarr", ["a"], LAYERS)
    return path


def words_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_selection_is_drawn_from_the_run_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    command = "figure run.zarr --out selected --samples a --kinds hlam sram before-after evolution"
    command += " --guidance unconditional --steps 0:2 --heads 1 --layers down* --at 3,5 20.5,9"
    command += " --after other.zarr --width 3.3 --format svg pdf"
    assert main(command.split()) == 0
    assert "Figures: 8 in selected" in capsys.readouterr().out
    names = {
        f"a-{kind}.{end}" for kind in ("hlam", "sram", "before-after") for end in ("svg", "pdf")
    }
    assert {path.name for path in Path("selected").iterdir()} == names | {
        "evolution.svg",
        "evolution.pdf",
    }
    hlam_words = words_of(Path("selected/a-hlam.svg"))
    assert "head 1<" in hlam_words
    assert "head 0<" not in hlam_words
    for part in ("a: HLAM", "layers down*", "unconditional branch", "steps 0, 1", "head 1"):
        assert part in " ".join(hlam_words.split())
    for kind in ("sram", "before-after"):
        text = words_of(Path(f"selected/a-{kind}.svg"))
        assert "1: (3, 5)" in text
        assert "2: (20.5, 9)" in text
        assert "unconditional" in text
    run = open_run("run.zarr")
    options: dict[str, Any] = {"guidance": "unconditional", "steps": [0, 1], "layers": None}
    chosen = selected_maps(run, maps_of(run), options)["a"]
    own = analyze(run["a"], guidance="unconditional", steps=[0, 1])
    np.testing.assert_array_equal(chosen["r2g/ulam"], own["r2g/ulam"])
    assert len(titles_of(hlam(run["a"], chosen, "r2g"))) == 2


def test_the_painted_patches_alone_are_drawn_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    command = "figure run.zarr --out painted --samples a --kinds llam --within mask --format svg"
    assert main(command.split()) == 0
    assert "of the painted part" in words_of(Path("painted/a-llam.svg"))


def test_the_style_changes_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    pixels = {}
    for name, style in (
        ("usual", ""),
        ("map", "--base none"),
        ("picture", "--base picture"),
        ("faint", "--opacity 0.2"),
        ("other", "--colormap viridis"),
        ("inverted", "--polarity inverted"),
        ("own", "--contrast panel"),
        ("printed", "--width 7"),
    ):
        command = f"figure run.zarr --out {name} --samples a --kinds hlam {style}"
        assert main(command.split()) == 0
        with Image.open(f"{name}/a-hlam.png") as picture:
            pixels[name] = picture.convert("RGB").tobytes()
            size = picture.size
    assert len(set(pixels.values())) == len(pixels)
    assert size[0] == 7 * 300


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            "--kinds guidance",
            0,
            "no sample of plain.zarr has the figure 'guidance'. It compares the",
        ),
        ("--kinds before-after", 0, "name it with --after"),
        (
            "--kinds tlam --at 3,4",
            1,
            "single patches, got tlam, at --at. Draw sram or before-after",
        ),
        ("--kinds sram --at 3", 2, "expected a place Y,X such as 200,120, got '3'"),
        ("--width 50", 2, "expected inches from 2 to 20, got 50"),
        ("--opacity 0", 2, "expected an opacity above 0"),
        ("--colormap infernal", 2, "Did you mean 'inferno'"),
        ("--format jpg", 2, "expected a known value, got 'jpg'"),
        ("--guidance unconditional", 1, "a guidance branch that was captured, got 'unconditional'"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    options: str,
    code: int,
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    command = f"figure plain.zarr --out {tmp_path / 'out'} {options}".split()
    try:
        found = main(command)
    except SystemExit as e:
        found = int(e.code or 0)
    assert (found, message in " ".join(capsys.readouterr().err.split())) == (code, True)


def test_an_unknown_format_is_refused() -> None:
    formats: Any = ("png", "svgz")
    with pytest.raises(
        AnalysisError, match=r"known format, got 'svgz', at format\. Did you mean 'svg'"
    ):
        FigureOptions(formats=formats)


def test_maps_of_a_store_tell_their_options(folder: Path, tmp_path: Path) -> None:
    from i2am.analysis import analyze_run
    from i2am.analysis.figures import write_figures

    run = open_run(folder / "run.zarr")
    store = tmp_path / "maps.zarr"
    options: dict[str, Any] = {"guidance": "unconditional", "normalisation": "density"}
    analyze_run(folder / "run.zarr", store, samples=["a"], progress=False, **options)
    formats = FigureOptions(formats=("svg",))
    (path,) = write_figures(run, maps_of(run, store), ["a"], tmp_path, ["hlam"], options=formats)
    assert "unconditional branch" in words_of(path)
    assert "uniform = 1" in words_of(path)
    # Of a sample that the store does not hold, the maps are made in the usual way.
    (path,) = write_figures(run, maps_of(run, store), ["b"], tmp_path, ["hlam"], options=formats)
    assert "unconditional" not in words_of(path)
