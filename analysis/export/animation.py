"""An animation of one sample: where the reference is used, as the image comes out of the noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from i2am.analysis.export.frames import Pixels, check_frames_file, write_frames
from i2am.analysis.export.pictures import with_pictures
from i2am.analysis.export.source import WITH_PICTURES, ExportSample, open_source
from i2am.schemas import AnalysisError
from i2am.schemas.directions import DIRECTIONS
from i2am.storage.addresses import StoreLike

if TYPE_CHECKING:
    from i2am.analysis.figures.style import FigureStyle

__all__ = ["export_animation"]

_LEVEL: Final = "tlam"


def export_animation(
    store: StoreLike,
    out: str | Path,
    *,
    maps: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    style: FigureStyle | None = None,
    frames_per_second: float = 4,
    overwrite: bool = False,
    progress: bool = False,
    **selection: Any,
) -> Path:
    """Write a sample's maps by time (TLAM) over its pictures as GIF or MP4, and return the path.

    Parameters
    ----------
    store : str, Path or zarr Store
        A run, or maps whose run is found.
    out : str or Path
        Ends in ``.gif`` or ``.mp4``.
    maps, progress, **selection
        As in `export_netcdf`. With ``time_groups`` of the number of steps there is a frame for each.
    samples : iterable of str, optional
        The name of one sample; needed where the store holds several.
    style : FigureStyle, optional
    frames_per_second : float
    overwrite : bool
        Whether the file may exist.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        As `export_netcdf`; or if the run is not found.
    AnalysisError
        As `export_netcdf`; if there is more than one sample, the name has another ending, or the frames per
        second are not above 0.
    MissingExtra
        If it is an MP4 and imageio-ffmpeg is not installed.

    Notes
    -----
    A frame is a time group, the noisiest first, with a panel for each direction that the sample has. All
    frames of a direction share a scale, unless the style has one for each panel.

    Examples
    --------
    ::

        export_animation("run.zarr", "shirt.gif", samples=["shirt-001"], time_groups=50)
    """
    path = check_frames_file(out, overwrite=overwrite)
    if not 0 < frames_per_second < float("inf"):
        msg = (
            f"Expected frames per second above 0, got {frames_per_second}, at frames_per_second. "
            "Give a number such as 4."
        )
        raise AnalysisError(msg)
    source = open_source(
        store,
        WITH_PICTURES,
        maps=maps,
        samples=samples,
        levels=[_LEVEL],
        selection=selection,
        pictures="needed",
    )
    if len(source.names) > 1:
        msg = (
            f"Expected one sample to animate, got {len(source.names)}, at {store}. Name one, such as "
            f"{source.names[0]!r}."
        )
        raise AnalysisError(msg)
    (sample,) = source.opened(progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_frames(
        _same_size(_frames(sample, style)), path, frames_per_second=frames_per_second
    )


def _frames(sample: ExportSample, style: FigureStyle | None) -> Iterator[Pixels]:
    """Yield a figure for each time group."""
    from PIL import Image

    from i2am.analysis.figures.captions import figure_title, map_options, time_titles, unit
    from i2am.analysis.figures.overlay import value_range
    from i2am.analysis.figures.panels import (
        ColorBar,
        PanelGroup,
        heat_panel,
        seen_part,
        stored_image,
    )
    from i2am.analysis.figures.sheet import draw, render
    from i2am.analysis.figures.style import DEFAULT_STYLE

    captured, maps = with_pictures(sample)
    style = style or DEFAULT_STYLE
    levels = {d: sample.groups[d][_LEVEL] for d in DIRECTIONS if d in sample.groups}
    planes = {direction: level.to_numpy() for direction, level in levels.items()}
    times = time_titles(captured, next(iter(levels.values())))
    title = figure_title(captured, "TLAM", map_options(maps))
    for number, time in enumerate(times):
        panels = []
        for direction, every in planes.items():
            under = sample.picture_under(direction)
            shown = every if style.contrast == "shared" else every[number : number + 1]
            panels.append(
                heat_panel(
                    stored_image(captured, under),
                    every[number],
                    DIRECTIONS[direction].meaning,
                    ColorBar(value_range(shown), style, unit(maps)),
                    seen=seen_part(captured, under),
                )
            )
        group = PanelGroup(time.replace("\n", ", "), tuple(panels), columns=len(panels))
        picture = render(draw((group,), style, title))
        with Image.open(BytesIO(picture)) as opened:
            yield np.asarray(opened.convert("RGB"))


def _same_size(frames: Iterable[Pixels]) -> list[Pixels]:
    """Return frames of one size, with white at the right and below: words are of many lengths."""
    every = list(frames)
    height, width = (max(frame.shape[axis] for frame in every) for axis in (0, 1))
    return [
        np.pad(
            frame,
            ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)),
            constant_values=255,
        )
        for frame in every
    ]
