"""The dock widget: which sample is in view, where it comes from, what the sliders stand on.

It learns everything from the layers' metadata, so it works alike for a window that `i2am view`
opened and for layers that napari's own File menu read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QWidget

from i2am.schemas.errors import I2AMError
from i2am.viewer.opening import open_layers, sample_names
from i2am.viewer.position import describe_position, slice_indices
from i2am.viewer.scene import own_layers, own_metadata, show_layers

__all__ = ["RunBrowser"]

_MAPS_TIP: Final = (
    "R2G, over the generated image: where it draws on the reference.\n"
    "G2R, over the reference: which parts of it were used.\n"
    "ULAM: the mean over all layers, steps and heads; switch it on in the layer list."
)


class RunBrowser(QWidget):  # type: ignore[misc]  # Qt has no types here
    """Choose the sample in view and read what the sliders stand on.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._run: str | None = None
        self._scaled_for: dict[str, tuple[str, int]] = {}
        self.samples = QComboBox()
        self.samples.setToolTip("The generated image in view, with its reference and maps")
        self.provenance = _text("How the sample was made")
        self.maps = _text(_MAPS_TIP)
        form = QFormLayout(self)
        form.addRow("Sample", self.samples)
        form.addRow("Made by", self.provenance)
        form.addRow("Maps", self.maps)
        self.samples.currentTextChanged.connect(self.show_sample)
        napari_viewer.layers.events.inserted.connect(self._read_layers)
        napari_viewer.layers.events.removed.connect(self._read_layers)
        napari_viewer.dims.events.current_step.connect(self._follow_sliders)
        self._read_layers()

    def show_sample(self, sample: str) -> None:
        """Put another sample of the run into the same layers; sliders and looks stay."""
        own = self._volumes().get("r2g")
        if own is None or not sample:
            return
        try:
            layers = open_layers(own["run"], sample, own["maps"])
        except I2AMError as e:
            from napari.utils.notifications import show_error

            show_error(str(e))
        else:
            show_layers(self._viewer, layers, run=own["run"])
        self._read_layers()

    def _volumes(self) -> dict[str, dict[str, Any]]:
        layers = own_layers(self._viewer)
        found = {role: own_metadata(layers[role]) for role in ("r2g", "g2r") if role in layers}
        return {role: own for role, own in found.items() if own}

    def _read_layers(self, event: Any = None) -> None:
        """Bring the widget in step with the layers of ours that are there."""
        own = self._volumes().get("r2g")
        self.samples.setEnabled(own is not None)
        with QSignalBlocker(self.samples):
            self._meet(own["run"] if own else None)
            if own:
                self.samples.setCurrentText(own["sample"])
        self.provenance.setText(own["provenance"] if own else "Open a run: drop it on the window.")
        self.maps.setText(_describe_maps(own) if own else "")
        self._follow_sliders()

    def _meet(self, run: str | None) -> None:
        """List the samples of a run that has come, and show its text; hide it when it has gone."""
        if run == self._run:
            return
        self._run = run
        self.samples.clear()
        if run is not None:
            self.samples.addItems(sample_names(run))
        overlay = self._viewer.canvas.overlays.text
        overlay.position = "bottom_left"
        overlay.font_size = 8
        overlay.visible = run is not None

    def _follow_sliders(self, event: Any = None) -> None:
        """Name the slice in view on the canvas, and draw each layer in its own limits."""
        layers, volumes = own_layers(self._viewer), self._volumes()
        if "r2g" not in volumes:
            return
        r2g = layers["r2g"]
        position = r2g.world_to_data(self._viewer.dims.point[-r2g.ndim :])
        indices = slice_indices(position, volumes["r2g"])
        self._viewer.canvas.overlays.text.text = describe_position(indices, volumes)
        for role, own in volumes.items():
            # Only when the layer changes: within it, limits that a user has set stay.
            if self._scaled_for.get(role) != (scaled_for := (own["sample"], indices[0])):
                self._scaled_for[role] = scaled_for
                layers[role].contrast_limits = own["contrast_limits"][indices[0]]


def _describe_maps(own: dict[str, Any]) -> str:
    origin = "computed from the run" if own["computed"] else f"read from {Path(own['maps']).name}"
    return f"{origin}\n{own['note']}".strip()


def _text(tool_tip: str) -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setToolTip(tool_tip)
    return label
