"""What one napari window shows of runs: the samples in view, the sliders, the switches.

Widgets read and change the session; it alone changes the layers of maps.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from qtpy.QtCore import QObject, Signal
from superqt.utils import qdebounced, qthrottled

from i2am.schemas.dims import CONDITIONAL
from i2am.viewer.data.axes import (
    AVERAGEABLE_DIMS,
    PLANE,
    SliderPosition,
)
from i2am.viewer.data.loader import Loader
from i2am.viewer.data.open_sample import Store
from i2am.viewer.data.sample import SampleSource, SampleView, run_identity
from i2am.viewer.data.volume import AXES
from i2am.viewer.notices import notify_error, what_failed
from i2am.viewer.scene.appearance import Appearance, AppearanceController
from i2am.viewer.scene.box_layers import IMAGE_ROLES, hide_without_image, show_with_image
from i2am.viewer.scene.layers import (
    measure_again,
    own_layers,
    own_metadata,
    remove_layers,
    sample_layers,
    show_layers,
    view_of,
)
from i2am.viewer.scene.placement import PlacedImage, place_images
from i2am.viewer.scene.time_axis import (
    STEP_AXIS,
    displayed_axes,
    follow_turn,
    is_stretched,
    show_volume,
)
from i2am.viewer.session.arrivals import Arrivals
from i2am.viewer.session.samples import SampleOpener
from i2am.viewer.session.screen import Screen
from i2am.viewer.session.words import describe_peaks, describe_view, heading

__all__ = ["Session"]

_REFRESH_MS: Final = 150  # while maps are loading: a redraw has a price
_WRITE_MS: Final = 120  # after the last move: other text costs napari half a redraw


class Session(QObject):  # type: ignore[misc]  # Qt has no types here
    """The samples in view (none, one, or one and the one it is compared with), and how they are shown.

    Parameters
    ----------
    viewer : napari.Viewer
    opener : SampleOpener
        Opens the samples that are requested.

    Attributes
    ----------
    views : list of SampleView
    placed : list of dict
        Of each sample in view, where its images lie.
    samples : tuple of str
        The complete samples of the first one's run, once they are listed.
    arrivals : Arrivals
        Asks what to do with another sample that is opened in the window.
    averaged_dims : frozenset of str
        What is averaged over: of "layer", "step" and "head".
    shows_effects : bool
        Whether measured effects are wanted in place of the attention maps.
    reopened, moved, loaded : Signal
        Another sample is in view; another slice, switch or appearance; more of the maps is in memory.
    effects_switched : Signal
        Measured effects are wanted, or no more.
    closed : Signal
        The window is gone.
    """

    reopened = Signal()
    moved = Signal()
    loaded = Signal()
    effects_switched = Signal()
    closed = Signal()
    _arrived = Signal()  # from the threads that load
    _loading_failed = Signal(object)

    def __init__(self, viewer: Any, opener: SampleOpener) -> None:
        super().__init__()
        self._viewer, self._opener = weakref.ref(viewer), opener
        self.views: list[SampleView] = []
        self.placed: list[dict[str, PlacedImage]] = []
        self.samples: tuple[str, ...] = ()
        self.averaged_dims: frozenset[str] = frozenset()
        self.shows_effects = False
        self._effects_description = self._pick_description = ""
        self._appearance = AppearanceController()
        self._loaders: list[Loader] = []
        self._is_moving_sliders = False
        self._is_exchanging = False  # the layers of a sample
        self._is_turning = False
        self._screen = Screen()
        self.arrivals = Arrivals(self)
        self._refresh_soon = qthrottled(
            self.refresh, timeout=_REFRESH_MS, leading=False, parent=self
        )
        self._write_soon = qdebounced(self._write, timeout=_WRITE_MS, parent=self)
        # A picture that is exported has another size for a moment.
        self._fit_soon = qdebounced(self._follow_size, timeout=_WRITE_MS, parent=self)
        opener.opened.connect(self.show)
        opener.listed.connect(self._set_samples)
        opener.failed.connect(self._report_error)
        self._arrived.connect(self._refresh_soon.throttle)
        self._loading_failed.connect(self._report_error)
        viewer.layers.events.inserted.connect(self._sync_with_layers)
        viewer.layers.events.removed.connect(self._sync_with_layers)
        viewer.dims.events.current_step.connect(self._on_sliders_moved)
        for event in (viewer.dims.events.ndisplay, viewer.dims.events.order):
            event.connect(self._on_turned)
        viewer.canvas.events.size.connect(self._on_resized)
        self._sync_with_layers()

    @property
    def viewer(self) -> Any:
        """The napari viewer."""
        return self._viewer()

    @property
    def appearance(self) -> Appearance:
        """How maps are drawn."""
        return self._appearance.appearance

    @property
    def guidance(self) -> str:
        """Which branch of the guidance is in view."""
        return self.views[0].source.guidance if self.views else CONDITIONAL

    @property
    def normalisation(self) -> str:
        """How maps are normalised: "mass" or "density"."""
        return self.views[0].source.normalisation if self.views else "mass"

    @property
    def is_volume(self) -> bool:
        """Whether timesteps are the third axis."""
        return self.displayed_axes == (AXES[STEP_AXIS], *PLANE)

    @property
    def displayed_axes(self) -> tuple[str, ...]:
        """Names of the axes that are seen: y and x, a third one before them, or what a user turned to."""
        return displayed_axes(self.viewer)

    @property
    def position(self) -> SliderPosition:
        """Indices of the sliders of layer, timestep and head."""
        layer = own_layers(self.viewer).get("r2g")
        if layer is None or not self.views:
            return SliderPosition(0, 0, 0)
        point = self.viewer.dims.point[-len(AXES) :]
        return self.views[0].axes.clipped([point[i] / layer.scale[i] for i in (1, 2, 3)])

    @property
    def load_error(self) -> Exception | None:
        """Why maps in view are missing; None if there are none, or some may still come."""
        return next((loader.error for loader in self._loaders if loader.error), None)

    @property
    def share_loaded(self) -> float:
        """How much of the maps in view is there, 0..1."""
        shares = [
            volume.loaded.share_loaded for view in self.views for volume in view.volumes.values()
        ]
        return min(shares, default=1.0)

    def show(self, view: SampleView, view_index: int = 0) -> None:
        """Put a sample into view, in place of the one with that index.

        As the second one it is compared with the first; without a first it is not shown.
        """
        if self.viewer is None or view_index > len(self.views):
            return  # What it was to be compared with is gone.
        placed = place_images(view, self.placed[0] if view_index else None)
        if view_index:
            for volume in view.volumes.values():
                volume.align(self.views[0].axes)
        for volume in view.volumes.values():
            volume.samples = max(1, len(self.samples))
        layers = sample_layers(view, placed, view_index)
        active = self.viewer.layers.selection.active
        is_elsewhere = self.placed[view_index : view_index + 1] != [placed]
        with self._without_syncing():
            show_layers(self.viewer, layers, view_index=view_index)
        if active in self.viewer.layers:
            self.viewer.layers.selection.active = active
        self._set_view(view, placed, view_index)
        self._follow_images()
        if is_elsewhere:
            self.fit()

    def fit(self) -> None:
        """Show all pictures as large as they can be, with the text below them."""
        if self.viewer is not None:
            self._screen.fit(self.viewer, self.placed)

    def write_captions(self, view_index: int, shown: Mapping[str, str] | None = None) -> None:
        """Write above the images of a sample in view what they are, and what lies over them.

        Parameters
        ----------
        view_index : int
        shown : mapping of "generated" and "reference" to str, optional
            What lies over an image in place of its maps.
        """
        if self.viewer is None or view_index >= len(self.views):
            return
        self._screen.write_captions(self.viewer, self.views, self.placed, view_index, shown)

    def show_sample(self, name: str) -> None:
        """Put another sample of the run into view as soon as it is open."""
        if self.views and name != self.views[0].source.sample:
            own = self.views[0]
            # Of a later reference, where that was chosen; else of the sample's first.
            chosen = own.source.reference if own.source.reference != own.references[0] else ""
            self._opener.open(replace(own.source, sample=name, reference=chosen))

    def reanalyze(
        self,
        *,
        guidance: str | None = None,
        normalisation: str | None = None,
        within: str | None = None,
        reference: str | None = None,
    ) -> None:
        """Show another branch, another normalisation, or maps of other patches or another reference.

        Where two branches are compared the lower one stays.
        """
        branch = self.guidance
        for view_index, view in enumerate(self.views):
            own = view.source
            changed = replace(
                own,
                guidance=(guidance if own.guidance == branch else None) or own.guidance,
                normalisation=normalisation or own.normalisation,
                within=within or own.within,
                reference=reference or own.reference,
            )
            self._opener.open(changed, view_index)

    def compare(
        self, run: Store, sample: str | None = None, *, guidance: str | None = None
    ) -> None:
        """Show another sample below, or another branch of the guidance, with the same sliders."""
        if not self.views:
            return
        own = self.views[0].source
        wanted = replace(own, sample=sample or "", guidance=guidance or own.guidance)
        if run_identity(run) != own.run:  # It has maps, references and effects of its own.
            wanted = replace(wanted, run=os.fspath(run), maps=None, reference="", effects=None)
        self._opener.open(wanted, 1)

    def stop_comparing(self) -> None:
        """Take the second sample away, and what was drawn for it."""
        self._opener.cancel(1)
        if len(self.views) < 2 or self.viewer is None:
            return
        with self._without_syncing():
            remove_layers(self.viewer, own_layers(self.viewer, view_index=1).values())
        self._remove_views(1)
        self.fit()

    def close(self) -> None:
        """Stop all threads and follow the window no more."""
        for loader in self._loaders:
            loader.stop()
        self._opener.close()
        self._refresh_soon.cancel()
        self._write_soon.cancel()
        self._fit_soon.cancel()
        if (viewer := self.viewer) is not None:
            viewer.layers.events.inserted.disconnect(self._sync_with_layers)
            viewer.layers.events.removed.disconnect(self._sync_with_layers)
            viewer.dims.events.current_step.disconnect(self._on_sliders_moved)
            for event in (viewer.dims.events.ndisplay, viewer.dims.events.order):
                event.disconnect(self._on_turned)
            viewer.canvas.events.size.disconnect(self._on_resized)
        self.views, self.placed, self._loaders = [], [], []
        self.closed.emit()

    def go_to(
        self,
        *,
        sample: int | None = None,
        layer: int | None = None,
        step: int | None = None,
        head: int | None = None,
    ) -> None:
        """Move the sliders to indices; the mean over what is given is switched off."""
        if not self.views:
            return
        given = {"layer": layer, "step": step, "head": head}
        self.set_averaged_dims(
            self.averaged_dims - {dim for dim, at in given.items() if at is not None}
        )
        scale = own_layers(self.viewer)["r2g"].scale
        first = self.viewer.dims.ndim - len(AXES)
        moves = {
            first + i: at * scale[i]
            for i, at in enumerate((sample, *given.values()))
            if at is not None
        }
        if moves:
            self.viewer.dims.set_point(tuple(moves), tuple(moves.values()))

    def set_averaged(self, dim: str, on: bool) -> None:
        """Average over a dimension, or no more; its slider stays where it is."""
        if dim not in AVERAGEABLE_DIMS:
            msg = f"Expected one of {', '.join(AVERAGEABLE_DIMS)}, got {dim!r}, at dim. Name a slider."
            raise ValueError(msg)
        self.set_averaged_dims(self.averaged_dims | {dim} if on else self.averaged_dims - {dim})

    def set_averaged_dims(self, averaged_dims: frozenset[str]) -> None:
        """Average over these dimensions and no others."""
        if averaged_dims == self.averaged_dims:
            return
        self.averaged_dims = averaged_dims
        for view in self.views:
            for volume in view.volumes.values():
                volume.averaged_dims = averaged_dims
        self._redraw()
        self._on_sliders_moved()

    def move(self, dim: str, by: int) -> None:
        """Move a slider by some positions; at its ends it stays."""
        sizes = dict(zip(AVERAGEABLE_DIMS, self.views[0].axes.shape, strict=True))
        sizes["sample"] = max(1, len(self.samples))
        now = {
            **dict(zip(AVERAGEABLE_DIMS, self.position, strict=True)),
            "sample": self._sample_at(),
        }
        to = min(max(now[dim] + by, 0), sizes[dim] - 1)
        self.go_to(**{dim: to})

    def set_appearance(self, **changes: Any) -> None:
        """Draw the maps otherwise; see `Appearance`."""
        changed = self._appearance.change(**changes)
        self._appearance.apply(*self._in_view(), changed)
        self._write_soon.throttle()
        self.moved.emit()

    def set_shows_effects(self, on: bool) -> None:
        """Show measured effects in place of the attention maps, where there are some; or no more."""
        if on != self.shows_effects:
            self.shows_effects = on
            self.effects_switched.emit()

    def describe_effects(self, text: str) -> None:
        """Say in words which measured effects are in view in place of the maps; empty for none."""
        if text != self._effects_description:
            self._effects_description = text
            self._write()

    @property
    def is_effect_in_view(self) -> bool:
        """Whether measured effects are in view."""
        return bool(self._effects_description)

    @property
    def description(self) -> str:
        """What lies over the images of the first sample in view, in words."""
        view = self.views[0]
        if self._effects_description:
            lines = [f"{view.source.sample} · {self._effects_description}"]
        else:
            seen = own_layers(self.viewer)
            directions = [role for role in view.volumes if role in seen and seen[role].visible]
            lines = [
                heading(view, self.appearance),
                describe_view(view, self.position, self.averaged_dims, self.displayed_axes),
                describe_peaks(view, self.placed[0], self.position, self.averaged_dims, directions),
                self._pick_description,
            ]
        return "\n".join(filter(None, lines))

    def describe_pick(self, text: str) -> None:
        """Say in words what is asked, and the highest value of the answer; empty for nothing."""
        if text != self._pick_description:
            self._pick_description = text
            self._write_soon.throttle()  # The answer is drawn first.

    def set_volume(self, on: bool) -> None:
        """Show the timesteps as the third axis, rendered as a volume, or as a slider again."""
        self._is_turning = True
        try:
            show_volume(
                self.viewer, [own_layers(self.viewer, i) for i in range(len(self.views))], on=on
            )
        finally:
            self._is_turning = False
        if not on:
            self.fit()
        self._on_sliders_moved()

    def refresh(self) -> None:
        """Show what has been loaded since the last time; called now and then while maps load."""
        if not self.views or self.viewer is None:
            return
        self._redraw(only_new=True)
        self._appearance.draw_limits(*self._in_view())
        self._write()
        self.loaded.emit()

    def _set_view(self, view: SampleView, placed: dict[str, PlacedImage], view_index: int) -> None:
        """Make a sample whose layers are there one of the session's: load its maps."""
        before = self.views[0].source if self.views else None
        is_other_run = view_index == 0 and (before is None or before.run != view.source.run)
        loader = view.loader(
            lambda: self._arrived.emit(), lambda error: self._loading_failed.emit(error)
        )
        if view_index < len(self.views):
            self._loaders[view_index].stop()
            self.views[view_index], self.placed[view_index] = view, placed
            self._loaders[view_index] = loader
        else:
            self.views.append(view)
            self.placed.append(placed)
            self._loaders.append(loader)
        for volume in view.volumes.values():
            volume.averaged_dims, volume.request = self.averaged_dims, loader.prioritize
        loader.prioritize([self.position.layer], [self.position.step])
        loader.start()
        if view_index == 0 and len(self.views) > 1 and before is not None:
            self._keep_comparing(before)
        if is_other_run:
            self.samples = ()
            self._opener.list_samples(view.source.run)
        elif view_index == 0 and view.source.sample in self.samples:
            self._set_sample_slider(view.source.sample)
        for index in range(len(self.views)):
            self.write_captions(index)
        self._on_view_shown(is_other_run=is_other_run)
        self.reopened.emit()

    def _keep_comparing(self, before: SampleSource) -> None:
        """Bring the second sample in step with the first, which was another one before.

        Of another run the one of the same name comes; of this run the same sample's other branch.
        """
        own, other = self.views[0].source, self.views[1]
        follows = other.source.run != own.run or other.source.sample == before.sample
        if follows and other.source.sample != own.sample:
            self._opener.open(replace(other.source, sample=own.sample), 1)
        else:
            self.show(other, 1)

    def _set_samples(self, run: str, names: tuple[str, ...]) -> None:
        """Give the sample slider its length, now that it is known."""
        if not self.views or self.views[0].source.run != run:
            return
        self.samples = names
        for view_index, view in enumerate(self.views):
            for volume in view.volumes.values():
                volume.samples = max(1, len(names))
            for role in view.volumes:
                layer = own_layers(self.viewer, view_index=view_index).get(role)
                if layer is not None:
                    layer.data = layer.data  # napari measures it again
                    measure_again(layer)
        if self.views[0].source.sample in names:
            self._set_sample_slider(self.views[0].source.sample)
        self.reopened.emit()

    def _set_sample_slider(self, sample: str) -> None:
        """Move the sample slider to the sample in view."""
        axis = self.viewer.dims.ndim - len(AXES)
        self._is_moving_sliders = True
        self.viewer.dims.set_point(axis, self.samples.index(sample))
        self._is_moving_sliders = False

    @contextmanager
    def _without_syncing(self) -> Iterator[None]:
        """Exchange layers without following each of them."""
        events = self.viewer.layers.events
        self._is_exchanging = True
        try:
            with (
                events.inserted.blocker(self._sync_with_layers),
                events.removed.blocker(self._sync_with_layers),
            ):
                yield
        finally:
            self._is_exchanging = False

    def _sync_with_layers(self, event: Any = None) -> None:
        """Bring the samples in step with the layers that are there, whoever put them there."""
        for view_index in range(len(self.views)):
            layers = own_layers(self.viewer, view_index)
            if "r2g" not in layers or view_of(layers["r2g"]) is not self.views[view_index]:
                self._remove_views(view_index)
                self.arrivals.discard(own_layers(self.viewer, 1).values())
                break
        if not self.views:
            self._adopt()
        if self.views:
            self._take_arrivals()
            self._appearance.apply(*self._in_view())
        self._follow_images()

    def _adopt(self) -> None:
        """Put the sample into view whose layers somebody else has put into the window."""
        ours = [
            (own["role"], layer)
            for layer in self.viewer.layers
            if (own := own_metadata(layer)) and own.get("view_index", 0) == 0
        ]
        known = [view for role, layer in ours if role == "r2g" and (view := view_of(layer))]
        if known:
            self.arrivals.discard(one for _, one in ours if view_of(one) not in known)
            self._set_view(known[0], place_images(known[0]), 0)

    def _take_arrivals(self) -> None:
        """Set aside the layers of a sample that is not in view."""
        arrived = []
        for layer in self.viewer.layers:
            view, own = view_of(layer), own_metadata(layer) or {}
            if view is not None and own.get("view_index") is not None and view not in self.views:
                arrived.append(layer)
        self.arrivals.take(arrived)

    def _follow_images(self) -> None:
        """Hide and show the box of an image with it from now on."""
        for view_index in range(len(self.views)):
            layers = own_layers(self.viewer, view_index)
            hide_without_image(layers)
            for name in (name for names in IMAGE_ROLES.values() for name in names):
                if name in layers:  # What is connected already is not connected again.
                    layers[name].events.visible.connect(self._on_images_shown)

    def _on_images_shown(self) -> None:
        if not self._is_exchanging and self.viewer is not None:
            for view_index in range(len(self.views)):
                show_with_image(own_layers(self.viewer, view_index))

    def _remove_views(self, view_index: int) -> None:
        """Forget a sample whose layers are gone, and those below it."""
        for gone in (0, 1)[view_index:]:
            self._opener.cancel(gone)
        for loader in self._loaders[view_index:]:
            loader.stop()
        del self.views[view_index:], self.placed[view_index:], self._loaders[view_index:]
        if not view_index:
            self.samples = ()
            self._on_views_cleared()
        else:
            self.write_captions(0)
        self.reopened.emit()

    def _on_view_shown(self, *, is_other_run: bool) -> None:
        if is_other_run:
            overlay = self.viewer.canvas.overlays.text
            overlay.position, overlay.font_size, overlay.visible = "bottom_left", 8, True
        self._appearance.apply(*self._in_view())
        self._on_sliders_moved()

    def _on_views_cleared(self) -> None:
        self.viewer.canvas.overlays.text.visible = False

    def _report_error(self, error: Exception) -> None:
        notify_error(what_failed(error, self.views[0].source.run if self.views else "the store"))
        self.reopened.emit()  # Widgets go back to the sample in view.

    def _in_view(self) -> tuple[Any, list[SampleView], SliderPosition, frozenset[str]]:
        return self.viewer, self.views, self.position, self.averaged_dims

    def _sample_at(self) -> int:
        return round(float(self.viewer.dims.point[-len(AXES)]))

    def _on_sliders_moved(self, event: Any = None) -> None:
        """Draw within the limits of the maps in view, name them, and open the sample of the slider."""
        if self._is_moving_sliders or not self.views or "r2g" not in own_layers(self.viewer):
            return
        at = self._sample_at()
        if event is not None and 0 <= at < len(self.samples):
            if self.samples[at] != self.views[0].source.sample:
                self.show_sample(self.samples[at])
            elif self._opener.pending(0) != self.samples[at]:
                self._opener.cancel(0)  # The slider is back at the sample in view.
        self._appearance.draw_limits(*self._in_view())
        if event is None:
            self._write()
        else:
            self._write_soon.throttle()
        self.moved.emit()

    def _on_turned(self, event: Any = None) -> None:
        """Follow napari's own buttons for the third axis, rolling and transposing."""
        if self._is_turning or not self.views or self.viewer is None:
            return
        layers = [own_layers(self.viewer, i) for i in range(len(self.views))]
        if "r2g" not in layers[0]:
            return  # The layers are being removed.
        if is_stretched(layers) and not self.is_volume and self.viewer.dims.ndisplay == 2:
            self.set_volume(False)
            return
        follow_turn(self.viewer, layers)
        if self.viewer.dims.ndisplay == 2:
            self.fit()
        self._on_sliders_moved()

    def _on_resized(self, event: Any = None) -> None:
        self._fit_soon.throttle()

    def _follow_size(self) -> None:
        """Fit the view again, unless the user has moved or enlarged it."""
        if self.views and self.viewer is not None:
            self._screen.follow(self.viewer, self.placed)
            self._write()

    def _write(self) -> None:
        """Name the map in view on the canvas."""
        self._write_soon.cancel()
        if not self.views or self.viewer is None:
            return
        text = self.description
        waits_for_maps = not self.is_effect_in_view
        if waits_for_maps and self.load_error is not None:
            text += f"\n{1 - self.share_loaded:.0%} of the maps could not be read"
        elif waits_for_maps and self.share_loaded < 1:
            text += f"\nloading maps: {self.share_loaded:.0%}"
        self._screen.write(self.viewer, text)

    def _redraw(self, *, only_new: bool = False) -> None:
        for view_index, view in enumerate(self.views):
            layers = own_layers(self.viewer, view_index=view_index)
            for role, volume in view.volumes.items():
                if role in layers and not (only_new and volume.is_display_final):
                    layers[role].refresh(extent=False, thumbnail=False)
