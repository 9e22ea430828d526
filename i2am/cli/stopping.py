"""Ctrl-C and SIGTERM: a command stops within five seconds, and ends with the signal's exit code.

Slurm, Kubernetes and the clouds send SIGTERM before they take a machine away, and SIGKILL some time
later. A signal becomes an exception in the main thread, so that samples are marked and files are closed
as after any error. Where that takes too long, because the main thread is in the middle of one long
operation, say, the process ends all the same: a store is right whenever its writer ends.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

__all__ = ["Stopped", "stopped_by_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# From the signal to the end of the process; of five seconds, one is left to a busy machine.
_LIMIT_S: Final = 4.0


class Stopped(KeyboardInterrupt):
    """The process was told to stop; libraries let it through as they do Ctrl-C.

    Parameters
    ----------
    number : int
        Of the signal.

    Examples
    --------
    >>> str(Stopped(signal.SIGTERM)), Stopped(signal.SIGTERM).exit_code
    ('by SIGTERM', 143)
    """

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__("by Ctrl-C" if number == signal.SIGINT else f"by {_name(number)}")


@contextmanager
def stopped_by_signals(
    say: Callable[[Stopped], object], *, is_program: bool = False
) -> Iterator[None]:
    """Raise `Stopped` in the block at Ctrl-C and SIGTERM; a second Ctrl-C ends the process at once.

    Does nothing outside the main thread, and for signals that the process was started to ignore.

    Parameters
    ----------
    say : callable (Stopped) -> object
        Called before the process is ended, because it did not end by itself in time.
    is_program : bool
        Whether the process ends after the block: then it must do so in time, too.

    Raises
    ------
    Stopped
        At the first of the signals.
    """
    chosen = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread() or not chosen:
        yield
        return
    limit = _Limit(chosen, say)
    limit.start()
    atexit.register(limit.leave)  # Called after all that is registered later.
    try:
        yield
    finally:
        limit.is_left = True
        if not (is_program and limit.exit_code):
            atexit.unregister(limit.leave)
            limit.cancel()


_listening: list[_Limit] = []


class _Limit(threading.Thread):
    """Ends the process when it did not end in time after a signal, or at a second Ctrl-C."""

    def __init__(self, numbers: list[signal.Signals], say: Callable[[Stopped], object]) -> None:
        super().__init__(name="i2am-stop", daemon=True)
        self.exit_code = 0  # of a process that was told to stop
        self.is_left = False  # the block
        self._numbers, self._say = numbers, say
        self._listen, self._told = socket.socketpair()
        self._told.setblocking(False)

    def start(self) -> None:
        """Begin to listen."""
        self._handlers = {number: signal.signal(number, self._handle) for number in self._numbers}
        # Python calls handlers between two operations only; this is told at once.
        self._wakeup = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        _listening.append(self)
        super().start()

    def cancel(self) -> None:
        """Let the process live, and its signals be as before."""
        self.forget()
        self._told.close()
        self.join()
        self._listen.close()

    def forget(self) -> None:
        """Let signals be as before."""
        _listening.remove(self)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        """End the process: to take apart what torch and others hold may take seconds."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.exit_code)

    def run(self) -> None:
        """Wait for a signal, then for the end of the time."""
        if (first := self._next(None)) is None:
            return
        end_s = time.monotonic() + _LIMIT_S
        while (left_s := end_s - time.monotonic()) > 0:
            again = self._next(left_s)
            if again is None:
                return
            if again == signal.SIGINT:
                os._exit(128 + again)
        try:
            if not self.is_left:
                self._say(Stopped(first))
        finally:
            os._exit(128 + first)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Raise `Stopped`, once; called by Python in the main thread."""
        if not self.exit_code:
            stopped = Stopped(number)
            self.exit_code = stopped.exit_code
            raise stopped

    def _next(self, timeout_s: float | None) -> int | None:
        """Return the next of the signals; 0 when the time is over, None when it was cancelled."""
        while True:
            if not select.select([self._listen], [], [], timeout_s)[0]:
                return 0
            found = self._listen.recv(1)
            if not found:
                return None
            if found[0] in self._numbers:
                return found[0]


def _name(number: int) -> str:
    return signal.Signals(number).name


def _before_fork() -> None:
    """Hold signals back until a forked process has forgotten this one."""
    if _listening:
        _held.append(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))


def _after_fork() -> None:
    if _held:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.pop())


def _after_fork_in_child() -> None:
    """Keep what is sent to a forked process from stopping the one that it came from."""
    while _listening:
        _listening[-1].forget()
    _after_fork()


_held: list[Any] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
