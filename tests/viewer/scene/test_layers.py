from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze_run, find_maps, open_run
from i2am.schemas import StoreError
from i2am.viewer.data.axes import MapAxes, SliderPosition, describe_map
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.data.sample import SampleView
from i2am.viewer.scene.contrast import contrast_limits, shared_contrast_limits
from i2am.viewer.scene.layers import remove_layers, sample_layers
from i2am.viewer.scene.placement import place_images
from tests.support.maps_store import NAMES, spot_volume, write_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

ONE_TOKEN = SyntheticLayer("block.attn2", reference_grid=None, tokens=1)


def _by_name(view: SampleView) -> dict[str, tuple[Any, dict[str, Any]]]:
    layers = sample_layers(view, place_images(view))
    return {own["name"]: (values, own) for values, own, _ in layers}


def _open(path: Path, *options: Any, **more: Any) -> SampleView:
    """Open a row that reads what it is asked for at once."""
    view = open_view(path, *options, **more)
    loader = view.loader()
    for volume in view.volumes.values():
        volume.request = loader.read_blocking
    return view


def _describe(
    view: SampleView, position: SliderPosition, averaged_dims: tuple[str, ...] = ()
) -> str:
    for volume in view.volumes.values():
        np.asarray(volume)
    present = {direction: volume.loaded.present for direction, volume in view.volumes.items()}
    return describe_map(position, frozenset(averaged_dims), view.axes, present)


def _edges(values: Any, options: dict[str, Any]) -> list[tuple[float, float]]:
    """Return where an array begins and ends along y and x, outer edges, in world coordinates."""
    leading = len(options["axis_labels"]) - 2
    edges = []
    for axis in (0, 1):
        scale, at = options["scale"][leading + axis], options["translate"][leading + axis]
        length = values.shape[leading + axis]
        edges.append((at - scale / 2, at + scale * (length - 0.5)))
    return edges


def test_maps_lie_edge_to_edge_on_their_images_which_stand_side_by_side(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", size_px=(48, 32))
    volumes = {"r2g": spot_volume(grid=(6, 8)), "g2r": spot_volume(grid=(8, 4))}
    write_maps(tmp_path / "maps.zarr", {"first": volumes})
    layers = _by_name(open_view(run))
    for name in ("generated", "source", "inpainting mask", "R2G"):
        assert _edges(*layers[name]) == [(-0.5, 47.5), (-0.5, 31.5)], name
    for name in ("reference", "reference mask", "G2R"):
        assert _edges(*layers[name]) == [(-0.5, 47.5), (33.5, 65.5)], name


def test_a_second_sample_lies_below_as_wide_as_the_first(tmp_path: Path) -> None:
    first = open_view(write_run(tmp_path / "run.zarr", size_px=(48, 32)))
    second = open_view(write_run(tmp_path / "other.zarr", size_px=(96, 64)))
    placed = place_images(second, place_images(first))
    assert placed["generated"].width == 32
    assert placed["generated"].height == 48
    assert placed["generated"].top > 47.5
    names = [options["name"] for _, options, _ in sample_layers(second, placed, 1)]
    assert names[:2] == ["captions (2)", "generated (2)"]


def test_volumes_have_named_axes_and_are_read_when_they_are_looked_at(run: Path) -> None:
    view = _open(run)
    layers = _by_name(view)
    for name, at in (("R2G", (0, 1, 2, 1, 3, 1)), ("G2R", (0, 1, 2, 1, 3, 6))):
        values, options = layers[name]
        assert options["axis_labels"] == ("sample", "layer", "timestep", "head", "y", "x")
        assert values.loaded.share_loaded < 1
        assert values[at] == 1
    assert not view.source.computed


def test_names_hold_the_true_layers_and_timesteps(run: Path) -> None:
    axes = open_view(run).axes
    assert axes.layers == NAMES
    np.testing.assert_allclose(axes.timesteps, [981, 981 - 980 / 3, 981 - 1960 / 3, 1])
    assert axes.heads == (0, 1)


def test_a_direction_without_a_layer_is_nan_there_so_that_both_share_the_sliders(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run.zarr")
    r2g, g2r = spot_volume(layers=3), spot_volume(layers=2)
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": r2g, "g2r": g2r}})
    volume = _open(run).volumes["g2r"]
    values = np.asarray(volume)[0]
    assert values.shape == r2g.shape
    assert np.isnan(values[2]).all()
    np.testing.assert_array_equal(values[:2], g2r)
    assert volume.loaded.present.tolist() == [[True, True], [True, True], [False, False]]


def test_contrast_limits_run_from_each_layers_mean_to_its_hottest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr")
    maps = spot_volume()
    maps[1] *= 10
    maps[2] = 0.25
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": maps}})
    volume = _open(run).volumes["r2g"]
    assert (
        shared_contrast_limits([(volume.loaded, SliderPosition(0, 0, 0))], frozenset()) is None
    )  # nothing is loaded
    np.asarray(volume)
    limits = [
        shared_contrast_limits([(volume.loaded, SliderPosition(layer, 0, 0))], frozenset())
        for layer in range(3)
    ]
    np.testing.assert_allclose(limits[:2], [(1 / 64, 1), (10 / 64, 10)])  # type: ignore[arg-type]
    low, high = limits[2] or (0, 0)
    assert low == pytest.approx(0.25)
    assert 0.25 < high < 0.2503  # flat, and drawn as flat
    assert contrast_limits(np.full((2, 2), np.nan)) == (0, 1)


def test_maps_are_computed_from_the_run_where_none_are_stored(tmp_path: Path) -> None:
    layer = SyntheticLayer("block.attn2", generated_grid=(4, 4), dtype="float32")
    run = write_run(tmp_path / "run.zarr", layers=[layer], steps=2)
    r2g, g2r = _true_maps(run, layer)
    view = _open(run)
    np.testing.assert_allclose(np.asarray(view.volumes["r2g"])[0], r2g, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(view.volumes["g2r"])[0], g2r, rtol=1e-4)
    assert view.source.computed


def _true_maps(run: Path, layer: SyntheticLayer) -> list[Any]:
    import zarr

    group = zarr.open_group(run, mode="r")["first/layers/block.attn2"]
    query, key = (np.asarray(group[name][:], np.float64) for name in ("query", "key"))  # type: ignore[index]
    scores = np.exp(np.einsum("tnpd,nrd->tnpr", query, key) * layer.channels**-0.5)
    r2g = (scores / scores.sum(2, keepdims=True)).mean(3).reshape(1, 2, 2, 4, 4)
    g2r = (scores / scores.sum(3, keepdims=True)).mean(2)[..., 1:].reshape(1, 2, 2, 4, 4)
    return [r2g, g2r]


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "computed"])
def test_density_is_mass_times_the_positions_of_each_layers_grid(
    is_stored: bool, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr")
    if is_stored:
        analyze_run(run, tmp_path / "maps.zarr", progress=False)
    from i2am.analysis import analyze

    expected = analyze(open_run(run)["first"], normalisation="density")
    view = _open(run, normalisation="density")
    assert view.source.computed is not is_stored
    for direction, volume in view.volumes.items():
        truth = expected[direction].dataset
        np.testing.assert_allclose(np.asarray(volume)[0], truth["volume"], rtol=1e-5)
        found = volume.loaded.plane(SliderPosition(0, 0, 0), frozenset({"layer", "step", "head"}))
        np.testing.assert_allclose(found, truth["ulam"], rtol=1e-5)  # type: ignore[arg-type]


def test_the_other_branch_of_the_guidance_is_computed(tmp_path: Path) -> None:
    from i2am.analysis import analyze

    run = write_run(tmp_path / "run.zarr", guidance=True)
    analyze_run(run, tmp_path / "maps.zarr", progress=False)
    view = _open(run, guidance="unconditional")
    assert view.source.computed
    assert view.guidance_labels == ["unconditional", "conditional"]
    truth = analyze(open_run(run)["first"], guidance="unconditional")["r2g"].dataset["volume"]
    np.testing.assert_allclose(np.asarray(view.volumes["r2g"])[0], truth, rtol=1e-5)


def test_one_reference_token_gives_no_g2r_and_says_why(tmp_path: Path) -> None:
    view = _open(write_run(tmp_path / "run.zarr", layers=[ONE_TOKEN]))
    layers = _by_name(view)
    assert "G2R" not in layers
    assert "reference" in layers
    assert list(layers["captions"][1]["features"]["caption"])[:2] == [
        "first: generated · R2G",
        "reference · no G2R",
    ]
    assert "one reference token" in view.note()
    assert "a similarity, not a cause" in _describe(view, SliderPosition(0, 0, 0))


def test_reference_tokens_without_a_layout_give_no_g2r_and_say_why(tmp_path: Path) -> None:
    layer = SyntheticLayer("block.attn2", reference_grid=None, tokens=4, special_tokens=0)
    run = write_run(tmp_path / "run.zarr", layers=[layer])
    assert open_view(run).note() == "R2G only: the reference tokens have no layout."


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


@pytest.mark.parametrize("text", ["", "{", '{"zarr_format": 3, "node_type": "group"}', None])
def test_maps_that_cannot_be_read_are_not_passed_over(
    text: str | None, run: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tmp_path / "maps.zarr", tmp_path / "copy.maps.zarr")) / "zarr.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(StoreError, match=r"It lies where the maps of .*copy\.zarr belong"):
        find_maps(tmp_path / "copy.zarr")


def test_maps_that_are_named_are_read_wherever_they_lie(run: Path, tmp_path: Path) -> None:
    maps = spot_volume()[:, :, :, ::-1]
    store = write_maps(tmp_path / "mine.zarr", {"second": {"r2g": maps}}, source="x.zarr")
    view = _open(run, sample="second", maps=store)
    np.testing.assert_array_equal(np.asarray(view.volumes["r2g"])[0], maps)
    assert view.source.maps == str(store)


def test_what_cannot_be_opened_is_one_clear_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got none named 'fist'.*Did you mean 'first'"):
        open_view(run, "fist")
    with pytest.raises(StoreError, match=r"Expected a store, got nothing"):
        open_view(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match=r"Expected a maps store, got a run store"):
        open_view(run, maps=run)
    empty = write_run(tmp_path / "empty.zarr", ())
    with pytest.raises(StoreError, match=r"at least one complete sample, got none, at .*empty"):
        open_view(empty)


AXES_OF_TWO = MapAxes(
    ("down.attn2", "up.attn2"), ((8, 8), (16, 12)), (True, True), (0, 5), (981, 481.5), (0, 1)
)


def test_a_position_beyond_the_volume_is_clipped_to_it() -> None:
    assert AXES_OF_TWO.clipped((1.0, 1.0, 0.0)) == (1, 1, 0)
    assert AXES_OF_TWO.clipped((9.0, -4.0, 0.4)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("averaged_dims", "lines"),
    [
        (
            (),
            [
                "up.attn2",
                "16×12 patches · step 5: timestep 481.5 · head 1",
                "no G2R map of this layer and head",
            ],
        ),
        (("layer", "step", "head"), ["ULAM · mean over layers, steps and heads"]),
        (
            ("layer", "head"),
            ["TLAM · step 5: timestep 481.5 · mean over layers and heads"],
        ),
        (("layer", "step"), ["HLAM · head 1 · mean over layers and steps"]),
        (("step", "head"), ["up.attn2", "LLAM · 16×12 patches · mean over steps and heads"]),
        (("head",), ["up.attn2", "16×12 patches · step 5: timestep 481.5 · mean over heads"]),
    ],
)
def test_the_map_in_view_is_described_with_true_names(
    averaged_dims: tuple[str, ...], lines: list[str]
) -> None:
    present = {"r2g": np.ones((2, 2), bool), "g2r": np.array([[True, True], [True, False]])}
    told = describe_map(SliderPosition(1, 1, 1), frozenset(averaged_dims), AXES_OF_TWO, present)
    assert told.splitlines() == lines


def test_maps_of_another_reference_lie_on_its_image(tmp_path: Path) -> None:
    first = SyntheticLayer("attn", (4, 4), (4, 4), 0)
    second = replace(first, name="attn.reference_1", reference_grid=(3, 2), reference_index=1)
    run = write_run(tmp_path / "run.zarr", layers=[first, second])
    analyze_run(run, tmp_path / "other.zarr", layers="*.reference_1", progress=False)
    images = open_run(run)["first"]["images"].dataset
    shown = _by_name(open_view(run))
    np.testing.assert_array_equal(shown["reference"][0], images["reference"])
    assert "reference mask" in shown
    shown = _by_name(open_view(run, maps=tmp_path / "other.zarr"))
    np.testing.assert_array_equal(shown["reference"][0], images["reference_1"])
    assert "reference mask" not in shown  # It is of the first one.
    np.testing.assert_allclose(_edges(*shown["G2R"]), _edges(*shown["reference"]))


@pytest.mark.parametrize("other_keys", [0, 3], ids=["alone", "shared"])
@pytest.mark.parametrize("representation", ["factors", "maps"])
def test_one_token_is_a_similarity_unless_others_share_its_softmax(
    representation: str, other_keys: int, tmp_path: Path
) -> None:
    layer = replace(ONE_TOKEN, representation=representation, other_keys=other_keys)
    view = _open(write_run(tmp_path / "run.zarr", layers=[layer]))
    assert view.axes.causal == (other_keys > 0,)
    assert ("a similarity" in _describe(view, SliderPosition(0, 0, 0))) is (other_keys == 0)
    assert ("a similarity" in view.note()) is (other_keys == 0)


def test_kept_steps_and_heads_are_named_by_their_labels(tmp_path: Path) -> None:
    layer = SyntheticLayer("attn", (4, 4), (4, 4), 0, heads=4, kept_heads=(1, 3))
    view = _open(write_run(tmp_path / "run.zarr", layers=[layer], steps=(0, 5, 10)))
    assert view.axes.steps == (0, 5, 10)
    assert view.axes.heads == (1, 3)
    assert "step 10: timestep 1 · head 3" in _describe(view, SliderPosition(0, 2, 1))


def test_what_a_program_has_frozen_stays_frozen_when_layers_are_removed() -> None:
    from napari.components import ViewerModel

    viewer = ViewerModel()
    gc.unfreeze()
    remove_layers(viewer, [viewer.add_image(np.zeros((2, 2)))])
    assert gc.get_freeze_count() == 0
    gc.freeze()
    remove_layers(viewer, [viewer.add_image(np.zeros((2, 2)))])
    assert gc.get_freeze_count() > 0
    assert not viewer.layers
