"""A small run of every kind of layer that an export must get right, and the stores made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from i2am.analysis import (
    analyze_run,
    average_maps,
    open_effects,
    open_maps,
    pair_runs,
    write_comparison,
)
from i2am.analysis.stores.reader import open_tree
from i2am.storage.addresses import open_group
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run

# Other numbers of heads, so that volumes have NaN; a name that is no name elsewhere; other keys, and mass.
LAYERS = (
    SyntheticLayer("down<b> é&;", (4, 4), (2, 4), heads=2),
    SyntheticLayer("up.attn", (8, 8), (4, 4), heads=3, other_keys=2),
)
SAMPLES = ("007", "été@1")
BOX = (0, 8, 32, 40)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a store of each kind, by its kind."""
    folder = tmp_path_factory.mktemp("exported")
    run = write_run(
        folder / "run.zarr", SAMPLES, LAYERS, size_px=(32, 48), boxes={"generated": BOX}
    )
    maps = analyze_run(run, folder / "maps.zarr", progress=False, time_groups=2)
    average_maps(
        maps, out=folder / "average.zarr", levels=["ulam", "tlam", "hlam", "llam", "volume"]
    )
    other = write_run(
        folder / "other.zarr",
        SAMPLES[:1],
        LAYERS,
        size_px=(32, 48),
        boxes={"generated": BOX},
        seed=1,
    )
    analyze_run(other, folder / "other.maps.zarr", progress=False, time_groups=2)
    write_comparison(
        pair_runs(run, other, samples=SAMPLES[:1]), folder / "compared", progress=False
    )
    arrays = effect_arrays(layers=[layer.name for layer in LAYERS], orders=("map", "random"))
    write_effects(folder / "effects.zarr", dict.fromkeys(SAMPLES, arrays))
    return {
        "run": run,
        "maps": maps,
        "average": folder / "average.zarr",
        "differences": folder / "compared" / "differences.zarr",
        "effects": folder / "effects.zarr",
    }


@pytest.fixture(scope="session")
def one_token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose reference is one token: it has no G2R."""
    layer = SyntheticLayer("down", (4, 4), None, tokens=1)
    return write_run(tmp_path_factory.mktemp("one") / "run.zarr", ["a"], [layer])


def contents(store: Path, kind: str) -> dict[str, dict[str, xr.Dataset]]:
    """Return what is in a store, by sample and direction, in memory; effects have the empty one."""
    if kind == "effects":
        return {name: {"": own.load()} for name, own in open_effects(store).items()}
    trees = open_maps(store) if kind == "maps" else open_tree(open_group(store)).children
    return {
        name: {direction: node.to_dataset().load() for direction, node in tree.children.items()}
        for name, tree in trees.items()
    }
