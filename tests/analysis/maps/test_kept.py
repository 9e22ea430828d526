"""What a capture kept: some heads, some steps, several references, frames of a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze, open_run, sram
from i2am.schemas import AnalysisError
from i2am.schemas.choices import CONVENTIONS
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

# --- Heads.

HEADS = (
    SyntheticLayer("some", (4, 4), (2, 2), heads=4, kept_heads=(1, 3)),
    SyntheticLayer("other", (4, 4), (2, 2), heads=4, kept_heads=(3, 2), representation="maps"),
    SyntheticLayer("all", (4, 4), (2, 2), heads=2),
)


@pytest.fixture(scope="module")
def heads_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("heads") / "run.zarr", ["a"], HEADS, steps=2)


def volume_by_head(path: Path) -> Any:
    """R2G (layer, step, head 0 to 3, y, x) with NaN for the heads that are not there."""
    volume = np.full((3, 2, 4, 4, 4), np.nan)
    for number, layer in enumerate(reference_maps.layer_groups(path / "a")):
        labels = layer.attrs["i2am"]["heads"] or [0, 1]
        if "r2g" in layer:
            own = layer["r2g"][:].reshape(2, 2, 4, 4)
        else:
            own = reference_maps.r2g_volume(layer, (4, 4))
        volume[number][:, labels] = own
    return volume


def test_heads_stand_at_their_labels_and_missing_ones_are_nan(heads_path: Path) -> None:
    maps: Any = analyze(open_run(heads_path)["a"])["r2g"]
    volume = volume_by_head(heads_path)
    close: Any = {"rtol": 1e-5, "atol": 1e-7}
    assert maps["head"].values.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(maps["volume"], volume, **close)
    np.testing.assert_allclose(maps["hlam"], np.nanmean(volume, axis=(0, 1)), **close)
    np.testing.assert_allclose(maps["ulam"], np.nanmean(volume, axis=(0, 1, 2)), **close)


@pytest.mark.parametrize(
    ("heads", "layers", "labels"),
    [
        ([3], ["some", "other"], [3]),
        ([2, 1], ["some", "other", "all"], [1, 2]),
        ([0], ["all"], [0]),
    ],
)
def test_heads_are_asked_for_by_label(
    heads: list[int], layers: list[str], labels: list[int], heads_path: Path
) -> None:
    maps: Any = analyze(open_run(heads_path)["a"], heads=heads)["r2g"]
    numbers = [["some", "other", "all"].index(name) for name in layers]
    assert maps["layer"].values.tolist() == layers
    assert maps["head"].values.tolist() == labels
    wanted = volume_by_head(heads_path)[numbers][:, :, labels]
    np.testing.assert_allclose(maps["volume"], wanted, rtol=1e-5, atol=1e-7)


def test_sram_keeps_the_labels_of_the_heads(heads_path: Path) -> None:
    found = sram(open_run(heads_path)["a"], generated=(0, 0), layers="some", keep=["head"])
    assert found["head"].values.tolist() == [1, 3]


def test_the_official_convention_keeps_the_labels_of_the_heads(heads_path: Path) -> None:
    maps: Any = analyze(open_run(heads_path)["a"], convention="official")["r2g"]
    assert maps["head"].values.tolist() == [0, 1, 2, 3]
    volume = volume_by_head(heads_path)
    np.testing.assert_allclose(maps["hlam"], np.nanmean(volume, axis=(0, 1)), rtol=1e-5)


def test_a_head_that_no_layer_kept_is_refused(heads_path: Path) -> None:
    sample: Any = open_run(heads_path)["a"]
    with pytest.raises(AnalysisError, match=r"Expected heads from 1, 3, got 2, at a"):
        analyze(sample, layers="some", heads=[2])


# --- Steps.

STEPS = (0, 5, 10, 40, 45)


@pytest.fixture(scope="module")
def steps_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = [SyntheticLayer("one", (4, 4), (2, 2), keys_per_step=True)]
    return write_run(tmp_path_factory.mktemp("steps") / "run.zarr", ["a"], layers, steps=STEPS)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_time_groups_split_the_kept_steps_and_tell_their_labels(
    convention: Any, steps_path: Path
) -> None:
    maps: Any = analyze(open_run(steps_path)["a"], convention=convention, time_groups=2)["r2g"]
    volume = reference_maps.r2g_volume(reference_maps.layer_groups(steps_path / "a")[0], (4, 4))
    groups = np.stack([volume[:3].mean((0, 1)), volume[3:].mean((0, 1))])
    assert maps["step"].values.tolist() == list(STEPS)
    assert maps["first_step"].values.tolist() == [0, 40]
    assert maps["last_step"].values.tolist() == [10, 45]
    np.testing.assert_allclose(maps["tlam"], groups, rtol=1e-5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_steps_are_asked_for_by_label(convention: Any, steps_path: Path) -> None:
    sample: Any = open_run(steps_path)["a"]
    maps: Any = analyze(sample, convention=convention, steps=[40, 5])["r2g"]
    volume = reference_maps.r2g_volume(reference_maps.layer_groups(steps_path / "a")[0], (4, 4))
    assert maps["step"].values.tolist() == [5, 40]
    assert maps["timestep"].values.tolist() == sample["timestep"].values[[1, 3]].tolist()
    np.testing.assert_allclose(maps["ulam"], volume[[1, 3]].mean((0, 1)), rtol=1e-5)


def test_sram_takes_steps_by_label(steps_path: Path) -> None:
    sample: Any = open_run(steps_path)["a"]
    found = sram(sample, generated=(9, 30), steps=[45, 10], keep=["step"])
    logits = reference_maps.stored_logits(reference_maps.layer_groups(steps_path / "a")[0])
    # Images are 32x32: pixel (9, 30) is patch (1, 3) of 4x4.
    wanted = reference_maps.softmax(logits, 3)[[2, 4], :, 1 * 4 + 3, 1:].mean(1).reshape(2, 2, 2)
    assert found["step"].values.tolist() == [10, 45]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("step", [1, 44, 50])
def test_a_step_that_was_not_kept_is_refused(step: int, steps_path: Path) -> None:
    sample: Any = open_run(steps_path)["a"]
    match = rf"Expected steps from 0, 5, 10, 40, 45, got {step}, at a"
    with pytest.raises(AnalysisError, match=match):
        analyze(sample, steps=[0, step])
    with pytest.raises(AnalysisError, match=match):
        sram(sample, generated=(0, 0), steps=[step])


# --- Several references.

FIRST = SyntheticLayer("down.attn", (4, 4), (4, 4), 0)
PLAIN = SyntheticLayer("up.attn", (4, 4), None, 0, tokens=4)
REFERENCES = (
    FIRST,
    replace(FIRST, name="down.attn.reference_1", reference_grid=(3, 2), reference_index=1),
    PLAIN,
    replace(PLAIN, name="up.attn.reference_1", reference_index=1),
)


@pytest.fixture(scope="module")
def references_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("references") / "run.zarr"
    return write_run(path, ["a"], REFERENCES, steps=2)


def test_maps_are_of_the_first_reference_unless_layers_are_named(references_path: Path) -> None:
    maps: Any = analyze(open_run(references_path)["a"])
    assert maps["r2g/layer"].values.tolist() == ["down.attn", "up.attn"]
    assert maps["g2r/layer"].values.tolist() == ["down.attn"]
    wanted = reference_maps.g2r_volume(
        reference_maps.layer_groups(references_path / "a")[0], (4, 4)
    )
    np.testing.assert_allclose(maps["g2r/ulam"], wanted.mean((0, 1)), rtol=1e-5)


def test_where_only_a_later_reference_was_kept_it_is_the_first(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", ["a"], [REFERENCES[1]])
    maps: Any = analyze(open_run(path)["a"])
    assert maps["g2r/layer"].values.tolist() == ["down.attn.reference_1"]


def test_naming_the_layers_of_another_reference_takes_them(references_path: Path) -> None:
    maps: Any = analyze(open_run(references_path)["a"], layers="*.reference_1")
    assert maps["r2g/layer"].values.tolist() == ["down.attn.reference_1", "up.attn.reference_1"]
    wanted = reference_maps.g2r_volume(
        reference_maps.layer_groups(references_path / "a")[1], (3, 2)
    )
    np.testing.assert_allclose(maps["g2r/ulam"], wanted.mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_maps_of_two_references_are_never_averaged(convention: Any, references_path: Path) -> None:
    sample: Any = open_run(references_path)["a"]
    match = (
        r"got those of 2, at down\.attn and down\.attn\.reference_1\. For the first let the "
        r"pattern end with .* '\.reference_1'"
    )
    with pytest.raises(AnalysisError, match=match):
        analyze(sample, layers="*", convention=convention)
    with pytest.raises(AnalysisError, match=match):
        sram(sample, layers="down*", generated=(0, 0))


def test_r2g_alone_may_be_of_two_references_that_are_named(references_path: Path) -> None:
    maps: Any = analyze(open_run(references_path)["a"], layers="up*")
    assert maps["r2g/layer"].values.tolist() == ["up.attn", "up.attn.reference_1"]


def test_a_region_is_of_the_image_of_the_layers_reference(
    references_path: Path,
) -> None:
    sample: Any = open_run(references_path)["a"]
    name = "down.attn.reference_1"
    # Its picture is 24x16, its grid 3x2: pixel (20, 3) is token (2, 0).
    found = sram(sample, reference=(20, 3), layers=name)
    logits = reference_maps.stored_logits(reference_maps.layer_groups(references_path / "a")[1])
    wanted = reference_maps.softmax(logits, 2)[..., 2 * 2 + 0].mean((0, 1)).reshape(4, 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.attrs["reference_image"] == "reference_1"
    with pytest.raises(AnalysisError, match=r"within \(24, 16\), got \(30, 3\), at reference_1="):
        sram(sample, reference=(30, 3), layers=name)
    assert sram(sample, reference=(30, 3)).attrs["reference_image"] == "reference"


# --- Frames.


def joined(maps: Any, frames: int, grid: tuple[int, int]) -> Any:
    """Each frame resized for itself, and stacked again."""
    each = np.split(maps, frames, axis=-2)
    return np.concatenate([reference_maps.resize(frame, grid) for frame in each], axis=-2)


VIDEO = (
    SyntheticLayer("fine", (12, 5), (2, 2), frames=3),
    SyntheticLayer("coarse", (6, 2), (2, 2), frames=3, other_keys=3, representation="logits"),
    SyntheticLayer("maps", (6, 2), (2, 2), frames=3, other_keys=3, representation="maps"),
)


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "run.zarr"
    return write_run(path, ["a"], VIDEO, steps=2, size_px=(48, 20))


def test_frames_are_resized_one_by_one(video_path: Path) -> None:
    maps: Any = analyze(open_run(video_path)["a"])["r2g"]
    fine, coarse, reduced = reference_maps.layer_groups(video_path / "a")
    np.testing.assert_allclose(
        maps["volume"][0], reference_maps.r2g_volume(fine, (12, 5)), rtol=1e-5
    )
    own = (
        reference_maps.softmax(reference_maps.stored_logits(coarse), 2).mean(3).reshape(2, 2, 6, 2)
    )
    wanted = joined(own, 3, (4, 5)).clip(0)
    np.testing.assert_allclose(maps["volume"][1], wanted, rtol=1e-5, atol=1e-8)
    wanted = joined(reduced["r2g"][:].reshape(2, 2, 6, 2), 3, (4, 5)).clip(0)
    np.testing.assert_allclose(maps["volume"][2], wanted, rtol=1e-5, atol=1e-8)
    masses = [
        np.exp(reference_maps.stored_logits(coarse) - coarse["logsumexp"][:][..., None]).sum(-1),
        reduced["mass"][:],
    ]
    mass = np.mean([joined(m.reshape(2, 2, 6, 2), 3, (4, 5)) for m in masses], axis=(0, 1, 2))
    np.testing.assert_allclose(maps["mass"], mass, rtol=1e-3)  # the logits are in half precision


def test_the_official_convention_resizes_frame_by_frame(video_path: Path) -> None:
    sample: Any = open_run(video_path)["a"]
    maps: Any = analyze(sample, convention="official", layers="coarse", grid=(9, 4))["r2g"]
    logits = reference_maps.stored_logits(reference_maps.layer_groups(video_path / "a")[1])
    tokens = reference_maps.softmax(logits, 2).mean(0).swapaxes(1, 2).reshape(2, 5, 6, 2)
    wanted = joined(tokens, 3, (3, 4)).clip(0).mean((0, 1))
    np.testing.assert_allclose(maps["ulam"], wanted, rtol=1e-5)


def test_sram_of_a_video_takes_the_patch_in_its_frame(video_path: Path) -> None:
    sample: Any = open_run(video_path)["a"]
    coarse = reference_maps.layer_groups(video_path / "a")[1]
    # Three frames of 16x20 pixels, 2x2 patches each: pixel (25, 11) is patch (3, 1) of 6x2.
    found = sram(sample, generated=(25, 11), layers="coarse")
    truth = np.exp(reference_maps.stored_logits(coarse) - coarse["logsumexp"][:][..., None])
    wanted = truth[:, :, 3 * 2 + 1, 1:].mean((0, 1)).reshape(2, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    of_reference = sram(sample, reference=(0, 0), layers=["fine", "coarse"], keep=["layer"])[1]
    own = reference_maps.softmax(reference_maps.stored_logits(coarse), 2)[..., 1].reshape(
        2, 2, 6, 2
    )
    wanted = joined(own, 3, (4, 5)).clip(0).mean((0, 1))
    np.testing.assert_allclose(of_reference, wanted, rtol=1e-5)


def test_a_grid_that_cuts_a_frame_is_refused(video_path: Path) -> None:
    sample: Any = open_run(video_path)["a"]
    for convention in CONVENTIONS:
        with pytest.raises(
            AnalysisError, match=r"a grid of 3 frames above one another, got 10 rows, at fine"
        ):
            analyze(sample, grid=(10, 5), convention=convention)


def test_layers_whose_frames_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    layers = [VIDEO[0], SyntheticLayer("other", (10, 2), (2, 2), frames=5)]
    sample: Any = open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"]
    with pytest.raises(AnalysisError, match=r"5 frames .*, got 12 rows, at other"):
        sram(sample, reference=(0, 0))
