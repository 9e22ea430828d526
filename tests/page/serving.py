"""Servers on loopback for tests of the page, and what was asked of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from i2am.page.server import PageServer

__all__ = ["Answer", "ask", "serving", "serving_files"]


class Answer:
    """What a server said."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.content = response.read()

    @property
    def text(self) -> str:
        return self.content.decode()


def ask(
    port: int, path: str, method: str = "GET", host: str | None = None, **headers: str
) -> Answer:
    """Ask a server of this machine for a path just as it is written."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        own = {"Host": host} if host is not None else {}
        connection.request(method, path, headers=own | headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


@contextmanager
def serving(*args: Any, **options: Any) -> Iterator[PageServer]:
    """Serve a run from a thread of this process."""
    with PageServer(*args, **options) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        """Say nothing."""


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """Serve a folder as ``python -m http.server`` does, which knows no ranges; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
