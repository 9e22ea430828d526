"""The command ``i2am export``: a run in a form for others to read."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Final

from i2am.cli.arguments import add_command, existing_store, new_path, number
from i2am.cli.options import add_option

__all__ = ["add"]

# What `analyze` is asked for.
_SELECTION: Final = ("layers", "steps", "heads", "guidance", "within", "time_groups")
_OF_MAPS: Final = ("samples", *_SELECTION)
_OF_PAGE: Final = ("url", "maps_url")


@dataclass(frozen=True)
class _Format:
    """A format: its option is its name in `_FORMATS`.

    Parameters
    ----------
    function : str
        Of `i2am.analysis`, called as ``function(store, out, maps=…, overwrite=…, …)``; returns the path.
    metavar, help : str
        Of the option.
    takes : tuple of str
        The further options that it takes.
    """

    function: str
    metavar: str
    help: str
    takes: tuple[str, ...] = (*_OF_MAPS, "levels")


_FORMATS: Final = {
    "ome_zarr": _Format(
        "export_ome_zarr",
        "DIR",
        "OME-Zarr: maps and pictures as images for bioimage viewers",
        (*_OF_MAPS, "levels", "ome_version"),
    ),
    "netcdf": _Format(
        "export_netcdf", "FILE.nc|DIR", "NetCDF, as xarray opens it; in a folder a file per sample"
    ),
    "numpy": _Format(
        "export_numpy", "FILE.npz|DIR", "NumPy's own files; in a folder a file per sample"
    ),
    "table": _Format(
        "export_table",
        "FILE",
        "tidy table, .csv or .parquet: a row for each position of each map",
    ),
    "pictures": _Format("export_pictures", "DIR", "PNG of each map, over its picture and alone"),
    "animation": _Format(
        "export_animation",
        "FILE",
        "a sample's maps by time over its pictures, .gif or .mp4",
        (*_OF_MAPS, "frames_per_second"),
    ),
}


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "export",
        _export,
        "write a run or its maps in the format of another tool",
        examples=(
            "i2am export run.zarr --netcdf maps.nc",
            "i2am export maps.zarr --table heads.parquet --levels hlam --samples shirt-001",
            "i2am export run.zarr --page page",
        ),
    )
    command.set_defaults(error=command.error)
    # argparse would name every format in one line, which no terminal holds.
    command.usage = "i2am export [options] --FORMAT OUT STORE"
    command.add_argument(
        "store",
        type=existing_store,
        metavar="STORE",
        help="run or maps; for most formats also averages, differences or measured effects",
    )
    formats = command.add_argument_group("the format, one of them, and where to write it")
    kinds = formats.add_mutually_exclusive_group(required=True)
    for name, own in _FORMATS.items():
        kinds.add_argument(_option(name), type=new_path, metavar=own.metavar, help=own.help)
    kinds.add_argument(
        "--page",
        type=new_path,
        metavar="DIR",
        help="a static site that reads the run in the browser",
    )
    add_option(command, "--maps")
    add_option(command, "--overwrite")
    _add_selection(command.add_argument_group("what is exported; not of --page"))
    _add_details(command.add_argument_group("of one format"))


def _add_selection(group: Any) -> None:
    add_option(group, "--samples")
    add_option(group, "--levels", adds="default: all but the volume")
    for name in ("--layers", "--steps", "--heads", "--guidance", "--within"):
        add_option(group, name)
    add_option(group, "--time-groups", adds="default: as the maps have them, or 5")


def _add_details(group: Any) -> None:
    group.add_argument(
        "--ome-version",
        choices=("0.5", "0.6"),
        help="version of --ome-zarr; 0.6 is a draft that napari's reader places right; default: 0.5",
    )
    group.add_argument(
        "--frames-per-second",
        type=number,
        metavar="NUMBER",
        help="of --animation; default: 4",
    )
    group.add_argument(
        "--url",
        metavar="URL",
        help="of --page: where browsers find the run; default: beside the page",
    )
    group.add_argument(
        "--maps-url",
        metavar="URL",
        help="of --page: where browsers find the maps; default: beside the page",
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _export(options: argparse.Namespace) -> None:
    given = vars(options)
    chosen = next(name for name in (*_FORMATS, "page") if given[name] is not None)
    takes = _OF_PAGE if chosen == "page" else _FORMATS[chosen].takes
    of_others = (*_OF_PAGE, *(name for own in _FORMATS.values() for name in own.takes))
    for name in dict.fromkeys(of_others):
        if given[name] is not None and name not in takes:
            options.error(f"argument {_option(name)}: not allowed with {_option(chosen)}")
    if chosen == "page":
        _export_page(options)
        return
    import i2am.analysis

    renamed = {"ome_version": "version"}
    out = getattr(i2am.analysis, _FORMATS[chosen].function)(
        options.store,
        given[chosen],
        maps=options.maps,
        overwrite=options.overwrite,
        progress=True,
        **{renamed.get(name, name): given[name] for name in takes if given[name] is not None},
    )
    print(f"Export: {out}")


def _export_page(options: argparse.Namespace) -> None:
    from i2am.page import export_page

    out = export_page(
        options.store,
        options.page,
        maps=options.maps,
        url=options.url,
        maps_url=options.maps_url,
        overwrite=options.overwrite,
    )
    print(f"Page: {out / 'index.html'}")
