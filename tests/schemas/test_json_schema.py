"""The JSON Schema of a store: real stores keep it, as they keep the models that it is made from."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from i2am import DEMO_RUN
from i2am.capture import DEMO_MANIFEST
from i2am.cli import main
from i2am.schemas import read_manifest
from i2am.schemas.attributes import CONVENTION
from i2am.schemas.json_schema import json_schema

SCHEMA = json_schema()
CHECK = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of every kind, as the commands write them."""
    folder = tmp_path_factory.mktemp("stores")
    run, maps = str(folder / "run.zarr"), str(folder / "maps.zarr")
    row, *_ = read_manifest(DEMO_MANIFEST)
    manifest = folder / "rows.jsonl"
    pictures = {name: str(getattr(row, name)) for name in ("reference", "source", "mask")}
    manifest.write_text(json.dumps({"sample": "doughnut", **pictures}), encoding="utf-8")
    with_model = ["--model", "i2am-tiny", "--steps", "1"]
    for call in (
        ["capture", *with_model, "--manifest", str(manifest), "--out", run],
        ["analyze", run, "--out", maps],
        [
            "causal",
            run,
            "--model",
            "i2am-tiny",
            "--grid",
            "1",
            "--out",
            str(folder / "effects.zarr"),
        ],
        ["average", maps, "--out", str(folder / "average.zarr")],
        ["compare", run, run, "--out", str(folder)],
    ):
        assert main(call) == 0
    return folder


def nodes(store: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(store.rglob("zarr.json")):
        node = json.loads(file.read_text("utf-8"))
        yield {"attributes": {}, **node}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_every_attribute_says_what_it_is() -> None:
    untold = [
        f"{model}.{name}"
        for model, own in SCHEMA["$defs"].items()
        for name, field in own.get("properties", {}).items()
        if not field.get("description", "").endswith(".")
    ]
    assert untold == []


@pytest.mark.parametrize(
    "name", ["run.zarr", "maps.zarr", "average.zarr", "effects.zarr", "differences.zarr"]
)
def test_stores_that_we_write_keep_the_schema_and_name_the_convention(
    stores: Path, name: str
) -> None:
    found = list(nodes(stores / name))
    assert len(found) > 2
    for node in found:
        CHECK.validate(node)
    root = json.loads((stores / name / "zarr.json").read_text("utf-8"))
    assert root["attributes"]["zarr_conventions"] == [CONVENTION]


def test_a_store_without_the_convention_is_as_right_as_one_with_it(stores: Path) -> None:
    # The one that ships was written before the entry was.
    assert (
        "zarr_conventions"
        not in json.loads((DEMO_RUN / "zarr.json").read_text("utf-8"))["attributes"]
    )
    for node in nodes(DEMO_RUN):
        CHECK.validate(node)
    assert main(["validate", str(DEMO_RUN)]) == 0
    assert main(["validate", str(stores / "run.zarr")]) == 0


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("", {"schema": 2}),
        ("doughnut", {"status": "whole"}),
        ("doughnut", {"created": None}),
        ("doughnut/layers/*", {"generated_grid": [4]}),
        ("doughnut/layers/*", {"scale": 0}),
    ],
)
def test_what_the_models_refuse_the_schema_refuses(
    stores: Path, path: str, change: dict[str, Any]
) -> None:
    file = next((stores / "run.zarr").glob(f"{path}/zarr.json".lstrip("/")))
    node = json.loads(file.read_text("utf-8"))
    CHECK.validate(node)
    wrong = copy.deepcopy(node)
    wrong["attributes"]["i2am"].update(change)
    assert not CHECK.is_valid(wrong)
