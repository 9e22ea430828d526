"""The report is one file that needs nothing else and tells what the stores hold."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from i2am.analysis import analyze, open_run, sram
from i2am.analysis.figures.captions import seen_notes
from i2am.analysis.figures.files import figure_path, write_figures
from i2am.analysis.stores.boxes import image_box
from i2am.cli import main
from i2am.page import sram_cells
from i2am.page.report import write_report
from i2am.page.sram_cells import cell_places
from i2am.page.stacks import area_means
from i2am.schemas import AnalysisError, Box, StoreError
from tests.page.reading import Page, decode_stack
from tests.support.pictured import Pictured, pictured
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run

Stores = tuple[dict[str, xr.DataTree], dict[str, xr.DataTree]]


@pytest.fixture(scope="module")
def stores() -> Stores:
    return stores_of({"cat-001": pictured(), "ähre+1": pictured(tokens="one")})


@pytest.fixture(scope="module")
def page(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Page:
    scores = scores_of(("cat-001", "imacs_g", 0.5), ("ähre+1", "imacs_g", 0.25))
    out = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert report_on(stores, scores, out) == out
    return Page(out)


def stores_of(cases: dict[str, Pictured]) -> Stores:
    run = {name: case.sample for name, case in cases.items()}
    return run, {name: case.maps for name, case in cases.items()}


def report_on(stores: Stores, scores: pd.DataFrame | None, out: Path, **options: Any) -> Path:
    run, maps = stores
    return write_report(run, maps, scores, out, **options)


def scores_of(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["sample", "score", "value"])


def test_page_asks_for_nothing_outside_itself(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"iframe", "object", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"https?:|//[a-z]|@import|url\(", "".join(page.text_in("style")))


def test_the_policy_lets_one_script_run_and_nothing_be_fetched(page: Page) -> None:
    (policy,) = (own["content"] for own in page.attributes("meta") if "http-equiv" in own)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    ((_, script),) = (one for one in page.scripts if "type" not in one[0])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert allowed["script-src"] == f"'sha256-{digest}'"
    assert allowed["default-src"] == allowed["connect-src"] == allowed["base-uri"] == "'none'"
    assert allowed["img-src"] == "data: blob:"


def test_without_scripts_every_sample_has_a_section_that_the_table_reaches(page: Page) -> None:
    assert page.text_in("h2") == ["Summary", "cat-001", "ähre+1"]
    assert page.text_in("a") == ["cat-001", "ähre+1"]
    identifiers = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(identifiers.values()) == {1}
    for link in page.attributes("a"):
        assert unquote(link["href"].removeprefix("#")) in identifiers
    for section in page.attributes("section"):
        assert section["aria-labelledby"] in identifiers


def test_every_figure_is_a_picture_with_a_text_of_its_own_and_a_caption(page: Page) -> None:
    pictures = page.attributes("img")
    assert page.text_in("strong") == ["Overview.", "Overview."]
    assert len({picture["alt"] for picture in pictures}) == len(pictures) == 2
    for number, picture in enumerate(pictures):
        (figure,) = page.sample(number)["figures"]  # The script takes it from the document.
        assert figure["url"] == f"#{picture['id']}"
        assert figure["alt"] == picture["alt"]
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
    scores = scores_of(
        ("cat-001", "imacs_g", 0.5),
        ("ähre+1", "imacs_g", 0.25),
        ("not of this run", "imacs_g", 9.0),
        ("cat-001", "imacs_r", np.nan),
        ("ähre+1", "imacs_r", 0.125),
    )
    page = Page(report_on(stores, scores, tmp_path / "report.html", max_samples=1))
    cells = page.text_in("tbody")
    assert cells[:5] == ["R2G IMACS", "0.3750", "0.2500", "0.5000", "2"]
    assert cells[6:11] == ["G2R IMACS", "0.1250", "0.1250", "0.1250", "1"]
    assert cells[-3:] == ["cat-001", "0.5000", "none"]
    assert page.run["samples"][0]["scores"] == {"imacs_g": 0.5, "imacs_r": None}


def test_without_scores_the_page_says_so(stores: Stores, tmp_path: Path) -> None:
    page = Page(report_on(stores, None, tmp_path / "report.html", max_samples=1))
    assert "No scores were given" in page.text
    assert page.text_in("tbody") == ["cat-001"]
    assert page.run["scores"] == []


def test_page_says_how_many_samples_it_leaves_out(stores: Stores, tmp_path: Path) -> None:
    scores = scores_of(("cat-001", "imacs_g", 0.5), ("ähre+1", "imacs_g", 0.25))
    page = Page(report_on(stores, scores, tmp_path / "report.html", max_samples=1))
    note = "This page shows 1 of 2 samples. The summary counts all of them."
    assert note in page.text_in("header")
    assert page.run["left_out"] == 1
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
    scores = scores_of(("one", "<img src=x>", 0.5))
    page = Page(report_on(stores_of({"one": case}), scores, tmp_path / "report.html"))
    assert "<script>alert(1)</script>" in page.text_in("header")
    assert 'a "cat" & <b>' in page.text_in("details")
    assert "<img src=x>" in page.text_in("tbody")
    kinds = [own.get("type") for own in page.attributes("script")]
    assert kinds == ["application/json", "application/json", None]
    assert dict(page.run["facts"])["model"] == "<script>alert(1)</script>"


def test_nothing_of_a_name_acts_on_the_page(tmp_path: Path) -> None:
    names = ['" onload="alert(1)" x="$\\frac{$', "</script><script>alert(1)</script>", "a\u202eb"]
    link = "javascript:alert(1)"
    case = pictured(tokens="one")
    case.sample.attrs["i2am"] |= {link: link, "model": "shirt\u202egnp.exe\x1b[2J<!--<script>"}
    scores = scores_of(*((name, link, 0.5) for name in names))
    out = report_on(stores_of(dict.fromkeys(names, case)), scores, tmp_path / "r.html")
    page, text = Page(out), out.read_text(encoding="utf-8")
    shown = [*names[:2], r"a\u202eb"]
    assert page.text_in("h2") == ["Summary", *shown]
    assert [own["name"] for own in page.run["samples"]] == shown
    assert [page.sample(number)["name"] for number in range(3)] == shown
    assert len(page.attributes("script")) == 1 + 3 + 1
    assert all("<" not in content for own, content in page.scripts if "type" in own)
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert r"shirt\u202egnp.exe\x1b[2J<!--<script>" in page.text_in("header")
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
    table = scores_of(("cat-001", "imacs_g", 0.5)).rename(columns={"value": "mean"})
    with pytest.raises(AnalysisError, match="columns sample, score, value, got none named value"):
        report_on(stores, table, tmp_path / "report.html")


def test_the_page_says_what_the_model_saw_of_a_picture(page: Page, tmp_path: Path) -> None:
    # Whatever it shows: it is the words that count.
    Image.new("RGB", (2, 2)).save(figure_path(tmp_path, "cat", "overview"))
    stores = stores_of({"cat": pictured(wide=True)})
    wide = Page(report_on(stores, None, tmp_path / "wide.html", figures_dir=tmp_path))
    line = (
        "The model saw rows 0 to 64, columns 64 to 128 of this reference picture "
        "(64 × 192 pixels); the rest is dimmed."
    )
    assert line in wide.text_in("figcaption")
    assert line in wide.sample(0)["notes"]
    assert "The model saw" not in page.text


def test_the_page_says_why_empty_places_of_a_reference_may_be_bright(page: Page) -> None:
    notes = page.sample(0)["notes"]
    assert sum("may be registers" in note for note in notes) == 1


def test_a_box_beyond_the_picture_is_told_as_padding() -> None:
    case = pictured(wide=True)
    case.sample["images/reference"].attrs["i2am"] = {"box": [-8.25, 0, 64, 192]}
    assert seen_notes(*case.both) == [
        "The model saw all of this reference picture (64 × 192 pixels) and padding beyond its edge."
    ]


# --- The data are those of the stores.


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a run whose layers differ in heads and grids, of many steps, with boxes; and its page."""
    folder = tmp_path_factory.mktemp("stored")
    layers = [
        *LAYERS,
        SyntheticLayer("deep.attn2", (4, 4), (4, 4), heads=3, block="mid"),
        SyntheticLayer("one.attn2", (4, 4), None, 0, tokens=1, block="up"),
    ]
    boxes = {"generated": [-8, 0, 32, 40], "reference": [4, 8, 28, 24]}
    path = write_run(folder / "run.zarr", ["a", "b"], layers, steps=14, boxes=boxes)
    run = open_run(path)
    maps = {name: analyze(run[name]) for name in run}
    out = write_report(run, maps, None, folder / "report.html", max_samples=1)
    return run["a"], maps["a"], Page(out).sample(0)


def assert_as_stored(stack: Any, wanted: Any) -> None:
    """Check a stack against the values that it stands for, within half a level of each map."""
    found = decode_stack(stack)
    wanted = area_means(np.asarray(wanted), tuple(stack["shape"][-2:]))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    ends = [
        np.array(stack[end]).reshape(wanted.shape[:-2])[..., None, None] for end in ("low", "high")
    ]
    room = np.broadcast_to((ends[1] - ends[0]) / 508 + 1e-4 * ends[1] + 1e-9, wanted.shape)
    known = ~np.isnan(wanted)
    assert (np.abs(found - wanted)[known] <= room[known]).all()


def test_the_stacks_are_the_means_of_the_volume_within_a_level(stored: Any) -> None:
    _, maps, data = stored
    layers = data["axes"]["layers"]
    assert [len(data["axes"][axis]) for axis in ("layers", "steps", "heads")] == [5, 10, 3]
    assert data["axes"]["steps"][:2] == ["0–1", "2–3"]
    assert "The 14 steps are shown as the means of 10 groups." in data["notes"]
    for direction in ("r2g", "g2r"):
        volume = maps[direction]["volume"].compute().reindex(layer=layers, head=range(3))
        by_step, by_head, mean = data["maps"][direction]
        assert [stack["dims"] for stack in data["maps"][direction]] == [
            ["layer", "step"], ["layer", "head"], [],
        ]  # fmt: skip
        of_steps = volume.mean("head")
        groups = np.array_split(np.arange(14), 10)
        wanted = np.stack([of_steps.isel(step=group).mean("step") for group in groups], axis=1)
        assert_as_stored(by_step, wanted)
        assert_as_stored(by_head, volume.mean("step"))
        assert_as_stored(mean, maps[direction]["ulam"].compute())
    # A layer of one token has no G2R, and most layers have no third head.
    assert np.isnan(decode_stack(data["maps"]["g2r"][0])[layers.index("one.attn2")]).all()
    assert np.isnan(decode_stack(data["maps"]["r2g"][1])[0, 2]).all()


@pytest.mark.parametrize(("side", "size"), [("generated", (32, 32)), ("reference", (32, 32))])
def test_the_cells_are_sram_of_the_patch_in_their_middle(
    side: str, size: tuple[int, int], stored: Any
) -> None:
    sample, _, data = stored
    found, image = data["sram"][side], data["images"][side]
    cells = found["cells"]
    assert cells == ([8, 8] if side == "generated" else [4, 4])
    places = cell_places(size, Box(*image["box"]), tuple(cells))
    every = np.full((cells[0] * cells[1], *found["stack"]["shape"][1:]), np.nan)
    ends = [min(places), max(places)]
    for number in ends:  # The first and the last, each asked for alone.
        asked: dict[str, Any] = {side: places[number]}
        every[number] = sram(sample, **asked)
    values = decode_stack(found["stack"])
    # The generated box reaches beyond the picture: these cells hold no pixel.
    beyond = {row * 8 + column for row in range(8) for column in range(8) if row < 1 or column > 6}
    missing = {number for number in range(len(values)) if np.isnan(values[number]).any()}
    assert missing == (beyond if side == "generated" else set())
    for number in ends:
        assert np.abs(values[number] - every[number]).max() <= every[number].max() / 250


def test_of_a_large_sample_the_cells_are_of_fewer_steps_and_that_is_told(
    stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, _, _ = stored
    monkeypatch.setattr(sram_cells, "_MOST_WORK", 144 * 3 * 4 * 224)  # Three heads, 224 positions.
    stacks, (note,) = sram_cells.sram_stacks(sample)
    assert "mean over layers, 4 of 14 steps and heads" in note
    place = cell_places((32, 32), image_box(sample, "generated"), (8, 8))[20]
    wanted = np.asarray(sram(sample, generated=place, steps=[0, 4, 9, 13]))
    found = decode_stack(stacks["generated"]["stack"])[20]
    assert np.abs(found - wanted).max() <= wanted.max() / 250


def test_curves_and_matrix_are_the_measures_of_the_maps(stored: Any) -> None:
    sample, maps, data = stored
    for curve, matrix, direction in zip(
        data["curves"], data["matrix"], ("r2g", "g2r"), strict=True
    ):
        words = {"r2g": "the inpainting mask", "g2r": "the reference's mask"}[direction]
        assert curve["title"] == matrix["title"] == f"{direction.upper()}: share inside {words}"
        assert curve["x"] == sample["timestep"].values.tolist()
        assert len(matrix["values"]) == 5
        assert {len(row) for row in matrix["values"]} == {3}
        mean, least, most = (np.array(line["y"]) for line in curve["lines"])
        assert ((least <= mean + 1e-4) & (mean <= most + 1e-4)).all()
        assert 0 < curve["chance"] < 1
    volume = maps["r2g"]["volume"].mean(("layer", "head")).compute().to_numpy()
    # The mask's rows 8 to 15 are 3.2 to 4.8 of 16 from the box's top at -8: cells of 5 pixels.
    weights = np.zeros((40, 40))
    weights[16:24, 8:16] = 1
    weights = weights.reshape(8, 5, 8, 5).mean(axis=(1, 3))
    shares = (volume * weights).sum(axis=(1, 2)) / volume.sum(axis=(1, 2))
    np.testing.assert_allclose(data["curves"][0]["lines"][0]["y"], shares, rtol=2e-3)


def test_scores_are_told_in_words_beside_chance_and_samples_that_stand_out_are_named(
    tmp_path: Path,
) -> None:
    names = [f"s{number}" for number in range(6)]
    case = pictured(tokens="one")
    values = [0.5, 0.52, 0.48, 0.51, 0.49, 0.9]
    rows = [(name, "r2g_inside", value) for name, value in zip(names, values, strict=True)]
    rows += [(name, "r2g_inside_chance", 0.25) for name in names] + [("s0", "r2g_entropy", 0.7)]
    stores = stores_of(dict.fromkeys(names, case))
    options: dict[str, Any] = {"max_samples": 2, "sort": "r2g_inside"}
    page = Page(report_on(stores, scores_of(*rows), tmp_path / "report.html", **options))
    inside, entropy = page.run["scores"]  # What is another one's chance is no column.
    assert (inside["name"], inside["title"]) == ("r2g_inside", "R2G inside the mask")
    assert (inside["better"], inside["chance"]) == ("high", 0.25)
    assert (entropy["better"], entropy["chance"]) == (None, 1.0)
    assert [own["name"] for own in page.run["samples"]] == ["s5", "s1"]
    assert [own["outliers"] for own in page.run["samples"]] == [["r2g_inside"], []]
    with pytest.raises(AnalysisError, match=r"got 'inside', at sort\. "):
        report_on(stores, scores_of(*rows), tmp_path / "other.html", sort="inside")
    with pytest.raises(AnalysisError, match="Expected scores to sort by, got none"):
        report_on(stores, None, tmp_path / "other.html", sort="r2g_inside")
    with pytest.raises(AnalysisError, match=r"got 's9', at samples\. Known"):
        report_on(stores, None, tmp_path / "other.html", samples=["s9"])
    assert not (tmp_path / "other.html").exists()


def test_the_command_takes_samples_a_score_and_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run.zarr"), ["a", "b", "d"], LAYERS[:1], steps=1)
    Path("scores.csv").write_text("sample,score,value\na,imacs_g,0.1\nd,imacs_g,0.9\n")
    call = ["report", "run.zarr", "--scores", "scores.csv", "--sort", "imacs_g", "--overwrite"]

    def shown(*options: str) -> list[str]:
        assert main([*call, *options]) == 0
        return [own["name"] for own in Page(Path("report.html")).run["samples"]]

    assert shown("--max-samples", "2") == ["d", "a"]
    assert shown("--samples", "a,d") == ["d", "a"]
    assert main([*call, "--samples", "a,x"]) == 1


def test_whether_the_page_can_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    class Unread(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise AssertionError(name)

    stores = Unread({"a": None})
    with pytest.raises(OSError, match="report"):
        write_report(stores, stores, None, Path("/proc/self/report.html"))
    with pytest.raises(StoreError, match="Expected a file, got a folder"):
        write_report(stores, stores, None, tmp_path, overwrite=True)
