"""The page over a live run as files for a web server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from i2am.analysis import analyze_run
from i2am.cli import main
from i2am.page import export_page
from i2am.schemas import StoreError
from tests.page.reading import Page
from tests.support.synthetic_run import LAYERS, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = write_run(folder / "run.zarr", ["a", "b"], LAYERS[:1], steps=1)
    analyze_run(run, folder / "maps.zarr", progress=False)
    return run


def policy_of(page: Page) -> dict[str, str]:
    (policy,) = (own["content"] for own in page.attributes("meta") if "http-equiv" in own)
    return dict(part.split(" ", 1) for part in policy.split("; "))


def test_the_site_reads_the_run_beside_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.with_name("page")
    assert main(["export", str(run), "--page", str(out)]) == 0
    assert capsys.readouterr().out == f"Page: {out / 'index.html'}\n"
    assert sorted(path.name for path in out.iterdir()) == [
        "LICENSES.txt", "blosc.js", "index.html", "live.js", "page.css", "samples.json",
    ]  # fmt: skip
    page = Page(out / "index.html")
    assert page.run["kind"] == "live"
    assert (page.run["run"], page.run["maps"]) == ("../run.zarr", "../maps.zarr")
    assert dict(page.run["facts"])["model"] == "synthetic"
    assert json.loads((out / "samples.json").read_text()) == {"samples": ["a", "b"]}
    allowed = policy_of(page)
    assert allowed["default-src"] == "'none'"
    assert allowed["connect-src"] == "'self'"
    assert allowed["script-src"] == "'self' 'wasm-unsafe-eval'"
    sources = [own["src"] for own in page.attributes("script") if "src" in own]
    assert sources == ["live.js"]


def test_maps_bring_their_run(run: Path) -> None:
    index = export_page(run.with_name("maps.zarr"), run.with_name("of-maps")) / "index.html"
    told = Page(index).run
    assert (told["run"], told["maps"]) == ("../run.zarr", "../maps.zarr")


def test_what_is_there_is_kept_unless_overwriting_is_allowed(run: Path, tmp_path: Path) -> None:
    url = "https://data.org/run.zarr"
    (tmp_path / "notes.txt").write_text("mine")
    out = export_page(run, tmp_path, url=url)
    (out / "index.html").write_text("mine")
    with pytest.raises(StoreError, match=r"Expected no earlier page, got index\.html"):
        export_page(run, out, url=url)
    assert (out / "index.html").read_text() == "mine"
    export_page(run, out, url=url, overwrite=True)
    assert Page(out / "index.html").run["run"] == "https://data.org/run.zarr"
    assert (out / "notes.txt").read_text() == "mine"


def test_a_run_elsewhere_needs_a_url_and_that_alone_is_read(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Expected a run in or beside the page's folder"):
        export_page(run, tmp_path / "page")
    assert not (tmp_path / "page").exists()
    url = "https://s3.example.org/bucket/run.zarr/"
    out = export_page(run, tmp_path / "page", url=url, maps_url="http://other.org:8000/maps.zarr")
    page = Page(out / "index.html")
    assert page.run["run"] == url.rstrip("/")
    connect = "'self' https://s3.example.org http://other.org:8000"
    assert policy_of(page)["connect-src"] == connect


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/run.zarr", "javascript:alert(1)", "https://a.org; script-src *", "//a.org/x"],
)
def test_what_no_browser_reads_is_refused(url: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Expected a URL such as"):
        export_page(run, tmp_path / "page", url=url)
    assert not (tmp_path / "page").exists()


def test_nothing_is_written_into_a_store(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="outside of stores"):
        export_page(run, run, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Expected a folder, got a file"):
        export_page(run, tmp_path / "file")


def test_the_command_needs_a_kind(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(run)])
    assert "--page" in capsys.readouterr().err
