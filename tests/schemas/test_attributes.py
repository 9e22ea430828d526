from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from i2am.schemas import (
    SCHEMA_VERSION,
    CaptureAttributes,
    LayerAttributes,
    MapsAttributes,
    RunAttributes,
)
from tests.synthetic import PROVENANCE

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
    pytest.param(LayerAttributes, LAYER, id="layer"),
    pytest.param(LayerAttributes, {**LAYER, "reference_grid": None}, id="layer without a grid"),
    pytest.param(MapsAttributes, MAPS, id="maps"),
]


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_what_is_stored_comes_back_under_the_contracts_keys(
    model: Any, stored: dict[str, Any]
) -> None:
    assert model.model_validate(stored).to_store() == {"i2am": stored}


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_unknown_keys_are_kept(model: Any, stored: dict[str, Any]) -> None:
    grown = {**stored, "cluster": {"node": "gpu-7"}, "version": "mine"}
    assert model.model_validate(grown).to_store() == {"i2am": grown}


@pytest.mark.parametrize(("model", "stored"), STORED)
def test_attributes_do_not_change(model: Any, stored: dict[str, Any]) -> None:
    attributes: BaseModel = model.model_validate(stored)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(attributes, next(iter(type(attributes).model_fields)), None)


def test_new_attributes_say_their_kind_and_version() -> None:
    assert SCHEMA_VERSION == 1
    assert RunAttributes().to_store() == {"i2am": RUN}


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
