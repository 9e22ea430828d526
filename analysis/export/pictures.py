"""Maps as pictures, one file each: over the picture that they lie over, and alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from i2am.analysis.export.outputs import check_new_folder
from i2am.analysis.export.source import WITH_PICTURES, ExportSample, open_source
from i2am.files import check_outputs, outputs_written_whole
from i2am.schemas import AnalysisError
from i2am.schemas.dims import FIRST_STEP, LAST_STEP, LAYER, STEP, TIME
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.storage.addresses import StoreLike

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from i2am.analysis.figures.overlay import Limits
    from i2am.analysis.figures.style import FigureStyle

__all__ = ["export_pictures", "with_pictures"]

_NOT_IN_NAMES: Final = re.compile(r"[^\w.+@=-]")
_LONGEST_NAME: Final = 150


def export_pictures(
    store: StoreLike,
    out: str | Path,
    *,
    maps: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    levels: Iterable[str] | None = None,
    style: FigureStyle | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **selection: Any,
) -> Path:
    """Write each map as PNG, over its picture and alone, and return the folder.

    Parameters
    ----------
    store : str, Path or zarr Store
        A run, or maps whose run is found.
    maps, samples, levels, progress, **selection
        As in `export_netcdf`.
    out : str or Path
        A folder, in which each sample has one of its name.
    style : FigureStyle, optional
        Colors, threshold, and whether maps share a scale.
    overwrite : bool
        Whether the samples' folders may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        As `export_netcdf`; or if the run is not found.
    AnalysisError
        As `export_netcdf`; or if a sample's pictures are not stored.

    Notes
    -----
    ``SAMPLE/r2g-ulam.png`` is a map over its picture and ``SAMPLE/r2g-ulam-heat.png`` the map alone, of the
    same size: the picture's, or a whole multiple of at least 384 pixels. A map of several has its name at the
    end: ``r2g-tlam-steps-0-9``, ``r2g-hlam-head-3``, ``g2r-llam-00-LAYER``,
    ``r2g-volume-00-LAYER-step-0-head-3``; layers are numbered in their order.
    As in the figures, the maps of a level share a scale: those of layers if their grids are alike, those of a
    volume if they are of one layer. For values take one of the other formats.

    Examples
    --------
    ::

        export_pictures("run.zarr", "pictures", levels=["ulam", "hlam"], samples=["shirt-001"])
    """
    from i2am.analysis.figures.style import DEFAULT_STYLE  # Brings Matplotlib.

    source = open_source(
        store,
        WITH_PICTURES,
        maps=maps,
        samples=samples,
        levels=levels,
        selection=selection,
        pictures="needed",
    )
    folder = check_new_folder(out)
    check_outputs(folder, source.names, "export", overwrite=overwrite)
    with outputs_written_whole(folder) as unfinished:
        for sample in source.opened(progress=progress):
            (unfinished / sample.name).mkdir()
            _write(sample, unfinished / sample.name, style or DEFAULT_STYLE)
    return folder


def with_pictures(sample: ExportSample) -> tuple[xr.DataTree, xr.DataTree]:
    """Return the captured sample, in which the pictures are, and all its maps.

    Raises
    ------
    AnalysisError
        If the run does not hold it any more.
    """
    if sample.captured is None or sample.maps is None:
        msg = (
            f"Expected the captured sample with its pictures, got none in the run, at {sample.name!r}. "
            "Capture it again, or leave it out."
        )
        raise AnalysisError(msg)
    return sample.captured, sample.maps


def _write(sample: ExportSample, folder: Path, style: FigureStyle) -> None:
    from PIL import Image

    from i2am.analysis.figures.overlay import overlay
    from i2am.analysis.figures.panels import seen_part, stored_image

    (captured, _), alone = with_pictures(sample), replace(style, base="none")
    for direction in DIRECTIONS:
        if direction not in sample.groups:
            continue
        under = sample.picture_under(direction)
        image, seen = stored_image(captured, under), seen_part(captured, under)
        for level, values in sample.groups[direction].data_vars.items():
            for name, one, limits in _scaled(captured, values, direction, style):
                path = folder / f"{direction}-{level}{name}.png"
                if style.base != "none":
                    Image.fromarray(overlay(image, one, limits, style, seen)).save(path)
                heat = overlay(image, one, limits, alone, seen)
                Image.fromarray(heat).save(path.with_stem(f"{path.stem}-heat"))


def _scaled(
    captured: xr.DataTree, values: xr.DataArray, direction: DirectionName, style: FigureStyle
) -> Iterator[tuple[str, NDArray[Any], Limits]]:
    """Yield the end of each map's name, its values and the ends of its scale."""
    from i2am.analysis.figures.maps import maps_by_scale
    from i2am.analysis.figures.overlay import value_range

    planes: Iterable[list[tuple[str, NDArray[Any]]]]
    if values.ndim == 2:
        planes = [[("", values.to_numpy())]]
    elif STEP in values.dims:  # A layer at a time is in memory.
        planes = (
            list(_named(values[index : index + 1].load(), first=index))
            for index in range(values.sizes[LAYER])
        )
    else:
        named = list(_named(values))
        groups = maps_by_scale(captured, values, direction).values()
        planes = ([named[index] for index in members] for members in groups)
    for members in planes:
        shared = value_range([one for _, one in members])
        for name, one in members:
            if np.isfinite(one).any():
                yield name, one, shared if style.contrast == "shared" else value_range([one])


def _named(values: xr.DataArray, first: int = 0) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each map with the end of its name; `first` is the number of the first layer."""
    own = values.to_numpy()
    for index in np.ndindex(own.shape[:-2]):
        words = [
            _words(values, str(dim), number, first)
            for dim, number in zip(values.dims, index, strict=False)
        ]
        yield "".join(f"-{word}" for word in words), own[index]


def _words(values: xr.DataArray, dim: str, number: int, first: int) -> str:
    if dim == LAYER:
        # The number keeps them in order, and apart where a file's name cannot have theirs.
        name = _NOT_IN_NAMES.sub("_", str(values[LAYER].to_numpy()[number]))
        return f"{first + number:02d}-{name[:_LONGEST_NAME]}"
    if dim == TIME:
        begin, end = (int(values[name].to_numpy()[number]) for name in (FIRST_STEP, LAST_STEP))
        return f"step-{begin}" if begin == end else f"steps-{begin}-{end}"
    label = values[dim].to_numpy()[number] if dim in values.coords else number
    return f"{dim}-{int(label)}"
