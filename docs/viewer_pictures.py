"""Take the pictures of docs/how-to/viewer.md from the run that ships with the viewer.

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/viewer_pictures.py [--out docs/how-to/viewer]

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
# Between the truck's wheels, in pixels of the generated image.
BETWEEN_WHEELS = (45, 39)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "how-to" / "viewer")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")  # not the user's own
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")
        run = analyzed_demo(Path(folder))
        for name, take in (
            ("overview", overview),
            ("tlam", tlam),
            ("hlam", hlam),
            ("sram", sram),
            ("volume", volume),
            ("comparison", comparison),
        ):
            take_picture(run, take, out / f"{name}.png")


def analyzed_demo(folder: Path) -> Path:
    """Return a copy of the demo run with its maps beside it."""
    import shutil

    from i2am import DEMO_RUN
    from i2am.analysis import analyze_run

    run = folder / "demo.zarr"
    shutil.copytree(DEMO_RUN, run)
    analyze_run(run, folder / "demo.maps.zarr", progress=False)
    return run


def take_picture(run: Path, take: Callable[[Any], None], path: Path) -> None:
    """Open a window, bring it to a state, and save its picture."""
    from PIL import Image

    from i2am.viewer import open_viewer
    from i2am.viewer.session.attach import session_of

    viewer = open_viewer(run, sample="truck")
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1 and bool(session.samples))
    take(viewer)
    pump(1)
    Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).save(path)
    viewer.close()
    pump(0.2)


def overview(viewer: Any) -> None:
    """Show the mean over everything."""
    session(viewer).set_averaged_dims(EVERYTHING)


def tlam(viewer: Any) -> None:
    """Show how attention goes with time."""
    dock(viewer, "Panels")
    session(viewer).set_averaged_dims(frozenset({"layer", "head"}))
    session(viewer).move("step", -2)


def hlam(viewer: Any) -> None:
    """Show what a head attends to."""
    dock(viewer, "Panels")
    session(viewer).set_averaged_dims(frozenset({"layer", "step"}))
    session(viewer).move("head", 1)


def sram(viewer: Any) -> None:
    """Pick a patch between the truck's wheels, and show its neighbours."""
    from i2am.viewer.picking.pick import Pick, pick_in_view
    from i2am.viewer.picking.sram_controller import sram_controller_of

    own = session(viewer)
    picks = dock(viewer, "Ask a patch")
    own.set_averaged_dims(frozenset({"step", "head"}))
    own.go_to(layer=len(own.views[0].axes.layers) - 3)
    controller, view, (y, x) = sram_controller_of(own), own.views[0], BETWEEN_WHEELS
    pick = Pick(view.source.run, view.source.sample, "generated", (y, x, y + 1, x + 1))
    controller.request(pick_in_view(pick, view, own.position, own.averaged_dims))
    picks.add([controller.pick])
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    picks.fill_neighbours()


def volume(viewer: Any) -> None:
    """Show the timesteps as the third axis."""
    own = session(viewer)
    own.set_averaged("head", on=True)
    own.go_to(layer=4)
    own.set_volume(True)


def comparison(viewer: Any) -> None:
    """Compare two samples."""
    own = session(viewer)
    dock(viewer, "Compare")
    own.compare(own.views[0].source.run, "frog")
    wait(lambda: len(own.views) == 2 and own.share_loaded == 1)
    own.set_averaged_dims(EVERYTHING)


def session(viewer: Any) -> Any:
    """Return a window's session."""
    from i2am.viewer.session.attach import session_of

    return session_of(viewer)


def dock(viewer: Any, name: str) -> Any:
    """Open a dock widget of the plugin, and return it."""
    from i2am.viewer.widgets.docks import open_dock

    widget = open_dock(viewer, name)
    pump(0.5)
    return widget


def pump(seconds: float) -> None:
    """Let the window handle its events for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def wait(is_so: Callable[[], bool]) -> None:
    """Let the window handle its events until something is so."""
    while not is_so():
        pump(0.05)


if __name__ == "__main__":
    main()
