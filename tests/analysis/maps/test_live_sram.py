from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from i2am.analysis import LiveSram, open_run, sram
from i2am.analysis.maps.live_sram import Reading
from i2am.analysis.stores.chunks import StoreReads
from i2am.schemas import AnalysisError
from tests.analysis.maps.test_analyze import joint_sample
from tests.support import reference_maps
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import SyntheticLayer, write_run

STEPS = 7
FACTORS = SyntheticLayer("factors", (8, 8), (4, 4), 1)
STEPPED = SyntheticLayer("stepped", (4, 4), (2, 2), 0, keys_per_step=True)
LOGITS = SyntheticLayer("logits", (8, 8), (4, 4), 1, representation="logits")
JOINT = SyntheticLayer("joint", (8, 8), (4, 4), 2, other_keys=5)
PRUNED = SyntheticLayer("pruned", (8, 8), (4, 4), 0, heads=3, kept_heads=(0, 2))
VIDEO = SyntheticLayer("video", (4, 4), (4, 4), 0, frames=2)
CLIP = SyntheticLayer("clip", (8, 8), None, 0, tokens=1)
MASKED = SyntheticLayer("masked", (8, 8), (4, 4), 1, masked=True)
LAYERS = (FACTORS, STEPPED, LOGITS, JOINT, PRUNED, VIDEO, CLIP, MASKED)
# Step by step, and in tiles: each array is read in many pieces.
CHUNKED = {"factors": "query", "stepped": "query", "logits": "logits", "joint": "query"}


def box(top: int, left: int, height: int, width: int) -> Any:
    mask = np.zeros((32, 32), bool)
    mask[top : top + height, left : left + width] = True
    return mask


REGIONS = {
    "pixel": (9, 30),
    "box": box(6, 10, 12, 9),
    "two far apart": box(0, 0, 2, 2) | box(30, 30, 2, 2),
    "many": [(9, 30), box(3, 3, 20, 4), (0, 0)],
    "named": xr.DataArray(
        np.stack([box(0, 0, 9, 9), box(20, 20, 5, 5)]),
        {"region": ["hat", "shoe"]},
        ("region", "y", "x"),
    ),
}
SELECTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "one slice": {"layers": ["factors"], "steps": [3], "heads": [1]},
    "scattered": {"layers": ["logits", "stepped", "joint"], "steps": [6, 0, 3], "heads": [0]},
    "layers without some heads": {"layers": ["pruned", "factors"]},
    "a head that few have": {"heads": [2], "steps": [1, 2]},
    "frames": {"layers": ["video", "factors"]},
    "a mask": {"layers": ["masked", "stepped"], "steps": [0, 4]},
}


@pytest.fixture(scope="module", params=[False, True], ids=["conditional", "both branches"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("live") / "run.zarr"
    write_run(path, ["a"], LAYERS, steps=STEPS, guidance=request.param)
    for number, (layer, array) in enumerate(CHUNKED.items()):
        reference_maps.rechunk(path / "a" / "layers" / layer, array, step=1 + number, generated=8)
    return open_run(path)["a"]


# Small arrays are then read as large ones are: a few steps of each layer in turn.
IN_PASSES = Reading(single_pass_bytes=0, pass_bytes=0, slow_chunk_bytes=0)
# Reads that `watch_reads` sees.
WATCHED = Reading(use_zarrs=False)


def by_blocks(sample: Any, **asked: Any) -> Any:
    """Return SRAM by Dask's blocks: what is kept of the dimensions is not read at once."""
    return sram(sample, **asked, keep=["step"]).mean("step").compute()


def assert_like_sram(sample: Any, estimates: list[Any], **asked: Any) -> None:
    shares = [estimate.share for estimate in estimates]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    wanted = sram(sample, **asked).compute()
    xr.testing.assert_allclose(estimates[-1].values, wanted, rtol=1e-5, atol=1e-9)
    xr.testing.assert_allclose(wanted, by_blocks(sample, **asked), rtol=1e-5, atol=1e-9)
    assert estimates[-1].values.attrs == wanted.attrs
    assert estimates[-1].values.name == wanted.name
    assert estimates[-1].values.dtype == np.float32
    assert all(estimate.values.dims == wanted.dims for estimate in estimates)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("side", ["generated", "reference"])
def test_the_last_estimate_is_sram_for_every_region(side: str, region: str, sample: Any) -> None:
    asked = {side: REGIONS[region]}
    estimates = list(LiveSram(sample, reading=IN_PASSES).ask(**asked))
    assert_like_sram(sample, estimates, **asked)
    assert len(estimates) > 3


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
@pytest.mark.parametrize("side", ["generated", "reference"])
def test_the_last_estimate_is_sram_for_every_selection(
    side: str, selection: Any, sample: Any
) -> None:
    for asked in ({side: (9, 30), **selection}, {side: REGIONS["many"], **selection}):
        assert_like_sram(sample, list(LiveSram(sample, reading=IN_PASSES).ask(**asked)), **asked)


@pytest.mark.parametrize("side", ["generated", "reference"])
def test_options_are_those_of_sram(side: str, sample: Any) -> None:
    labels = sample.coords["guidance"].values if "guidance" in sample.coords else ["conditional"]
    for branch in labels:
        options: Any = {"guidance": str(branch), "normalisation": "density"}
        live = LiveSram(sample, **options)
        for region in ((9, 30), (20, 3)):  # The second finds the keys in memory.
            asked: Any = {side: region}
            (estimate,) = live.ask(**asked)
            wanted = by_blocks(sample, **asked, **options)
            xr.testing.assert_allclose(estimate.values, wanted, rtol=1e-5)


@pytest.mark.parametrize("side", ["generated", "reference"])
def test_a_sample_in_memory_gives_the_same(side: str, sample: Any) -> None:
    asked: Any = {side: (9, 30)}
    assert_like_sram(sample, list(LiveSram(sample.compute()).ask(**asked)), **asked)
    joint, _, _ = joint_sample(np.random.default_rng(1))
    assert_like_sram(joint, list(LiveSram(joint).ask(**asked)), **asked)


def test_an_estimate_is_a_fair_mean_over_layers(tmp_path: Path) -> None:
    # All steps are alike, so every fair mean of some is the mean of all; layers are not alike.
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS, LOGITS, PRUNED], steps=6)
    for number, (layer, name) in enumerate([("factors", "query"), ("logits", "logits")]):
        group = reference_maps.stored(path / "a")[f"layers/{layer}"]
        group[name][:] = np.broadcast_to(group[name][:1], group[name].shape)
        reference_maps.rechunk(path / "a" / "layers" / layer, name, step=1 + number)
    group = reference_maps.stored(path / "a")["layers/pruned"]
    group["query"][:] = np.broadcast_to(group["query"][:1], group["query"].shape)
    estimates = list(LiveSram(open_run(path)["a"], reading=IN_PASSES).ask(generated=(9, 30)))
    assert len(estimates) == 6
    for estimate in estimates[:-1]:
        np.testing.assert_allclose(estimate.values, estimates[-1].values, rtol=1e-5)


def test_the_first_estimate_reads_a_few_steps_of_each_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [SyntheticLayer(f"layer{number}") for number in range(3)]
    path = write_run(tmp_path / "run.zarr", ["a"], layers, steps=8)
    for layer in layers:
        reference_maps.rechunk(path / "a" / "layers" / layer.name, "query", step=2)
    live = LiveSram(open_run(path)["a"], reading=replace(IN_PASSES, use_zarrs=False))
    reads = watch_reads(monkeypatch)
    estimate = next(live.ask(reference=(3, 3)))
    assert estimate.share == 3 / 24
    read = sorted(key.split("/layers/")[1] for key, _ in reads if "query/c/" in key)
    # The middle first, and each layer elsewhere, so that together they see much of the run.
    assert read == [
        f"layer{number}/query/c/{chunk}/0/0/0" for number, chunk in enumerate([2, 1, 3])
    ]


def test_keys_that_are_the_same_at_every_step_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS])
    live = LiveSram(open_run(path)["a"], reading=WATCHED)
    reads = watch_reads(monkeypatch)
    for y, x in itertools.product((3, 20), (5, 30)):
        list(live.ask(generated=(y, x)))
        list(live.ask(reference=(y, x)))
    assert len([key for key, _ in reads if "/key/c" in key]) == 1


def test_keys_in_memory_stay_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS, JOINT])
    sample: Any = open_run(path)["a"]
    one = sample["layers/factors"].dataset["key"]
    kept = StoreReads(cached_key_bytes=one.nbytes, use_zarrs=False)
    reads = watch_reads(monkeypatch)
    for layer in ("factors", "joint", "joint", "factors"):
        found = kept.key(layer, sample[f"layers/{layer}"].dataset["key"], 0)
        np.testing.assert_array_equal(found, sample[f"layers/{layer}"].dataset["key"])
    own = [key for key, _ in reads if "/key/c" in key]
    assert len(own) == 3 + 4  # Those above, and the four that they are compared with.


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., None]:
    """Read some rows of some steps of one branch, and compare them with those in the store."""
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS], steps=4, guidance=True)
    whole = reference_maps.rechunk(path / "a" / "layers" / "factors", "query", step=2, generated=8)
    array = open_run(path)["a"]["layers/factors"].dataset["query"]
    by_zarrs, by_zarr = StoreReads(use_zarrs=True), StoreReads(use_zarrs=False)

    def part(rows: list[int], *, use_zarrs: bool) -> None:
        reads = by_zarrs if use_zarrs else by_zarr
        index = {"guidance": [1], "step": [0, 3], "head": [1], "generated": rows}
        found = reads.read(array, index)
        np.testing.assert_array_equal(found, whole[1][[0, 3]][:, [1]][:, :, rows])

    return part


@pytest.mark.parametrize(
    "rows",
    [[3], [3, 4, 5], [0, 7, 8, 20], [0, 63], [60, 61, 63]],
    ids=["one", "slice", "neighbouring tiles", "far tiles", "within a tile"],
)
def test_parts_that_are_read_are_those_that_were_asked_for(
    rows: list[int], part: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = watch_reads(monkeypatch)
    part(rows, use_zarrs=False)
    assert len([key for key, _ in reads if "query/c/" in key]) == 2 * len({r // 8 for r in rows})


@pytest.mark.parametrize("rows", [[3], [60, 61, 63], [0, 7, 8, 20]])
def test_zarrs_reads_what_zarr_does(
    rows: list[int], part: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "get", None)  # zarr's own reads fail
    part(rows, use_zarrs=True)
    part(rows, use_zarrs=True)


@pytest.mark.parametrize("use_zarrs", [True, False])
def test_a_damaged_shard_is_an_error_and_no_map(use_zarrs: bool, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS])
    sample = open_run(path)["a"]
    for shard in (path / "a" / "layers" / "factors" / "query" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-7] + b"damaged")
    with pytest.raises(Exception, match="size is incorrect"):
        list(LiveSram(sample, reading=Reading(use_zarrs=use_zarrs)).ask(generated=(3, 3)))


def test_a_stopped_request_ends_early(sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    is_stopped = threading.Event()
    estimates = LiveSram(sample, reading=replace(IN_PASSES, use_zarrs=False)).ask(
        reference=(3, 3), stop=is_stopped.is_set
    )
    assert next(estimates).share < 1
    is_stopped.set()
    reads = watch_reads(monkeypatch)
    assert list(estimates) == []
    assert not reads


def test_a_request_that_is_stopped_before_it_begins_has_no_estimate(sample: Any) -> None:
    assert list(LiveSram(sample).ask(generated=(3, 3), stop=lambda: True)) == []


def test_requests_may_run_at_the_same_time(sample: Any) -> None:
    live = LiveSram(sample)
    asked: list[Any] = [{side: (y, 9)} for y in (3, 20) for side in ("generated", "reference")]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: list(live.ask(**one))[-1], asked))
    for one, estimate in zip(asked, found, strict=True):
        xr.testing.assert_allclose(estimate.values, by_blocks(sample, **one), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "Expected generated= or reference=, got neither"),
        ({"generated": (0, 0), "reference": (0, 0)}, "got both"),
        ({"generated": (32, 0)}, r"Expected a pixel \(y, x\) within \(32, 32\), got \(32, 0\)"),
        ({"reference": np.zeros((32, 32), bool)}, "got an empty mask"),
        ({"generated": (0, 0), "layers": "clip"}, "got one token each, at a. SRAM does not exist"),
        ({"generated": (0, 0), "layers": ["klip"]}, "Did you mean 'clip'"),
        ({"generated": (0, 0), "steps": [STEPS]}, f"Expected steps from 0 to 6, got {STEPS}"),
        ({"generated": (0, 0), "heads": []}, "Expected at least one head, got none"),
    ],
)
def test_a_request_without_a_map_is_refused_when_it_is_made(
    options: Any, match: str, sample: Any
) -> None:
    with pytest.raises(AnalysisError, match=match):
        LiveSram(sample).ask(**options)


def test_frames_that_do_not_fit_the_common_grid_are_refused(tmp_path: Path) -> None:
    layers = [SyntheticLayer("high", (9, 9), (4, 4)), VIDEO]
    sample: Any = open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"]
    with pytest.raises(AnalysisError, match="Expected a grid of 2 frames above one another"):
        list(LiveSram(sample).ask(reference=(0, 0)))


def test_an_unknown_normalisation_is_refused(sample: Any) -> None:
    wrong: Any = "masses"
    with pytest.raises(AnalysisError, match="Did you mean 'mass'"):
        LiveSram(sample, normalisation=wrong)
