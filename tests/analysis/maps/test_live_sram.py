from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from i2am.analysis import Questions, open_run, sram
from i2am.analysis.stores.chunks import DirectReads
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
LAYERS = (FACTORS, STEPPED, LOGITS, JOINT, PRUNED, VIDEO, CLIP)
# Step by step, and in tiles: each array is read in many pieces.
CHUNKED = {"factors": "query", "stepped": "query", "logits": "logits", "joint": "query"}


def box(top: int, left: int, height: int, width: int) -> Any:
    mask = np.zeros((32, 32), bool)
    mask[top : top + height, left : left + width] = True
    return mask


PLACES = {
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
}


@pytest.fixture(scope="module", params=[False, True], ids=["conditional", "both halves"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("questions") / "run.zarr"
    write_run(path, ["a"], LAYERS, steps=STEPS, guidance=request.param)
    for number, (layer, array) in enumerate(CHUNKED.items()):
        reference_maps.rechunk(path / "a" / "layers" / layer, array, step=1 + number, generated=8)
    return open_run(path)["a"]


@pytest.fixture
def in_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small arrays be read as large ones are: a few steps of each layer in turn."""
    monkeypatch.setattr("i2am.analysis.maps.live_sram._AT_ONCE_BYTES", 0)
    monkeypatch.setattr("i2am.analysis.maps.live_sram._PASS_BYTES", 0)
    monkeypatch.setattr("i2am.analysis.maps.live_sram._SLOW_CHUNK_BYTES", 0)


def assert_like_sram(sample: Any, answers: list[Any], **asked: Any) -> None:
    shares = [answer.share for answer in answers]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    wanted = sram(sample, **asked).compute()
    xr.testing.assert_allclose(answers[-1].values, wanted, rtol=1e-5, atol=1e-9)
    assert answers[-1].values.attrs == wanted.attrs
    assert answers[-1].values.name == wanted.name
    assert answers[-1].values.dtype == np.float32
    assert all(answer.values.dims == wanted.dims for answer in answers)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("side", ["generated", "reference"])
@pytest.mark.usefixtures("in_passes")
def test_the_last_answer_is_sram_wherever_is_asked(side: str, place: str, sample: Any) -> None:
    asked = {side: PLACES[place]}
    answers = list(Questions(sample).ask(**asked))
    assert_like_sram(sample, answers, **asked)
    assert len(answers) > 3


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
@pytest.mark.parametrize("side", ["generated", "reference"])
@pytest.mark.usefixtures("in_passes")
def test_the_last_answer_is_sram_whatever_is_selected(
    side: str, selection: Any, sample: Any
) -> None:
    for asked in ({side: (9, 30), **selection}, {side: PLACES["many"], **selection}):
        assert_like_sram(sample, list(Questions(sample).ask(**asked)), **asked)


@pytest.mark.parametrize("side", ["generated", "reference"])
def test_options_are_those_of_sram(side: str, sample: Any) -> None:
    labels = sample.coords["guidance"].values if "guidance" in sample.coords else ["conditional"]
    for half in labels:
        options: Any = {"guidance": str(half), "normalisation": "density"}
        questions = Questions(sample, **options)
        for place in ((9, 30), (20, 3)):  # The second finds the keys in memory.
            asked: Any = {side: place}
            (answer,) = questions.ask(**asked)
            wanted = sram(sample, **asked, **options)
            xr.testing.assert_allclose(answer.values, wanted.compute(), rtol=1e-5)


@pytest.mark.parametrize("side", ["generated", "reference"])
def test_a_sample_in_memory_answers_alike(side: str, sample: Any) -> None:
    asked: Any = {side: (9, 30)}
    assert_like_sram(sample, list(Questions(sample.compute()).ask(**asked)), **asked)
    joint, _, _ = joint_sample(np.random.default_rng(1))
    assert_like_sram(joint, list(Questions(joint).ask(**asked)), **asked)


@pytest.mark.usefixtures("in_passes")
def test_an_estimate_is_a_fair_mean_over_layers(tmp_path: Path) -> None:
    # All steps are alike, so every fair mean of some is the mean of all; layers are not alike.
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS, LOGITS, PRUNED], steps=6)
    for number, (layer, name) in enumerate([("factors", "query"), ("logits", "logits")]):
        group = reference_maps.stored(path / "a")[f"layers/{layer}"]
        group[name][:] = np.broadcast_to(group[name][:1], group[name].shape)
        reference_maps.rechunk(path / "a" / "layers" / layer, name, step=1 + number)
    group = reference_maps.stored(path / "a")["layers/pruned"]
    group["query"][:] = np.broadcast_to(group["query"][:1], group["query"].shape)
    answers = list(Questions(open_run(path)["a"]).ask(generated=(9, 30)))
    assert len(answers) == 6
    for answer in answers[:-1]:
        np.testing.assert_allclose(answer.values, answers[-1].values, rtol=1e-5)


@pytest.mark.usefixtures("in_passes")
def test_the_first_estimate_reads_a_few_steps_of_each_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [SyntheticLayer(f"layer{number}") for number in range(3)]
    path = write_run(tmp_path / "run.zarr", ["a"], layers, steps=8)
    for layer in layers:
        reference_maps.rechunk(path / "a" / "layers" / layer.name, "query", step=2)
    questions = Questions(open_run(path)["a"])
    reads = watch_reads(monkeypatch)
    answer = next(questions.ask(reference=(3, 3)))
    assert answer.share == 3 / 24
    read = sorted(key.split("/layers/")[1] for key, _ in reads if "query/c/" in key)
    # The middle first, and each layer elsewhere, so that together they see much of the run.
    assert read == [
        f"layer{number}/query/c/{chunk}/0/0/0" for number, chunk in enumerate([2, 1, 3])
    ]


def test_keys_that_are_the_same_at_every_step_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS])
    questions = Questions(open_run(path)["a"])
    reads = watch_reads(monkeypatch)
    for y, x in itertools.product((3, 20), (5, 30)):
        list(questions.ask(generated=(y, x)))
        list(questions.ask(reference=(y, x)))
    assert len([key for key, _ in reads if "/key/c" in key]) == 1


def test_keys_in_memory_stay_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS, JOINT])
    sample: Any = open_run(path)["a"]
    kept = DirectReads()
    one = sample["layers/factors"].dataset["key"]
    monkeypatch.setattr("i2am.analysis.stores.chunks._KEPT_BYTES", one.nbytes)
    reads = watch_reads(monkeypatch)
    for layer in ("factors", "joint", "joint", "factors"):
        found = kept.key(layer, sample[f"layers/{layer}"].dataset["key"], 0)
        np.testing.assert_array_equal(found, sample[f"layers/{layer}"].dataset["key"])
    own = [key for key, _ in reads if "/key/c" in key]
    assert len(own) == 3 + 4  # Those above, and the four that they are compared with.


@pytest.fixture
def part(tmp_path: Path) -> Callable[[list[int]], None]:
    """Read some rows of some steps of one half, and compare them with those in the store."""
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS], steps=4, guidance=True)
    whole = reference_maps.rechunk(path / "a" / "layers" / "factors", "query", step=2, generated=8)
    array = open_run(path)["a"]["layers/factors"].dataset["query"]
    reads = DirectReads()

    def part(rows: list[int]) -> None:
        index = {"guidance": [1], "step": [0, 3], "head": [1], "generated": rows}
        found = reads.part(array, index)
        np.testing.assert_array_equal(found, whole[1][[0, 3]][:, [1]][:, :, rows])

    return part


@pytest.mark.parametrize(
    "rows",
    [[3], [3, 4, 5], [0, 7, 8, 20], [0, 63], [60, 61, 63]],
    ids=["one", "slice", "neighbouring tiles", "far tiles", "within a tile"],
)
def test_parts_that_are_read_are_those_that_were_asked_for(
    rows: list[int], part: Callable[[list[int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = watch_reads(monkeypatch)
    part(rows)
    assert len([key for key, _ in reads if "query/c/" in key]) == 2 * len({r // 8 for r in rows})


@pytest.mark.parametrize("rows", [[3], [60, 61, 63], [0, 7, 8, 20]])
def test_zarrs_reads_what_zarr_does(
    rows: list[int], part: Callable[[list[int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "get", None)  # zarr's own reads fail
    part(rows)
    part(rows)


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_damaged_shard_is_an_error_and_no_map(
    is_quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2am.analysis.stores.chunks._HAS_QUICK", is_quick)
    path = write_run(tmp_path / "run.zarr", ["a"], [FACTORS])
    sample = open_run(path)["a"]
    for shard in (path / "a" / "layers" / "factors" / "query" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-7] + b"damaged")
    with pytest.raises(Exception, match="size is incorrect"):
        list(Questions(sample).ask(generated=(3, 3)))


@pytest.mark.usefixtures("in_passes")
def test_an_overtaken_question_ends_early(sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    is_stopped = threading.Event()
    answers = Questions(sample).ask(reference=(3, 3), stop=is_stopped.is_set)
    assert next(answers).share < 1
    is_stopped.set()
    reads = watch_reads(monkeypatch)
    assert list(answers) == []
    assert not reads


def test_a_question_that_is_stopped_before_it_begins_has_no_answer(sample: Any) -> None:
    assert list(Questions(sample).ask(generated=(3, 3), stop=lambda: True)) == []


def test_questions_may_be_asked_at_the_same_time(sample: Any) -> None:
    questions = Questions(sample)
    asked: list[Any] = [{side: (y, 9)} for y in (3, 20) for side in ("generated", "reference")]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: list(questions.ask(**one))[-1], asked))
    for one, answer in zip(asked, found, strict=True):
        xr.testing.assert_allclose(answer.values, sram(sample, **one).compute(), rtol=1e-5)


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
def test_a_question_without_an_answer_is_refused_when_it_is_asked(
    options: Any, match: str, sample: Any
) -> None:
    with pytest.raises(AnalysisError, match=match):
        Questions(sample).ask(**options)


def test_frames_that_do_not_fit_the_common_grid_are_refused(tmp_path: Path) -> None:
    layers = [SyntheticLayer("high", (9, 9), (4, 4)), VIDEO]
    sample: Any = open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"]
    with pytest.raises(AnalysisError, match="Expected a grid of 2 frames above one another"):
        list(Questions(sample).ask(reference=(0, 0)))


def test_an_unknown_normalisation_is_refused(sample: Any) -> None:
    wrong: Any = "masses"
    with pytest.raises(AnalysisError, match="Did you mean 'mass'"):
        Questions(sample, normalisation=wrong)
