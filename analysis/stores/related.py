"""The maps and the effects that belong to a run, and the run that maps were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from i2am.analysis.stores.effects import Effects, open_effects
from i2am.analysis.stores.reader import Maps, Run, open_root, open_run
from i2am.schemas import StoreError
from i2am.storage.addresses import StoreLike, is_url, own_attributes

__all__ = [
    "default_effects_path",
    "default_maps_path",
    "effects_of",
    "find_effects",
    "find_maps",
    "named_path",
    "run_of",
]

_SUFFIX: Final = ".zarr"
# Paths that name another machine on many systems, and connect to it when they are touched.
_AUTOMOUNTED: Final = ("/net/", "/afs/")


def default_maps_path(run_path: str | Path) -> Path:
    """Return where a run's maps go unless the user says otherwise.

    Beside the run; those of a run at a URL go to the current folder.

    Parameters
    ----------
    run_path : str or Path

    Examples
    --------
    >>> default_maps_path("out/run.zarr").as_posix(), default_maps_path("shirts.zarr").as_posix()
    ('out/maps.zarr', 'shirts.maps.zarr')
    >>> default_maps_path("s3://bucket/shirts.zarr").as_posix()
    'shirts.maps.zarr'
    """
    return _beside(run_path, "maps")


def default_effects_path(run_path: str | Path) -> Path:
    """Return where a run's measured effects go unless the user says otherwise, as its maps do.

    Parameters
    ----------
    run_path : str or Path

    Examples
    --------
    >>> default_effects_path("out/run.zarr").as_posix()
    'out/effects.zarr'
    >>> default_effects_path("shirts.zarr").as_posix()
    'shirts.effects.zarr'
    """
    return _beside(run_path, "effects")


def _beside(run_path: str | Path, kind: str) -> Path:
    path = Path(Path(run_path).name) if is_url(run_path) else named_path(run_path)
    stem = path.name.removesuffix(_SUFFIX)
    return path.with_name(f"{kind}.zarr" if stem == "run" else f"{stem}.{kind}.zarr")


def named_path(path: str | Path) -> Path:
    """Return a path that ends in a name: the current folder and those above it have others.

    Examples
    --------
    >>> named_path("out/run.zarr").as_posix(), named_path(".") == Path.cwd()
    ('out/run.zarr', True)
    """
    path = Path(path)
    return path.resolve() if path.name in ("", "..") else path


def find_maps(run_path: str | Path) -> Path | None:
    """Return the maps store at `default_maps_path`, if it is there and was made from the run.

    Parameters
    ----------
    run_path : str or Path

    Returns
    -------
    Path or None

    Raises
    ------
    StoreError
        If what lies there cannot be read: other maps, computed anew, would take its place unnoticed.

    Examples
    --------
    >>> find_maps("no-such-run.zarr") is None
    True
    """
    return _find(run_path, "maps")


def find_effects(run_path: str | Path) -> Path | None:
    """Return the effects store at `default_effects_path`, if it is there and is of the run.

    Parameters
    ----------
    run_path : str or Path

    Returns
    -------
    Path or None

    Raises
    ------
    StoreError
        If what lies there cannot be read.

    Examples
    --------
    >>> find_effects("no-such-run.zarr") is None
    True
    """
    return _find(run_path, "effects")


def _find(run_path: str | Path, kind: str) -> Path | None:
    path = _beside(run_path, kind)
    if not path.is_dir() or not any(path.iterdir()):
        return None
    try:
        own = own_attributes(open_root(path))
    except StoreError as e:
        msg = f"{e} It lies where the {kind} of {run_path} belong: name other {kind}, or move it away."
        raise StoreError(msg) from e
    # By name alone: the two are often moved together.
    is_ours = (
        own.get("kind") == kind and Path(str(own.get("source", ""))).name == Path(run_path).name
    )
    return path if is_ours else None


def effects_of(run: StoreLike, effects: StoreLike | None = None) -> Effects:
    """Open the effects of a run: those that are named, or those beside it.

    Raises
    ------
    StoreError
        If there are none.
    """
    if effects is None:
        effects = find_effects(run) if isinstance(run, str | Path) else None
    if effects is None:
        msg = (
            f"Expected measured effects beside the run, got none, at {run}. Name them, or measure them: "
            "'i2am causal'."
        )
        raise StoreError(msg)
    return open_effects(effects)


def run_of(maps: Maps, run: StoreLike | None = None) -> Run:
    """Return the run that maps were made from.

    Parameters
    ----------
    maps : Maps
        As `open_maps` gives it.
    run : str, Path or zarr Store, optional
        Where the run is; by default what the maps' ``source`` says: a folder beside the maps, or a
        local path.

    Raises
    ------
    StoreError
        If no run is there; or if the maps name one that is not followed without being asked: a URL,
        a path on another machine, or a relative one that leads elsewhere than beside the maps.

    Notes
    -----
    Maps may come from a stranger. A request to an address that they name would be signed with the
    user's keys and tell who opened them; a path on another Windows machine would send a password's
    hash. A local run is read through the same checks as any store, and what is read goes nowhere.
    """
    if run is not None:
        return open_run(run)
    source = str(maps.attributes.get("source"))
    found = _local_source(source, maps.path)
    if found is None:
        msg = (
            f"Expected to be told where the run is, got only the maps' own word, {source!r}, "
            f"at {maps.path}. If you trust that, name it: --run RUN, or run= in Python."
        )
        raise StoreError(msg)
    return open_run(found)


def _local_source(source: str, maps_path: StoreLike) -> Path | None:
    """Return the local folder that maps name as their run; None where it must not be followed."""
    if is_url(source) or source.startswith(("//", "\\\\", *_AUTOMOUNTED)):
        return None
    path = Path(source)
    if path.is_absolute():
        return path
    if not isinstance(maps_path, str | Path) or is_url(maps_path):
        return None
    # As `analyze_run` writes it: the two lie in one folder, and may be moved together.
    parts = path.parts
    if len(parts) != 2 or parts[0] != ".." or parts[1] == ".." or "\\" in source:
        return None
    return Path(maps_path).resolve().parent / parts[1]
