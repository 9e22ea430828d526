"""What tests look on with: what a store is asked for, and guides whose commands and code run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from i2am.cli import main
from i2am.storage.local_objects import LocalObjects

__all__ = ["run_guide", "watch_reads"]


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


def run_guide(guide: Path) -> tuple[list[str], int]:
    """Run a guide's commands and its code, from the top down; return the commands' names, fences."""
    text = guide.read_text(encoding="utf-8")
    commands = [shlex.split(c) for c in re.findall(r"^    i2am (.+)$", text, re.MULTILINE)]
    for command in commands:
        assert main(command) == 0
    code = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names = {"__name__": "guide"}
    for fence in code:
        exec(compile(fence, str(guide), "exec"), names)
    return [command[0] for command in commands], len(code)
