"""Write what the page's tests hold its numbers against: small stores, and what i2am.analysis says of them.

Run it from the repository's root: ``python page/web/test/golden.py``. It writes page/web/test/golden.json.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from i2am.analysis import analyze, open_run, sram
from i2am.analysis.batch.analyze_run import analyze_run
from i2am.analysis.kernel.resize import resize
from tests.support import written_run
from tests.support.synthetic_run import SyntheticLayer, write_run

GOLDEN = Path(__file__).with_name("golden.json")
MIXED = (
    SyntheticLayer("a.special", (8, 8), (4, 4), special_tokens=1, heads=2),
    SyntheticLayer(
        "b.shared", (4, 4), (3, 5), special_tokens=0, heads=3, channels=4, keys_per_step=True,
        other_keys=5, masked=True, dtype="float32",
    ),
    SyntheticLayer("c.logits", (4, 4), (4, 4), heads=2, representation="logits"),
    SyntheticLayer("d.frames", (8, 4), (5, 5), special_tokens=2, heads=4, kept_heads=(1, 3), frames=2),
    SyntheticLayer("e.tokens", (4, 4), None, tokens=4, heads=2, channels=4),
    SyntheticLayer("e.token", (4, 4), None, tokens=1, heads=2, channels=4),
    SyntheticLayer("f.maps", (4, 4), (4, 4), heads=2, channels=4, representation="maps"),
    SyntheticLayer("g.second.reference_1", (8, 8), (6, 6), heads=2, channels=4, reference_index=1),
)  # fmt: skip
STEPS = (0, 2, 5)
QUESTIONS: tuple[dict[str, Any], ...] = (
    {"generated": (3, 30)},
    {"generated": (0, 2)},
    {"reference": (17, 9)},
    {"generated": (20, 11), "layers": "b.shared"},
    {"generated": (20, 11), "layers": "d.frames", "heads": 3, "steps": 2},
    {"reference": (31, 31), "layers": "d.frames"},
    {"reference": (5, 28), "heads": 0, "steps": 5},
)


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        found = _golden(Path(folder))
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def _golden(folder: Path) -> dict[str, Any]:
    mixed = write_run(
        folder / "mixed.zarr", ["first"], MIXED, steps=STEPS, guidance=True,
        boxes={"generated": (-4, 2, 30, 40), "reference": (0, 0, 32, 32)},
    )  # fmt: skip
    written_run.write(folder / "written.zarr")
    analyze_run(folder / "written.zarr", folder / "maps.zarr")
    sample = open_run(mixed)["first"]
    own = open_run(folder / "written.zarr")["shirt"]
    place = {"generated": (7, 9)}
    rng = np.random.default_rng(0)
    return {
        "stores": {name: _objects(folder / name) for name in ("mixed.zarr", "written.zarr", "maps.zarr")},
        "sram": [_answer(sample, question) for question in QUESTIONS],
        "writtenSram": _answer(own, place),
        "maps": [
            *(_maps(sample, layer.name) for layer in MIXED[:-1]),
            _maps(sample, "a.special", 1),
            _maps(sample, "b.shared", 2),
        ],
        "writtenMaps": _maps(own, "up.0.attn2"),
        "resize": [
            _resized(rng.random(shape).astype(np.float32), grid, frames)
            for shape, grid, frames in (
                ((3, 5), (7, 4), 1), ((8, 4), (16, 9), 2), ((16, 16), (5, 6), 1), ((1, 2), (1, 4), 1),
            )
        ],
    }  # fmt: skip


def _objects(store: Path) -> dict[str, str]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {
        path.relative_to(store).as_posix(): base64.b64encode(path.read_bytes()).decode()
        for path in files
    }


def _answer(sample: Any, question: dict[str, Any]) -> dict[str, Any]:
    return {"question": question, "plane": _plane(sram(sample, **question).to_numpy())}


def _maps(sample: Any, layer: str, head: int | None = None) -> dict[str, Any]:
    """Return the maps of one layer at its first step, on its own grids: of a head, or the mean over all."""
    maps = analyze(sample, layers=layer, steps=0, heads=head)
    return {
        "layer": layer,
        "head": head,
        **{
            direction: _plane(maps[direction]["ulam"].to_numpy())
            for direction in ("r2g", "g2r")
            if direction in maps.children
        },
    }


def _resized(values: Any, grid: tuple[int, int], frames: int) -> dict[str, Any]:
    resized = resize(values, grid, frames)
    return {"map": _plane(values), "frames": frames, "resized": _plane(resized)}


def _plane(values: Any) -> dict[str, Any]:
    height, width = values.shape
    flat = [float(f"{value:.7g}") for value in values.ravel()]
    return {"height": height, "width": width, "values": flat}


if __name__ == "__main__":
    main()
