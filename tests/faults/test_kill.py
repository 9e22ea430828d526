"""A process that is killed at any moment leaves nothing that is complete and wrong."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.interruptions import Command, analyze_command, capture_command, tried


@pytest.mark.parametrize(
    ("command", "times"), [(capture_command, 1), (analyze_command, 1)], ids=["capture", "analyze"]
)
def test_the_same_command_again_gives_what_no_kill_would_have_changed(
    command: Callable[[Path], Command], times: int, tmp_path: Path
) -> None:
    made, rng = command(tmp_path), random.Random(0)
    for _ in range(times):
        outcome, detail = tried(made, signal.SIGKILL, rng.random())
        assert outcome in {"mended", "survived"}, detail
