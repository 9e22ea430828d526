"""Open a napari window on a run: what `i2am view` calls."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

from i2am.viewer.display import check_display, check_qt

if TYPE_CHECKING:
    import napari

    from i2am.viewer.data.sample import SampleView
    from i2am.viewer.session.session import Session

__all__ = ["fit_window", "open_viewer", "serve", "show_view", "view"]

_WINDOW_PX: Final = (1500, 900)


def open_viewer(
    run_path: str | PathLike[str],
    *,
    sample: str | None = None,
    maps: str | PathLike[str] | None = None,
    effects: str | PathLike[str] | None = None,
    show: bool = True,
) -> napari.Viewer:
    """Open a napari viewer with one sample of a run: its images, and its maps over them.

    Parameters
    ----------
    run_path : str or path
        A capture store: a folder, or a URL ``s3://``, ``gs://`` or ``az://``. Or a maps store, whose
        run is opened.
    sample : str, optional
        The sample in view at first; the run's first one if left out.
    maps : str or path, optional
        An analysis store. Without it the one that lies beside the run is read
        (`i2am.analysis.find_maps`), or the maps are computed from the run as they are
        looked at.
    effects : str or path, optional
        A store of measured effects. Without it the one that lies beside the run is read, if there
        is one.
    show : bool
        Whether the window is shown. A display is needed either way.

    Returns
    -------
    napari.Viewer
        With the layers of `i2am.viewer.scene.layers.sample_layers`, and the plugin's widgets docked.

    Raises
    ------
    StoreError
        If a store cannot be read, or has no such sample.
    MissingExtra
        If napari or a Qt binding is missing.
    I2AMError
        If there is no display.

    Examples
    --------
    ::

        viewer = open_viewer(i2am.DEMO_RUN, sample="truck")
        viewer.screenshot("truck.png")
    """
    check_qt()
    from i2am.viewer.data.effects import check_effects
    from i2am.viewer.data.open_sample import open_store

    # The stores before the display: a wrong path is wrong on any machine.
    if effects is not None:
        check_effects(effects)
    view = open_store(run_path, sample, maps, effects=effects)
    check_display()
    import napari
    from qtpy.QtWidgets import QApplication

    from i2am.viewer.widgets.docks import reopen_docks

    viewer = napari.Viewer(title=f"{Path(view.source.run).name} - I²AM", show=show)
    _enlarge(viewer)
    serve(viewer)
    reopen_docks(viewer)
    QApplication.processEvents()  # so that the canvas has its size when the view is fitted to it
    show_view(viewer, view)
    return viewer


def show_view(viewer: napari.Viewer, view: SampleView) -> None:
    """Show a sample in a window, with R2G active and the sliders in the middle."""
    from i2am.viewer.scene.layers import own_layers

    session = serve(viewer)
    session.show(view)
    viewer.layers.selection.active = own_layers(viewer)["r2g"]
    # Half-way through: the first steps are noise, and the outer layers are often the coarsest.
    layers, steps, heads = view.axes.shape
    session.go_to(layer=(layers - 1) // 2, step=(steps - 1) // 2, head=(heads - 1) // 2)


def serve(viewer: napari.Viewer) -> Session:
    """Have a window's layers of ours follow the sliders and clicks; return its session."""
    from i2am.viewer.picking.effect_controller import effect_controller_of
    from i2am.viewer.session.attach import session_of

    session = session_of(viewer)
    effect_controller_of(session)
    return session


def view(
    run_path: str | PathLike[str],
    *,
    sample: str | None = None,
    maps: str | PathLike[str] | None = None,
    effects: str | PathLike[str] | None = None,
) -> None:
    """Open a run as `open_viewer` does, and return when the window is closed.

    Examples
    --------
    ::

        view(i2am.DEMO_RUN, sample="truck")
    """
    open_viewer(run_path, sample=sample, maps=maps, effects=effects)
    import napari

    napari.run()


def _enlarge(viewer: napari.Viewer) -> None:
    """Give two images and a dock the room they need, as far as the screen has it."""
    window = viewer.window.main_menu.window()
    screen = window.screen().availableGeometry()
    # What the window manager draws around the window, as far as that is known.
    frame = window.frameGeometry().size() - window.size()
    room = (screen.width() - frame.width(), screen.height() - frame.height())
    x, width = fit_window(window.x(), window.width(), _WINDOW_PX[0], screen.x(), room[0])
    y, height = fit_window(window.y(), window.height(), _WINDOW_PX[1], screen.y(), room[1])
    viewer.window.resize(width, height)
    if (x, y) != (window.x(), window.y()):
        window.move(x, y)


def fit_window(start: int, size: int, wanted: int, screen: int, room: int) -> tuple[int, int]:
    """Return where a window begins along one axis, and its size: nothing is beyond the screen.

    Parameters
    ----------
    start, size : int
        As napari remembers them, perhaps from a larger screen.
    wanted : int
        The least size that is wanted.
    screen, room : int
        Where the screen begins, and how much of it a window may take.

    Examples
    --------
    >>> fit_window(300, 800, 1500, 0, 1366), fit_window(10, 900, 900, 0, 1000)
    ((0, 1366), (10, 900))
    """
    size = min(max(size, wanted), room)
    return max(screen, min(start, screen + room - size)), size
