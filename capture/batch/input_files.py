"""The images of a manifest's rows, looked at before a model is loaded and anything is written.

Of many thousand rows this would take longer than the capture of the first, so it is bounded: images
of some megapixels in all are read wholly, those of the first thousand rows are opened, and what is
left is found when its row is captured. The bounds are numbers and no time, so that the answer is
the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from i2am.capture.batch.sample_images import SampleImages
from i2am.capture.images.image_inputs import check_image_file
from i2am.schemas import ManifestRow, SchemaError

__all__ = ["find_unreadable"]

_MOST_ROWS: Final = 1000
_MOST_PIXELS: Final = 64_000_000  # about two seconds


def find_unreadable(rows: Iterable[ManifestRow]) -> dict[str, str]:
    """Return the samples whose images cannot be captured, and why.

    Parameters
    ----------
    rows : iterable of ManifestRow
        Looked at are the first thousand.

    Returns
    -------
    dict of str to str
        The reason by sample, as `CaptureSummary.failed` holds it.
    """
    found: dict[str, str] = {}
    pixels: dict[Path, int] = {}
    left = _MOST_PIXELS
    for row in islice(rows, _MOST_ROWS):
        try:
            files = [path for path in _image_files(row) if path not in pixels]
            pixels |= {path: check_image_file(path) for path in files}
            left -= sum(pixels[path] for path in _image_files(row))
            if left >= 0:
                SampleImages.open(row)
        except SchemaError as e:
            found[row.sample] = f"{type(e).__name__}: {e}"
    return found


def _image_files(row: ManifestRow) -> list[Path]:
    own = (row.reference, row.source, row.mask, row.reference_mask)
    return [path for path in (*own, *row.other_references().values()) if path is not None]
