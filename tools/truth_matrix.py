"""Try every situation of the truth matrix, and print how many were right, refused or wrong, and why.

Run from the project's root: ``.venv/bin/python tools/truth_matrix.py [--count 640] [--seed 0]``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.truth_matrix import draw_situations, try_situation


def main() -> int:
    """Return 1 if any situation was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--verbose", action="store_true", help="every situation, not the wrong alone"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    verdicts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for situation in draw_situations(options.count, options.seed):
        with tempfile.TemporaryDirectory() as folder:
            outcome = try_situation(situation, Path(folder) / "run.zarr")
        verdicts[outcome.verdict] += 1
        if outcome.verdict != "right":
            reasons[outcome.verdict, _kind(outcome.reason)] += 1
        if options.verbose or outcome.verdict == "wrong":
            sys.stdout.write(f"{outcome.verdict}: {situation}: {outcome.reason}\n")
    for (verdict, reason), count in sorted(reasons.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"{count:4} {verdict}: {reason}\n")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    sys.stdout.write(f"{options.count} situations: {counts}\n")
    return 1 if verdicts["wrong"] else 0


def _kind(reason: str) -> str:
    """Return a reason without its names and numbers, so that like ones are counted together."""
    return re.sub(r"'[^']*'|\d[\d.e+-]*", "…", reason)[:150]


if __name__ == "__main__":
    sys.exit(main())
