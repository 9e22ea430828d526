from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from i2am.schemas import (
    SCHEMA_VERSION,
    CaptureAttributes,
    ImageAttributes,
    LayerAttributes,
    MapsAttributes,
    RunAttributes,
)
from tests.support.synthetic_run import PROVENANCE

# The contract's keys, letter for letter.
RUN = {"kind": "run", "schema": 1}
CAPTURE = PROVENANCE
LAYER = {
    "scale": 0.25,
    "generated_grid": [16, 12],
    "reference_grid": [8, 6],
    "special_tokens": 1,
    "order": 3,
    "block": "up",
    "representation": "factors",
    "reference_index": 0,
    "heads": None,
    "frames": 1,
    "causal": True,
}
MAPS = {
    "kind": "maps",
    "schema": 1,
    "convention": "official",
    "normalisation": "mass",
    "source": "../run.zarr",
}
STORED = [
    pytest.param(RunAttributes, RUN, id="run"),
    pytest.param(CaptureAttributes, CAPTURE, id="capture"),
    pytest.param(ImageAttributes, {"box": [0.0, 32.5, 32.0, 64.0]}, id="image"),
    pytest.param(LayerAttributes, LAYER, id="layer"),
    pytest.param(LayerAttributes, {**LAYER, "reference_grid": None}, id="layer without a grid"),
    pytest.param(
        LayerAttributes,
        {**LAYER, "representation": "maps", "reference_index": 2, "heads": [1, 3], "frames": 4},
        id="layer of a video, reduced, of some heads and the third reference",
    ),
    pytest.param(MapsAttributes, MAPS, id="maps"),
]


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_what_is_stored_comes_back_under_the_contracts_keys(
    model: Any, stored: dict[str, Any]
) -> None:
    assert model.model_validate(stored).to_store()["i2am"] == stored


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_unknown_keys_are_kept(model: Any, stored: dict[str, Any]) -> None:
    grown = {**stored, "cluster": {"node": "gpu-7"}, "version": "mine"}
    assert model.model_validate(grown).to_store()["i2am"] == grown


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_attributes_do_not_change(model: Any, stored: dict[str, Any]) -> None:
    attributes: BaseModel = model.model_validate(stored)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(attributes, next(iter(type(attributes).model_fields)), None)


def test_new_attributes_say_their_kind_and_version() -> None:
    assert SCHEMA_VERSION == 1
    assert RunAttributes().to_store()["i2am"] == RUN


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_the_root_of_a_store_names_the_convention_and_nothing_else_does(
    model: Any, stored: dict[str, Any]
) -> None:
    others = set(model.model_validate(stored).to_store()) - {"i2am"}
    assert others == ({"zarr_conventions"} if model in (RunAttributes, MapsAttributes) else set())


@pytest.mark.parametrize(
    ("model", "stored", "change", "place"),
    [
        (RunAttributes, RUN, {"kind": "maps"}, "kind"),
        (RunAttributes, RUN, {"schema": 2}, "schema"),
        (RunAttributes, RUN, {"schema": "1"}, "schema"),
        (CaptureAttributes, CAPTURE, {"kind": "run"}, "kind"),
        (CaptureAttributes, CAPTURE, {"status": "done"}, "status"),
        (CaptureAttributes, CAPTURE, {"versions": {"torch": 2}}, "versions"),
        (LayerAttributes, LAYER, {"generated_grid": [0, 4]}, "generated_grid"),
        (LayerAttributes, LAYER, {"generated_grid": None}, "generated_grid"),
        (LayerAttributes, LAYER, {"reference_grid": [4]}, "reference_grid"),
        (LayerAttributes, LAYER, {"special_tokens": -1}, "special_tokens"),
        (LayerAttributes, LAYER, {"order": -1}, "order"),
        (LayerAttributes, LAYER, {"representation": "probabilities"}, "representation"),
        (LayerAttributes, LAYER, {"reference_index": -1}, "reference_index"),
        (LayerAttributes, LAYER, {"heads": []}, "heads"),
        (LayerAttributes, LAYER, {"heads": [-1]}, "heads"),
        (LayerAttributes, LAYER, {"heads": [1, 3, 1]}, "heads"),
        (LayerAttributes, LAYER, {"frames": 0}, "frames"),
        (MapsAttributes, MAPS, {"kind": "run"}, "kind"),
        (MapsAttributes, MAPS, {"convention": "paper"}, "convention"),
    ],
)
def test_a_wrong_value_is_refused_at_its_key(
    model: Any, stored: dict[str, Any], change: dict[str, Any], place: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(stored | change)
    assert {error["loc"][0] for error in caught.value.errors()} == {place}


@pytest.mark.parametrize("key", sorted(set(CAPTURE) - {"kind", "schema"}))
def test_provenance_is_whole_or_refused(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CaptureAttributes.model_validate({k: v for k, v in CAPTURE.items() if k != key})
    assert [(e["type"], e["loc"]) for e in caught.value.errors()] == [("missing", (key,))]


def test_a_layer_that_says_nothing_of_reference_heads_and_frames_has_one_of_each_whole() -> None:
    said = {k: v for k, v in LAYER.items() if k not in {"reference_index", "heads", "frames"}}
    assert LayerAttributes.model_validate(said) == LayerAttributes.model_validate(LAYER)


def test_frames_stand_whole_above_one_another() -> None:
    with pytest.raises(ValidationError, match=r"a generated_grid of 3 frames .*, got 16 rows"):
        LayerAttributes.model_validate({**LAYER, "frames": 3})


@pytest.mark.parametrize(("index", "image"), [(0, "reference"), (2, "reference_2")])
def test_a_layer_names_the_stored_picture_that_it_looks_at(index: int, image: str) -> None:
    layer = LayerAttributes.model_validate({**LAYER, "reference_index": index})
    assert layer.reference_image() == image


def test_the_official_convention_takes_mass_alone() -> None:
    with pytest.raises(ValidationError, match="'official' goes with normalisation 'mass' alone"):
        MapsAttributes.model_validate({**MAPS, "normalisation": "density"})


@given(st.tuples(*[st.integers(1, 64)] * 4), st.integers(0, 8))
def test_a_layer_counts_its_tokens(sizes: tuple[int, int, int, int], special: int) -> None:
    layer = LayerAttributes.model_validate(
        {
            **LAYER,
            "generated_grid": sizes[:2],
            "reference_grid": sizes[2:],
            "special_tokens": special,
        }
    )
    assert layer.generated_tokens() == sizes[0] * sizes[1]
    assert layer.reference_tokens() == special + sizes[2] * sizes[3]


def test_without_a_grid_the_number_of_reference_tokens_is_not_known() -> None:
    layer = LayerAttributes.model_validate({**LAYER, "reference_grid": None})
    assert layer.reference_tokens() is None
