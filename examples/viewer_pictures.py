"""Take the pictures of docs/viewer.md from the run that ships with the viewer.

    xvfb-run -a -s "-screen 0 1600x1000x24" python examples/viewer_pictures.py [--out docs/viewer]

On a desktop it works without xvfb-run; a window opens meanwhile.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVERYTHING = frozenset({"layer", "step", "head"})
# Between the truck's wheels, in pixels of the generated picture.
BETWEEN_WHEELS = (45, 39)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "viewer")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")  # not the user's own
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")
        run = analysed_demo(Path(folder))
        for name, take in (
            ("overview", overview),
            ("tlam", tlam),
            ("hlam", hlam),
            ("sram", sram),
            ("volume", volume),
            ("comparison", comparison),
        ):
            take_picture(run, take, out / f"{name}.png")


def analysed_demo(folder: Path) -> Path:
    import shutil

    from i2am.analysis import analyze_run
    from i2am.viewer.reader import DEMO_RUN

    run = folder / "demo.zarr"
    shutil.copytree(DEMO_RUN, run)
    analyze_run(run, folder / "demo.maps.zarr", progress=False)
    return run


def take_picture(run: Path, take: Callable[[Any], None], path: Path) -> None:
    from PIL import Image

    from i2am.viewer import open_viewer
    from i2am.viewer.session.attach import session_of

    viewer = open_viewer(run, sample="truck")
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1 and bool(session.samples))
    take(viewer)
    pump(1)
    Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).save(path)
    print(path)
    viewer.close()
    pump(0.2)


def overview(viewer: Any) -> None:
    session(viewer).set_means(EVERYTHING)


def tlam(viewer: Any) -> None:
    dock(viewer, "Panels")
    session(viewer).set_means(frozenset({"layer", "head"}))
    session(viewer).move("step", -2)


def hlam(viewer: Any) -> None:
    dock(viewer, "Panels")
    session(viewer).set_means(frozenset({"layer", "step"}))
    session(viewer).move("head", 1)


def sram(viewer: Any) -> None:
    from i2am.viewer.picking.pick import Pick, selection_of
    from i2am.viewer.picking.sram_controller import asker_of

    own = session(viewer)
    picks = dock(viewer, "Ask a patch")
    own.set_means(frozenset({"step", "head"}))
    own.go_to(layer=len(own.rows[0].names.layers) - 3)
    asker, row, (y, x) = asker_of(own), own.rows[0], BETWEEN_WHEELS
    pick = Pick(row.origin.run, row.origin.sample, "generated", (y, x, y + 1, x + 1))
    asker.ask(selection_of(pick, row, own.place, own.means))
    picks.add([asker.pick])
    wait(lambda: asker.answer is not None and asker.answer.share == 1)
    picks.fill_nine()


def volume(viewer: Any) -> None:
    own = session(viewer)
    own.set_mean("head", on=True)
    own.go_to(layer=4)
    own.set_volume(True)


def comparison(viewer: Any) -> None:
    own = session(viewer)
    dock(viewer, "Compare")
    own.compare(own.rows[0].origin.run, "frog")
    wait(lambda: len(own.rows) == 2 and own.share_loaded == 1)
    own.set_means(EVERYTHING)


def session(viewer: Any) -> Any:
    from i2am.viewer.session.attach import session_of

    return session_of(viewer)


def dock(viewer: Any, name: str) -> Any:
    _, widget = viewer.window.add_plugin_dock_widget("i2am", name, tabify=True)
    pump(0.5)
    return widget


def pump(seconds: float) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def wait(is_so: Callable[[], bool]) -> None:
    while not is_so():
        pump(0.05)


if __name__ == "__main__":
    main()
