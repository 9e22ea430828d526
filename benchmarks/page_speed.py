"""How long a page takes in a real browser: a report of many samples, and a click over a live run.

    python benchmarks/page_speed.py [--rounds N] [--dir DIR] [--json FILE] [--quick]

A report of 50 samples from a file: its bytes, the time to its first paint, and to a sample's pictures. A
run of Stable Diffusion 1.5's size served on loopback: the time from the click on a patch to its answer, of
one layer and of all, computed in the browser from Q and K, and the bytes that it read; and how long three and
three hundred samples take to be listed. Needs Playwright and Chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright
from support.figures import Figures, Section, at_most, benchmark_parser
from support.synthetic_run import STEPS, layers, write_run

from i2am import DEMO_RUN
from i2am.analysis import analyze_run, open_maps, open_run, score_maps
from i2am.page import write_report
from i2am.page.server import PageServer

SAMPLES = 50
_NUMBER = re.compile(r"\d")
_FIRST_PAINT = """() => new Promise(resolve => new PerformanceObserver(seen => {
  const painted = seen.getEntriesByName('first-contentful-paint')[0];
  if (painted) resolve(painted.startTime);
}).observe({type: 'paint', buffered: true}))"""
# Clicks a picture; resolves to the milliseconds until the answer has said its peak, and until all is read.
_CLICK = """([y, x]) => new Promise(resolve => {
  const canvas = document.querySelector('.picture canvas'), box = canvas.getBoundingClientRect();
  const begin = performance.now(), before = document.querySelector('.asked').textContent;
  let first = null;
  const look = () => {
    const said = document.querySelector('.asked').textContent;
    if (said !== before && said.includes('Attention of the patch')) {
      first ??= performance.now() - begin;
      if (!said.includes('So far')) return resolve([first, performance.now() - begin]);
    }
    requestAnimationFrame(look);
  };
  canvas.dispatchEvent(new MouseEvent('click',
    {clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true}));
  look();
})"""
_READ_BYTES = """() => performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="clicks, and openings")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else options.rounds
    figures = Figures("page_speed", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as name, a_browser() as browser:
        folder = Path(name)
        count = 3 if options.quick else SAMPLES
        with figures.section(
            "report", f"A report of {count} samples, openings: {rounds}"
        ) as section:
            measure_report(section, browser, folder, count, rounds)
        steps = 2 if options.quick else STEPS
        run = write_run(folder / "run.zarr", steps=steps)
        with figures.section("live", f"A live run, {steps} steps, clicks: {rounds}") as section:
            measure_clicks(section, browser, run, rounds)
        with figures.section("many", "A live run of three samples and of three hundred") as section:
            for number in (3, 9 if options.quick else 300):
                names = [str(one) for one in range(number)]
                many = write_run(
                    folder / f"{number}.zarr", names, steps=2, own_layers=tuple(layers(max_side=8))
                )
                section.add(
                    f"{number} samples", "listed, ms", list(listing_ms(browser, many, rounds))
                )


@contextmanager
def a_browser() -> Iterator[Any]:
    """Open Chromium without a window."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def measure_report(section: Section, browser: Any, folder: Path, count: int, rounds: int) -> None:
    """Record what a report of the shipped run's samples takes, which come again and again."""
    shutil.copytree(DEMO_RUN, folder / "demo.zarr")
    maps = analyze_run(folder / "demo.zarr", folder / "demo.maps.zarr", progress=False)
    opened, analysed = open_run(folder / "demo.zarr"), open_maps(maps)
    known = list(islice(cycle(opened), count))
    names = [f"{name}-{number}" for number, name in enumerate(known)]
    table = score_maps(maps)
    page = write_report(
        {new: opened[name] for new, name in zip(names, known, strict=True)},
        {new: analysed[name] for new, name in zip(names, known, strict=True)},
        table,
        folder / "report.html",
    )
    section.add("the file", "MB", [page.stat().st_size / 1e6], bar=at_most(15))
    painted, opened_ms = [], []
    for _ in range(rounds):
        with a_page(browser, f"file://{page}") as shown:
            painted.append(shown.evaluate(_FIRST_PAINT) / 1e3)
            begin = time.perf_counter()
            shown.get_by_role("button", name=names[-1], exact=True).click()
            shown.locator(".picture .scale span").filter(has_text=_NUMBER).first.wait_for()
            opened_ms.append(1e3 * (time.perf_counter() - begin))
    section.add("first paint", "s", painted, bar=at_most(2))
    section.add("a sample opens", "ms", opened_ms)


def measure_clicks(section: Section, browser: Any, run: Path, rounds: int) -> None:
    """Record what a click takes, of one layer and of all, and the bytes that it reads."""
    places = np.random.default_rng(0).uniform(0.1, 0.9, (rounds + 1, 2)).tolist()
    with serving(run) as url, a_page(browser, url) as page:
        page.locator(".picture canvas").first.wait_for()  # A single sample is opened at once.
        sliders = page.locator(".slider input")
        for what, bar in (("one layer", 200), ("all layers", None)):
            for number in range(3):
                sliders.nth(number).press("Home")  # the mean over all
            if what == "one layer":
                sliders.first.press("ArrowRight")
            page.wait_for_timeout(1000)
            answers, reads = [], []
            for place in places:
                before = page.evaluate(_READ_BYTES)
                answers.append(page.evaluate(_CLICK, place))
                reads.append((page.evaluate(_READ_BYTES) - before) / 1e6)
                page.keyboard.press("Escape")
                page.wait_for_timeout(300)
            first, whole = np.array(answers)[1:].T  # The first one reads the keys, too.
            section.add(what, "first answer, ms", first.tolist())
            section.add(what, "whole answer, ms", whole.tolist(), bar=bar and at_most(bar))
            section.add(what, "read, MB", reads[1:])


def listing_ms(browser: Any, run: Path, rounds: int) -> Iterator[float]:
    """Yield the milliseconds from the start until the samples are listed."""
    with serving(run) as url:
        for _ in range(rounds):
            begin = time.perf_counter()
            with a_page(browser, url) as page:
                page.get_by_role("button", name="0", exact=True).wait_for()
                yield 1e3 * (time.perf_counter() - begin)


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """Serve a run from a thread of this process; yield its address."""
    with PageServer(run) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.url
        finally:
            server.shutdown()


@contextmanager
def a_page(browser: Any, url: str) -> Iterator[Any]:
    """Open an address in a window of its own."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    try:
        page = context.new_page()
        page.add_init_script("performance.setResourceTimingBufferSize(100000)")
        page.goto(url)
        yield page
    finally:
        context.close()


if __name__ == "__main__":
    main()
