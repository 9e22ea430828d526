"""When to stop: a store that fails two samples in a row fails all that follow.

A full disk, a missing right or a bucket that is gone is met by every sample alike, each at the price of
its computation. One failure alone may pass: a re-run does that sample again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from i2am.schemas import StorageError

__all__ = ["StoreStrikes"]

_MOST: Final = 2


@dataclass
class StoreStrikes:
    """Counts the samples in a row that a store did not take or give.

    Examples
    --------
    >>> strikes = StoreStrikes()
    >>> for error in (StorageError("full"), ValueError("wrong"), StorageError("full")):
    ...     strikes.failed(error)
    >>> strikes.is_out
    False
    >>> strikes.failed(StorageError("full"))
    >>> strikes.is_out
    True
    """

    in_row: int = 0

    def failed(self, error: Exception) -> None:
        """Count an error; one that is not the store's says nothing of it."""
        if not isinstance(error, StorageError):
            self.in_row = 0
            return
        # A note says that not even the sample's status could be written.
        self.in_row += _MOST if getattr(error, "__notes__", ()) else 1

    def done(self) -> None:
        """Forget what failed: the store works."""
        self.in_row = 0

    @property
    def is_out(self) -> bool:
        """Whether to try no further sample."""
        return self.in_row >= _MOST
