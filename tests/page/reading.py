"""A page as a browser reads it: its tags, its words, its data."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Page", "decode_stack"]

_VOID = {"meta", "img", "br", "hr", "link", "input"}
_NO_VALUE = 255


class Page(HTMLParser):
    """A parsed page; unbalanced tags raise."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif data.strip():
            self.words.append((tuple(self.open), " ".join(data.split())))

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text_in(self, tag: str) -> list[str]:
        return [text for path, text in self.words if tag in path]

    @property
    def text(self) -> str:
        return " ".join(text for path, text in self.words if "style" not in path)

    def data(self, identifier: str) -> Any:
        """Return what a script element holds as JSON."""
        (found,) = (text for own, text in self.scripts if own.get("id") == identifier)
        return json.loads(found)

    @property
    def run(self) -> Any:
        return self.data("i2am-run")

    def sample(self, number: int) -> Any:
        return self.data(f"i2am-sample-{number}")


def decode_stack(stack: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the values of a stack; NaN where there is none."""
    assert stack["encoding"] == "deflate-raw"
    packed = base64.b64decode(stack["data"], validate=True)
    levels = np.frombuffer(zlib.decompress(packed, -15), np.uint8).astype(float)
    levels[levels == _NO_VALUE] = np.nan
    maps = levels.reshape(-1, *stack["shape"][-2:])
    low, high = (np.array(stack[end])[:, None, None] for end in ("low", "high"))
    values: np.ndarray[Any, np.dtype[np.float64]] = low + (high - low) * maps / 254
    return values.reshape(stack["shape"])
