"""How long a user of the viewer waits: beside plain napari with the same maps in memory.

    python benchmarks/viewer_latency.py [--rounds N] [--dir DIR] [--json FILE] [--quick]

On two runs: the one that ships as sample data, and one with the layers of Stable Diffusion 1.5 at
512 px (16 layers, 50 steps, 8 heads, 257 reference tokens). Open to first frame, in a new process
each; a slider move until it is drawn; a click until the answer is drawn. Plain napari has as many
layers, with the same looks, on NumPy arrays. What our code holds up the window is sampled: the
longest stretch in which the main thread was in our code and not in napari's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support import viewer_windows as windows
from support.figures import Figures, Section, at_most, benchmark_parser
from support.turns import ratios_of

BARS = {
    "first frame, ours / plain": 1.3,
    "slider move, ours / plain": 1.25,
    "slider move, our share, ms": 10,
    "first click of a window, ms": 150,
    "click, one layer's answer computed, ms": 50,
    "click on screen / plain redraw": 2,
    "click, everything, first estimate, ms": 300,
    "longest stretch in our code, ms": 50,
}
CLICKS_APART_S = 0.6  # or two of them are a double click


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="slider moves and clicks")
    parser.add_argument("--first-frame", nargs=2, metavar=("KIND", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    with windows.virtual_display():
        if options.first_frame:
            show_first_frame(*options.first_frame)
            return
        figures = Figures("viewer_latency", options)
        rounds, starts = (2, 1) if options.quick else (options.rounds, 5)
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            for name, title, run in runs(Path(folder), is_quick=options.quick):
                told = f"{title}; medians and 95th percentiles, rounds: {rounds}"
                with figures.section(name, told) as section:
                    measure(section, run, rounds, starts)


def runs(folder: Path, *, is_quick: bool) -> Iterator[tuple[str, str, Path]]:
    """Yield the runs that are looked at, with their maps beside them."""
    # Not above: it imports torch, which a process that shows a first frame does not.
    from support.synthetic_run import STEPS, write_run

    from i2am import DEMO_RUN
    from i2am.analysis import analyze_run

    shutil.copytree(DEMO_RUN, folder / "demo.zarr")
    analyze_run(folder / "demo.zarr", folder / "demo.maps.zarr", progress=False)
    yield "shipped", "The shipped run", folder / "demo.zarr"
    if is_quick:
        return
    run = write_run(folder / "large.zarr", steps=STEPS)
    analyze_run(run, folder / "large.maps.zarr", progress=False)
    yield "large", "16 layers × 50 steps × 8 heads, 64 × 64 patches, 257 tokens", run


def measure(section: Section, run: Path, rounds: int, starts: int) -> None:
    """Record what one run's user waits for."""
    save_arrays(run)
    first: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(starts):
        for kind, seconds in first.items():
            seconds.append(first_frame(kind, run))
    tell(section, "first frame, plain napari, ms", [1e3 * s for s in first["plain"]])
    tell(section, "first frame, ours, ms", [1e3 * s for s in first["ours"]])
    tell(section, "first frame, ours / plain", ratios_of(first["ours"], first["plain"]))
    Session(run, section).measure(rounds)


class Session:
    """Two windows, ours and plain napari's, used by turns."""

    def __init__(self, run: Path, section: Section) -> None:
        from i2am.viewer import open_viewer
        from i2am.viewer.session.attach import session_of

        self.section = section
        self.viewer = open_viewer(run)
        self.session = session_of(self.viewer)
        windows.wait(lambda: self.session.share_loaded == 1 and bool(self.session.samples))
        windows.pump(2)  # A user looks before the first click.
        self.first_click, _ = self.timed_click(self.pixels(1)[0])
        self.plain = open_plain(run)
        self.plain_at, self.last_redraw = 0, 0.0
        # Side by side: one that lies beneath the other is drawn when that is.
        self.plain.window._qt_window.move(1600, 0)
        windows.wait(lambda: self.session.share_loaded == 1 and bool(self.session.samples))
        for viewer in (self.viewer, self.plain):
            windows.renew_canvas(viewer)
        windows.pump(1)

    def measure(self, rounds: int) -> None:
        """Record the first click, moves, clicks; then do some again, and record what held up the window."""
        tell(self.section, "first click of a window, ms", [1e3 * self.first_click])
        self.compute(rounds)
        self.tell_moves(*self.moves(rounds))
        self.tell_clicks(self.clicks(rounds))
        with windows.watching() as watch:  # This slows down what it watches.
            self.moves(min(rounds, 10))
            self.clicks(min(rounds, 10))
        tell(self.section, "longest stretch in our code, ms", [1e3 * watch.longest_s], watch.where)
        self.viewer.close()
        self.plain.close()
        windows.pump(0.2)

    def moves(self, rounds: int) -> tuple[list[float], list[float], list[float]]:
        """Move the timestep slider by turns; return seconds of plain napari, ours, our share."""
        plain, ours, share = [], [], []
        steps = self.session.views[0].axes.shape[1]
        for number in range(rounds):
            at = (7 * number + 1) % steps
            plain.append(windows.drawn(self.plain, partial(windows.set_step, self.plain, at)))
            with windows.counting() as own:
                ours.append(windows.drawn(self.viewer, partial(windows.set_step, self.viewer, at)))
            share.append(own.seconds)
        return plain, ours, share

    def tell_moves(self, plain: list[float], ours: list[float], share: list[float]) -> None:
        """Record what `moves` returns."""
        tell(self.section, "slider move, plain napari, ms", [1e3 * s for s in plain])
        tell(self.section, "slider move, ours, ms", [1e3 * s for s in ours])
        tell(self.section, "slider move, ours / plain", ratios_of(ours, plain))
        tell(self.section, "slider move, our share, ms", [1e3 * s for s in share])

    def compute(self, rounds: int) -> None:
        """Ask what patches read in one layer, all steps and heads, without showing it."""
        view = self.session.views[0]

        def compute(at: tuple[int, int]) -> None:
            list(view.live_sram.ask(generated=at, layers=[view.axes.layers[0]]))

        seconds = [windows.timed(partial(compute, at)) for at in self.pixels(rounds)]
        tell(self.section, "click, one layer's answer computed, ms", [1e3 * s for s in seconds])

    def pixels(self, count: int) -> list[tuple[int, int]]:
        """Return pixels of the generated picture."""
        rng = np.random.default_rng(0)
        height, width = self.session.views[0].images["generated"].shape[:2]
        return [(int(rng.integers(height)), int(rng.integers(width))) for _ in range(count)]

    def clicks(self, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
        """Click patches of the generated picture: one layer, then everything.

        Of each click the seconds until its first answer has been drawn, until the last has, and
        those of plain napari's redraw just before.
        """
        pixels = self.pixels(rounds)
        seen = {}
        for name, averaged_dims in (
            ("layer", {"step", "head"}),
            ("all", {"layer", "step", "head"}),
        ):
            self.session.go_to(layer=0)
            self.session.set_averaged_dims(frozenset(averaged_dims))
            windows.pump(0.3)
            self.click(pixels[0])  # makes the layers of the answer, once
            seen[name] = [(*self.click(at), self.last_redraw) for at in pixels]
        return seen

    def tell_clicks(self, seen: dict[str, list[tuple[float, float, float]]]) -> None:
        """Record what `clicks` returns."""
        layer, everything = np.array(seen["layer"]), 1e3 * np.array(seen["all"])
        tell(self.section, "click, one layer on screen, ms", 1e3 * layer[:, 0])
        tell(self.section, "click on screen / plain redraw", layer[:, 0] / layer[:, 2])
        tell(self.section, "click, everything, first estimate, ms", everything[:, 0])
        tell(self.section, "click, everything, exact, ms", everything[:, 1])

    def click(self, at: tuple[int, ...]) -> tuple[float, float]:
        """Return what `timed_click` does, after a redraw of plain napari."""
        windows.pump(CLICKS_APART_S)
        self.plain_at = (self.plain_at + 7) % self.session.views[0].axes.shape[1]
        self.last_redraw = windows.drawn(
            self.plain, lambda: windows.set_step(self.plain, self.plain_at)
        )
        windows.pump(windows.SETTLE_S)
        return self.timed_click(at)

    def timed_click(self, at: tuple[int, ...]) -> tuple[float, float]:
        """Return the seconds until a click's first answer has been drawn, and until the last."""
        from i2am.viewer.picking.sram_controller import sram_controller_of

        controller = sram_controller_of(self.session)
        draws = windows.Draws(self.viewer)
        shares: list[float] = []
        estimated: list[float] = []

        def note() -> None:
            if controller.estimate is not None:
                shares.append(controller.estimate.share)
                estimated.append(time.perf_counter())

        controller.estimated.connect(note)
        begin = time.perf_counter()
        windows.click(self.viewer, at)
        windows.wait(lambda: bool(shares) and shares[-1] >= 1)
        first = draws.after(estimated[0])
        last = draws.after(estimated[-1])
        controller.estimated.disconnect(note)
        draws.stop()
        return first - begin, last - begin


def save_arrays(run: Path) -> None:
    """Write a run's maps as NumPy files, for plain napari."""
    from i2am.viewer.data.open_sample import open_view

    stored = open_view(run).stored
    assert stored is not None  # `runs` analyses every run
    for direction, maps in stored.children.items():
        np.save(run.with_suffix(f".{direction}.npy"), maps.dataset["volume"].to_numpy())


def open_plain(run: Path) -> Any:
    """Return plain napari with the same layers on NumPy arrays."""
    import napari
    from qtpy.QtWidgets import QApplication

    from i2am.viewer.data.open_sample import open_view
    from i2am.viewer.scene.layers import sample_layers
    from i2am.viewer.scene.placement import place_images
    from i2am.viewer.window import _enlarge

    viewer = napari.Viewer(show=True)
    _enlarge(viewer)
    QApplication.processEvents()
    view = open_view(run)
    for values, options, kind in sample_layers(view, place_images(view)):
        own = options.pop("metadata")["i2am"]
        if own["role"] in ("r2g", "g2r"):
            values = np.load(run.with_suffix(f".{own['role']}.npy"))[None]
            options["contrast_limits"] = (float(values[0, 0].mean()), float(values[0, 0].max()))
        viewer.add_layer(napari.layers.Layer.create(values, options, kind))
    return viewer


def first_frame(kind: str, run: Path) -> float:
    """Return the seconds from a new process's start to its first drawn frame."""
    begin = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--first-frame", kind, str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1]) - begin


def show_first_frame(kind: str, run: str) -> None:
    """Print the time at which a window has been drawn with a map in it."""
    from i2am.viewer import open_viewer
    from i2am.viewer.session.attach import session_of

    if kind == "plain":
        viewer = open_plain(Path(run))
    else:
        viewer = open_viewer(run)
        session = session_of(viewer)
        volume = session.views[0].volumes["r2g"]
        windows.wait(lambda: volume.loaded.is_whole(session.position, frozenset()))
        session.refresh()
    windows.drawn(viewer, lambda: viewer.layers[-1].refresh())
    print(time.time())
    sys.stdout.flush()
    os._exit(0)


def tell(
    section: Section,
    what: str,
    values: Sequence[float] | NDArray[np.float64],
    note: str = "",
) -> None:
    """Record a line, whose median meets a bar or not."""
    bar = at_most(BARS[what]) if what in BARS else None
    name, separator, _ = what.partition(", ms")
    unit, every = "ms" if separator else "", [float(value) for value in values]
    section.add(name, "", every, unit, spread="95 %", bar=bar, note=note)


if __name__ == "__main__":
    main()
