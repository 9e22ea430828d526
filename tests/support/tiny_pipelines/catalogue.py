"""All families of tiny pipelines, by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.tiny_pipelines import (
    edits,
    families,
    joint,
    joint_adapters,
    language_guided,
    modular,
    videos,
)
from tests.support.tiny_pipelines.family import Family

__all__ = ["FAMILIES"]

FAMILIES: dict[str, Callable[[], Family]] = (
    families.FAMILIES
    | joint.FAMILIES
    | edits.FAMILIES
    | language_guided.FAMILIES
    | joint_adapters.FAMILIES
    | modular.FAMILIES
    | videos.FAMILIES
)
