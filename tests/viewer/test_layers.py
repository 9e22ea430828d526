from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze_run, find_maps, open_run
from i2am.schemas import StoreError
from i2am.viewer.opening import open_layers
from i2am.viewer.position import describe_position, slice_indices
from tests.synthetic import SyntheticLayer, write_run
from tests.viewer.stores import NAMES, spot_volume, write_maps

ONE_TOKEN = SyntheticLayer("block.attn2", reference_grid=None, tokens=1)


def _by_name(path: Path, **options: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    layers = open_layers(path, **options)
    return {own["name"]: (values, own) for values, own, _ in layers}


def _edges(values: Any, options: dict[str, Any]) -> list[tuple[float, float]]:
    """Return where an array begins and ends along y and x, outer edges, in world coordinates."""
    leading = len(options["axis_labels"]) - 2
    places = []
    for axis in (0, 1):
        scale, at = options["scale"][leading + axis], options["translate"][leading + axis]
        length = values.shape[leading + axis]
        places.append((at - scale / 2, at + scale * (length - 0.5)))
    return places


def test_maps_lie_edge_to_edge_on_their_pictures_which_stand_side_by_side(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", size_px=(48, 32))
    volumes = {"r2g": spot_volume(grid=(6, 8)), "g2r": spot_volume(grid=(8, 4))}
    write_maps(tmp_path / "maps.zarr", {"first": volumes})
    layers = _by_name(run)
    for name in ("generated", "source", "inpainting mask", "R2G", "R2G ULAM"):
        assert _edges(*layers[name]) == [(-0.5, 47.5), (-0.5, 31.5)], name
    for name in ("reference", "reference mask", "G2R", "G2R ULAM"):
        assert _edges(*layers[name]) == [(-0.5, 47.5), (33.5, 65.5)], name


def test_volumes_have_named_axes_in_the_contracts_order_and_are_not_loaded(run: Path) -> None:
    layers = _by_name(run)
    for name, at in (("R2G", (1, 2, 1, 3, 1)), ("G2R", (1, 2, 1, 3, 6))):
        values, options = layers[name]
        assert options["axis_labels"] == ("layer", "step", "head", "y", "x")
        assert hasattr(values, "dask")
        assert np.asarray(values[at]) == 1


def test_metadata_holds_true_names_and_timesteps(run: Path) -> None:
    own = _by_name(run)["R2G"][1]["metadata"]["i2am"]
    assert own["layers"] == list(NAMES)
    np.testing.assert_allclose(own["timesteps"], [981, 981 - 980 / 3, 981 - 1960 / 3, 1])
    assert own["heads"] == [0, 1]
    assert own["sample"] == "first"
    assert not own["computed"]


def test_a_direction_without_a_layer_is_nan_there_so_that_both_share_the_sliders(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run.zarr")
    r2g, g2r = spot_volume(layers=3), spot_volume(layers=2)
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": r2g, "g2r": g2r}})
    values, options = _by_name(run)["G2R"]
    assert values.shape == r2g.shape
    assert np.isnan(np.asarray(values[2])).all()
    np.testing.assert_array_equal(values[:2], g2r)
    own = options["metadata"]["i2am"]
    assert own["present"] == [[True, True], [True, True], [False, False]]
    assert own["contrast_limits"][2] == (0, 1)


def test_contrast_limits_run_from_each_layers_mean_to_its_hottest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[1] *= 10
    volume[2] = 0.25
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    _, options = _by_name(run)["R2G"]
    limits = options["metadata"]["i2am"]["contrast_limits"]
    np.testing.assert_allclose(limits[:2], [(1 / 64, 1), (10 / 64, 10)])
    assert limits[2][0] == pytest.approx(0.25)
    assert 0.25 < limits[2][1] < 0.2503  # flat, and drawn as flat
    assert options["contrast_limits"] == limits[0]


def test_maps_are_computed_from_the_run_where_none_are_stored(tmp_path: Path) -> None:
    layer = SyntheticLayer("block.attn2", generated_grid=(4, 4), dtype="float32")
    run = write_run(tmp_path / "run.zarr", layers=[layer], steps=2)
    import zarr

    group = zarr.open_group(run, mode="r")["first/layers/block.attn2"]
    query, key = (np.asarray(group[name][:], np.float64) for name in ("query", "key"))  # type: ignore[index]
    scores = np.exp(np.einsum("tnpd,nrd->tnpr", query, key) * layer.channels**-0.5)
    r2g = (scores / scores.sum(2, keepdims=True)).mean(3).reshape(1, 2, 2, 4, 4)
    g2r = (scores / scores.sum(3, keepdims=True)).mean(2)[..., 1:].reshape(1, 2, 2, 4, 4)
    layers = _by_name(run)
    np.testing.assert_allclose(layers["R2G"][0], r2g, rtol=1e-4)
    np.testing.assert_allclose(layers["G2R"][0], g2r, rtol=1e-4)
    np.testing.assert_allclose(layers["R2G ULAM"][0], r2g.mean((0, 1, 2)), rtol=1e-4)
    assert layers["R2G"][1]["metadata"]["i2am"]["computed"]


def test_one_reference_token_gives_no_g2r_and_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", layers=[ONE_TOKEN])
    layers = _by_name(run)
    assert "G2R" not in layers
    assert "reference" in layers
    assert list(layers["captions"][1]["features"]["caption"])[:2] == [
        "generated · R2G",
        "reference · no G2R",
    ]
    own = layers["R2G"][1]["metadata"]["i2am"]
    assert "one reference token" in own["note"]
    assert "a similarity, not a cause" in describe_position((0, 0, 0), {"r2g": own})


def test_reference_tokens_without_a_layout_give_no_g2r_and_say_why(tmp_path: Path) -> None:
    layer = SyntheticLayer("block.attn2", reference_grid=None, tokens=4, special_tokens=0)
    run = write_run(tmp_path / "run.zarr", layers=[layer])
    own = _by_name(run)["R2G"][1]["metadata"]["i2am"]
    assert own["note"] == "R2G only: the reference tokens have no layout."


def test_maps_of_another_run_or_kind_are_passed_over(run: Path, tmp_path: Path) -> None:
    assert find_maps(run) == tmp_path / "maps.zarr"
    other = write_run(tmp_path / "other.zarr")
    assert find_maps(other) is None
    write_maps(tmp_path / "other.maps.zarr", {}, source="run.zarr")
    assert find_maps(other) is None
    named = write_maps(tmp_path / "third.maps.zarr", {}, source="elsewhere/third.zarr")
    assert find_maps(tmp_path / "third.zarr") == named
    write_run(tmp_path / "fourth.maps.zarr")
    assert find_maps(tmp_path / "fourth.zarr") is None


def test_maps_that_are_named_are_read_wherever_they_lie(run: Path, tmp_path: Path) -> None:
    volume = spot_volume()[:, :, :, ::-1]
    maps = write_maps(tmp_path / "mine.zarr", {"second": {"r2g": volume}}, source="x.zarr")
    values, options = _by_name(run, sample="second", maps=maps)["R2G"]
    np.testing.assert_array_equal(values, volume)
    assert options["metadata"]["i2am"]["maps"] == str(maps)


def test_what_cannot_be_opened_is_one_clear_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got none named 'fist'.*Did you mean 'first'"):
        open_layers(run, "fist")
    with pytest.raises(StoreError, match=r"Expected a store, got nothing"):
        open_layers(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match=r"Expected a maps store, got a run store"):
        open_layers(run, maps=run)
    empty = write_run(tmp_path / "empty.zarr", ())
    with pytest.raises(StoreError, match=r"at least one complete sample, got none, at .*empty"):
        open_layers(empty)


def test_a_position_beyond_the_volume_is_clipped_to_it() -> None:
    volume = {"layers": ["a", "b"], "steps": [0, 1, 2], "heads": [0]}
    assert slice_indices((1.0, 2.0, 0.0, 5.0, 5.0), volume) == (1, 2, 0)
    assert slice_indices((9.0, -4.0, 0.4), volume) == (1, 0, 0)


def test_the_position_is_told_with_true_names() -> None:
    r2g = {
        "layers": ["down.attn2", "up.attn2"],
        "generated_grids": [(8, 8), (16, 12)],
        "causal": [True, True],
        "steps": [0, 5],
        "timesteps": [981, 481.5],
        "heads": [0, 1],
        "present": [[True, True], [True, True]],
    }
    g2r = {**r2g, "present": [[True, True], [True, False]]}
    assert describe_position((1, 1, 1), {"r2g": r2g, "g2r": g2r}).splitlines() == [
        "up.attn2",
        "layer 1: 16x12 patches · step 5: timestep 481.5 · head 1",
        "no G2R map of this layer and head",
    ]


def test_maps_of_another_reference_lie_on_its_picture(tmp_path: Path) -> None:
    first = SyntheticLayer("attn", (4, 4), (4, 4), 0)
    second = replace(first, name="attn.reference_1", reference_grid=(3, 2), reference_index=1)
    run = write_run(tmp_path / "run.zarr", layers=[first, second])
    analyze_run(run, tmp_path / "other.zarr", layers="*.reference_1", progress=False)
    images = open_run(run)["first"]["images"].dataset
    shown = _by_name(run)
    np.testing.assert_array_equal(shown["reference"][0], images["reference"])
    assert "reference mask" in shown
    shown = _by_name(run, maps=tmp_path / "other.zarr")
    np.testing.assert_array_equal(shown["reference"][0], images["reference_1"])
    assert "reference mask" not in shown  # It is of the first one.
    np.testing.assert_allclose(_edges(*shown["G2R"]), _edges(*shown["reference"]))


@pytest.mark.parametrize("other_keys", [0, 3], ids=["alone", "shared"])
@pytest.mark.parametrize("representation", ["factors", "maps"])
def test_one_token_is_a_similarity_unless_others_share_its_softmax(
    representation: str, other_keys: int, tmp_path: Path
) -> None:
    layer = replace(ONE_TOKEN, representation=representation, other_keys=other_keys)
    run = write_run(tmp_path / "run.zarr", layers=[layer])
    own = _by_name(run)["R2G"][1]["metadata"]["i2am"]
    assert own["causal"] == [other_keys > 0]
    assert ("a similarity" in describe_position((0, 0, 0), {"r2g": own})) is (other_keys == 0)
    assert ("a similarity" in own["note"]) is (other_keys == 0)


def test_kept_steps_and_heads_are_named_by_their_labels(tmp_path: Path) -> None:
    layer = SyntheticLayer("attn", (4, 4), (4, 4), 0, heads=4, kept_heads=(1, 3))
    run = write_run(tmp_path / "run.zarr", layers=[layer], steps=(0, 5, 10))
    own = _by_name(run)["R2G"][1]["metadata"]["i2am"]
    assert own["steps"] == [0, 5, 10]
    assert own["heads"] == [1, 3]
    assert "step 10: timestep 1 · head 3" in describe_position((0, 2, 1), {"r2g": own})
