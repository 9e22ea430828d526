"""One file a score; the table of all of them.

May import `intervals`, `kernel` and `stores`. A score is ``SCORE = Score(…)`` in a file of its own, and one line
in `SCORES`.
"""

from __future__ import annotations

from typing import Final

from i2am.analysis.scores import detection, imacs, spread
from i2am.analysis.scores.score import Score

__all__ = ["SCORES"]

# In the order of the tables.
SCORES: Final[tuple[Score, ...]] = (imacs.SCORE, detection.SCORE, spread.SCORE)
