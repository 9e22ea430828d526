"""A table of places that are known to correspond: read, and checked before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from i2am.schemas import AnalysisError, SchemaError, did_you_mean, require

__all__ = ["PLACES", "RADIUS", "SAMPLE", "read_points"]

SAMPLE: Final = "sample"
# On the generated image, and where that comes from on the reference.
PLACES: Final = ("y", "x", "reference_y", "reference_x")
RADIUS: Final = "radius"


def read_points(points: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Return a table of corresponding places, checked.

    Parameters
    ----------
    points : str, Path or DataFrame
        A ``.csv`` or ``.parquet`` file, or the table itself. Columns: sample; y, x, a place in the
        stored generated image; reference_y, reference_x, the place in the stored reference image that it
        comes from; all in pixels. A whole number names a pixel, a fraction a position. ``radius``, if
        there is one, is the distance in pixels of the reference within which a peak is right. Other
        columns are left out.

    Returns
    -------
    DataFrame
        Columns sample (str), the four places and, if given, radius (float64); numbered from 0.

    Raises
    ------
    AnalysisError
        If a column is missing, there is no row, a place is no number, or a radius is not above 0.
    SchemaError
        If the file is no such table.

    Examples
    --------
    >>> row = {"sample": "a", "y": 3, "x": 5, "reference_y": 7.5, "reference_x": 1}
    >>> read_points(pd.DataFrame([row])).to_dict("records")
    [{'sample': 'a', 'y': 3.0, 'x': 5.0, 'reference_y': 7.5, 'reference_x': 1.0}]
    """
    at = "points" if isinstance(points, pd.DataFrame) else str(points)
    table = points if isinstance(points, pd.DataFrame) else _read(Path(points))
    names = [str(column) for column in table.columns]
    for column in (SAMPLE, *PLACES):
        if column not in names:
            msg = f"Expected a column {column!r}, got none, at {at}. {did_you_mean(column, names)}"
            raise AnalysisError(msg)
    if table.empty:
        msg = f"Expected at least one point, got none, at {at}. Give a row for each."
        raise AnalysisError(msg)
    numbers = [*PLACES, *([RADIUS] if RADIUS in names else [])]
    found = pd.DataFrame({SAMPLE: table[SAMPLE].astype(str)})
    for column in numbers:
        values = pd.to_numeric(table[column], errors="coerce").astype(float)
        is_wrong = ~np.isfinite(values) | ((values <= 0) if column == RADIUS else False)
        if is_wrong.any():
            row = int(np.flatnonzero(is_wrong)[0])
            wanted = "a radius above 0" if column == RADIUS else "a place in pixels"
            msg = (
                f"Expected {wanted}, got {table[column].tolist()[row]!r}, at {column} of row {row + 1} of "
                f"{at}. Correct it or leave the row out."
            )
            raise AnalysisError(msg)
        found[column] = values
    return found.reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            require("pyarrow", "to read a Parquet table", "export")
            return pd.read_parquet(path)
        # A sample may be called "NA" or "007": neither a missing name nor a number.
        return pd.read_csv(path, dtype={SAMPLE: str}, keep_default_na=False)
    except (ValueError, OSError) as e:
        reason = " ".join(str(e).split())
        msg = f"Expected a table as .csv or .parquet, got another file, at {path} ({reason}). "
        raise SchemaError(msg + f"Columns: {', '.join((SAMPLE, *PLACES))}.") from e
