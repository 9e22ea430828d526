"""Analyse a run on one thread, and print the largest resident memory that this process had, in bytes.

    python benchmarks/support/peak_of_analysis.py RUN.zarr MAPS.zarr

A process of its own, which imports nothing but the analysis.
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask

from i2am.analysis import analyze_run
from i2am.analysis.kernel.arithmetic import use_arithmetic


def peak_bytes() -> int:
    """Return the largest resident memory so far; what `fork` brought along does not count on Linux."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    # Or small runs would come without the compiler's 120 MB, and large ones with them.
    with ThreadPoolExecutor(1) as pool, dask.config.set(pool=pool), use_arithmetic("compiled"):
        analyze_run(sys.argv[1], sys.argv[2], progress=False)
    print(peak_bytes())
