"""The store's attributes, as a table and as a JSON Schema, from the models that read and write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from i2am.schemas.json_schema import json_schema

_FOLDER = Path("reference/generated")
_TITLES = {
    "RunAttributes": "Root of a run",
    "CaptureAttributes": "A captured sample",
    "LayerAttributes": "A layer",
    "ImageAttributes": "An image",
    "MapsAttributes": "Root of maps",
    "EffectsAttributes": "Root of effects",
    "SampleEffectsAttributes": "The effects of a sample",
    "AverageAttributes": "Root of averages",
    "AverageGroupAttributes": "The average of a group of samples",
    "DifferencesAttributes": "Root of differences",
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Write both before Sphinx looks for pages."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    schema = json_schema()
    texts = {
        "i2am.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        "_attributes.md": "\n".join(_tables(schema["$defs"])) + "\n",
    }
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def _tables(models: Mapping[str, Any]) -> Iterator[str]:
    for model, title in _TITLES.items():
        required = models[model].get("required", ())
        yield from (f"### {title}", "", "| key | type | |", "|---|---|---|")
        for key, field in models[model]["properties"].items():
            optional = "" if key in required else ", optional"
            yield f"| `{key}` | {_type(field)}{optional} | {field['description']} |"
        yield ""


def _type(field: Mapping[str, Any]) -> str:
    """Return the type of a field in a word or two.

    Examples
    --------
    >>> _type({"anyOf": [{"type": "string"}, {"type": "null"}]}), _type({"const": 1})
    ('string or null', '`1`')
    >>> _type({"type": "array", "items": {"type": "integer"}})
    'list of whole numbers'
    """
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "$ref" in field:
        return "four numbers"
    if field.get("type") == "array" and "prefixItems" in field:
        return f"{len(field['prefixItems'])} whole numbers"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}s"
    words = {"integer": "whole number", "object": "mapping"}
    return words.get(field["type"], str(field["type"]))
