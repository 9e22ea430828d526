"""Processes that are told to stop, in ways that no command of ours gets into on purpose."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

from i2am.cli.stopping import Stopped, stopped_by_signals

__all__ = ["ignore_and_end", "raised_here", "wait_for_ever", "wait_in_a_forked_process"]


def wait_for_ever(begun: str, errors: str) -> None:
    """Wait in the main thread where no Python runs: for a lock of C that is never given back."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored in the background.
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_lock(lock)
    with stopped_by_signals(lambda stopped: Path(errors).write_text(f"stopped {stopped}")):
        Path(begun).touch()
        library.pthread_mutex_lock(lock)


def ignore_and_end(begun: str, _errors: str) -> None:
    """Start with Ctrl-C ignored, as a shell starts what it leaves in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopped_by_signals(lambda _stopped: None):
        Path(begun).touch()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    sys.exit(7)


def wait_in_a_forked_process(begun: str, _errors: str) -> None:
    """End a process that was forked from this one, and go on."""
    with stopped_by_signals(lambda _stopped: None):
        child = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
        child.start()
        Path(begun).touch()
        child.terminate()
        child.join()
        time.sleep(0.1)  # A signal that came to this one would be handled by now.
        code = child.exitcode
    sys.exit(7 if code == -signal.SIGTERM else 1)


def raised_here(number: int) -> Stopped | None:
    """Return what a signal raises in this process."""
    try:
        with stopped_by_signals(lambda _stopped: None):
            os.kill(os.getpid(), number)
            threading.Event().wait(20)
    except Stopped as e:
        return e
    return None
