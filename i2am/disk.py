"""What a disk is asked and says: whether a file is on it, and whether it is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

__all__ = ["has_no_room", "write_out"]

# Too full, beyond a quota, a file too large.
_NO_ROOM: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def has_no_room(error: OSError) -> bool:
    """Whether an error says that a disk has no room for what was to be written.

    Examples
    --------
    >>> has_no_room(OSError(errno.ENOSPC, "No space left on device")), has_no_room(OSError("torn"))
    (True, False)
    """
    return error.errno in _NO_ROOM


def write_out(path: Path) -> None:
    """Return when a file's content, or the names in a folder, would outlive a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders.
    number = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some file systems do not know it, of folders above all.
            raise
    finally:
        os.close(number)
