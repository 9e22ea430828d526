"""What a newer version wrote is refused by every command, in a sentence; nothing is guessed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from i2am.analysis import analyze_run, average_maps
from i2am.cli import main
from tests.support.synthetic_run import write_run

NEWER = 2
REFUSED = r"[Ee]xpected.* 1\b.*got.* 2\b"

# By name: what is given to it, and the kind of store that is of the newer schema.
COMMANDS = {
    "info of a run": ("info {run}", "run"),
    "info of maps": ("info {maps}", "maps"),
    "info of an average": ("info {average}", "average"),
    "validate of a run": ("validate {run}", "run"),
    "validate of maps": ("validate {maps}", "maps"),
    "capture": ("capture --model i2am-tiny --manifest {manifest} --out {run}", "run"),
    "analyze": ("analyze {run} --out {new}", "run"),
    "analyze into maps": ("analyze {run} --out {maps}", "maps"),
    "analyze anew": ("analyze {run} --out {maps} --time-groups 1 --overwrite", "maps"),
    "score": ("score {maps}", "maps"),
    "score with a run": ("score {maps}", "run"),
    "average": ("average {maps} --out {new}", "maps"),
    "figure": ("figure {run} --out {new}", "run"),
    "figure of maps": ("figure {run} --maps {maps} --out {new}", "maps"),
    "report": ("report {run} --out {new}", "run"),
    "compare": ("compare {run} {run} --out {new}", "run"),
    "view": ("view {run}", "run"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its maps and their average, of this schema."""
    folder = tmp_path_factory.mktemp("written")
    write_run(folder / "run.zarr", ["a"], steps=2)
    analyze_run(folder / "run.zarr", folder / "maps.zarr", progress=False)
    average_maps(folder / "maps.zarr", out=folder / "average.zarr", progress=False)
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    (folder / "manifest.csv").write_text("sample,reference\nnew,picture.png\n")
    return folder


@pytest.fixture
def stores(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "stores"))


def raise_schema(group: Path) -> None:
    path = group / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["i2am"]["schema"] = NEWER
    path.write_text(json.dumps(metadata))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_of_a_newer_schema_is_refused_by_every_command(
    name: str, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, kind = COMMANDS[name]
    raise_schema(stores / f"{kind}.zarr")
    before = files(stores)
    paths: dict[str, Any] = {
        "run": stores / "run.zarr",
        "maps": stores / "maps.zarr",
        "average": stores / "average.zarr",
        "manifest": stores / "manifest.csv",
        "new": stores / "new",
    }
    assert main(given.format(**paths).split()) == 1
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert re.search(REFUSED, said), said
    assert "Upgrade i2am" in said or "upgrade i2am" in said
    assert len(said.strip().splitlines()) <= 3
    assert str(stores / f"{kind}.zarr") in said
    assert files(stores) == before
