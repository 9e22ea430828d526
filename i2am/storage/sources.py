"""Which capture a result was made from, and where that lies: the same for maps and for measured effects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.storage import StorePath

from i2am.schemas import SCHEMA_VERSION
from i2am.storage.addresses import StoreLike, is_url
from i2am.storage.inventory import METADATA_KEY, own_facts
from i2am.storage.objects import read_object

__all__ = ["CaptureSource", "is_complete", "source_of"]


def source_of(run: StoreLike, out: str | Path) -> str:
    """Return where a run is: relative when it lies beside the result, so that both may move."""
    if not isinstance(run, str | Path) or is_url(run) or is_url(out):
        return str(run)
    path, other = Path(run).resolve(), Path(out).resolve()
    return os.path.relpath(path, other) if path.parent == other.parent else str(path)


@dataclass(frozen=True)
class CaptureSource:
    """The captured sample that a result is made from.

    Parameters
    ----------
    created : str
        When it was captured.
    contents : str, optional
        A checksum of its inventory, if it has one: tells two apart that were captured in one second.
    """

    created: str
    contents: str | None = None

    def described(self, kind: str, status: str, **facts: Any) -> dict[str, Any]:
        """Return what the result's own attributes hold."""
        own = {"kind": kind, "schema": SCHEMA_VERSION, "status": status}
        contents = {} if self.contents is None else {"source_contents": self.contents}
        return own | {"source_created": self.created} | contents | facts


def is_complete(sample: StorePath, wanted: Mapping[str, Any]) -> bool:
    """Return whether a sample's own attributes are those of a complete one that is wanted."""
    own = own_facts(read_object(sample / METADATA_KEY))
    return all(own.get(key) == value for key, value in wanted.items())
