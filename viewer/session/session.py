"""What one napari window shows of runs: the samples in view, the sliders, the switches.

Widgets ask and tell the session; it alone touches the layers of maps.
"""

from __future__ import annotations

from typing import Any, Final

from qtpy.QtCore import QTimer, Signal

from i2am.schemas.dims import CONDITIONAL
from i2am.viewer.data.axes import MEANS, describe
from i2am.viewer.data.volume import AXES
from i2am.viewer.scene.appearance import Look, LookKeeper
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.scene.time_axis import show_volume
from i2am.viewer.session.samples import ShownRows
from i2am.viewer.session.shortcuts import bind_shortcuts

__all__ = ["Session"]

_REFRESH_MS: Final = 150  # while maps are loading: a redraw has a price


_WRITE_MS: Final = 120  # after the last move: other text costs napari half a redraw


class Session(ShownRows):
    """What one window shows of runs.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    reopened, moved, loaded : Signal
        Another sample is in view; another slice, switch or look; more of the maps is in memory.
    """

    moved = Signal()
    loaded = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self.looks = LookKeeper(self)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REFRESH_MS)
        self._timer.timeout.connect(self._refresh)
        self._arrived.connect(self._schedule)
        self._writer = QTimer(self)
        self._writer.setSingleShot(True)
        self._writer.setInterval(_WRITE_MS)
        self._writer.timeout.connect(self._write)
        viewer.dims.events.current_step.connect(self._follow)
        bind_shortcuts(viewer, self)
        self._adopt()

    @property
    def look(self) -> Look:
        """How maps are drawn."""
        return self.looks.look

    @property
    def guidance(self) -> str:
        """Which half of the guidance is in view."""
        return self.rows[0].origin.guidance if self.rows else CONDITIONAL

    @property
    def normalisation(self) -> str:
        """How maps are normalised: "mass" or "density"."""
        return self.rows[0].origin.normalisation if self.rows else "mass"

    @property
    def is_volume(self) -> bool:
        """Whether timesteps are the third axis."""
        return bool(self.viewer.dims.ndisplay == 3)

    @property
    def share_loaded(self) -> float:
        """How much of the maps in view is there, 0..1."""
        shares = [volume.share_loaded for row in self.rows for volume in row.volumes.values()]
        return min(shares, default=1.0)

    def go_to(
        self,
        *,
        sample: int | None = None,
        layer: int | None = None,
        step: int | None = None,
        head: int | None = None,
    ) -> None:
        """Move the sliders to indices; the mean over what is given is switched off."""
        if not self.rows:
            return
        given = {"layer": layer, "step": step, "head": head}
        self.set_means(self.means - {dim for dim, at in given.items() if at is not None})
        scale = own_layers(self.viewer)["r2g"].scale
        first = self.viewer.dims.ndim - len(AXES)
        moves = {
            first + i: at * scale[i]
            for i, at in enumerate((sample, *given.values()))
            if at is not None
        }
        if moves:
            self.viewer.dims.set_point(tuple(moves), tuple(moves.values()))

    def set_mean(self, dim: str, on: bool) -> None:
        """Average over a dimension, or no more; its slider stays where it is."""
        if dim not in MEANS:
            msg = f"Expected one of {', '.join(MEANS)}, got {dim!r}, at dim. Name a slider."
            raise ValueError(msg)
        self.set_means(self.means | {dim} if on else self.means - {dim})

    def set_means(self, means: frozenset[str]) -> None:
        """Average over these dimensions and no others."""
        if means == self.means:
            return
        self.means = means
        for row in self.rows:
            for volume in row.volumes.values():
                volume.means = means
        self._redraw()
        self._follow()

    def move(self, dim: str, by: int) -> None:
        """Move a slider by some positions; at its ends it stays."""
        sizes = dict(zip(MEANS, self.rows[0].names.shape, strict=True))
        sizes["sample"] = max(1, len(self.samples))
        now = {**dict(zip(MEANS, self.place, strict=True)), "sample": self._sample_at()}
        to = min(max(now[dim] + by, 0), sizes[dim] - 1)
        self.go_to(**{dim: to})

    def set_look(self, **changes: Any) -> None:
        """Draw the maps otherwise; see `Look`."""
        self.looks.change(**changes)
        self.moved.emit()

    def set_volume(self, on: bool) -> None:
        """Show the timesteps as the third axis, rendered as a volume, or as a slider again."""
        show_volume(self.viewer, [own_layers(self.viewer, i) for i in range(len(self.rows))], on=on)
        self._follow()

    def _sample_at(self) -> int:
        return round(float(self.viewer.dims.point[-len(AXES)]))

    def _follow(self, event: Any = None) -> None:
        """Say where the sliders stand, draw in the limits of that place, open the sample."""
        if self._is_following or not self.rows or "r2g" not in own_layers(self.viewer):
            return
        at = self._sample_at()
        if event is not None and 0 <= at < len(self.samples):
            if self.samples[at] != self.rows[0].origin.sample:
                self.show_sample(self.samples[at])
            else:
                self._awaited[0] = self.samples[at]
        self.looks.draw_limits()
        if event is None:
            self._write()
        else:
            self._writer.start()
        self.moved.emit()

    def _write(self) -> None:
        """Name the map in view on the canvas."""
        self._writer.stop()
        if not self.rows or self.viewer is None:
            return
        row = self.rows[0]
        present = {direction: volume.present for direction, volume in row.volumes.items()}
        text = describe(self.place, self.means, row.names, present, is_volume=self.is_volume)
        if self.load_error is not None:
            text += f"\n{1 - self.share_loaded:.0%} of the maps could not be read"
        elif self.share_loaded < 1:
            text += f"\nloading maps: {self.share_loaded:.0%}"
        overlay = self.viewer.canvas.overlays.text
        if overlay.text != text:
            overlay.text = text

    def _schedule(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _refresh(self) -> None:
        """Show what has come since the last time."""
        if not self.rows or self.viewer is None:
            return
        self._redraw(only_new=True)
        self.looks.draw_limits()
        self._write()
        self.loaded.emit()

    def _redraw(self, *, only_new: bool = False) -> None:
        for number, row in enumerate(self.rows):
            layers = own_layers(self.viewer, number=number)
            for role, volume in row.volumes.items():
                if role in layers and not (only_new and volume.is_drawn_whole):
                    layers[role].refresh(extent=False, thumbnail=False)

    def _came(self, *, is_other_run: bool) -> None:
        if is_other_run:
            overlay = self.viewer.canvas.overlays.text
            overlay.position, overlay.font_size, overlay.visible = "bottom_left", 8, True
        self.looks.apply()
        self._follow()

    def _dress(self) -> None:
        self.looks.apply()

    def _gone(self) -> None:
        self.viewer.canvas.overlays.text.visible = False
