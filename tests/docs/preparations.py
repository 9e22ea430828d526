"""What the code of a page finds when it runs: files in its folder, and names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from i2am.analysis import analyze_run, average_maps, known_scores, score_maps, unregister_score
from tests.support import reference_maps
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run

__all__ = ["PREPARATIONS", "TESTED_BY", "Preparation"]

Names = dict[str, Any]


def _stores(folder: Path) -> Names:
    """A run of some samples, with its maps."""
    write_run(folder / "run.zarr", ["shirt", "shirt-001", "shirt-002"], _TWO_GRIDS)
    analyze_run(folder / "run.zarr", folder / "maps.zarr", progress=False)
    return {}


def _nothing_after(folder: Path, printed: str) -> None:
    """Check no more than that it ran."""


@dataclass(frozen=True)
class Preparation:
    """How a page's code is run.

    `make` prepares the folder and returns names; `runs` are the commands of `i2am` that are run, not only
    parsed; `after` checks what came of it all. A page that starts processes is run as a file.
    """

    make: Callable[[Path], Names] = _stores
    runs: frozenset[str] = field(default_factory=frozenset)
    after: Callable[[Path, str], None] = _nothing_after
    as_file: bool = False


_TWO_GRIDS: Final = (SyntheticLayer("down", (4, 4), (4, 4)), SyntheticLayer("up", (8, 8), (2, 2)))


def _analysis(folder: Path) -> Names:
    write_run(folder / "run.zarr", ["shirt", "skirt"], _TWO_GRIDS)
    for sample in ("shirt", "skirt"):
        labels = {"category": sample}
        reference_maps.change_attributes(folder / "run.zarr" / sample, labels=labels)
    layers = [layer.name for layer in _TWO_GRIDS]
    arrays = effect_arrays(layers=layers, orders=("map", "random"))
    write_effects(folder / "effects.zarr", dict.fromkeys(("shirt", "skirt"), arrays))
    return {}


def _capture(folder: Path) -> Names:
    layer = SyntheticLayer("blocks.0.attn", (4, 4), (4, 4), special_tokens=0, other_keys=3)
    write_run(folder / "run.zarr", ["one"], [layer])
    return {}


def _causal(folder: Path) -> Names:
    from i2am.capture import load_pipeline

    pipe = load_pipeline("i2am-tiny")
    pictures = {name: Image.new("RGB", (64, 64), "red") for name in ("garment", "person")}
    return {"pipe": pipe, "mask": Image.new("L", (64, 64), 255), **pictures}


def _export(folder: Path) -> Names:
    _stores(folder)
    average_maps(folder / "maps.zarr", out=folder / "maps.average.zarr")
    write_effects(folder / "effects.zarr", {"shirt-001": effect_arrays(layers=["down", "up"])})
    return {}


def _own_models(folder: Path) -> Names:
    from tests.support.compvis.models import PLMSSampler, dci_vton

    model = dci_vton()
    return {"model": model, "sampler": PLMSSampler(model)}


def _own_models_after(folder: Path, printed: str) -> None:
    samples = {path.name for path in (folder / "run.zarr").iterdir() if path.is_dir()}
    assert samples == {"one", "cropped", "two", "joint", "shirt-001"}


def _page(folder: Path) -> Names:
    _stores(folder)
    score_maps(folder / "maps.zarr", out=folder / "scores.csv")
    write_effects(folder / "effects.zarr", {"shirt-001": effect_arrays(layers=["down", "up"])})
    return {}


def _page_after(folder: Path, printed: str) -> None:
    for name in ("report.html", "two.html", "page/index.html"):
        assert (folder / name).is_file(), name


def _scores(folder: Path) -> Names:
    layers = (SyntheticLayer("one", (4, 4), (4, 4)), SyntheticLayer("two", (4, 4), (2, 2)))
    for seed, name in enumerate(("run", "guided", "free")):
        write_run(folder / f"{name}.zarr", ["first"], layers, seed=seed, size_px=(16, 16))
    analyze_run(folder / "run.zarr", folder / "maps.zarr", progress=False)
    points = "sample,y,x,reference_y,reference_x\nfirst,3,12,4,10.5\n"
    (folder / "points.csv").write_text(points, encoding="utf-8")
    (folder / "truths").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "truths" / "first.png")
    return {}


def _scores_after(folder: Path, printed: str) -> None:
    if "peak" in [score.name for score in known_scores()]:
        unregister_score("peak")
    # Its last line is how far the stored differences are from those just made.
    assert float(printed.splitlines()[-1]) < 1e-6
    files = {path.name for path in (folder / "comparison").iterdir()}
    text = (Path(__file__).parents[2] / "docs" / "reference" / "scores.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", text, re.MULTILINE))
    assert files == {name.replace("SAMPLE", "first") for name in listed if "." in name}


PREPARATIONS: Final[dict[str, Preparation]] = {
    "docs/how-to/analysis.md": Preparation(
        _analysis, frozenset({"analyze", "average", "figure", "score"})
    ),
    "docs/how-to/capture.md": Preparation(_capture),
    "docs/how-to/causal.md": Preparation(_causal),
    "docs/how-to/clusters.md": Preparation(as_file=True),
    "docs/how-to/export.md": Preparation(_export, frozenset({"export"})),
    "docs/how-to/own-models.md": Preparation(_own_models, after=_own_models_after),
    "docs/how-to/page.md": Preparation(_page, frozenset({"export", "report"}), _page_after),
    "docs/reference/scores.md": Preparation(
        _scores, frozenset({"compare", "score"}), _scores_after
    ),
}
# Pages whose blocks need more than one preparation: the test that runs each of them.
TESTED_BY: Final[dict[str, str]] = {
    "README.md": "tests/test_readme.py",
    "docs/how-to/experiment-logs.md": "tests/docs/test_how_to.py",
    "docs/how-to/extend.md": "tests/docs/test_how_to.py",
    "docs/how-to/my-pipeline.md": "tests/docs/test_my_pipeline.py",
    "docs/how-to/notebooks.md": "tests/docs/test_how_to.py",
    "docs/how-to/plain-readers.md": "tests/docs/test_how_to.py",
}
