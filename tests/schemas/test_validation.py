from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import analyze_run, describe_store
from i2am.schemas import ArrayDescription, GroupDescription, find_faults
from tests.support.synthetic_run import PROVENANCE, SyntheticLayer, write_run

SMALL = (
    SyntheticLayer("one", (2, 2), (2, 2), channels=3),
    SyntheticLayer("two", (2, 2), None, special_tokens=0, representation="logits"),
)


def _faults(root: GroupDescription | Path) -> list[str]:
    description = describe_store(root) if isinstance(root, Path) else root
    return [str(fault) for fault in find_faults(description)]


# --- Stores that keep the contract.


@pytest.mark.parametrize("guidance", [False, True])
def test_a_sound_run_has_no_fault(tmp_path: Path, guidance: bool) -> None:
    kept = [SyntheticLayer("three", keys_per_step=True, dtype="float32"), *SMALL]
    assert _faults(write_run(tmp_path / "run.zarr", ["a", "b"], kept, guidance=guidance)) == []


REDUCED = SyntheticLayer("reduced", (2, 2), (2, 2), representation="maps")
KEPT = (
    replace(REDUCED, name="shared", other_keys=3),
    replace(REDUCED, name="one token", reference_grid=None, special_tokens=0),
    SyntheticLayer("heads", (2, 2), (2, 2), heads=4, kept_heads=(1, 3)),
    SyntheticLayer("video", (6, 2), (2, 2), frames=3, representation="logits", other_keys=2),
    SyntheticLayer("video.reference_1", (6, 2), (1, 2), frames=3, reference_index=1),
    SyntheticLayer("video.reference_2", (6, 2), (3, 1), frames=3, reference_index=2),
    SyntheticLayer("weighted", (2, 2), (2, 2), weights=(0.7,), masked=True),
    SyntheticLayer("scaled", (2, 2), (2, 2), weights=(0.7, 0.5, 1.0), representation="logits"),
)


@pytest.mark.parametrize("guidance", [False, True])
def test_a_run_of_reduced_layers_some_heads_and_steps_and_several_references_is_sound(
    tmp_path: Path, guidance: bool
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], KEPT, steps=(0, 5, 10), guidance=guidance)
    assert _faults(run) == []


def test_what_a_layer_reads_from_several_references_may_share_its_order(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], KEPT, steps=3)
    _own("a/layers/video.reference_1", order=3)(zarr.open_group(run, mode="r+"))
    assert _faults(run) == []
    _own("a/layers/video.reference_2", order=2)(zarr.open_group(run, mode="r+"))
    assert _faults(run) == []
    _own("a/layers/heads", order=3)(zarr.open_group(run, mode="r+"))
    message = "expected an order of its own, got 3 as in 'heads'"
    assert _faults(run) == [f"a/layers/video/attributes: {message}"]


def test_a_box_that_reaches_beyond_its_image_is_sound(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], SMALL)
    _box("a/images/reference", -2.5, 1, 8, 40)(zarr.open_group(run, mode="r+"))
    assert _faults(run) == []


def test_sound_maps_have_no_fault(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], SMALL, steps=2)
    assert _faults(analyze_run(run, tmp_path / "maps.zarr", progress=False)) == []


def test_a_run_without_samples_has_no_fault(tmp_path: Path) -> None:
    assert _faults(write_run(tmp_path / "run.zarr", [])) == []


# --- Real stores, broken one way at a time.


def _delete(path: str) -> Callable[[zarr.Group], None]:
    def change(root: zarr.Group) -> None:
        del root[path]

    return change


def _own(path: str, **values: Any) -> Callable[[zarr.Group], None]:
    """Change what a group's attribute says; an ellipsis takes the key away."""

    def change(root: zarr.Group) -> None:
        group = root[path] if path else root
        own: dict[str, Any] = {**group.attrs["i2am"], **values}  # type: ignore[dict-item]
        group.attrs["i2am"] = {k: v for k, v in own.items() if v is not ...}

    return change


def _put(
    path: str, shape: tuple[int, ...], dims: tuple[str, ...] | None, dtype: str = "float16"
) -> Callable[[zarr.Group], None]:
    def change(root: zarr.Group) -> None:
        zeros: Any = np.zeros(shape, dtype)
        kept: Any = {"write_empty_chunks": True}
        root.create_array(path, data=zeros, dimension_names=dims, overwrite=True, config=kept)

    return change


def _rename(path: str, wanted: str) -> Callable[[zarr.Group], None]:
    def change(root: zarr.Group) -> None:
        folder = Path(str(root.store_path).removeprefix("file://"))
        (folder / path).rename(folder / wanted)

    return change


def _box(path: str, *box: float) -> Callable[[zarr.Group], None]:
    def change(root: zarr.Group) -> None:
        root[path].attrs["i2am"] = {"box": list(box)}

    return change


LOGIT_DIMS = ("step", "head", "generated", "reference")
BROKEN: list[Any] = [
    pytest.param(_delete("a/images"), ["a/images: expected a group, got none"], id="no images"),
    pytest.param(_delete("a/layers"), ["a/layers: expected a group, got none"], id="no layers"),
    pytest.param(
        _delete("a/images/reference"),
        ["a/images/reference: expected an image, got none"],
        id="no reference",
    ),
    pytest.param(
        _box("a/images/reference", 0, 4, 8, 4),
        [
            "a/images/reference/attributes: box: expected y0 < y1 and x0 < x1, got [0.0, 4.0, 8.0, 4.0]"
        ],
        id="a box without an area",
    ),
    pytest.param(
        _box("a/images/generated", 0, 4, 8),
        ["a/images/generated/attributes: box: expected y0, x0, y1, x1, got [0, 4, 8]"],
        id="a box of three numbers",
    ),
    pytest.param(
        _delete("a/timestep"),
        ["a/timestep: expected a coordinate over 'step', got none"],
        id="no timestep",
    ),
    pytest.param(
        _delete("a/layers/one/key"),
        ["a/layers/one/key: expected an array, as representation is 'factors', got none"],
        id="no key",
    ),
    pytest.param(
        _delete("a/layers/two/logits"),
        ["a/layers/two/logits: expected an array, as representation is 'logits', got none"],
        id="no logits",
    ),
    pytest.param(
        _put("a/timestep", (3,), ("step",), "int64"),
        ["a/timestep: expected 2 along 'step', got 3"],
        id="timesteps of another number",
    ),
    pytest.param(
        _put("a/step", (2,), ("step",), "float64"),
        ["a/step: expected an integer dtype, got float64"],
        id="fractional steps",
    ),
    pytest.param(
        _put("a/step", (), (), "int64"),
        ["a/step: expected dims ('step',), got None"],
        id="a step without a dimension",
    ),
    pytest.param(
        _put("a/guidance", (2,), ("half",), "int64"),
        [
            "a/guidance: expected dims ('guidance',), got ('half',)",
            "a/guidance: expected a known label, got 0. "
            "Known: 'unconditional', 'conditional', 'image', 'perturbed'.",
            "a/guidance: expected a known label, got 0. "
            "Known: 'unconditional', 'conditional', 'image', 'perturbed'.",
        ],
        id="guidance without labels",
    ),
    pytest.param(
        _put("a/layers/two/logits", (2, 2, 1, 4), ("step", "head", "reference", "generated")),
        [
            f"a/layers/two/logits: expected dims {LOGIT_DIMS}, "
            "got ('step', 'head', 'reference', 'generated')"
        ],
        id="dims in another order",
    ),
    pytest.param(
        _put("a/layers/two/logits", (2, 2, 4, 1), None),
        [f"a/layers/two/logits: expected dims {LOGIT_DIMS}, got None"],
        id="dims without names",
    ),
    pytest.param(
        _put("a/layers/two/logits", (2, 2, 4, 1), LOGIT_DIMS, "float64"),
        ["a/layers/two/logits: expected dtype float16 or float32, got float64"],
        id="dtype",
    ),
    pytest.param(
        _put("a/layers/two/logits", (3, 2, 4, 1), LOGIT_DIMS),
        ["a/layers/two/logits: expected 2 along 'step', got 3"],
        id="steps unlike the coordinate",
    ),
    pytest.param(
        _put("a/layers/two/logits", (1, 2, 2, 4, 1), ("guidance", *LOGIT_DIMS)),
        ["a/layers/two/logits: expected a coordinate 'guidance' in the sample, got none"],
        id="guidance without a coordinate",
    ),
    pytest.param(
        _own("a/layers/one", generated_grid=[3, 2]),
        ["a/layers/one/query: expected 6 along 'generated', got 4"],
        id="generated grid",
    ),
    pytest.param(
        _own("a/layers/one", special_tokens=0),
        ["a/layers/one/key: expected 4 along 'reference', got 5"],
        id="special tokens",
    ),
    pytest.param(
        _put("a/layers/one/key", (3, 5, 3), ("head", "reference", "channel")),
        ["a/layers/one/query: expected 3 along 'head', got 2"],
        id="heads of query and key",
    ),
    pytest.param(
        _put("a/layers/one/logsumexp", (2, 2, 4), ("step", "head", "generated")),
        ["a/layers/one/logsumexp: expected dtype float32, got float16"],
        id="logsumexp in half precision",
    ),
    pytest.param(
        _put("a/layers/one/keys", (1,), ("head",)),
        ["a/layers/one/keys: unknown array. Did you mean 'key'?"],
        id="unknown array",
    ),
    pytest.param(
        _own("a/layers/two", order=0),
        ["a/layers/two/attributes: expected an order of its own, got 0 as in 'one'"],
        id="the same order twice",
    ),
    pytest.param(
        _own("a/layers/two", scale=..., block=...),
        [
            "a/layers/two/attributes: scale: field required",
            "a/layers/two/attributes: block: field required",
        ],
        id="layer attributes",
    ),
    pytest.param(
        _own("a/layers/one", heads=[0, 1, 5]),
        [
            "a/layers/one/key: expected 3 along 'head', got 2",
            "a/layers/one/query: expected 3 along 'head', got 2",
        ],
        id="labels of heads",
    ),
    pytest.param(
        _own("a/layers/one", heads=[1, 1]),
        ["a/layers/one/attributes: heads: expected labels that differ, got (1, 1)"],
        id="the same head twice",
    ),
    pytest.param(
        _own("a/layers/one", frames=3),
        [
            "a/layers/one/attributes: i2am: expected a generated_grid of 3 frames above one "
            "another, got 2 rows"
        ],
        id="half a frame",
    ),
    pytest.param(
        _own("a/layers/one", reference_index=1),
        ["a/layers/one/attributes: expected reference_index 0 as the name tells, got 1"],
        id="a further reference without its name",
    ),
    pytest.param(
        _rename("a/layers/one", "a/layers/one.reference_2"),
        [
            "a/layers/one.reference_2/attributes: expected reference_index 2 as the name tells, got 0"
        ],
        id="a name without its reference",
    ),
    pytest.param(
        _own("a/layers/one", representation="maps"),
        [
            "a/layers/one/r2g: expected an array, as representation is 'maps', got none",
            "a/layers/one/g2r: expected an array, as there are 5 tokens, got none",
            "a/layers/one/key: unknown array. Known: 'r2g', 'g2r', 'mass', 'weight'.",
            "a/layers/one/query: unknown array. Known: 'r2g', 'g2r', 'mass', 'weight'.",
        ],
        id="factors of a reduced layer",
    ),
    pytest.param(
        _put("a/layers/two/r2g", (2, 2, 4), ("step", "head", "generated"), "float32"),
        ["a/layers/two/r2g: unknown array. Known: 'logits', 'logsumexp', 'weight', 'region'."],
        id="maps of a layer that is not reduced",
    ),
    pytest.param(
        _put("a/layers/two/region", (3,), ("generated",), "float32"),
        ["a/layers/two/region: expected 4 along 'generated', got 3"],
        id="a region of another grid",
    ),
    pytest.param(
        _put("a/layers/two/weight", (2,), ("step",), "float64"),
        ["a/layers/two/weight: expected dtype float32, got float64"],
        id="weights of another dtype",
    ),
    pytest.param(
        lambda root: [
            change(root)
            for change in (
                _own("a/layers/two", weight=0.7),
                _put("a/layers/two/weight", (2,), ("step",), "float32"),
            )
        ],
        ["a/layers/two/weight: expected either an attribute or an array of this name, got both"],
        id="two weights",
    ),
    pytest.param(
        _put("a/images/reference_1", (32, 32, 3), ("reference_y", "reference_x", "rgb"), "uint8"),
        [
            "a/images/reference_1: expected dims ('reference_1_y', 'reference_1_x', 'rgb'), "
            "got ('reference_y', 'reference_x', 'rgb')"
        ],
        id="a further reference of the first one's size",
    ),
    pytest.param(
        _put("a/images/reference_0", (8, 8, 3), ("y", "x", "rgb"), "uint8"),
        ["a/images/reference_0: unknown image. Did you mean 'reference'?"],
        id="a reference 0",
    ),
    pytest.param(
        _put("a/images/generated", (32, 32, 4), ("y", "x", "rgb"), "uint8"),
        ["a/images/generated: expected 3 along 'rgb', got 4"],
        id="four colours",
    ),
    pytest.param(
        _put("a/images/inpainting_mask", (32, 16), ("y", "x"), "uint8"),
        ["a/images/inpainting_mask: expected 32 along 'x', got 16"],
        id="mask of another size",
    ),
    pytest.param(
        _put("a/images/inpainting_mask", (32, 32), ("y", "x"), "bool"),
        ["a/images/inpainting_mask: expected dtype uint8, got bool"],
        id="mask of another dtype",
    ),
    pytest.param(
        _put("a/images/inpaint_mask", (32, 32), ("y", "x"), "uint8"),
        ["a/images/inpaint_mask: unknown image. Did you mean 'inpainting_mask'?"],
        id="unknown image",
    ),
    pytest.param(
        lambda root: root["a"].create_group("maps"),
        ["a/maps: expected only the groups 'images' and 'layers'"],
        id="unknown group",
    ),
    pytest.param(
        lambda root: root.create_group("b"),
        [
            "b/attributes: expected a mapping as 'i2am', got none",
            "b/images: expected a group, got none",
            "b/layers: expected a group, got none",
            "b/step: expected a coordinate over 'step', got none",
            "b/timestep: expected a coordinate over 'step', got none",
        ],
        id="a group that is no sample",
    ),
    pytest.param(
        _put("notes", (1,), ("n",)), ["notes: expected no array here, got one"], id="stray array"
    ),
    pytest.param(_own("a", schema=...), ["a/attributes: schema: field required"], id="no schema"),
    pytest.param(_own("a", kind=...), ["a/attributes: kind: field required"], id="no kind"),
    pytest.param(
        _own("a", schema=2), ["a/attributes: schema: input should be 1, got 2"], id="schema"
    ),
    pytest.param(
        _own("a", status="done"),
        ["a/attributes: status: input should be 'running', 'complete' or 'failed', got 'done'"],
        id="status",
    ),
]


def _values(path: str, values: Any, dim: str) -> Callable[[zarr.Group], None]:
    """Put other values into a coordinate of the same dtype."""

    def change(root: zarr.Group) -> None:
        stored: Any = root.get(path)
        data = np.asarray(values, None if stored is None else stored.dtype)
        root.create_array(path, data=data, dimension_names=[dim], overwrite=True)

    return change


LABEL = "expected labels from 0"
FINITE = "expected finite numbers, got"
WRONG_VALUES: list[Any] = [
    *(
        pytest.param(
            _own("a/layers/one", scale=scale),
            [f"a/layers/one/attributes: scale: input should be {reason}"],
            id=f"scale {scale}",
        )
        for scale, reason in (
            (0, "greater than 0, got 0"),
            (-0.5, "greater than 0, got -0.5"),
            (float("nan"), "a finite number, got nan"),
            (float("inf"), "a finite number, got inf"),
        )
    ),
    pytest.param(
        _own("a/layers/one", weight=float("nan")),
        ["a/layers/one/attributes: weight: input should be a finite number, got nan"],
        id="weight",
    ),
    pytest.param(
        _own("a/layers/one", heads=[0, 10**9]),
        ["a/layers/one/attributes: heads: expected labels below 4096, got 1000000000"],
        id="heads beyond what exists",
    ),
    pytest.param(
        _own("a/layers/one", generated_grid=[2**40, 2**40]),
        [
            "a/layers/one/attributes: generated_grid: expected a grid of at most 2147483647 tokens, "
            "got [1099511627776, 1099511627776]"
        ],
        id="a grid that no layer has",
    ),
    pytest.param(
        _own("a", guidance_scale=float("inf")),
        ["a/attributes: guidance_scale: input should be a finite number, got inf"],
        id="guidance scale",
    ),
    *(
        pytest.param(_values("a/step", steps, "step"), [f"a/step: {fault}"], id=f"steps {steps}")
        for steps, fault in (
            ([3, 3], f"{LABEL} on that rise, got 3 after 3"),
            ([5, 2], f"{LABEL} on that rise, got 2 after 5"),
            ([-1, 0], f"{LABEL} to 1000000, got -1"),
            ([0, 10**15], f"{LABEL} to 1000000, got 1000000000000000"),
        )
    ),
    *(
        pytest.param(
            _values("a/timestep", times, "step"), [f"a/timestep: {fault}"], id=f"timesteps {times}"
        )
        for times, fault in (
            ([np.nan, 1.0], f"{FINITE} nan"),
            ([np.inf, 1.0], f"{FINITE} inf"),
        )
    ),
    pytest.param(
        _values("a/layers/one/weight", np.array([1, np.nan], np.float32), "step"),
        [f"a/layers/one/weight: {FINITE} nan"],
        id="weights",
    ),
    *(
        pytest.param(
            _values("a/layers/one/region", np.array([0, 1, wrong, 0], np.float32), "generated"),
            [f"a/layers/one/region: expected numbers from 0 to 1, got {wrong}"],
            id=f"region {wrong}",
        )
        for wrong in (np.nan, np.inf, -0.5, 1.5)
    ),
    pytest.param(
        _box("a/images/reference", 40, 40, 50, 50),
        [
            "a/images/reference/attributes: box: expected a part of the image, which has 32×32 px, "
            "got [40.0, 40.0, 50.0, 50.0]"
        ],
        id="a box outside its image",
    ),
    pytest.param(
        _own("a", box=[40, 0, 8, 8]),
        ["a/attributes: box: expected a part of the image, which has 32×32 px, got [40, 0, 8, 8]"],
        id="a painted box outside the image",
    ),
    *(
        pytest.param(
            _own("a", box=box),
            [f"a/attributes: box: expected x, y, width and height in pixels, got {box!r}"],
            id=f"painted box {box}",
        )
        for box in ([0, 0, 8], [0, 0, 0, 8], ["0", "0", "8", "8"], [0, 0, 8, float("nan")], "0088")
    ),
    pytest.param(
        _own("a", labels={"co\x1blour": "red"}, **{"fa\nct": 1}),
        [
            "a/attributes: expected names without control characters, got 'fa\\nct'",
            "a/attributes: expected names without control characters, got 'co\\x1blour'",
        ],
        id="names of facts and labels",
    ),
    pytest.param(
        _put("a/layers/two/logits", (2, 0, 4, 1), LOGIT_DIMS),
        ["a/layers/two/logits: expected at least 1 along 'head', got 0"],
        id="no heads",
    ),
    pytest.param(
        _rename("a", "a b"),
        [
            "a b: expected a sample name of letters, digits and . _ + @ = - that starts with a "
            "letter or digit, got 'a b'. Rename the sample."
        ],
        id="a sample's name",
    ),
]


@pytest.mark.parametrize(("change", "faults"), WRONG_VALUES)
def test_a_value_that_cannot_be_is_told_and_no_other_fault(
    run: Path, change: Callable[[zarr.Group], None], faults: list[str]
) -> None:
    change(zarr.open_group(run, mode="r+"))
    assert _faults(run) == faults


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [("a", "a\x1b[2J", r"a\x1b[2J"), ("a/layers/two", "a/layers/two\r", "a")],
)
def test_names_that_move_the_cursor_are_not_read(run: Path, old: str, new: str, shown: str) -> None:
    _rename(old, new)(zarr.open_group(run, mode="r+"))
    (fault,) = _faults(run)
    assert fault.startswith(f"{shown}: ")
    assert "Expected names without control characters" in fault
    assert fault.isprintable()


def test_guidance_labels_differ(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], SMALL, steps=2, guidance=True)
    labels = np.array(["conditional", "conditional"], np.dtypes.StringDType())
    _values("a/guidance", labels, "guidance")(zarr.open_group(run, mode="r+"))
    assert _faults(run) == ["a/guidance: expected names that differ, got 'conditional' twice"]


@pytest.mark.parametrize(
    ("times", "faults"),
    [
        ([981, 981, 501, 501], []),  # As solvers that evaluate twice have them.
        ([1, 1, 501, 981], []),  # As those of an inversion.
        (
            [981, 501, 981, 501],
            ["a/timestep: expected timesteps that go one way, got 981.0 after 501.0"],
        ),
    ],
)
def test_timesteps_go_one_way_and_may_repeat(
    times: list[int], faults: list[str], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], SMALL, steps=4)
    _values("a/timestep", times, "step")(zarr.open_group(run, mode="r+"))
    assert _faults(run) == faults


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.zarr", ["a"], SMALL, steps=2)


@pytest.mark.parametrize(("change", "faults"), BROKEN)
def test_a_broken_run_has_exactly_its_faults(
    run: Path, change: Callable[[zarr.Group], None], faults: list[str]
) -> None:
    change(zarr.open_group(run, mode="r+"))
    assert _faults(run) == faults


def test_all_faults_of_all_samples_come_at_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "b"], SMALL, steps=2)
    root = zarr.open_group(run, mode="r+")
    for change in (_delete("a/layers/one/query"), _own("b", created=...), _delete("b/step")):
        change(root)
    assert _faults(run) == [
        "a/layers/one/query: expected an array, as representation is 'factors', got none",
        "b/attributes: created: field required",
        "b/step: expected a coordinate over 'step', got none",
    ]


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_sample_that_is_not_complete_has_no_faults(run: Path, status: str) -> None:
    root = zarr.open_group(run, mode="r+")
    _delete("a/images")(root)
    _own("a", status=status)(root)
    assert _faults(run) == []


def test_an_unknown_guidance_label_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], SMALL, steps=2, guidance=True)
    labels = np.array(["uncond", "conditional"], np.dtypes.StringDType())
    zarr.open_group(run, mode="r+").create_array(
        "a/guidance", data=labels, dimension_names=["guidance"], overwrite=True
    )
    hint = "Did you mean 'unconditional'?"
    assert _faults(run) == [f"a/guidance: expected a known label, got 'uncond'. {hint}"]


# --- Maps, described by hand.

SIZES = {"layer": 2, "step": 4, "head": 3, "time": 2, "y": 8, "x": 6}
SIZES |= {"reference_y": 5, "reference_x": 4}


def _array(*dims: str, dtype: str = "float32") -> ArrayDescription:
    return ArrayDescription(dims, tuple(SIZES[dim] for dim in dims), dtype)


def _pixels(dim: str) -> ArrayDescription:
    return replace(_array(dim, dtype="float64"), attributes={"units": "px"})


def _direction(*plane: str) -> dict[str, ArrayDescription]:
    return {
        "volume": _array("layer", "step", "head", *plane),
        "ulam": _array(*plane),
        "tlam": _array("time", *plane),
        "hlam": _array("head", *plane),
        "llam": _array("layer", *plane),
        "layer": _array("layer", dtype="StringDType()"),
        "head": _array("head", dtype="int64"),
        "first_step": _array("time", dtype="int64"),
        "last_step": _array("time", dtype="int64"),
    }


def _maps(
    r2g: dict[str, Any] | None = None,
    g2r: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    **groups: GroupDescription,
) -> GroupDescription:
    """Describe a maps store of one sample, with changes; None takes an array away."""
    arrays = {
        "r2g": _direction("y", "x") | (r2g or {}),
        "g2r": _direction("reference_y", "reference_x") | (g2r or {}),
    }
    directions = {
        name: GroupDescription({}, {k: a for k, a in members.items() if a is not None})
        for name, members in arrays.items()
    }
    attributes = {"kind": "maps", "schema": 1, "convention": "i2am", "normalisation": "mass"}
    sample = GroupDescription({}, groups=directions | groups)
    return GroupDescription(
        {"i2am": attributes | {"source": "run.zarr"} | (own or {})}, groups={"a": sample}
    )


MAPS: list[Any] = [
    pytest.param(_maps(), [], id="sound"),
    pytest.param(_maps({"mass": _array("y", "x")}), [], id="sound with mass"),
    pytest.param(
        _maps({"y": _pixels("y"), "x": _pixels("x")}, {"reference_y": _pixels("reference_y")}),
        [],
        id="sound with pixels",
    ),
    pytest.param(
        _maps(
            {"y": replace(_pixels("y"), shape=(7,)), "x": replace(_pixels("x"), dtype="float32")},
            {"reference_x": _array("reference_x", dtype="float64")},
        ),
        [
            "a/r2g/y: expected 8 along 'y', got 7",
            "a/r2g/x: expected dtype float64, got float32",
            "a/g2r/reference_x: expected the units 'px', got None",
        ],
        id="pixels",
    ),
    pytest.param(
        _maps({"ulam": None}), ["a/r2g/ulam: expected a map, got none"], id="missing level"
    ),
    pytest.param(
        _maps(g2r={"hlam": _array("reference_y", "reference_x", "head")}),
        [
            "a/g2r/hlam: expected dims ('head', 'reference_y', 'reference_x'), "
            "got ('reference_y', 'reference_x', 'head')"
        ],
        id="dims in another order",
    ),
    pytest.param(
        _maps({"tlam": _array("time", "y", "x", dtype="float64")}),
        ["a/r2g/tlam: expected dtype float32, got float64"],
        id="dtype",
    ),
    pytest.param(
        _maps({"llam": replace(_array("layer", "y", "x"), shape=(2, 8, 8))}),
        ["a/r2g/llam: expected 6 along 'x', got 8"],
        id="size",
    ),
    pytest.param(
        _maps({"mass": _array("y", "x", dtype="float16")}),
        ["a/r2g/mass: expected dtype float32, got float16"],
        id="mass",
    ),
    pytest.param(
        _maps({"layer": None, "last_step": None}),
        [
            "a/r2g/layer: expected a coordinate over 'layer', got none",
            "a/r2g/last_step: expected a coordinate over 'time', got none",
        ],
        id="coordinates",
    ),
    pytest.param(
        _maps({"first_step": replace(_array("time"), shape=(3,))}),
        ["a/r2g/first_step: expected 2 along 'time', got 3"],
        id="time groups",
    ),
    pytest.param(
        _maps(r2r=GroupDescription({})),
        ["a/r2r: unknown direction. Did you mean 'r2g'?"],
        id="unknown direction",
    ),
    pytest.param(
        _maps(own={"normalisation": "sum", "source": None}),
        [
            "/attributes: normalisation: input should be 'mass' or 'density', got 'sum'",
            "/attributes: source: input should be a valid string, got None",
        ],
        id="attributes",
    ),
    pytest.param(
        _maps(own={"convention": "official", "normalisation": "density"}),
        ["/attributes: i2am: convention 'official' goes with normalisation 'mass' alone"],
        id="convention",
    ),
]


def _with_values(array: ArrayDescription, *values: Any) -> ArrayDescription:
    return replace(array, values=values)


MAPS += [
    pytest.param(
        _maps(
            {
                "layer": _with_values(_array("layer", dtype="StringDType()"), "one", "one"),
                "head": _with_values(_array("head", dtype="int64"), 0, 2, 1),
                "step": _with_values(_array("step", dtype="int64"), 0, 1, 1, 2),
                "timestep": _with_values(_array("step", dtype="float64"), 9.0, 5.0, 7.0, 1.0),
            }
        ),
        [
            "a/r2g/layer: expected names that differ, got 'one' twice",
            "a/r2g/head: expected labels from 0 on that rise, got 1 after 2",
            "a/r2g/step: expected labels from 0 on that rise, got 1 after 1",
            "a/r2g/timestep: expected timesteps that go one way, got 7.0 after 5.0",
        ],
        id="labels",
    ),
    *(
        pytest.param(
            _maps(
                {
                    "first_step": _with_values(_array("time", dtype="int64"), *first),
                    "last_step": _with_values(_array("time", dtype="int64"), *last),
                }
            ),
            [fault],
            id=f"time groups {first} {last}",
        )
        for first, last, fault in (
            (
                (2, 0),
                (3, 4),
                "a/r2g/first_step: expected labels from 0 on that rise, got 0 after 2",
            ),
            (
                (0, 2),
                (2, 3),
                "a/r2g/last_step: expected time groups one after the other, got 0 to 2",
            ),
            (
                (0, 3),
                (1, 2),
                "a/r2g/last_step: expected time groups one after the other, got 3 to 2",
            ),
        )
    ),
    pytest.param(
        _maps({"y": _with_values(_pixels("y"), *range(7), float("nan"))}),
        ["a/r2g/y: expected finite numbers, got nan"],
        id="pixels that are no numbers",
    ),
    pytest.param(
        _maps({"y": _with_values(_pixels("y"), *range(8, 0, -1))}),
        ["a/r2g/y: expected numbers that rise, got 7 after 8"],
        id="pixels upside down",
    ),
    pytest.param(
        _maps({"step": replace(_array("step", dtype="int64"), shape=(3,))}),
        ["a/r2g/step: expected 4 along 'step', got 3"],
        id="steps of another number",
    ),
]


@pytest.mark.parametrize(("store", "faults"), MAPS)
def test_maps_have_exactly_their_faults(store: GroupDescription, faults: list[str]) -> None:
    assert _faults(store) == faults


def test_maps_without_a_direction_are_a_fault() -> None:
    store = replace(_maps(), groups={"a": GroupDescription({})})
    assert _faults(store) == ["a: expected a group 'r2g' or 'g2r', got none"]


def test_maps_that_are_not_complete_have_no_faults() -> None:
    unfinished = GroupDescription({"i2am": {"kind": "maps", "schema": 1, "status": "running"}})
    assert _faults(replace(_maps(), groups={"a": unfinished})) == []


def test_g2r_may_be_absent() -> None:
    store = _maps()
    only = {"r2g": store.groups["a"].groups["r2g"]}
    assert _faults(replace(store, groups={"a": GroupDescription({}, groups=only)})) == []


# --- The root.

NO_KIND = "/: expected attribute 'i2am' with a kind of 'run', 'maps', 'effects', 'average' or 'differences', got "


@pytest.mark.parametrize(
    ("attributes", "faults"),
    [
        ({}, [NO_KIND + "none"]),
        ({"i2am": {"schema": 1}}, [NO_KIND + "None"]),
        ({"i2am": PROVENANCE}, [NO_KIND + "'capture'"]),
        ({"i2am": {"kind": "run"}}, ["/attributes: schema: field required"]),
        ({"i2am": {"kind": "run", "schema": 3}}, ["/attributes: schema: input should be 1, got 3"]),
        ({"i2am": {"kind": ["run"]}}, [NO_KIND + "['run']"]),
    ],
)
def test_a_root_says_what_it_is(attributes: dict[str, Any], faults: list[str]) -> None:
    assert _faults(GroupDescription(attributes)) == faults
