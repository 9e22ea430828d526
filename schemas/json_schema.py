"""What the attributes of a store are, as a JSON Schema, for tools that know no Python of ours.

Made from the models with which i2am itself reads and writes them, so there is nothing to keep in step.
A JSON Schema sees one node at a time: what arrays a group holds, and how they fit together, is said by
`i2am validate`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from i2am.schemas.attributes import (
    ATTRIBUTE_KEY,
    CONVENTION,
    CONVENTIONS_KEY,
    AverageAttributes,
    AverageGroupAttributes,
    CaptureAttributes,
    DifferencesAttributes,
    EffectsAttributes,
    ImageAttributes,
    LayerAttributes,
    MapsAttributes,
    RunAttributes,
    SampleEffectsAttributes,
)

__all__ = ["json_schema"]

_HAS_STATUS: Final[dict[str, Any]] = {"required": ["status"]}
_HAS_NONE: Final[dict[str, Any]] = {"not": _HAS_STATUS}
# What tells which model a node keeps: its kind, and whether it is a store's root or a sample; a layer
# and an image have no kind.
_RULES: Final[tuple[tuple[type[BaseModel], str | None, dict[str, Any]], ...]] = (
    (RunAttributes, "run", {}),
    (CaptureAttributes, "capture", {}),
    (MapsAttributes, "maps", _HAS_NONE),
    (EffectsAttributes, "effects", _HAS_NONE),
    (SampleEffectsAttributes, "effects", _HAS_STATUS),
    (AverageAttributes, "average", {}),
    (DifferencesAttributes, "differences", {}),
    (AverageGroupAttributes, None, {"required": ["labels", "samples"]}),
    (LayerAttributes, None, {"required": ["scale"]}),
    (ImageAttributes, None, {"required": ["box"]}),
)
# The models fill these in when we write; a store must say them.
_ALWAYS_SAID: Final = ("kind", "schema")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the ``zarr.json`` of any group or image of a store.

    Returns
    -------
    dict
        JSON types only. Each model is one of its ``$defs``.

    Examples
    --------
    >>> sorted(json_schema()["$defs"]["RunAttributes"]["required"])
    ['kind', 'schema']
    """
    models = [model for model, *_ in _RULES]
    _, schema = models_json_schema(
        [(model, "validation") for model in models], title="A node of an i2am store"
    )
    definitions = schema["$defs"]
    for model in models:
        own = definitions[model.__name__]
        said = [key for key in _ALWAYS_SAID if key in own["properties"]]
        own["required"] = list(dict.fromkeys([*said, *own.get("required", [])]))
        for name, told in _described(model).items():
            key = model.model_fields[name].alias or name
            own["properties"][key]["description"] = told
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{key: value for key, value in schema.items() if key != "$defs"},
        "description": CONVENTION["description"],
        "type": "object",
        "required": ["zarr_format", "node_type", "attributes"],
        "properties": {
            "zarr_format": {"const": 3},
            "node_type": {"enum": ["group", "array"]},
            "attributes": {
                "type": "object",
                "properties": {
                    # On the root of a store; those written before it was introduced have none.
                    CONVENTIONS_KEY: {
                        "type": "array",
                        "contains": {
                            "type": "object",
                            "required": ["uuid"],
                            "properties": {"uuid": {"const": CONVENTION["uuid"]}},
                        },
                    },
                    ATTRIBUTE_KEY: {"type": "object", "allOf": [_rule(*one) for one in _RULES]},
                },
            },
        },
        "$defs": definitions,
    }


def _described(model: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings below a model's fields say; pydantic would read them at each import."""
    found: dict[str, str] = {}
    for own in reversed(model.__mro__):
        if own.__module__ != model.__module__:
            continue
        for field, below in pairwise(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(own))))):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def _rule(model: type[BaseModel], kind: str | None, also: dict[str, Any]) -> dict[str, Any]:
    """Return that a node of a kind, and of what else is said, is as a model says."""
    has_kind: dict[str, Any] = {"required": ["kind"], "properties": {"kind": {"const": kind}}}
    is_own = has_kind if kind else {"not": {"required": ["kind"]}}
    return {"if": {"allOf": [is_own, also]}, "then": {"$ref": f"#/$defs/{model.__name__}"}}
