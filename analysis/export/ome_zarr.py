"""OME-Zarr: maps and pictures as images that bioimage viewers open, each where it lies.

All images of a direction lie in one space: y and x in pixels of the stored picture, whose pixel (0, 0)
covers 0 to 1. So a map lies over its picture as the model saw it, whatever their grids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args
from xml.etree import ElementTree as ET

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from i2am.analysis.export.outputs import check_new_folder
from i2am.analysis.export.source import PLANES, ExportSample, Kind, open_source
from i2am.files import folder_written_whole, restore_replaced
from i2am.schemas import AnalysisError, I2AMError, StoreError, require
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.choices import check_choice
from i2am.schemas.dims import HEAD, LAYER, PIXEL_UNITS, RGB, STEP
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.storage.addresses import StoreLike, open_group, own_attributes

__all__ = ["export_ome_zarr"]

_KINDS: Final[tuple[Kind, ...]] = ("run", "maps", "average", "differences")
# Of the root's own attribute, so that an earlier export is known.
_KIND: Final = "ome-zarr"
OmeVersion = Literal["0.5", "0.6"]
_VERSIONS: Final = get_args(OmeVersion)
_CHUNK_BYTES: Final = 4 * 2**20
# A picture whose sides are no longer needs no smaller copies.
_WHOLE_PX: Final = 512
_COLORS: Final = ("FF0000", "00FF00", "0000FF")
_GREY: Final = "FFFFFF"
# Of a map: it stands out where it is added to a picture.
_HEAT: Final = "FF9900"
# What is switched off at first: it would cover the picture.
_HIDDEN: Final = ("source", "inpainting_mask", "reference_mask")
# In whose pixels the other pictures are.
_SPACES: Final = {
    "source": "generated",
    "inpainting_mask": "generated",
    "reference_mask": "reference",
}
_OME_XML: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"

# Path, scale and translation of an image or of a smaller copy.
_Dataset = tuple[str, list[float], list[float]]


@dataclass(frozen=True)
class _Image:
    """One multiscale image.

    Parameters
    ----------
    path : str
        Of its group below the direction's.
    name : str
        As readers show it.
    values : array (c, y, x) or (t, c, y, x)
        Of its full size.
    scale, corner : (float, float)
        Of y and x: the distance between the centres of two positions, and the first centre.
    space : str
        The stored picture in whose pixels scale and corner are; empty where they count positions.
    channels : sequence of str
        The name of each channel.
    colors : sequence of str
        Of the channels, RRGGBB.
    window : (float, float), optional
        The values that are shown darkest and brightest; by default the lowest and the highest.
    labels : mapping
        What the positions along t and c are: attributes of ours.
    """

    path: str
    name: str
    values: NDArray[Any]
    scale: tuple[float, float]
    corner: tuple[float, float]
    space: str
    channels: Sequence[str]
    colors: Sequence[str]
    window: tuple[float, float] | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> str:
        """The names of the axes, a letter each."""
        return "tcyx"[4 - self.values.ndim :]


def export_ome_zarr(
    store: StoreLike,
    out: str | Path,
    *,
    maps: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    levels: Iterable[str] | None = None,
    version: OmeVersion = "0.5",
    overwrite: bool = False,
    progress: bool = False,
    **selection: Any,
) -> Path:
    """Write maps, with the pictures that they lie over, as OME-Zarr; return the folder.

    Parameters
    ----------
    store, maps, samples, levels, progress, **selection
        As in `export_netcdf`; measured effects are not taken.
    out : str or Path
        A new folder, such as ``maps.ome.zarr``.
    version : "0.5" or "0.6"
        Of OME-Zarr: that which readers know, or the draft of coordinate systems.
    overwrite : bool
        Whether an earlier export there may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        As `export_netcdf`; also if something else than an earlier export is there.
    AnalysisError
        As `export_netcdf`.
    MissingExtra
        If ome-zarr-models is not installed.

    Notes
    -----
    ``SAMPLE/r2g`` and ``SAMPLE/g2r`` are groups of images in one space, which readers open as one (the layout
    of bioformats2raw) or singly:

    - ``ulam`` and ``mass`` (c, y, x), of one channel; ``tlam`` (t, c, y, x), where t is the time group;
      ``hlam`` and ``llam`` (c, y, x), whose channels have the names of heads and layers; ``volume/LAYER``
      (t, c, y, x), where t is the step and c are the heads that the layer has
    - the picture that the maps lie over, with what else is stored in its pixels: ``generated``, ``source`` and
      ``inpainting_mask``, or ``reference`` and ``reference_mask``; if the run is found

    Scale and translation place the centre of each position where the maps' coordinates have it: in pixels
    of the picture, of which the centre of the first is 0.5. OME-Zarr has no pixels among its recommended
    units; the axes have the unit "pixel". Steps, timesteps and time groups are in the attribute ``i2am``.
    Pictures of more than 512 pixels have smaller copies. An image of 0.5 is validated by ome-zarr-models
    after it is written.

    In 0.6 each image has a coordinate system with the name of the picture in whose pixels it is. It is a
    draft. napari-ome-zarr 0.10 places images by their translation in 0.6 alone.

    Examples
    --------
    ::

        export_ome_zarr("maps.zarr", "maps.ome.zarr", version="0.6")
        napari.Viewer().open("maps.ome.zarr/shirt-001/r2g", plugin="napari-ome-zarr")
    """
    check_choice("version", version, _VERSIONS, AnalysisError)
    require("ome_zarr_models", "to write OME-Zarr", "ome")
    path = _check_output(out, overwrite=overwrite)
    source = open_source(
        store,
        _KINDS,
        maps=maps,
        samples=samples,
        levels=levels,
        selection=selection,
        pictures="found",
    )
    with folder_written_whole(path) as unfinished:
        root = zarr.create_group(unfinished, attributes={ATTRIBUTE_KEY: {"kind": _KIND}})
        for sample in source.opened(progress=progress):
            own = {**sample.attributes, "sample": sample.name}
            group = root.create_group(sample.name, attributes={ATTRIBUTE_KEY: own})
            for direction in DIRECTIONS:
                if not (images := _write_images(group, sample, direction, version)):
                    continue
                # By it readers find the images; it is no part of Zarr.
                listed = unfinished / sample.name / direction / "OME" / "METADATA.ome.xml"
                listed.write_bytes(_ome_xml(images))
    return path


def _check_output(out: str | Path, *, overwrite: bool) -> Path:
    """Return a path where nothing is, or an earlier export that may be replaced."""
    if Path(out).is_dir() and _is_export(out):
        check_new_folder(Path(out).parent)
    else:
        check_new_folder(out)
    path = Path(out)
    restore_replaced(path)
    if path.exists() and any(path.iterdir()):
        is_earlier = _is_export(path)
        if not (is_earlier and overwrite):
            found = "an earlier export" if is_earlier else "something else"
            hint = "Allow overwriting (--overwrite) or name" if is_earlier else "Name"
            msg = f"Expected a new folder, got {found}, at {path}. {hint} another folder."
            raise StoreError(msg)
    return path


def _is_export(path: str | Path) -> bool:
    try:
        return own_attributes(open_group(path)).get("kind") == _KIND
    except I2AMError:
        return False


def _write_images(
    sample_group: zarr.Group, sample: ExportSample, direction: DirectionName, version: OmeVersion
) -> list[_Image]:
    """Write the images of a direction; return them without their values."""
    written: list[_Image] = []
    for image in _images(sample, direction):
        group = sample_group.require_group(direction)
        _write_image(group.create_group(image.path), image, version)
        # What the list of images is made from, and not what takes memory.
        nothing = np.broadcast_to(image.values.dtype.type(0), image.values.shape)
        written.append(replace(image, values=nothing))
    if written:
        group.update_attributes({"ome": {"version": version, "bioformats2raw.layout": 3}})
        series = {"version": version, "series": [image.path for image in written]}
        group.create_group("OME", attributes={"ome": series})
    return written


def _images(sample: ExportSample, direction: DirectionName) -> Iterator[_Image]:
    """Yield the pictures that a direction's maps lie over, then its maps: the last one lies on top."""
    space = sample.picture_under(direction)
    if sample.captured is not None and "images" in sample.captured.children:
        for name, values in sample.captured.children["images"].dataset.data_vars.items():
            if _SPACES.get(str(name), name) == space:
                yield _picture(str(name), values, space)
    levels = sample.groups.get(direction, xr.Dataset())
    for name, values in reversed(list(levels.data_vars.items())):
        own = f"{direction} {name}"
        if values.dims[-2:] not in PLANES:
            continue
        if STEP not in values.dims:
            yield _map(str(name), own, values, space)
            continue
        for layer in values:
            # Of a layer: dims (step, head, y, x), of the heads that it has.
            maps, label = layer.load(), str(layer[LAYER].item())
            has_head = ~np.isnan(maps.to_numpy()).all(axis=(0, 2, 3))
            if has_head.any():
                yield _map(f"{name}/{_safe(label)}", f"{own} {label}", maps[:, has_head], space)


def _picture(name: str, values: xr.DataArray, space: str) -> _Image:
    """Return a stored picture (y, x, rgb) or mask (y, x)."""
    is_rgb = values.dims[-1] == RGB
    return _Image(
        name,
        name,
        values.transpose(RGB, ...).to_numpy() if is_rgb else values.to_numpy()[None],
        (1.0, 1.0),
        (0.5, 0.5),
        space,
        ("red", "green", "blue") if is_rgb else (name,),
        _COLORS if is_rgb else (_GREY,),
        (0.0, 255.0),
    )


def _map(path: str, name: str, values: xr.DataArray, space: str) -> _Image:
    """Return maps with at most one time and one channel dimension."""
    lead = [str(dim) for dim in values.dims[:-2]]
    channel = next((dim for dim in lead if dim in (HEAD, LAYER)), None)
    names = ["attention"]
    if channel is not None:
        labels = values[channel].to_numpy().tolist()
        names = [f"head {own}" if channel == HEAD else str(own) for own in labels]
    pixels = values.to_numpy()
    own = {
        str(key): coordinate.to_numpy().tolist()
        for key, coordinate in values.coords.items()
        if coordinate.ndim < 2 and set(coordinate.dims) <= set(lead)
    }
    scale, corner = _place(values) or ((1.0, 1.0), (0.5, 0.5))
    return _Image(
        path,
        name.replace("/", "_"),  # Some readers show what follows a slash alone.
        pixels if channel is not None else np.expand_dims(pixels, -3),
        scale,
        corner,
        space if _place(values) else "",
        names,
        [_HEAT] * len(names),
        labels=own,
    )


def _place(values: xr.DataArray) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the distance of two centres in pixels of y and x, and the first one; None if not known."""
    scale, corner = [], []
    for dim in values.dims[-2:]:
        own = values.coords.get(dim)
        if own is None or own.attrs.get("units") != PIXEL_UNITS:
            return None
        centres = own.to_numpy()
        first, last = float(centres[0]), float(centres[-1])
        corner.append(first)
        # A single position has no neighbour; one that begins at 0 is twice as long as its centre.
        scale.append((last - first) / (len(centres) - 1) if len(centres) > 1 else 2 * first)
    return (scale[0], scale[1]), (corner[0], corner[1])


def _write_image(node: zarr.Group, image: _Image, version: OmeVersion) -> None:
    from ome_zarr_models.v05.image import Image

    lead = [1.0] * (len(image.axes) - 2)
    datasets = []
    for number, (values, factor) in enumerate(_pyramid(image.values)):
        node.create_array(
            str(number),
            data=np.ascontiguousarray(values),
            chunks=_chunks(values),
            dimension_names=list(image.axes),
            compressors=BloscCodec(cname="zstd", shuffle="shuffle"),
        )
        scale = [own * factor for own in image.scale]
        # The first position of a smaller copy covers the first ones of the image.
        corner = [
            first + (factor - 1) / 2 * own
            for first, own in zip(image.corner, image.scale, strict=True)
        ]
        datasets.append((str(number), [*lead, *scale], [*(0.0 for _ in lead), *corner]))
    multiscale = (
        _multiscale_05(image, datasets) if version == "0.5" else _multiscale_06(image, datasets)
    )
    ome = {
        "version": version,
        "multiscales": [multiscale],
        "omero": {"channels": _channels(image)},
    }
    node.update_attributes({"ome": ome, ATTRIBUTE_KEY: dict(image.labels)})
    if version == "0.5":
        Image.from_zarr(node)


def _axes(image: _Image) -> list[dict[str, str]]:
    types = {"t": "time", "c": "channel"}
    unit = {"unit": "pixel"} if image.space else {}
    return [
        {"name": axis, "type": types[axis]}
        if axis in types
        else {"name": axis, "type": "space", **unit}
        for axis in image.axes
    ]


def _multiscale_05(image: _Image, datasets: Sequence[_Dataset]) -> dict[str, Any]:
    from ome_zarr_models.v05.axes import Axis
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    found: dict[str, Any] = Multiscale(
        axes=[Axis(**axis) for axis in _axes(image)],
        datasets=tuple(
            Dataset.build(path=path, scale=scale, translation=translation)
            for path, scale, translation in datasets
        ),
        name=image.name,
    ).model_dump(mode="json", exclude_none=True)
    return found


def _multiscale_06(image: _Image, datasets: Sequence[_Dataset]) -> dict[str, Any]:
    """Return the metadata of the draft; the models of Python do not have them yet."""
    space = image.space or "positions"
    return {
        "name": image.name,
        "coordinateSystems": [{"name": space, "axes": _axes(image)}],
        "datasets": [
            {
                "path": path,
                "coordinateTransformations": [
                    {
                        "type": "sequence",
                        "input": {"path": path},
                        "output": {"name": space},
                        "transformations": [
                            {"type": "scale", "scale": scale},
                            {"type": "translation", "translation": translation},
                        ],
                    }
                ],
            }
            for path, scale, translation in datasets
        ],
    }


def _channels(image: _Image) -> list[dict[str, Any]]:
    """Return how each channel is named and shown; all on one scale, so that they can be compared."""
    if image.window is None:
        finite = image.values[np.isfinite(image.values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        high = high if high > low else low + 1.0
    else:
        low, high = image.window
    window = {"min": low, "max": high, "start": low, "end": high}
    return [
        {"label": label, "color": color, "window": window, "active": image.path not in _HIDDEN}
        for label, color in zip(image.channels, image.colors, strict=True)
    ]


def _pyramid(values: NDArray[Any]) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield an image and its copies of half the size, with how many positions of it one of theirs covers."""
    factor = 1
    while True:
        yield values, factor
        if max(values.shape[-2:]) <= _WHOLE_PX:
            return
        values, factor = _halved(values), 2 * factor


def _halved(values: NDArray[Any]) -> NDArray[Any]:
    """Return an image of the means of two by two positions; the last one of an odd side is repeated."""
    *lead, height, width = values.shape
    padding = [(0, 0)] * len(lead) + [(0, height % 2), (0, width % 2)]
    even = np.pad(values, padding, mode="edge")
    blocks = even.reshape(*lead, even.shape[-2] // 2, 2, even.shape[-1] // 2, 2)
    means = blocks.mean(axis=(-3, -1), dtype=np.float64)
    halved: NDArray[Any] = (np.rint(means) if values.dtype.kind == "u" else means).astype(
        values.dtype
    )
    return halved


def _chunks(values: NDArray[Any]) -> tuple[int, ...]:
    """Return chunks of whole planes, as many along each leading dimension as a few megabytes hold."""
    *lead, height, width = values.shape
    room = max(1, _CHUNK_BYTES // (height * width * values.dtype.itemsize))
    chunks: list[int] = []
    for size in reversed(lead):
        chunks.insert(0, max(1, min(size, room)))
        room //= chunks[0]
    return *chunks, height, width


def _safe(name: str) -> str:
    """Return a layer's name as one of a group: it has no slash in it."""
    return name.replace("/", "_").strip(".") or "_"


def _ome_xml(images: Sequence[_Image]) -> bytes:
    """Return the list of images, as readers of the layout look for it."""
    ET.register_namespace("", _OME_XML)
    root = ET.Element(f"{{{_OME_XML}}}OME")
    for number, image in enumerate(images):
        sizes = dict(zip(image.axes, image.values.shape, strict=True))
        own = {"ID": f"Image:{image.path}", "Name": image.name}
        node = ET.SubElement(root, f"{{{_OME_XML}}}Image", own)
        pixels = {
            "ID": f"Pixels:{number}",
            "DimensionOrder": "XYZCT",
            "Type": "uint8" if image.values.dtype == np.uint8 else "float",
            **{f"Size{axis.upper()}": str(sizes.get(axis, 1)) for axis in "xyzct"},
        }
        pixels_node = ET.SubElement(node, f"{{{_OME_XML}}}Pixels", pixels)
        for channel in range(sizes.get("c", 1)):
            told = {"ID": f"Channel:{number}:{channel}", "SamplesPerPixel": "1"}
            ET.SubElement(pixels_node, f"{{{_OME_XML}}}Channel", told)
        ET.SubElement(pixels_node, f"{{{_OME_XML}}}MetadataOnly")
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text
