"""The roads of the reference: on a model whose attention is laid down, and against an open computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from i2am.analysis import describe_store, most_read, open_run, source_mass, two_hop
from i2am.capture import capture
from i2am.schemas import AnalysisError, CaptureError, SchemaError, find_faults
from tests.support.joint_toy import GRID, REFERENCES, TEXT, JointToy, toy_profile
from tests.support.store_reads import watch_reads

PATCHES = GRID[0] * GRID[1]
ROADS: list[Any] = ["reference->text", "text->generated"]
# The text reads the reference's first cell in the first layer, and the patches read the text in the
# second; directly they read its last cell, in both layers.
FIRST, LAST = [0.6, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.1]
INDIRECT: list[Mapping[tuple[str, str], Sequence[float]]] = [
    {
        ("text", "text"): [0.4, 0, 0],
        ("text", "reference_0"): FIRST,
        ("generated", "generated"): [0.8] + [0] * (PATCHES - 1),
        ("generated", "reference_0"): LAST,
        ("generated", "reference_1"): [0.05, 0, 0, 0.05],
    },
    {
        ("text", "text"): [1, 0, 0],
        ("generated", "text"): [0.3, 0.2, 0],
        ("generated", "reference_0"): LAST,
        ("generated", "generated"): [0.4] + [0] * (PATCHES - 1),
    },
]


def captured(
    path: Path, layers: Any = INDIRECT, *, edges: Any = ROADS, has_text: bool = True, **options: Any
) -> xr.DataTree:
    model, latents = JointToy(layers), JointToy.latents()
    with capture(
        model, path, sample="a", profile=toy_profile(has_text=has_text), edges=edges,
        dtype="float32", **options,
    ) as recording:  # fmt: skip
        for timestep in (900, 500):
            model(latents, torch.tensor([timestep]))
        recording.add_images(
            generated=_blank(GRID),
            reference=_blank(REFERENCES[0]),
            reference_1=_blank(REFERENCES[1]),
        )
    return open_run(path)["a"]


def _blank(grid: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.zeros((8 * grid[0], 8 * grid[1], 3), np.uint8)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    return captured(tmp_path_factory.mktemp("roads") / "run.zarr")


def test_two_hops_find_the_road_that_was_laid_through_the_text(sample: xr.DataTree) -> None:
    roads = two_hop(sample)
    r2g = roads["r2g"].to_dataset().compute()
    assert r2g["direct"].dims == ("layer", "step", "y", "x")
    np.testing.assert_allclose(r2g["direct"], 0.1, atol=1e-6)
    # Half of the patches' attention goes to text of which six tenths are the reference's.
    np.testing.assert_allclose(r2g["through_text"].isel(layer=0), 0, atol=1e-6)
    np.testing.assert_allclose(r2g["through_text"].isel(layer=1), 0.5 * 0.6, atol=1e-6)
    np.testing.assert_allclose(r2g["share"], 0.3 / (0.3 + 0.2), atol=1e-6)
    g2r = roads["g2r"].to_dataset().compute().sum(("layer", "step"))
    np.testing.assert_allclose(g2r["direct"].values.ravel(), 4 * np.array(LAST), atol=1e-6)
    expected = 2 * 0.5 * np.array(FIRST)  # two steps
    np.testing.assert_allclose(g2r["through_text"].values.ravel(), expected, atol=1e-6)


def test_two_hops_of_many_layers_are_those_of_an_open_computation(tmp_path: Path) -> None:
    layers = [random_reads(seed) for seed in range(4)]
    sample = captured(tmp_path / "run.zarr", layers)
    roads = two_hop(sample, steps=0)
    attention = [dense(reads) for reads in layers]
    text, patches = slice(0, TEXT), slice(TEXT, TEXT + PATCHES)
    reference = slice(patches.stop, patches.stop + 6)
    forward, backward = np.zeros((4, PATCHES)), np.zeros(6)
    for number in range(1, 4):
        carried = np.mean([a[text, reference] for a in attention[:number]], axis=0)
        hops = attention[number][patches, text] @ carried
        forward[number], backward = hops.sum(1), backward + hops.mean(0)
    found = roads["r2g"].to_dataset()["through_text"].isel(step=0)
    np.testing.assert_allclose(found.to_numpy().reshape(4, -1), forward, atol=1e-6)
    used = roads["g2r"].to_dataset()["through_text"].sum(("layer", "step"))
    np.testing.assert_allclose(used.to_numpy().ravel(), backward, atol=1e-6)


def random_reads(seed: int) -> dict[tuple[str, str], list[float]]:
    rng = np.random.default_rng(seed)
    sizes = {"text": TEXT, "generated": PATCHES, "reference_0": 6, "reference_1": 4}
    found: dict[tuple[str, str], list[float]] = {}
    for reader in ("text", "generated", "reference"):
        shares = np.split(rng.dirichlet(np.ones(sum(sizes.values()))), np.cumsum([*sizes.values()]))
        found |= {(reader, s): p.tolist() for s, p in zip(sizes, shares, strict=False)}
    return found


def dense(reads: dict[tuple[str, str], list[float]]) -> np.ndarray[Any, Any]:
    """Return the attention of all text tokens and patches to all keys."""
    rows = []
    for reader, count in (("text", TEXT), ("generated", PATCHES)):
        row = np.concatenate([shares for (who, _), shares in reads.items() if who == reader])
        rows += [row] * count
    return np.array(rows)


def test_the_shares_of_text_own_picture_and_references_sum_to_one(sample: xr.DataTree) -> None:
    mass = source_mass(sample).compute()
    assert mass.dims == ("source", "layer", "step", "y", "x")
    assert mass["source"].values.tolist() == ["text", "own", "reference", "reference_1"]
    np.testing.assert_allclose(mass.sum("source"), 1, atol=1e-6)
    # What is laid down, the own picture's as well, which no array holds.
    by_layer = mass.isel(step=0, y=1, x=2).transpose("layer", "source")
    np.testing.assert_allclose(by_layer, [[0, 0.8, 0.1, 0.1], [0.5, 0.4, 0.1, 0]], atol=1e-6)


def test_without_its_keys_the_text_counts_with_the_own_picture(tmp_path: Path) -> None:
    mass = source_mass(captured(tmp_path / "run.zarr", edges=())).compute()
    assert mass["source"].values.tolist() == ["text and own", "reference", "reference_1"]
    np.testing.assert_allclose(mass.sel(source="text and own").mean(("step", "y", "x")), [0.8, 0.9])


def test_which_reference_a_patch_reads_follows_from_the_shares(sample: xr.DataTree) -> None:
    mass = source_mass(sample)
    by_layer = most_read(mass.mean(("step", "y", "x"))).compute()
    np.testing.assert_allclose(by_layer["entropy"], [1, 0], atol=1e-4)  # 0.1 each; 0.1 and nothing
    assert int(by_layer["reference"][1]) == 0
    with pytest.raises(AnalysisError, match="mass of two references or more, got 1"):
        most_read(mass.isel(source=slice(0, 3)))


def test_the_roads_are_lazy_and_keep_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = captured(tmp_path / "run.zarr")
    reads = watch_reads(monkeypatch)
    roads, most = two_hop(sample), most_read(source_mass(sample))
    assert not [key for key, _ in reads if "/c/" in key]
    assert roads["r2g/share"].compute().shape == GRID
    assert most["entropy"].compute().shape == (2, 2, *GRID)
    assert list(find_faults(describe_store(tmp_path / "run.zarr"))) == []


def test_a_selection_is_that_of_the_whole(sample: xr.DataTree) -> None:
    whole = source_mass(sample).compute()
    part = source_mass(sample, layers="blocks.1", steps=1).compute()
    xr.testing.assert_allclose(part, whole.sel(layer=["blocks.1"], step=[1]))


def test_roads_that_were_not_kept_are_asked_for_at_capture(tmp_path: Path) -> None:
    without = captured(tmp_path / "run.zarr", edges=["text->generated"])
    with pytest.raises(
        AnalysisError, match=r"got no text_query, at blocks\.0\. Capture with edges="
    ):
        two_hop(without)


def test_text_that_the_profile_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"Expected text in the softmax of layer 'blocks.0'"):
        captured(tmp_path / "run.zarr", has_text=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"edges": "reference->text"}, r"Expected edges as a list, got 'reference->text'"),
        ({"edges": ["text->reference"]}, "got 'text->reference', at edge. Did you mean"),
        ({"representation": "maps"}, "Expected factors, which hold the roads"),
        ({"representation": "logits"}, "Expected factors, which hold the roads"),
        ({"guidance": "both"}, "Expected one guidance branch with edges through the text"),
    ],
    ids=str,
)
def test_options_that_cannot_hold_the_roads_are_refused(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(SchemaError, match=told):
        captured(tmp_path / "run.zarr", **options)
