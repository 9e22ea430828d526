"""What ``i2am score`` holds against the truth: SRAM's peaks against known places."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import existing_file, new_path, share
from i2am.cli.parser import ListAction
from i2am.schemas import AnalysisError
from i2am.schemas.text import safe_text

if TYPE_CHECKING:
    import pandas as pd

    from i2am.analysis import Run

__all__ = ["add_points", "check_points", "print_points", "score_known_points"]

_KEPT = ("layer", "step", "head")


def add_points(group: Any) -> None:
    """Add the options of known places."""
    group.add_argument(
        "--points",
        type=existing_file,
        metavar="FILE",
        help="table of places that correspond, .csv or .parquet: sample, y, x on the generated image, "
        "reference_y, reference_x, in pixels, and radius, if any; default: none",
    )
    group.add_argument(
        "--points-by",
        nargs="+",
        action=ListAction,
        choices=_KEPT,
        default=(),
        metavar="DIM",
        help=f"of --points: a row for each of these, of {', '.join(_KEPT)}; default: none, the mean",
    )
    group.add_argument(
        "--alpha",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="of --points without a radius: a peak is right within this share of the reference's longer "
        "side",
    )
    group.add_argument(
        "--points-out",
        type=new_path,
        metavar="FILE.csv",
        help="table of --points to write, .csv or .parquet; default: only print",
    )


def check_points(options: argparse.Namespace) -> None:
    """Raise an AnalysisError for what is wrong with the call or the table, before anything is computed."""
    from i2am.analysis import read_points

    if options.points:
        read_points(options.points)
    elif options.points_out or options.points_by:
        msg = "Expected --points beside --points-out and --points-by, got none. Add --points."
        raise AnalysisError(msg)


def score_known_points(
    options: argparse.Namespace, run: Run, clusters: dict[str, str]
) -> pd.DataFrame:
    """Hold SRAM's peaks against known places, and return the mean error and the share of hits."""
    from i2am.analysis import read_points, score_points, summarise_points

    points = read_points(options.points)
    if options.samples:
        points = points[points["sample"].isin(options.samples)]
    table = score_points(
        run.path,
        points,
        alpha=options.alpha,
        keep=options.points_by,
        out=options.points_out,
        overwrite=options.overwrite,
        progress=True,
    )
    return summarise_points(table, options.confidence, clusters)


def print_points(summary: pd.DataFrame) -> None:
    """Print the mean error and the share of hits."""
    text = summary.to_string(float_format="{:.3f}".format, na_rep="")
    print(
        "\nPeaks of SRAM against known places: error in pixels of the reference, share of hits (PCK)"
    )
    print(safe_text(text, keep="\n"))  # Layers have the names that the store gives them.
