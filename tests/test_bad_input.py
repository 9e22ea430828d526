"""Whatever a user's files and options hold: one line says what is wrong, and nothing is written."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2am.cli import main
from tests.support.bad_input import BadInput, iter_bad_inputs
from tests.support.synthetic_run import SyntheticLayer, write_run

CASES = list(iter_bad_inputs())
LAYERS = (SyntheticLayer("one", (4, 4), (2, 2), channels=3),)


@pytest.fixture(autouse=True)
def _leave_libraries_as_they_are(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The command line quiets other packages for its own process; here others live on in it.
    level = logging.getLogger().level
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "error" if "VERBOSITY" in name else "1")
    logging.disable(logging.CRITICAL)  # As --debug is not given.
    yield
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_run(folder / "run.zarr", ["first"], LAYERS, steps=2, size_px=(16, 16))
    assert main(["analyze", str(folder / "run.zarr")]) == 0
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 16:40] = 255
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / "a.png")
    Image.fromarray(mask).save(folder / "m.png")
    (folder / "good.csv").write_text("sample,source,mask,reference\na,a.png,m.png,a.png\n")
    (folder / "notes.txt").write_text("notes\n")
    (folder / "empty").mkdir()
    return folder


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    def entry(path: Path) -> tuple[int, int]:
        is_folder = path.is_dir() and not path.is_symlink()
        return (0, 0) if is_folder else (path.lstat().st_size, path.lstat().st_mtime_ns)

    return {str(path.relative_to(folder)): entry(path) for path in folder.rglob("*")}


def test_the_table_is_long_and_no_case_stands_twice() -> None:
    assert len(CASES) >= 150
    assert len({case.what for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.what) for case in CASES])
def test_bad_input_is_told_in_a_line_and_nothing_is_written(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: BadInput,
) -> None:
    monkeypatch.chdir(made)
    there = set(made.iterdir())
    try:
        if case.make is not None:
            case.make(made)
        before = _listing(made)
        code = _call(case)
        assert _listing(made) == before
    finally:
        for path in set(made.iterdir()) - there:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    told = capsys.readouterr().err
    said = [line for line in told.splitlines() if line.startswith("i2am: ")]
    assert said, told
    assert re.search(case.message, told), told
    assert code == case.code
    assert len(said) <= 3
    assert len(told) < 6000
    assert not re.search("Traceback|no such error|report what it shows|\x1b", told)


def _call(case: BadInput) -> object:
    """Return the exit code, whichever way it comes."""
    try:
        return main(case.call)
    except SystemExit as e:
        return e.code
