"""Whether the files that a manifest names are there, without asking for each one of many.

A manifest of a hundred thousand rows names several hundred thousand files, mostly in a few folders. To ask
for each of them takes seconds on a disk and minutes over a network; to list a folder once does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["ManifestFiles"]

# So many files of a folder are asked for one by one: it may hold far more than the manifest names.
_ASKED_SINGLY: Final = 256


class ManifestFiles:
    """The files that a manifest may name, by paths as it has them.

    Parameters
    ----------
    folder : Path
        The manifest's own, which relative paths are taken from.

    Examples
    --------
    >>> files = ManifestFiles(Path("/no/such/folder"))
    >>> files.absolute("shirt.png"), files.has("/no/such/folder/shirt.png")
    ('/no/such/folder/shirt.png', False)
    >>> files.as_path("/no/such/folder/shirt.png").name
    'shirt.png'
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.absolute())
        self._folders: dict[str, Path] = {}
        self._asked: dict[str, int] = {}
        self._listed: dict[str, set[str]] = {}

    def absolute(self, path: str) -> str:
        """Return where a path leads to, as text: faster than as a Path, of which there are many."""
        return os.path.join(self._folder, path)  # noqa: PTH118 - see above

    def as_path(self, path: str) -> Path:
        """Return a path as one; its folder, which many share, is taken apart once."""
        folder, separator, name = path.rpartition(os.sep)
        if not separator:
            return Path(path)
        if (parent := self._folders.get(folder)) is None:
            parent = self._folders[folder] = Path(folder + separator)
        return parent / name

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        folder, _, name = path.rpartition(os.sep)  # os.path.split takes thrice as long.
        if name in self._listed.get(folder, ()):
            return True
        if os.path.isfile(path):  # noqa: PTH113 - see above; also what a listing spells otherwise
            asked = self._asked[folder] = self._asked.get(folder, 0) + 1
            if asked == _ASKED_SINGLY:
                self._listed[folder] = _file_names(folder)
            return True
        return False


def _file_names(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:  # A folder may be one to pass, and not to list.
        return set()
