"""The command line in a process of its own, forked from one that has loaded what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CliProcess", "Ended", "start_cli", "start_process"]

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "i2am.cli",
    "i2am.analysis.batch.analyze_run",
    "i2am.analysis.statistics.comparison",
    "i2am.capture.batch.capture_manifest",
    "diffusers.models.unets.unet_2d_condition",
]


class Ended(NamedTuple):
    """What a process left."""

    code: int
    out: str
    err: str


class CliProcess:
    """A running command.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.
    environment : mapping of str to str
        Beside that of this process.
    terminal : int, optional
        File descriptor to show errors and progress on; None keeps them for `end`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        terminal: int | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        # A forked process has the files of the one that it came from, so it opens its own by path.
        err = str(self._folder / "err") if terminal is None else os.ttyname(terminal)
        given = list(arguments), dict(environment), str(self._folder / "out"), err
        self._process = start_process(_run, *given)

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        found = self._process.pid
        assert found is not None
        return found

    def send(self, number: int) -> None:
        """Send a signal; one that comes after the end is lost."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, timeout_s: float = 300) -> Ended:
        """Wait for its end, and return what it left."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        assert code is not None, "the command has not ended"
        out, err = (self._folder / name for name in ("out", "err"))
        return Ended(code, out.read_text(), err.read_text() if err.exists() else "")


def start_process(work: Callable[..., object], *given: Any) -> ForkServerProcess:
    """Start a function in a process of its own."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process = _CONTEXT.Process(target=work, args=given)
    process.start()
    return process


def start_cli(arguments: Sequence[str], **environment: str) -> CliProcess:
    """Start a command."""
    return CliProcess(arguments, environment)


def _run(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    from i2am.cli import main

    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # Where the tests run in the background, Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["i2am", *arguments]
    sys.exit(main())
