"""The page over a live run as a static site: a folder of files that any web server gives.

The page reads the run itself, by HTTP: from a folder beside it, or from another server that allows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from i2am.analysis.stores.reader import Run
from i2am.files import check_not_in_store, check_outputs, outputs_written_whole
from i2am.page.document import json_script, page_html, policy
from i2am.page.report import head_facts, run_data, store_name
from i2am.page.sample_data import provenance
from i2am.page.stores import open_pair
from i2am.schemas import StoreError
from i2am.storage.addresses import StoreLike, is_url

__all__ = ["SITE_FILES", "bundle_bytes", "export_page", "live_page", "sample_names"]

# The built files that a live page loads, and under which licences.
SITE_FILES: Final = ("live.js", "blosc.js", "page.css", "LICENSES.txt")
_HTTP: Final = ("http", "https")


def export_page(
    run: str | Path,
    out: str | Path,
    *,
    maps: str | Path | None = None,
    url: str | None = None,
    maps_url: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page over a run as files for a web server, and return their folder.

    Parameters
    ----------
    run : str or Path
        Or maps, which name their run.
    out : str or Path
        The folder.
    maps : str or Path, optional
        By default those beside the run, if any.
    url, maps_url : str, optional
        From where browsers read the run and the maps; by default where they lie beside `out`, so that a
        server gives the folder that holds all of them.
    overwrite : bool
        Whether files of an earlier page may be replaced.

    Raises
    ------
    StoreError
        If a store is missing or of another kind, one of the files is there and `overwrite` is false, `out`
        is a file or lies in a store, or a browser could not reach the run.

    Examples
    --------
    ::

        export_page("run.zarr", "page")  # beside the run: then python -m http.server
    """
    opened, own_maps = open_pair(run, maps)
    out = Path(out)
    check_not_in_store(out, is_folder=True)
    if out.exists() and not out.is_dir():
        msg = f"Expected a folder, got a file, at {out}. Name another."
        raise StoreError(msg)
    content = {name: bundle_bytes(name) or b"" for name in SITE_FILES}
    check_outputs(out, ["index.html", "samples.json", *content], "page", overwrite=overwrite)
    run_url = _checked_url(url, "url") if url else _relative(opened.path, out)
    of_maps = None
    if maps_url:
        of_maps = _checked_url(maps_url, "maps_url")
    elif own_maps is not None and not url:
        of_maps = _relative(own_maps.path, out)
    content["index.html"] = live_page(opened, run_url=run_url, maps_url=of_maps).encode()
    content["samples.json"] = json.dumps({"samples": sample_names(opened)}).encode()
    with outputs_written_whole(out) as folder:
        for name, written in content.items():
            (folder / name).write_bytes(written)
    return out


def live_page(run: Run, *, run_url: str, maps_url: str | None) -> str:
    """Return the page that reads a run.

    Parameters
    ----------
    run : Run
    run_url, maps_url : str
        From where it reads: relative to the page, or absolute.
    """
    first = run.first()
    own: Mapping[str, Any] = {} if first is None else run.attributes_of(first)
    facts = list(head_facts([dict(provenance(own))]))
    title = store_name(run)
    told = run_data("live", title, facts, run=run_url, maps=maps_url, names="samples.json")
    places = [urlsplit(place) for place in (run_url, maps_url or "")]
    origins = [f"{place.scheme}://{place.netloc}" for place in places if place.scheme in _HTTP]
    return page_html(
        title=title,
        facts=facts,
        notes=[],
        scripts=[json_script("i2am-run", told)],
        policy=policy(origins=list(dict.fromkeys(origins))),
    )


def sample_names(run: Run) -> list[str]:
    """Return the names of a run's complete samples; of one in a bucket, those of all that are there.

    To tell which are complete takes a request for each: the page sees it when one is opened.
    """
    return run.names() if is_url(str(run.path)) else list(run)


@lru_cache
def bundle_bytes(name: str) -> bytes | None:
    """Return one of the built files that a live page loads; None of another name."""
    if name not in SITE_FILES:
        return None
    return files("i2am.page").joinpath("static", name).read_bytes()


def _relative(store: StoreLike, out: Path) -> str:
    """Return where a store is, seen from the page."""
    if not isinstance(store, str | Path) or is_url(store):
        msg = (
            f"Expected a URL that browsers read, got none, at {store}. Give --url https://…: the address "
            "of the bucket's objects."
        )
        raise StoreError(msg)
    path, folder = Path(store).resolve(), out.resolve()
    if path.parent == folder:
        return path.name
    if path.parent == folder.parent:
        return f"../{path.name}"
    msg = (
        f"Expected a run in or beside the page's folder, got one elsewhere, at {path}. Write the page beside "
        "it, or give --url: where browsers find the run."
    )
    raise StoreError(msg)


def _checked_url(url: str, name: str) -> str:
    """Return a URL of the web, or one that is relative to the page."""
    parts = urlsplit(url)
    is_web = parts.scheme in _HTTP and parts.netloc
    if any(character in url for character in " ;,'\"<>\\\n\r\t") or not (
        is_web or not (parts.scheme or parts.netloc)
    ):
        msg = f"Expected a URL such as https://host/run.zarr, got {url!r}, at {name}. Give another."
        raise StoreError(msg)
    return url.rstrip("/")
