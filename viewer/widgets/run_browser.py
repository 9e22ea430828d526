"""The dock widget that steers the view: which sample, which map, drawn how."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSlider,
    QWidget,
)

from i2am.schemas.choices import WITHIN
from i2am.schemas.directions import R2G
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, LEVELS
from i2am.viewer.data.effects import Effects, NoEffects
from i2am.viewer.data.open_sample import open_store
from i2am.viewer.data.sample import SampleView
from i2am.viewer.picking.effect_controller import effect_controller_of
from i2am.viewer.scene.color_bars import show_color_bars
from i2am.viewer.scene.contrast import COLORMAPS
from i2am.viewer.session.attach import session_of
from i2am.viewer.session.shortcuts import SHORTCUTS, show_shortcuts
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.qt import Background, make_button, plain_label

__all__ = ["RunBrowser"]

_MAPS_TIP: Final = (
    "R2G, over the generated image: where it uses the reference.\n"
    "G2R, over the reference: which parts of it were used."
)
_WITHIN_TIP: Final = (
    "Image: maps of all patches. Mask: of those inside the inpainting mask alone, which were painted;\n"
    "the others need nothing from the reference, and their attention lies on its empty parts."
)
_LEVEL_TIPS: Final = {
    "ULAM": "One map of everything: the mean over all layers, steps and heads",
    "TLAM": "How attention goes with time: the mean over layers and heads; move the timestep",
    "HLAM": "What each head looks at: the mean over layers and steps; move the head",
    "LLAM": "What each layer looks at: the mean over steps and heads; move the layer",
    "single": "The map of one layer, timestep and head",
}
_SHOWN: Final = ("attention map", "measured effect")
_SHOWN_TIP: Final = (
    "Attention map: where the model looked.\n"
    "Measured effect: what changed in the generated image when a region of the reference was cut "
    "out of the attention and the image painted again."
)
# Settings of the appearance: their labels, their values, and what these mean.
_CHOICES: Final[Mapping[str, tuple[str, Sequence[str], str]]] = {
    "direction": ("Direction", ("both", "r2g", "g2r"), _MAPS_TIP),
    "polarity": (
        "Polarity",
        ("direct", "inverted"),
        "Inverted, the heat is where attention is low, as the method's authors draw R2G",
    ),
    "colormap": ("Colours", COLORMAPS, "Cold is always clear, so that the picture is seen"),
    "contrast": (
        "Contrast",
        ("shared", "slice"),
        "Shared: all steps and heads of a layer on one scale, so that they compare.\n"
        "Slice: each map on its own scale.",
    ),
}


class RunBrowser(DockPanel):
    """Choose the sample in view, what is averaged over, and how maps are drawn.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._session = session_of(napari_viewer)
        self._effects = effect_controller_of(self._session)
        self._background = Background(self)
        self._shown: Any = None
        self._form = QFormLayout(self.content)
        self._add_sample()
        self._add_effects()
        self._add_averaged()
        self._add_appearance()
        for key in ("reopened", "moved", "loaded"):
            getattr(self._session, key).connect(getattr(self, f"_show_{key}"))
        self._effects.changed.connect(self._show_effects)
        _follow_layers(self, napari_viewer.layers.events.inserted)
        self._show_reopened()
        self._show_effects()

    def _add_sample(self) -> None:
        self.samples = QComboBox()
        self.samples.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.samples.currentTextChanged.connect(self._session.show_sample)
        self.provenance = _text("How the sample was made")
        self.maps = _text(_MAPS_TIP)
        self.guidance = _choice((), lambda half: self._session.reanalyze(guidance=half))
        self.normalisation = _choice(
            ("mass", "density"), lambda name: self._session.reanalyze(normalisation=name)
        )
        self.reference = _choice((), lambda name: self._session.reanalyze(reference=name))
        self.within = _choice(WITHIN, lambda name: self._session.reanalyze(within=name))
        self.loading = QProgressBar()
        self.loading.setRange(0, 100)
        keys = f"{_key('next_sample')}, {_key('last_sample')}"
        sample_tip = f"The generated image in view, with its reference and maps ({keys})"
        self.open_button = make_button(
            "Open run…",
            "Choose a run, or a maps store, to see in place of this one",
            self.choose_run,
        )
        self._form.addRow(self.open_button)
        self._add("Sample", self.samples, sample_tip)
        self._add("Made by", self.provenance)
        self._add("Maps", self.maps)
        self._add("", self.loading, "Maps that are in memory; those in view come first")
        self._add(
            "Reference", self.reference, "Whose maps these are, where the model was given several"
        )
        self._add("Guidance", self.guidance, "Which half of classifier-free guidance")
        self._add(
            "Normalisation",
            self.normalisation,
            "Mass: each map sums to 1 on its layer's own grid. Density: even attention is 1.",
        )
        self._add("Patches", self.within, _WITHIN_TIP)

    def _add_effects(self) -> None:
        self.shows = _choice(
            _SHOWN, lambda name: self._session.set_shows_effects(name == _SHOWN[1])
        )
        self.effects = _text(_SHOWN_TIP)
        self._add("Show", self.shows, f"{_SHOWN_TIP} ({_key('effects')})")
        self._add("Effects", self.effects)

    def _add_averaged(self) -> None:
        self.averaged: dict[str, QCheckBox] = {}
        self.levels: dict[str, QPushButton] = {}
        switches, buttons = QHBoxLayout(), QHBoxLayout()
        for dim in AVERAGEABLE_DIMS:
            switch = QCheckBox({"step": "timestep"}.get(dim, dim))
            switch.setToolTip(f"Show the mean over all {dim}s ({_key(f'mean_{dim}')})")
            switch.toggled.connect(partial(self._session.set_averaged, dim))
            self.averaged[dim] = switch
            switches.addWidget(switch)
        for averaged_dims, level in {**LEVELS, frozenset(): "single"}.items():
            # Bindings differ in what a partial gets of `clicked`: nothing, or whether it is checked.
            show = partial(self._session.set_averaged_dims, averaged_dims)
            button = make_button(level, _LEVEL_TIPS[level], show)
            button.setCheckable(True)
            button.setStyleSheet("QPushButton { padding: 3px 0px; min-width: 30px; }")
            self.levels[level] = button
            buttons.addWidget(button)
        self._form.addRow("Mean over", switches)
        self._form.addRow("Map", buttons)

    def _add_appearance(self) -> None:
        self.appearance: dict[str, QComboBox] = {}
        for name, (label, known, tip) in _CHOICES.items():
            self.appearance[name] = _choice(known, partial(self._set_appearance, name))
            self._add(label, self.appearance[name], tip)
        self.threshold = self._add_share("Threshold", "threshold", 0)
        self.threshold.setToolTip("Of each map's own range: what is below is drawn clear")
        self.opacity = self._add_share("Opacity", "opacity", 100)
        self.volume = QCheckBox("timesteps as the third axis")
        self.volume.setToolTip(f"How attention forms, as a volume ({_key('volume')})")
        self.volume.toggled.connect(self._session.set_volume)
        self._form.addRow("3-D", self.volume)
        self.bars = QCheckBox("on the canvas")
        self.bars.setToolTip("What the colours stand for, at each picture's side")
        self.bars.toggled.connect(self._show_bars)
        self._form.addRow("Colour bars", self.bars)
        shortcuts = QPushButton("Keyboard shortcuts")
        shortcuts.setToolTip("List what keys do here")
        shortcuts.clicked.connect(lambda: show_shortcuts(self))
        self._form.addRow("Help", shortcuts)

    def choose_run(self) -> None:
        """Ask for a folder, and open the run or the maps in it."""
        folder = QFileDialog.getExistingDirectory(self, "A run's, or a maps store's, folder")
        if folder:
            self._background.run(lambda: open_store(folder), self._replace)

    def _replace(self, view: SampleView) -> None:
        self._session.stop_comparing()
        self._session.show(view)
        self._session.viewer.title = f"{Path(view.source.run).name} - I²AM"

    def _show_bars(self, on: bool) -> None:
        if self._session.viewer is not None:
            show_color_bars(self._session.viewer, on)

    def _set_appearance(self, setting: str, value: str) -> None:
        self._session.set_appearance(**{setting: value})

    def _add(self, label: str, widget: QWidget, tip: str = "") -> None:
        widget.setToolTip(tip or widget.toolTip())
        self._form.addRow(label, widget)

    def _add_share(self, label: str, setting: str, percent: int) -> QSlider:
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setRange(0, 100)
        slider.setValue(percent)
        slider.valueChanged.connect(lambda at: self._session.set_appearance(**{setting: at / 100}))
        self._form.addRow(label, slider)
        return slider

    def _show_reopened(self) -> None:
        """Bring the widget in step with the run and the sample in view."""
        view = self._session.views[0] if self._session.views else None
        for widget in (self.samples, self.guidance, self.normalisation):
            widget.setEnabled(view is not None)
        self.reference.setEnabled(view is not None and len(view.references) > 1)
        self.within.setEnabled(view is not None and R2G.mask in view.images)
        self.provenance.setText(view.provenance() if view else "Open a run: drop it on the window.")
        self.maps.setText(_describe_maps(view) if view else "")
        if view is not None:
            own = view.source
            _offer(self.samples, self._session.samples or (own.sample,), own.sample)
            _offer(self.guidance, view.guidance_labels, own.guidance)
            _offer(self.normalisation, ("mass", "density"), own.normalisation)
            _offer(self.within, WITHIN, own.within)
            _offer(self.reference, view.references, own.reference)
        else:
            _offer(self.samples, (), "")
        self._show_moved()
        self._show_loaded()
        if self.bars.isChecked():
            self._show_bars(True)

    def _show_effects(self) -> None:
        """Offer measured effects where the sample in view has some; else say why it has none."""
        found = self._effects.effects_at(0)
        self.shows.setEnabled(isinstance(found, Effects))
        with QSignalBlocker(self.shows):
            self.shows.setCurrentText(_SHOWN[self._effects.is_on])
        if isinstance(found, Effects):
            self.effects.setText(f"read from {Path(found.path).name}")
        else:
            self.effects.setText(found.reason if isinstance(found, NoEffects) else "being read")

    def _show_moved(self) -> None:
        shown = (self._session.averaged_dims, self._session.appearance, self._session.is_volume)
        if shown == self._shown:
            return  # A slider moved: to touch what stays would have it painted again.
        self._shown = shown
        for dim, switch in self.averaged.items():
            with QSignalBlocker(switch):
                switch.setChecked(dim in self._session.averaged_dims)
        current = LEVELS.get(
            self._session.averaged_dims, "" if self._session.averaged_dims else "single"
        )
        for level, button in self.levels.items():
            button.setChecked(level == current)
        appearance = self._session.appearance
        for name, choice in self.appearance.items():
            with QSignalBlocker(choice):
                choice.setCurrentText(getattr(appearance, name))
        for slider, share in (
            (self.threshold, appearance.threshold),
            (self.opacity, appearance.opacity),
        ):
            with QSignalBlocker(slider):
                slider.setValue(round(100 * share))
        with QSignalBlocker(self.volume):
            self.volume.setChecked(self._session.is_volume)

    def _show_loaded(self) -> None:
        percent = int(100 * self._session.share_loaded)
        self.loading.setValue(percent)
        self.loading.setVisible(percent < 100 and self._session.load_error is None)


def _follow_layers(browser: RunBrowser, inserted: Any) -> None:
    """Have layers that come later their colour bars, too, until the browser is closed."""
    known = weakref.ref(browser)

    def show(_: Any) -> None:
        own = known()
        if own is not None and own.bars.isChecked():
            own._show_bars(True)

    inserted.connect(show)
    browser.destroyed.connect(lambda: inserted.disconnect(show))


def _describe_maps(view: SampleView) -> str:
    own = view.source
    source = "computed from the run" if own.computed else f"read from {Path(own.maps or '').name}"
    return "\n".join(filter(None, (source, view.note(), view.seen())))


def _choice(known: Sequence[str], choose: Callable[[str], object]) -> QComboBox:
    box = QComboBox()
    box.addItems(list(known))
    box.textActivated.connect(choose)  # by the user alone
    return box


def _offer(box: QComboBox, known: Sequence[str], current: str) -> None:
    with QSignalBlocker(box):
        if [box.itemText(i) for i in range(box.count())] != list(known):
            box.clear()
            box.addItems(list(known))
        box.setCurrentText(current)


def _key(action: str) -> str:
    return SHORTCUTS[action].label


def _text(tool_tip: str) -> QLabel:
    label = plain_label()
    label.setWordWrap(True)
    label.setToolTip(tool_tip)
    return label
