"""One task for each block writes what the lazy maps are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

from i2am.analysis import analyze, analyze_run, open_effects, open_maps, open_run
from i2am.analysis.batch.block_writes import write_blocks
from i2am.analysis.maps.analyze import Plan, plan_maps
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run

analyze_run_module = importlib.import_module("i2am.analysis.batch.analyze_run")

# Layers of other grids and head counts, with and without mass, and one that has no G2R.
LAYERS = (
    SyntheticLayer("down", (8, 8), (4, 4), 1, heads=3, other_keys=2),
    SyntheticLayer("mid", (4, 4), (2, 2), 0, heads=1, keys_per_step=True),
    SyntheticLayer("up", (8, 8), (4, 4), 0, heads=3, representation="logits", other_keys=2),
    SyntheticLayer("kept", (8, 8), (4, 4), 0, heads=4, kept_heads=(1, 3)),
    SyntheticLayer("clip", (8, 8), None, 0, tokens=4),
)
STEPS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("writes")
    write_run(path / "run.zarr", ["a"], LAYERS, steps=STEPS)
    arrays = effect_arrays(layers=[layer.name for layer in LAYERS])
    arrays["layer"] = np.array([0.2, 0.0, 0.9, 0.1, 0.4])[:, None, None] * np.ones((8, 8))
    write_effects(path / "effects.zarr", {"a": arrays}, source="../run.zarr")
    return path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return whether each sample was written by block, in their order."""
    found: list[bool] = []

    def noted(plan: Plan, targets: Any) -> list[da.Array] | None:
        writes = write_blocks(plan, targets)
        found.append(writes is not None)
        return writes

    monkeypatch.setattr(analyze_run_module, "write_blocks", noted)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"time_groups": 2, "normalisation": "density"},
        {"grid": (5, 7)},
        {"weights": "causal"},
        {"within": "mask"},
        {"steps": [0, 2, 3], "heads": [1]},
        {"layers": "clip"},
        {"layers": ["up", "kept"], "time_groups": 1},
    ],
    ids=str,
)
def test_what_is_written_by_block_is_what_the_lazy_maps_are(
    options: dict[str, Any], folder: Path, tmp_path: Path, written: list[bool]
) -> None:
    run = folder / "run.zarr"
    maps = open_maps(analyze_run(run, tmp_path / "maps.zarr", progress=False, **options))["a"]
    assert written == [True]
    own: dict[str, Any] = {}
    if "weights" in options:
        own["effects"] = open_effects(folder / "effects.zarr")["a"]
    computed: Any = analyze(open_run(run)["a"], **options, **own).compute()
    assert set(maps.children) == set(computed.children)
    for direction, levels in computed.children.items():
        assert set(maps[direction].data_vars) == set(levels.data_vars)
        for name, level in levels.data_vars.items():
            # Mass is a mean of the volume there, and of sums of blocks here.
            tolerance = 1e-6 if name == "mass" else 0
            np.testing.assert_allclose(
                maps[direction][name], level, rtol=tolerance, err_msg=f"{direction}/{name}"
            )


def test_a_block_is_one_task_and_all_levels_are_one_more(folder: Path, tmp_path: Path) -> None:
    plan = plan_maps(open_run(folder / "run.zarr")["a"], layers=["down", "mid", "clip"])
    writes = write_blocks(plan, _targets(plan.maps, tmp_path, steps=STEPS))
    assert writes is not None
    graph: dict[Any, Any] = dict(dask.optimize(*writes)[-1].__dask_graph__())
    tasks = [key for key, task in graph.items() if type(task).__name__ != "Alias"]
    assert len(tasks) == 3 + 1


def test_blocks_of_a_few_steps_are_written_where_they_belong(folder: Path, tmp_path: Path) -> None:
    sample = open_run(folder / "run.zarr")["a"].copy(deep=True)
    for name, layer in sample["layers"].children.items():
        sample[f"layers/{name}"] = layer.to_dataset().chunk({"step": 2})
    plan = plan_maps(sample)
    targets = _targets(plan.maps, tmp_path, steps=1)
    writes = write_blocks(plan, targets)
    assert writes is not None
    with dask.config.set(scheduler="threads"):
        dask.compute(*writes)
    for (direction, name), target in targets.items():
        np.testing.assert_allclose(
            target[...], plan.maps[direction][name], rtol=1e-6, err_msg=f"{direction}/{name}"
        )


def test_blocks_that_share_a_chunk_are_joined_before(folder: Path, tmp_path: Path) -> None:
    sample = open_run(folder / "run.zarr")["a"].copy(deep=True)
    for name, layer in sample["layers"].children.items():
        sample[f"layers/{name}"] = layer.to_dataset().chunk({"step": 2})
    plan = plan_maps(sample)
    assert write_blocks(plan, _targets(plan.maps, tmp_path, steps=3)) is None


def test_the_authors_convention_is_written_as_its_maps_are(
    folder: Path, tmp_path: Path, written: list[bool]
) -> None:
    official: dict[str, Any] = {"convention": "official", "progress": False}
    analyze_run(folder / "run.zarr", tmp_path / "maps.zarr", **official)
    assert written == []


def _targets(maps: Any, folder: Path, *, steps: int) -> dict[tuple[str, str], Any]:
    """Return an array for each map; a chunk of a volume has so many steps of a layer."""

    root = zarr.create_group(folder / "targets.zarr")
    return {
        (direction, name): root.create_array(
            f"{direction}-{name}",
            shape=level.shape,
            dtype=level.dtype,
            chunks=(1, steps, *level.shape[2:]) if name == "volume" else level.shape,
        )
        for direction, node in maps.children.items()
        for name, level in node.data_vars.items()
    }
