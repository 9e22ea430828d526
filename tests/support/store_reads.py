"""What tests look on with: what a store is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from i2am.storage.guard.local_objects import LocalObjects

__all__ = ["watch_reads"]


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that grows: the key and the bytes of each read of a local store; 0 if absent.

    Of what `LiveSram` reads nothing is seen unless it reads without zarrs.
    """
    reads: list[tuple[str, int]] = []
    read = LocalObjects.read

    def watched(self: LocalObjects, key: str, *args: Any, **kwargs: Any) -> bytes | None:
        found = read(self, key, *args, **kwargs)
        reads.append((key, 0 if found is None else len(found)))
        return found

    monkeypatch.setattr(LocalObjects, "read", watched)
    return reads
