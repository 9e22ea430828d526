"""Damaged stores: nobody gives out another number, and the checks find what happened.

A few of each kind; ``make faults`` tries all of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.cli import main
from tests.support.damaged_stores import Trials
from tests.support.damages import Damage, damages
from tests.support.specimens import (
    MAPS,
    RUN,
    SAMPLES,
    Specimens,
    analyze_samples,
    capture_sample,
    write_specimens,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> Specimens:
    return write_specimens(tmp_path_factory.mktemp("specimens"))


@pytest.fixture(scope="module")
def trials(specimens: Specimens, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(specimens, tmp_path_factory.mktemp("trials"), is_thorough=False)


@pytest.fixture(scope="module")
def found(specimens: Specimens) -> list[Damage]:
    return list(damages(specimens, 0))


def test_damages_are_of_every_kind_of_file_and_a_seed_always_draws_the_same(
    specimens: Specimens, found: list[Damage]
) -> None:
    assert len(found) > 2000
    kinds = {damage.kind for damage in found if damage.store == RUN}
    stored = {"query", "key", "logits", "logsumexp", "region", "weight", "r2g", "g2r", "mass"}
    stored |= {"image", "mask", "step", "timestep", "guidance"}
    groups = {"root", "sample", "images", "layers", "layer"}
    assert kinds == stored | {f"zarr.json of {kind}" for kind in stored | groups}
    for store in MAPS:
        kinds = {damage.kind for damage in found if damage.store == store}
        assert {"volume", "level", "mass", "pixels", "layer", "zarr.json of direction"} <= kinds
    again = damages(specimens, 0)
    assert [str(damage) for damage in found] == [str(damage) for damage in again]
    assert {str(damage) for damage in damages(specimens, 1)} != {str(damage) for damage in found}


def first(found: list[Damage], kind: str, action: str, store: str = "") -> Damage:
    one: Damage = next(
        d for d in found if (d.kind, d.action) == (kind, action) and store in d.store
    )
    return one


@pytest.mark.parametrize(
    ("store", "kind", "action"),
    [
        (RUN, "logits", "a block of zeros"),  # zarrs looks at no checksum within a shard
        (RUN, "zarr.json of layer", "its folder swapped with its neighbour's"),
        (RUN, "zarr.json of sample", "its folder swapped with another's"),
        (RUN, "zarr.json of sample", "no attributes"),
        (RUN, "zarr.json of sample", "seed changed"),
        (RUN, "zarr.json of sample", "status changed"),
        ("maps.zarr", "zarr.json of root", "convention changed"),
        ("maps.zarr", "zarr.json of root", "cut to half"),
        ("maps.zarr", "zarr.json of sample", "no attributes"),
        ("maps.zarr", "pixels", "swapped with that of another sample"),
    ],
)
def test_what_was_once_unnoticed_is_told(
    store: str, kind: str, action: str, found: list[Damage], trials: Trials
) -> None:
    trial = trials.attempt(first(found, kind, action, store))
    assert not trial.faults
    assert trial.outcome == "refused"


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("zarr.json of sample", "cut to half"),
        ("volume", "a block of zeros"),
    ],
)
def test_what_repair_takes_out_is_made_again_as_it_was(
    kind: str, action: str, specimens: Specimens, found: list[Damage], tmp_path: Path, capsys: Any
) -> None:
    damage = first(found, kind, action)
    stores = Path(shutil.copytree(specimens.new, tmp_path / "stores"))
    damage.apply(stores)
    store = stores / damage.store
    assert main(["repair", str(store)]) == 1
    told = capsys.readouterr().out
    assert damage.sample is not None
    assert damage.sample in told
    assert not [name for name in SAMPLES if name != damage.sample and name in told.split()]
    main(["repair", str(store), "--apply"])
    if damage.store == RUN:
        capture_sample(store, damage.sample)
    else:
        analyze_samples(stores / RUN, store)
    assert main(["validate", str(store), "--deep"]) == 0
    assert values_of(store) == values_of(specimens.new / damage.store)


def values_of(store: Path) -> dict[str, bytes]:
    root: Any = zarr.open_group(store, mode="r")
    arrays = {n: a for n, a in root.members(max_depth=None) if isinstance(a, zarr.Array)}
    read = {name: np.asarray(array[...]) for name, array in arrays.items()}
    return {
        name: repr(values.tolist()).encode() if values.dtype.kind == "T" else values.tobytes()
        for name, values in read.items()
    }
