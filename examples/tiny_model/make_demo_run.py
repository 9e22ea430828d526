"""Capture the run that the viewer ships as sample data: the demo's pictures in ten steps.

    python examples/tiny_model/make_demo_run.py

Run it again when the shipped model or the store's layout changes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from i2am.capture import DEMO_MANIFEST, SHIPPED_MODEL, capture_manifest

OUT: Final = Path(__file__).parents[2] / "viewer" / "demo.zarr"
STEPS: Final = 10  # enough to see attention form, few enough to ship


def main() -> None:
    """Write the run in place of the one that is there."""
    shutil.rmtree(OUT, ignore_errors=True)
    capture_manifest(SHIPPED_MODEL, DEMO_MANIFEST, OUT, steps=STEPS, shard=(0, 1))


if __name__ == "__main__":
    main()
