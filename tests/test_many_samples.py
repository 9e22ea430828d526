"""Many samples in one go: no file, no thread and no object stays behind for each of them.

What a stage holds is looked at while it works, after a few samples and again after more: what it keeps of
each one must not be freed by its end before it is counted.
"""

from __future__ import annotations

import csv
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dask.callbacks import Callback

from i2am.analysis import analyze_run, open_maps, open_run, score_maps
from i2am.capture import CaptureOptions, Profile, capture_manifest, cross_attention
from i2am.capture.pipelines.call import generate
from tests.support.tiny_pipelines import models

# Of a store's arrays, as many are remembered as a large sample has: more than are here.
BOUNDED = {f"i2am.storage.guard.node_metadata.{kind}" for kind in ("ArrayLayout", "Encoding")}
SAMPLES, LOOKS_AT, BETWEEN = 21, (4, 12, 20), 8


@dataclass
class Looks:
    """What the process holds when some of the samples begin."""

    held: list[tuple[int, set[int], Counter[str]]] = field(default_factory=list)
    begun: int = 0

    def look(self) -> None:
        """Count a sample, and look if it is one of these."""
        self.begun += 1
        if self.begun in LOOKS_AT:
            gc.collect()
            kinds = Counter(
                f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects()
            )
            files = len(list(Path("/proc/self/fd").iterdir()))
            self.held.append((files, {t.ident or 0 for t in threading.enumerate()}, kinds))

    def check(self) -> None:
        """Check that each time less than one object more was there for each sample.

        What happens once (a cache of types, say) grows between two looks alone.
        """
        first, *_, last = self.held
        assert last[0] <= first[0] + 1
        assert len(last[1]) <= len(first[1]) + 1
        grown = [
            {kind for kind, count in after[2].items() if count - before[2][kind] >= BETWEEN}
            for before, after in pairwise(self.held)
        ]
        assert set.intersection(*grown) - BOUNDED == set()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Looks]:
    """Return a run of samples, and what was held while they were captured."""
    folder = tmp_path_factory.mktemp("many")
    inputs = models.noise_images(64)
    for name in ("example_image", "image", "mask_image"):
        inputs[name].save(folder / f"{name}.png")
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "reference", "source", "mask"])
        rows.writerows(
            [f"s{n:02}", "example_image.png", "image.png", "mask_image.png"] for n in range(SAMPLES)
        )
    looks = Looks()

    def look_and_generate(*arguments: Any) -> Any:
        looks.look()
        return generate(*arguments)

    profile = Profile(
        "own", ("ReferenceInpaintPipeline",), cross_attention, generate=look_and_generate
    )
    out = folder / "run.zarr"
    options = CaptureOptions(profile=profile)
    summary = capture_manifest(
        "i2am-tiny", folder / "rows.csv", out, steps=1, options=options, progress=False
    )
    assert len(summary.finished) == SAMPLES, summary.failed
    return out, looks


def counted(names: list[str], look: Callable[[], None]) -> Iterator[str]:
    for name in names:
        look()
        yield name


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux does")
def test_no_stage_keeps_anything_for_each_sample(run: tuple[Path, Looks]) -> None:
    store, captured = run
    captured.check()

    analyzed = Looks()
    with Callback(start=lambda _graph: analyzed.look()):
        analyze_run(store, store.parent / "maps.zarr", progress=False)
    assert analyzed.begun >= SAMPLES
    analyzed.check()

    scored = Looks()
    names = list(open_run(store))
    score_maps(open_maps(store.parent / "maps.zarr").path, samples=counted(names, scored.look))
    scored.check()
