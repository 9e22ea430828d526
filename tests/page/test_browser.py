"""The page in a real browser says what the analysis says: a report, a live run, a notebook's widget."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import i2am
from i2am.analysis import analyze, analyze_run, open_maps, open_run, score_maps, sram
from i2am.page import export_page, write_report
from i2am.page.document import bundle_file
from tests.page.reading import Page, decode_stack
from tests.page.serving import serving, serving_files
from tests.page.visiting import Visit, visiting
from tests.support.s3_bucket import credentials, serve_bucket
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run

# A layer of joint attention, whose softmax has more keys than the reference's, of more heads.
JOINT = SyntheticLayer("joint.attn", (8, 8), (8, 8), 0, heads=3, other_keys=5, keys_per_step=True)
STEPS = 6
HOSTILE = "<script>alert(1)</script>"
SHIPPED = Path(str(resources.files("i2am.viewer"))) / "demo.zarr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, its maps and its report, and the page over both."""
    folder = tmp_path_factory.mktemp("browser")
    run = write_run(
        folder / "run.zarr",
        ["boot", "hat", "shirt"],
        [*LAYERS, JOINT],
        steps=STEPS,
        size_px=(64, 64),
    )
    analyze_run(run, folder / "maps.zarr", progress=False)
    opened, maps = open_run(run), open_maps(folder / "maps.zarr")
    samples = {name: opened[name] for name in opened} | {HOSTILE: opened["hat"]}
    of_samples = {name: maps[name] for name in maps} | {HOSTILE: maps["hat"]}
    scores = score_maps(folder / "maps.zarr")
    write_report(samples, of_samples, scores, folder / "report.html")
    export_page(run, folder / "page")
    return folder


@pytest.fixture(scope="module")
def sample(folder: Path) -> Any:
    return open_run(folder / "run.zarr")["hat"].load()


@pytest.fixture(scope="module")
def maps(sample: Any) -> Any:
    return analyze(sample).load()


def assert_says(found: np.ndarray[Any, Any], wanted: Any, within: float = 1e-3) -> None:
    """Check values of three digits against a map: within a share of its largest, and the last digit."""
    wanted = np.asarray(wanted, np.float64)
    digit = 10.0 ** (np.floor(np.log10(np.maximum(wanted, 1e-12))) - 2)
    room = within * wanted.max() + 0.51 * digit
    assert np.isfinite(found).all()
    worst = (np.abs(found - wanted) - room).max()
    assert worst <= 0, f"{worst:g} beyond, of {wanted.max():g}"


# --- The report.


def test_a_report_opens_sorts_and_answers_without_asking_anybody(
    browser: Any, folder: Path, maps: Any
) -> None:
    data = Page(folder / "report.html")
    number = [own["name"] for own in data.run["samples"]].index("hat")
    with visiting(browser, f"file://{folder}/report.html") as visit:
        page = visit.page
        names = page.locator(".samples tbody button.link")
        assert sorted(names.all_text_contents()) == sorted(["boot", "hat", "shirt", HOSTILE])
        title = data.run["scores"][0]["title"]
        by_score = {own["name"]: own["scores"] for own in data.run["samples"]}
        page.get_by_role("button", name=title, exact=True).click()
        known = [name for name in names.all_text_contents() if name != HOSTILE]
        values = [by_score[name][data.run["scores"][0]["name"]] for name in known]
        assert values in (sorted(values), sorted(values, reverse=True))
        page.keyboard.press("Enter")
        assert [n for n in names.all_text_contents() if n != HOSTILE] == known[::-1]
        order = names.all_text_contents()
        visit.open("hat")
        assert_says(visit.values(0, (8, 8)), maps["r2g/ulam"], 1 / 400)
        # A slider, a key, and the map is that layer's, step's or head's.
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
        stack = decode_stack(data.sample(number)["maps"]["r2g"][0])
        assert stack.shape[:2] == (4, STEPS)
        page.wait_for_timeout(100)
        assert_says(visit.values(0, stack.shape[2:]), stack[0, 0])
        page.locator(".slider input").first.press("End")
        page.wait_for_timeout(100)
        assert_says(visit.values(0, stack.shape[2:]), stack[3, 0])
        visit.click(0, 0.3, 0.6)
        cells = data.sample(number)["sram"]["generated"]
        rows, columns = cells["cells"]
        cell = int(0.3 * rows) * columns + int(0.6 * columns)
        of_cell = decode_stack(cells["stack"])[cell]
        assert_says(visit.values(1, of_cell.shape), of_cell)
        page.keyboard.press("Escape")
        at = order.index("hat")
        page.keyboard.press("n" if at + 1 < len(order) else "p")
        beside = order[at + 1] if at + 1 < len(order) else order[at - 1]
        page.get_by_role("heading", name=beside, exact=True).wait_for()
        assert visit.faults == []
        assert visit.requests == [f"file://{folder}/report.html", *visit.requests[1:]]
        assert visit.outside() == []


@pytest.mark.parametrize(("width", "scheme"), [(1400, "dark"), (420, "light")])
def test_a_report_keeps_nobody_out(browser: Any, folder: Path, width: int, scheme: str) -> None:
    pytest.importorskip("axe_playwright_python")
    with visiting(browser, f"file://{folder}/report.html", width, scheme) as visit:
        for name in ("", HOSTILE):
            if name:
                visit.open(name)
            assert visit.serious_faults() == []
            clipped = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert visit.page.evaluate(clipped) <= 0
        assert visit.faults == []
        visit.page.emulate_media(media="print")
        assert visit.page.locator("#i2am-static figure img").first.is_visible()
        assert not visit.page.locator("#i2am-page").is_visible()


def test_a_report_without_scripts_has_its_table_and_figures(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{folder}/report.html")
    assert page.get_by_role("link", name=HOSTILE).is_visible()
    assert page.locator("#i2am-static figure img").count() == 4
    context.close()


# --- A live run.


def assert_answers(visit: Visit, sample: Any, maps: Any) -> None:
    """Check that a live page gives what the analysis gives: maps, and clicks on either picture."""
    visit.open("hat")
    page = visit.page
    assert_says(visit.values(0, (8, 8)), maps["r2g/ulam"])
    assert_says(visit.values(1, (8, 8)), maps["g2r/ulam"])
    visit.click(0, 0.3, 0.6)
    wanted = sram(sample, generated=(int(0.3 * 64), int(0.6 * 64)))
    assert_says(visit.values(1, (8, 8)), wanted)
    page.keyboard.press("Escape")
    visit.click(1, 0.8, 0.1)
    wanted = sram(sample, reference=(int(0.8 * 64), int(0.1 * 64)))
    assert_says(visit.values(0, (8, 8)), wanted)
    page.keyboard.press("Escape")
    # One layer, step and head: the fourth layer, the first step, the third head.
    for key in ("ArrowUp",) * 4 + ("ArrowRight", "]", "]", "]"):
        page.keyboard.press(key)
    visit.click(0, 0.3, 0.6)
    of_one: dict[str, Any] = {"layers": JOINT.name, "steps": 0, "heads": 2}
    wanted = sram(sample, generated=(int(0.3 * 64), int(0.6 * 64)), **of_one)
    page.wait_for_timeout(300)
    assert_says(visit.values(1, (8, 8)), wanted)
    # Older runs list no objects: what may be there is asked for, and browsers tell of each that is not.
    assert [fault for fault in visit.faults if "404" not in fault] == []


def test_a_served_run_answers_clicks_with_sram(
    browser: Any, folder: Path, sample: Any, maps: Any
) -> None:
    with (
        serving(folder / "run.zarr") as server,
        visiting(browser, server.url) as visit,
    ):
        assert_answers(visit, sample, maps)
        assert visit.outside() == []
        if pytest.importorskip("axe_playwright_python"):
            assert visit.serious_faults() == []


def test_a_static_site_over_a_plain_file_server_answers_alike(
    browser: Any, folder: Path, sample: Any, maps: Any
) -> None:
    with serving_files(folder) as address, visiting(browser, f"{address}/page/index.html") as visit:
        assert_answers(visit, sample, maps)
        assert visit.outside() == []


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put the run and its maps into a bucket; yield the server's address."""
    import boto3  # type: ignore[import-untyped]

    with serve_bucket() as (address, _):
        for name, value in credentials(address).items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        for store in ("run.zarr", "maps.zarr"):
            for path in (folder / store).rglob("*"):
                if path.is_file():
                    key = path.relative_to(folder).as_posix()
                    # Anybody may read it, as browsers do.
                    own = {"Body": path.read_bytes(), "ACL": "public-read"}
                    client.put_object(Bucket="bucket", Key=key, **own)
        yield address


def test_a_run_in_a_bucket_answers_alike(
    browser: Any, bucket: str, folder: Path, sample: Any, maps: Any, tmp_path: Path
) -> None:
    with (
        serving("s3://bucket/run.zarr", maps="s3://bucket/maps.zarr") as server,
        visiting(browser, server.url) as visit,
    ):
        assert_answers(visit, sample, maps)
        assert visit.outside() == []
    # Read by the browser itself, from another origin, which allows it.
    export_page(
        folder / "run.zarr",
        tmp_path / "page",
        url=f"{bucket}/bucket/run.zarr",
        maps_url=f"{bucket}/bucket/maps.zarr",
    )
    with (
        serving_files(tmp_path / "page") as address,
        visiting(browser, f"{address}/index.html") as visit,
    ):
        assert_answers(visit, sample, maps)
        assert visit.outside(f"{bucket}/bucket") == []


def test_a_captured_run_is_read_without_a_request_in_vain(browser: Any) -> None:
    run = open_run(SHIPPED)
    name = next(iter(run))
    with serving(SHIPPED) as server, visiting(browser, server.url) as visit:
        visit.open(name)
        for slider in visit.page.locator(".slider input").all():
            slider.press("Home")  # The mean.
        visit.click(0, 0.4, 0.6)
        height, width = run[name]["images/generated"].shape[:2]
        wanted = sram(run[name], generated=(int(0.4 * height), int(0.6 * width)))
        assert_says(visit.values(1, (wanted.shape[0], wanted.shape[1])), wanted)
        assert visit.faults == []
        assert visit.outside() == []


def test_a_long_run_opens_with_as_few_requests_as_a_short_one(browser: Any, tmp_path: Path) -> None:
    requests = {}
    for count in (3, 300):
        names = [f"sample-{number:03}" for number in range(count)]
        run = write_run(tmp_path / f"{count}.zarr", names, LAYERS[:1], steps=1, size_px=(8, 8))
        with serving(run) as server, visiting(browser, server.url) as visit:
            visit.page.get_by_role("button", name="sample-002", exact=True).wait_for()
            requests[count] = len(visit.requests)
    assert requests[300] == requests[3] < 8


# --- The widget.

_BRIDGE = """
window.heard = [];
window.model = {
  get: name => ({sample: 'hat'})[name],
  on: (event, hear) => window.heard.push(hear),
  off: () => {},
  send: async message => {
    for (const [answer, buffer] of await window.ask(message)) {
      const bytes = buffer === null ? [] : [Uint8Array.from(atob(buffer), c => c.charCodeAt(0)).buffer];
      for (const hear of window.heard) hear(answer, bytes.map(one => new DataView(one)));
    }
  },
};
"""


class Bridge:
    """Carries messages between the widget's script in a browser and the widget in this process."""

    def __init__(self, widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._widget = widget
        self._sent: list[tuple[Any, Any]] = []
        monkeypatch.setattr(
            type(widget),
            "send",
            lambda _, content, buffers=(): self._sent.append((content, buffers)),
        )

    def ask(self, message: Any) -> list[tuple[Any, str | None]]:
        self._widget._handle_custom_msg(message, [])
        if message["ask"] == "cancel":
            return []
        end = time.monotonic() + 30
        while time.monotonic() < end:
            own = [one for one in self._sent if one[0]["id"] == message["id"]]
            if own and own[-1][0].get("share", 1) == 1:
                return [
                    (content, base64.b64encode(buffers[0]).decode() if buffers else None)
                    for content, buffers in own
                ]
            time.sleep(0.01)
        raise AssertionError(message)


@pytest.fixture
def widget_page(browser: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("anywidget")
    widget = i2am.show(folder / "run.zarr", sample="hat")
    context = browser.new_context(viewport={"width": 900, "height": 900})
    page = context.new_page()
    page.expose_function("ask", Bridge(widget, monkeypatch).ask)
    page.set_content(f"<!DOCTYPE html><style>{widget._css}</style><div id='cell'></div>")
    page.evaluate(_BRIDGE)
    page.evaluate(
        """async esm => {
          const url = URL.createObjectURL(new Blob([esm], {type: 'text/javascript'}));
          const {default: widget} = await import(url);
          widget.render({model: window.model, el: document.getElementById('cell')});
        }""",
        widget._esm,
    )
    yield page
    context.close()
    widget.close()


def test_the_widget_shows_what_its_process_computes(
    widget_page: Any, sample: Any, maps: Any
) -> None:
    visit = Visit.__new__(Visit)
    visit.page, visit.faults, visit.requests = widget_page, [], []
    widget_page.get_by_role("heading", name="hat", exact=True).wait_for()
    visit.wait_for_maps()
    assert_says(visit.values(0, (8, 8)), maps["r2g/ulam"])
    visit.click(0, 0.3, 0.6)
    wanted = sram(sample, generated=(int(0.3 * 64), int(0.6 * 64)))
    assert_says(visit.values(1, (8, 8)), wanted)


_EXECUTE = """
import sys, nbclient, nbformat
from jupyter_client.manager import AsyncKernelManager
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in sys.argv[2:]])
kernel = AsyncKernelManager()
kernel.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
nbclient.NotebookClient(notebook, km=kernel, timeout=120, store_widget_state=True).execute()
nbformat.write(notebook, sys.argv[1])
"""


def test_a_notebook_that_shows_a_run_runs(folder: Path, tmp_path: Path) -> None:
    for package in ("nbformat", "nbclient", "anywidget"):
        pytest.importorskip(package)
    cells = [
        f"import i2am\nrun = i2am.open_run({str(folder / 'run.zarr')!r})\nrun",
        "i2am.show(run, sample='hat')",
    ]
    out = tmp_path / "executed.ipynb"
    # A process of its own: here the browser's driver has an event loop of its own.
    subprocess.run(
        [sys.executable, "-c", _EXECUTE, str(out), *cells], check=True, capture_output=True
    )
    notebook = json.loads(out.read_text(encoding="utf-8"))
    (shown,), (widget,) = (cell["outputs"] for cell in notebook["cells"])
    assert "i2am run:" in "".join(shown["data"]["text/html"])
    view = widget["data"]["application/vnd.jupyter.widget-view+json"]
    states = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    state = states[view["model_id"]]["state"]
    assert state["sample"] == "hat"
    assert state["_esm"] == bundle_file("widget.js")
