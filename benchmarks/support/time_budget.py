"""How long a benchmark may take, and what it left out to stay within."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["TimeBudget"]


@dataclass
class TimeBudget:
    """Seconds that may be spent from now on.

    Parameters
    ----------
    seconds : float
    left_out : list of str
        What did not fit; parts of a budget write into the whole's.
    """

    seconds: float
    left_out: list[str] = field(default_factory=list)
    _start_s: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds that are left, below 0 when they are used up."""
        return self._start_s + self.seconds - time.monotonic()

    def part(self, share: float) -> TimeBudget:
        """Return a budget of a share of what is left."""
        return TimeBudget(share * self.left_s, self.left_out)

    def has_room(self, seconds: float, what: str) -> bool:
        """Return whether something that takes so long fits; if not, note that it is left out."""
        if seconds <= self.left_s:
            return True
        self.left_out.append(what)
        return False
