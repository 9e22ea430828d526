"""An S3-compatible server that fails as asked: a proxy on loopback before a real server.

It runs on threads of the test's own process, so that a test may change what fails at any moment and
read which requests came.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

from tests.support.s3_bucket import serve_bucket

__all__ = ["Fault", "FaultKind", "FaultyBucket", "Operation", "serve_faulty_bucket"]

FaultKind = Literal[
    "busy",  # 503 SlowDown
    "silent",  # no answer
    "slow",  # an answer, late
    "short answer",  # half of the body, then the connection ends
    "short upload",  # the connection ends in the middle of the request's body
    "closed",  # the connection ends without an answer
    "forbidden",  # 403 AccessDenied
    "no bucket",  # 404 NoSuchBucket
    "no key",  # 404 NoSuchKey, of an object that is there
    "lost",  # a PUT or DELETE is acknowledged, and not done
    "torn",  # a PUT is acknowledged, and half of the body is stored
    "stale",  # a GET returns what was there before the last PUT
    "twice",  # a request is done twice
    "no conditions",  # 501 NotImplemented, of a PUT where there must be nothing yet
]
Operation = Literal["get", "head", "list", "put", "delete", "post"]

_ERRORS: Final = {
    "busy": (503, "SlowDown"),
    "forbidden": (403, "AccessDenied"),
    "no bucket": (404, "NoSuchBucket"),
    "no key": (404, "NoSuchKey"),
    "no conditions": (501, "NotImplemented"),
}
_HOP_HEADERS: Final = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}


@dataclass
class Fault:
    """What fails, of which requests.

    Parameters
    ----------
    kind : FaultKind
    operations : sequence of Operation
        Empty for all.
    key : str
        A part of the object's key; empty for all.
    after : int
        How many such requests succeed first.
    count : int, optional
        How many fail then; None for all.
    probability : float
        With which each of these fails.
    seconds : float
        How long a late answer takes.
    """

    kind: FaultKind
    operations: Sequence[Operation] = ()
    key: str = ""
    after: int = 0
    count: int | None = None
    probability: float = 1
    seconds: float = 0
    met: int = field(default=0, init=False)  # how often it failed a request
    _seen: int = field(default=0, init=False)

    def takes(
        self, operation: Operation, key: str, is_conditional: bool, rng: random.Random
    ) -> bool:
        """Return whether a request fails."""
        if (self.operations and operation not in self.operations) or self.key not in key:
            return False
        if self.kind == "no conditions" and not is_conditional:
            return False
        self._seen += 1
        is_over = self.count is not None and self.met >= self.count
        if self._seen <= self.after or is_over or rng.random() >= self.probability:
            return False
        self.met += 1
        return True


class FaultyBucket:
    """A running server with a bucket named bucket.

    Parameters
    ----------
    real : str
        Address of the server behind it.
    """

    def __init__(self, real: str) -> None:
        self.requests: list[tuple[Operation, str]] = []
        self.released = threading.Event()  # ends what is silent
        self._real = urlsplit(real)
        self._faults: list[Fault] = []
        self._rng = random.Random(0)
        self._lock = threading.Lock()
        self._earlier: dict[str, bytes] = {}  # the version before the last, by key
        self._latest: dict[str, bytes] = {}

    @contextlib.contextmanager
    def failing(self, *faults: Fault, seed: int = 0) -> Iterator[None]:
        """Let faults happen within the block."""
        with self._lock:
            self._faults, self._rng = list(faults), random.Random(seed)
        self.released.clear()
        try:
            yield
        finally:
            with self._lock:
                self._faults = []
            self.released.set()

    def choose(self, operation: Operation, key: str, is_conditional: bool) -> Fault | None:
        """Return what a request meets; called by the server."""
        request = operation, key
        with self._lock:
            self.requests.append(request)
            found = (f for f in self._faults if f.takes(*request, is_conditional, self._rng))
            return next(found, None)

    def remember(self, key: str, body: bytes) -> None:
        """Take an object's new version; called by the server."""
        with self._lock:
            if key in self._latest:
                self._earlier[key] = self._latest[key]
            self._latest[key] = body

    def earlier(self, key: str) -> bytes | None:
        """Return an object's version before the last; None where there was one alone."""
        with self._lock:
            return self._earlier.get(key)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the server behind."""
        return http.client.HTTPConnection(self._real.hostname or "", self._real.port, timeout=60)


@contextlib.contextmanager
def serve_faulty_bucket() -> Iterator[tuple[str, FaultyBucket]]:
    """Run the proxy and the server behind it; yield the address to use, and what makes it fail."""
    with serve_bucket() as (real, _):
        bucket = FaultyBucket(real)
        with _Server(("127.0.0.1", 0), _handler_of(bucket)) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}", bucket
            finally:
                bucket.released.set()
                server.shutdown()
                thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away: they were made to."""


def _handler_of(bucket: FaultyBucket) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.bucket = bucket
    return Handler


class _Handler(BaseHTTPRequestHandler):
    bucket: FaultyBucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    _behind: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay silent."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        key = url.path.removeprefix("/").partition("/")[2]
        operation: Operation
        if self.command == "GET" and "list-type" in url.query:
            operation, key = "list", parse_qs(url.query).get("prefix", [""])[0]
        else:
            operation = self.command.lower()  # type: ignore[assignment]
        fault = self.bucket.choose(operation, key, "If-None-Match" in self.headers)
        kind = None if fault is None else fault.kind
        size = int(self.headers.get("Content-Length") or 0)
        if kind == "short upload":
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        body = self.rfile.read(size)
        if fault is not None and kind in {"silent", "slow"}:
            self.bucket.released.wait(600 if kind == "silent" else fault.seconds)
        if kind in {"silent", "closed"}:
            self.close_connection = True
            return
        if kind in _ERRORS:
            self._fail(*_ERRORS[kind])
        elif kind == "lost":
            self._answer(200, {"ETag": '"00000000000000000000000000000000"'}, b"")
        elif kind == "stale" and (earlier := self.bucket.earlier(key)) is not None:
            self._answer_object(earlier)
        else:
            self._forward(operation, key, body, kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, operation: Operation, key: str, body: bytes, kind: FaultKind | None) -> None:
        if kind == "torn":
            body = body[: len(body) // 2]
        for _ in range(2 if kind == "twice" else 1):
            status, headers, answer = self._ask(body)
        if operation == "put" and status == 200:
            self.bucket.remember(key, body)
        self._answer(status, headers, answer, is_cut=kind == "short answer")

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return what the server behind says, over a connection that stays open."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_HEADERS}
        if self.command in {"PUT", "POST"}:
            headers["Content-Length"] = str(len(body))
        behind = self._behind or self.bucket.connect()
        self._behind = behind
        behind.request(self.command, self.path, body or None, headers)
        response = behind.getresponse()
        answer = response.read()
        kept = {k: v for k, v in response.getheaders() if k.lower() not in _HOP_HEADERS}
        if self.command == "HEAD":
            kept["Content-Length"] = response.headers.get("Content-Length", "0")
        return response.status, kept, answer

    def _answer_object(self, content: bytes) -> None:
        """Answer with an object, or with the range of it that was asked for."""
        total, status, headers = len(content), 200, {"ETag": '"11111111111111111111111111111111"'}
        headers["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if wanted:
            first, _, last = wanted.partition("-")
            start = int(first) if first else max(0, total - int(last))
            stop = min(total, int(last) + 1) if first and last else total
            content, status = content[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        self._answer(status, headers, content)

    def _fail(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}, as asked.</Message></Error>".encode()
        body = b"" if self.command == "HEAD" else body
        self._answer(status, {"Content-Type": "application/xml"}, body)

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.wfile.flush()
        if is_cut:
            self.close_connection = True
