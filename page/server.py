"""A run for the browsers of this machine: the page, and the stores' objects, to read.

It listens on loopback unless told otherwise, answers reads alone, and refuses whoever comes by another
name than this machine's: a page elsewhere must not read a run through the browser of its visitor.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import webbrowser
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote, urlsplit

from i2am.page.site import bundle_bytes, live_page, sample_names
from i2am.page.stores import open_pair
from i2am.schemas import StoreError
from i2am.schemas.text import safe_text
from i2am.storage.addresses import StoreLike
from i2am.storage.failures import storage_errors
from i2am.storage.inventory import METADATA_KEY
from i2am.storage.served_store import ServedStore

__all__ = ["PageServer", "serve"]

LOOPBACK: Final = "127.0.0.1"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
_TEXT: Final = _KINDS[".txt"]
_HTML: Final = _KINDS[".html"]
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\/]")
_IDLE_S: Final = 60


def serve(
    run: StoreLike,
    *,
    maps: StoreLike | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    open_browser: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Show a run in browsers until this is interrupted.

    Parameters
    ----------
    run : str, Path or zarr Store
        A folder, or a bucket's URL; or maps, which name their run.
    maps : str, Path or zarr Store, optional
        By default those beside the run, if any; without, maps are computed in the browser.
    host : str
        The address to listen on; by default no other machine can reach it.
    port : int
        By default a free one.
    open_browser : bool
    tell : callable (str), optional
        Takes each line that says where the page is; by default they are printed.

    Raises
    ------
    StoreError
        If a store is missing or of another kind, or nobody can listen there.

    Examples
    --------
    ::

        serve("run.zarr", port=8080, tell=print)  # until Ctrl-C
    """
    tell = tell or print
    with PageServer(run, maps=maps, host=host, port=port) as server:
        tell(f"Page: {server.url}")
        if not server.is_loopback:
            tell(f"Anyone who reaches port {server.server_port} of this machine can read the run.")
        tell("Stop with Ctrl-C.")
        if open_browser:
            webbrowser.open(server.url)
        server.serve_forever()


class PageServer(ThreadingHTTPServer):
    """The page over a run, and the objects of its stores, by HTTP; closes at the end of a ``with``.

    Parameters
    ----------
    run, maps, host, port
        As in `serve`.

    Raises
    ------
    StoreError
        As `serve`.
    """

    daemon_threads = True

    def __init__(
        self,
        run: StoreLike,
        *,
        maps: StoreLike | None = None,
        host: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        self._run, own_maps = open_pair(run, maps)
        self.stores = {"run": ServedStore(self._run.path)}
        if own_maps is not None:
            self.stores["maps"] = ServedStore(own_maps.path)
        self.host = host
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as e:
            msg = (
                f"Expected a place to listen on, got '{getattr(e, 'strerror', None) or e}', at "
                f"{host}:{port}. Give another --port or --host."
            )
            raise StoreError(msg) from e

    @property
    def url(self) -> str:
        """Where the page is, for a browser of this machine."""
        host = LOOPBACK if self.host in {"", "0.0.0.0", "::"} else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        address = str(self.server_address[0])
        return ipaddress.ip_address(address).is_loopback

    def is_own_name(self, host: str) -> bool:
        """Return whether a request's Host is one of this machine: another name may belong to anybody.

        Addresses in figures cannot be made to lead elsewhere, so any port and tunnel will do.
        """
        name = urlsplit(f"//{host}").hostname or ""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            own = {"localhost", self.host, socket.gethostname(), socket.getfqdn()}
            return name in {one.lower() for one in own}
        return True

    @cached_property
    def page(self) -> bytes:
        """The page itself."""
        maps = "maps" if "maps" in self.stores else None
        return live_page(self._run, run_url="run", maps_url=maps).encode()

    @cached_property
    def names(self) -> bytes:
        """The names of the samples, as JSON; read when the page asks first."""
        return json.dumps({"samples": sample_names(self._run)}).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone away."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    # The head and the body of an answer go out together.
    wbufsize = -1
    disable_nagle_algorithm = True
    server_version = "i2am"
    sys_version = ""
    _headers: ClassVar[Mapping[str, str]] = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Frame-Options": "SAMEORIGIN",
        "Cache-Control": "no-cache",
    }

    def do_GET(self) -> None:
        """Answer with the page, a file of it, or an object."""
        host = self.headers.get("Host", "")
        if not self.server.is_own_name(host):
            self._say(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"This is no name of this machine: {safe_text(host)}. Use localhost, or 'i2am serve --host'.",
            )
            return
        parts = self._parts()
        if parts is None:
            self._say(HTTPStatus.BAD_REQUEST, "Expected a path inside the run.")
        elif parts in ([""], ["index.html"]):
            self._send(HTTPStatus.OK, self.server.page, _HTML)
        elif parts == ["samples.json"]:
            self._guarded(lambda: self._send(HTTPStatus.OK, self.server.names, _KINDS[".json"]))
        elif len(parts) == 1 and (content := bundle_bytes(parts[0])) is not None:
            self._send(HTTPStatus.OK, content, _KINDS[f".{parts[0].rpartition('.')[2]}"])
        elif len(parts) > 1 and parts[0] in self.server.stores:
            store = self.server.stores[parts[0]]
            self._guarded(lambda: self._send_object(store, parts[1:]))
        else:
            self._say(HTTPStatus.NOT_FOUND, "There is nothing here.")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True  # What it sent is not read.
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "This serves reads alone.", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        """Say nothing: a click is hundreds of requests."""

    def _parts(self) -> list[str] | None:
        """Return the names of the path, decoded; None if one of them is no name inside a folder."""
        path = self.path.partition("?")[0]
        if not path.startswith("/"):
            return None
        try:
            parts = [unquote(part, errors="strict") for part in path[1:].split("/")]
        except UnicodeDecodeError:
            return None
        *folders, last = parts
        if any(part in {"", ".", ".."} for part in folders) or last in {".", ".."}:
            return None
        return None if any(map(_FORBIDDEN.search, parts)) else parts

    def _guarded(self, answer: Callable[[], None]) -> None:
        """Answer, or say why a store does not give what was asked for."""
        try:
            answer()
        except StoreError as e:
            self._say(HTTPStatus.FORBIDDEN, str(e))
        except storage_errors() as e:
            if isinstance(e, ConnectionError | TimeoutError):  # It is the browser that has gone.
                self.close_connection = True
                return
            self._say(HTTPStatus.BAD_GATEWAY, f"The store failed: {safe_text(e)}")

    def _send_object(self, store: ServedStore, parts: list[str]) -> None:
        if parts[-1] == "":
            self._send_listing(store, "/".join(parts[:-1]))
            return
        key = "/".join(parts)
        size = store.size(key)
        if size is None:
            self._say(HTTPStatus.NOT_FOUND, "There is no such object.")
            return
        start, end = 0, size
        status, headers = HTTPStatus.OK, {"Accept-Ranges": "bytes"}
        if (asked := _RANGE.fullmatch(self.headers.get("Range", ""))) and any(asked.groups()):
            found = _part(asked[1], asked[2], size)
            if found is None:
                headers["Content-Range"] = f"bytes */{size}"
                self._say(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "It is shorter than that.", headers
                )
                return
            start, end = found
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        kind = _KINDS[".json"] if key.endswith(".json") else "application/octet-stream"
        length = end - start
        content = b"" if self.command == "HEAD" else store.read(key, start, end)
        if self.command != "HEAD" and len(content) != length:
            self._say(HTTPStatus.NOT_FOUND, "The object has just been removed.")
            return
        self._send(status, content, kind, headers, length)

    def _send_listing(self, store: ServedStore, folder: str) -> None:
        """Answer with links to what lies in a folder, as file servers do."""
        names = store.names(folder)
        if not names:
            self._say(HTTPStatus.NOT_FOUND, "There is no such folder.")
            return
        links = [
            f'<a href="{quote(name)}/">{quote(name)}</a>' for name in names if name != METADATA_KEY
        ]
        page = f"<!DOCTYPE html><title>objects</title>{' '.join(links)}"
        self._send(HTTPStatus.OK, page.encode(), _HTML)

    def _say(
        self, status: HTTPStatus, words: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send(status, f"{words}\n".encode(), _TEXT, headers)

    def _send(
        self,
        status: HTTPStatus,
        content: bytes,
        kind: str,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        every = {
            "Content-Type": kind,
            "Content-Length": str(len(content) if length is None else length),
            **self._headers,
            **(headers or {}),
        }
        for name, value in every.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _part(first: str, last: str, size: int) -> tuple[int, int] | None:
    """Return where a part of an object begins and ends; None where it has no such part.

    Examples
    --------
    >>> _part("2", "5", 4), _part("", "3", 4), _part("4", "", 4)
    ((2, 4), (1, 4), None)
    """
    if not first:  # The last bytes.
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
    return (start, end) if start < end else None
