"""The report is one well-formed page that needs nothing else and tells what the stores hold."""

from __future__ import annotations

import base64
import re
from collections import Counter
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from i2am.analysis.figures import report_kinds
from i2am.analysis.figures.captions import seen_notes
from i2am.analysis.figures.files import figure_path, write_figures
from i2am.analysis.figures.report import write_report
from i2am.schemas import AnalysisError, StoreError
from tests.support.pictured import Pictured, pictured

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page; unbalanced tags raise."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((tuple(self.open), " ".join(data.split())))

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text_in(self, tag: str) -> list[str]:
        return [text for path, text in self.words if tag in path]

    @property
    def text(self) -> str:
        return " ".join(text for path, text in self.words if "style" not in path)


Stores = tuple[dict[str, xr.DataTree], dict[str, xr.DataTree]]


@pytest.fixture(scope="module")
def stores() -> Stores:
    return stores_of({"cat-001": pictured(), "ähre+1": pictured(tokens="one")})


@pytest.fixture(scope="module")
def page(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Page:
    scores = block_logits(("cat-001", "imacs_g", 0.5), ("ähre+1", "imacs_g", 0.25))
    out = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert report_on(stores, scores, out) == out
    return Page(out)


def stores_of(cases: dict[str, Pictured]) -> Stores:
    run = {name: case.sample for name, case in cases.items()}
    return run, {name: case.maps for name, case in cases.items()}


def report_on(stores: Stores, scores: pd.DataFrame | None, out: Path, **options: Any) -> Path:
    run, maps = stores
    return write_report(run, maps, scores, out, **options)


def block_logits(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["sample", "score", "value"])


def test_page_asks_for_nothing_outside_itself(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert not re.search(r"https?:|//[a-z]|@import|url\(", "".join(page.text_in("style")))


def test_every_sample_has_a_section_that_the_navigation_reaches(page: Page) -> None:
    assert page.text_in("h2") == ["Summary", "cat-001", "ähre+1"]
    assert page.text_in("li") == ["cat-001", "ähre+1"]
    identifiers = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(identifiers.values()) == {1}
    for link in page.attributes("a"):
        assert unquote(link["href"].removeprefix("#")) in identifiers
    for section in page.attributes("section"):
        assert section["aria-labelledby"] in identifiers


def test_every_figure_is_a_picture_with_a_text_of_its_own_and_a_caption(page: Page) -> None:
    pictures = page.attributes("img")
    # The second sample has one reference token, and so no SRAM.
    titles = ["Overview.", "TLAM.", "HLAM.", "SRAM.", "Overview.", "TLAM.", "HLAM."]
    assert page.text_in("strong") == titles
    assert len({picture["alt"] for picture in pictures}) == len(pictures) == 7
    for picture in pictures:
        encoded = picture["src"].removeprefix("data:image/webp;base64,")
        with Image.open(BytesIO(base64.b64decode(encoded, validate=True))) as decoded:
            assert decoded.format == "WEBP"
            shape = int(picture["width"]) / int(picture["height"])
            assert decoded.width / decoded.height == pytest.approx(shape, rel=0.01)
            assert np.asarray(decoded).std() > 20


def test_sample_of_one_token_says_what_its_maps_are_not(page: Page) -> None:
    notes = page.text.split("ähre+1")[-1]
    assert "R2G: similarity map, not causal: one reference token." in notes
    assert "No G2R map: the reference is one token" in notes
    assert page.text.count("not causal") == 1


def test_head_and_provenance_tell_where_the_run_comes_from(page: Page) -> None:
    head = page.text_in("header")
    facts = dict(zip(head[head.index("model") :: 2], head[head.index("model") + 1 :: 2]))  # noqa: B905
    assert facts["model"] == "synthetic"
    assert facts["created"] == "2026-01-01T00:00:00Z"
    assert facts["i2am"] == "0"
    assert facts["samples"] == "2"
    assert page.text_in("details").count("DDIMScheduler") == 2


def test_scores_are_summarised_over_all_samples_of_the_run(stores: Stores, tmp_path: Path) -> None:
    scores = block_logits(
        ("cat-001", "imacs_g", 0.5),
        ("ähre+1", "imacs_g", 0.25),
        ("not of this run", "imacs_g", 9.0),
        ("cat-001", "imacs_r", np.nan),
        ("ähre+1", "imacs_r", 0.125),
    )
    page = Page(report_on(stores, scores, tmp_path / "report.html", max_samples=1))
    cells = page.text_in("tbody")
    assert cells[:5] == ["imacs_g", "0.3750", "0.2500", "0.5000", "2"]
    assert cells[6:11] == ["imacs_r", "0.1250", "0.1250", "0.1250", "1"]
    assert "imacs_r none" in page.text.split("cat-001")[-1]


def test_without_scores_the_page_says_so(stores: Stores, tmp_path: Path) -> None:
    page = Page(report_on(stores, None, tmp_path / "report.html", max_samples=1))
    assert "No scores were given" in page.text
    assert page.attributes("table") == []


def test_page_says_how_many_samples_it_leaves_out(stores: Stores, tmp_path: Path) -> None:
    scores = block_logits(("cat-001", "imacs_g", 0.5), ("ähre+1", "imacs_g", 0.25))
    page = Page(report_on(stores, scores, tmp_path / "report.html", max_samples=1))
    assert "This page shows the first 1 of 2 samples." in page.text
    assert page.text_in("h2") == ["Summary", "cat-001"]
    assert page.text_in("tbody")[1] == "0.3750"


def test_figures_that_are_written_already_are_taken_as_they_are(tmp_path: Path) -> None:
    stores = stores_of({"one": pictured(tokens="one")})
    figures = tmp_path / "figures"
    drawn = report_on(stores, None, tmp_path / "drawn.html")
    write_figures(*stores, list(stores[1]), figures)
    taken = report_on(stores, None, tmp_path / "taken.html", figures_dir=figures)
    assert taken.read_bytes() == drawn.read_bytes()
    Image.new("RGB", (30, 20), "red").save(figure_path(figures, "one", "overview"))
    other = report_on(stores, None, tmp_path / "other.html", figures_dir=figures)
    assert other.read_bytes() != drawn.read_bytes()


def test_text_from_stores_and_tables_is_escaped(tmp_path: Path) -> None:
    case = pictured(tokens="one")
    case.sample.attrs["i2am"] |= {"model": "<script>alert(1)</script>", "prompt": 'a "cat" & <b>'}
    scores = block_logits(("one", "<img src=x>", 0.5))
    page = Page(report_on(stores_of({"one": case}), scores, tmp_path / "report.html"))
    assert "<script>alert(1)</script>" in page.text_in("header")
    assert 'a "cat" & <b>' in page.text_in("details")
    assert "<img src=x>" in page.text_in("tbody")
    assert page.attributes("script") == []


def test_nothing_of_a_name_acts_on_the_page(tmp_path: Path) -> None:
    name = '" onload="alert(1)" x="$\\frac{$'
    link = "javascript:alert(1)"
    case = pictured(tokens="one")
    case.sample.attrs["i2am"] |= {link: link, "model": "shirt\u202egnp.exe\x1b[2J"}
    out = report_on(stores_of({name: case}), block_logits((name, link, 0.5)), tmp_path / "r.html")
    page = Page(out)
    assert name in page.text_in("h2")
    text = out.read_text(encoding="utf-8")
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert r"shirt\u202egnp.exe\x1b[2J" in page.text_in("header")
    hrefs = [own["href"] for own in page.attributes("a")]
    assert hrefs
    assert all(href.startswith("#") for href in hrefs)
    tags = {
        key for tag in ("section", "a", "img", "h2") for own in page.attributes(tag) for key in own
    }
    assert not [key for key in tags if key.startswith("on") or key == "x"]


def test_differing_values_are_listed_and_dates_are_a_range(tmp_path: Path) -> None:
    cases = {name: pictured(tokens="one") for name in "abc"}
    for day, case in enumerate(cases.values(), start=1):
        case.sample.attrs["i2am"] |= {"created": f"2026-01-0{day}", "steps": 10 * day}
    page = Page(report_on(stores_of(cases), None, tmp_path / "report.html"))
    assert "created 2026-01-01 to 2026-01-03" in page.text
    assert "steps 10, 20, 30" in page.text


def test_an_existing_page_is_kept_unless_overwriting_is_allowed(
    stores: Stores, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(StoreError, match=r"Expected no file, got one, at .*report\.html\. Allow"):
        report_on(stores, None, out)
    assert out.read_text() == "mine"
    report_on(stores, None, out, overwrite=True, max_samples=1)
    assert Page(out).text_in("h2")


def test_stores_that_share_no_sample_are_refused(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="samples that run and maps share, got none"):
        write_report(stores[0], {"other": stores[1]["cat-001"]}, None, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_its_columns_is_refused(stores: Stores, tmp_path: Path) -> None:
    table = block_logits(("cat-001", "imacs_g", 0.5)).rename(columns={"value": "mean"})
    with pytest.raises(AnalysisError, match="columns sample, score, value, got none named value"):
        report_on(stores, table, tmp_path / "report.html")


def test_the_page_says_what_the_model_saw_of_a_picture(page: Page, tmp_path: Path) -> None:
    for kind in report_kinds():  # Whatever they show: it is the words that count.
        Image.new("RGB", (2, 2)).save(figure_path(tmp_path, "cat", kind))
    stores = stores_of({"cat": pictured(wide=True)})
    wide = Page(report_on(stores, None, tmp_path / "wide.html", figures_dir=tmp_path))
    line = (
        "The model saw rows 0 to 64, columns 64 to 128 of this reference picture "
        "(64 × 192 pixels); the rest is dimmed."
    )
    assert line in wide.text_in("figcaption")
    assert "The model saw" not in page.text


def test_a_box_beyond_the_picture_is_told_as_padding() -> None:
    case = pictured(wide=True)
    case.sample["images/reference"].attrs["i2am"] = {"box": [-8.25, 0, 64, 192]}
    assert seen_notes(*case.both) == [
        "The model saw all of this reference picture (64 × 192 pixels) and padding beyond its edge."
    ]
