"""What `i2am serve` gives, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from i2am.analysis import analyze_run
from i2am.cli import main
from i2am.page.server import PageServer
from i2am.schemas import StoreError
from tests.page.serving import ask, serving
from tests.support.s3_bucket import credentials, serve_bucket
from tests.support.synthetic_run import LAYERS, write_run

KEY = f"/run/a/layers/{LAYERS[0].name}/query/c/0/0/0/0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    run = write_run(folder / "run.zarr", ["a", "b+1"], LAYERS, steps=2)
    analyze_run(run, folder / "maps.zarr", progress=False)
    (folder / "secret.txt").write_text("secret")
    (run / "a" / "leak").symlink_to(folder / "secret.txt")
    (run / "a" / "away").symlink_to(folder)
    (run / "a" / "again").symlink_to(run / "b+1")
    os.mkfifo(run / "a" / "pipe")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PageServer]:
    with serving(folder / "run.zarr") as server:
        yield server


def test_it_gives_the_page_its_files_the_names_and_the_objects(
    server: PageServer, folder: Path
) -> None:
    page = ask(server.server_port, "/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert '"run":"run","maps":"maps"' in page.text
    assert 'connect-src &#39;self&#39;"' in page.text  # Nothing else is fetched.
    for name, kind in {"live.js": "text/javascript", "page.css": "text/css"}.items():
        assert f'"{name}"' in page.text
        file = ask(server.server_port, f"/{name}")
        assert (file.status, file.headers.get_content_type()) == (200, kind)
        assert len(file.content) > 1000
    names = ask(server.server_port, "/samples.json")
    assert json.loads(names.content) == {"samples": ["a", "b+1"]}
    whole = ask(server.server_port, KEY)
    assert whole.content == (folder / "run.zarr" / KEY.removeprefix("/run/")).read_bytes()
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    of_maps = ask(server.server_port, "/maps/a/r2g/ulam/zarr.json")
    assert json.loads(of_maps.content)["shape"] == [8, 8]
    assert ask(server.server_port, "/run/b%2B1/zarr.json").status == 200
    assert ask(server.server_port, "/run/a/again/zarr.json").status == 200  # Inside the run.
    assert f'href="{LAYERS[0].name}/"' in ask(server.server_port, "/run/a/layers/").text


@pytest.mark.parametrize(
    ("asked", "part"),
    [("bytes=2-5", slice(2, 6)), ("bytes=-3", slice(-3, None)), ("bytes=4-", slice(4, None)),
     ("bytes=0-99999999", slice(None))],
)  # fmt: skip
def test_parts_are_parts(server: PageServer, asked: str, part: slice) -> None:
    whole = ask(server.server_port, KEY).content
    found = ask(server.server_port, KEY, Range=asked)
    assert found.status == 206
    assert found.content == whole[part]
    begin, end, _ = part.indices(len(whole))
    assert found.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(whole)}"
    head = ask(server.server_port, KEY, "HEAD", Range=asked)
    assert (head.status, head.content) == (206, b"")
    assert head.headers["Content-Length"] == str(len(found.content))


def test_a_part_beyond_the_end_is_told_so(server: PageServer) -> None:
    assert ask(server.server_port, KEY, Range="bytes=999999-").status == 416
    for odd in ("bytes=a-b", "bytes=-", "lines=1-2", "bytes=0-1,3-4"):  # As if none was asked for.
        assert ask(server.server_port, KEY, Range=odd).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/run/../secret.txt", 400),
        ("/run/%2e%2e/secret.txt", 400),
        ("/run/a/%2E./%2e%2e/secret.txt", 400),
        ("/run/..%2fsecret.txt", 400),
        ("/run/a/..%5csecret.txt", 400),
        ("/run//etc/passwd", 400),
        ("/run/%2fetc/passwd", 400),
        ("//etc/passwd", 404),
        ("http://example.org/", 400),
        ("/run/a/%00", 400),
        ("/run/a/%ff", 400),
        ("/run/a/leak", 403),
        ("/run/a/away/secret.txt", 403),
        ("/run/a/away/", 403),
        ("/run/a/pipe", 403),
        ("/run/a", 404),
        ("/run", 404),
        ("/run/nothing/", 404),
        ("/secret.txt", 404),
        ("/report.js", 404),
        ("/etc/passwd", 404),
    ],
)
def test_nothing_but_the_run_is_given(server: PageServer, path: str, status: int) -> None:
    for method in ("GET", "HEAD"):
        answer = ask(server.server_port, path, method, host="localhost")
        assert answer.status == status
        assert answer.content[:7] != b"secret\n"
        assert b"root:" not in answer.content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_reads_alone_are_answered(server: PageServer, method: str) -> None:
    answer = ask(server.server_port, KEY, method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_who_comes_by_another_name_is_refused(server: PageServer) -> None:
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        answer = ask(port, KEY, host=host)
        assert answer.status == 421
        assert "no name of this machine" in answer.text
    # A tunnel has another port on this side.
    for host in (f"localhost:{port}", "127.0.0.1:80", "[::1]:9000", f"LOCALHOST:{port}"):
        assert ask(port, "/", host=host).status == 200


def test_it_listens_on_loopback_unless_told_otherwise(folder: Path) -> None:
    with serving(folder / "run.zarr") as server:
        assert server.is_loopback
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(StoreError, match=r"got 'Address already in use', at 127\.0\.0\.1:"):
            PageServer(folder / "run.zarr", port=server.server_port)
    with serving(folder / "run.zarr", host="0.0.0.0") as server:
        assert not server.is_loopback
        assert server.url.startswith("http://127.0.0.1:")
        assert ask(server.server_port, "/", host=socket.gethostname()).status == 200


def test_maps_bring_their_run(folder: Path, tmp_path: Path) -> None:
    with serving(folder / "maps.zarr") as server:
        for path in ("/run/a/zarr.json", "/maps/a/zarr.json"):
            assert ask(server.server_port, path).status == 200
    alone = shutil.copytree(folder / "maps.zarr", tmp_path / "maps.zarr")
    with pytest.raises(StoreError, match=r"(?s)at .*run.zarr.*Name their run"):
        PageServer(alone)


def test_a_store_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="Expected a run beside the maps"):
        PageServer(folder / "maps.zarr", maps=folder / "maps.zarr")
    with pytest.raises(StoreError, match="Expected a maps store"):
        PageServer(folder / "run.zarr", maps=folder / "run.zarr")


def test_an_object_that_goes_is_not_there(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(
        folder / "run.zarr",
        tmp_path / "run.zarr",
        ignore=lambda *_: ["leak", "away", "again", "pipe"],
    )
    with serving(run) as server:
        assert ask(server.server_port, KEY).status == 200
        (run / KEY.removeprefix("/run/")).unlink()
        assert ask(server.server_port, KEY).status == 404
        assert ask(server.server_port, KEY, Range="bytes=0-1").status == 404


def test_a_run_in_a_bucket_is_given_as_one_in_a_folder(
    server: PageServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.store import S3Store

    with serve_bucket() as (address, _):
        for name, value in credentials(address).items():
            monkeypatch.setenv(name, value)
        bucket = S3Store("bucket")
        for path in sorted((folder / "run.zarr").rglob("*")):
            if path.is_file() and not path.is_symlink() and "away" not in path.parts:
                key = path.relative_to(folder).as_posix()
                bucket.put(key, path.read_bytes())
        with serving("s3://bucket/run.zarr") as other:
            for asked in ("/samples.json", "/run/zarr.json", "/run/a/zarr.json", KEY):
                mine, theirs = (ask(one.server_port, asked) for one in (server, other))
                assert (theirs.status, theirs.content) == (200, mine.content)
            for asked in ("bytes=2-5", "bytes=-3", "bytes=4-", "bytes=999999-"):
                mine, theirs = (ask(one.server_port, KEY, Range=asked) for one in (server, other))
                assert (theirs.status, theirs.content) == (mine.status, mine.content)
                assert theirs.headers["Content-Range"] == mine.headers["Content-Range"]
            assert ask(other.server_port, "/run/a/none").status == 404
            assert ask(other.server_port, "/run/%2e%2e/run.zarr/zarr.json").status == 400


def test_the_command_says_where_the_page_is_and_stops_when_told(folder: Path) -> None:
    call = [sys.executable, "-m", "i2am", "serve", str(folder / "run.zarr"), "--no-open"]
    with subprocess.Popen(
        [*call, "--host", "0.0.0.0"],
        stdout=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("Page: ").strip()
            assert "can read the run" in process.stdout.readline()
            with urlopen(url, timeout=20) as page:
                assert b"i2am-run" in page.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()


def test_the_command_refuses_a_port_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", ".", "--port", "70000"])
    assert "expected a port from 0 to 65535, got '70000'" in capsys.readouterr().err
