"""What ``i2am score`` holds generated images against: true ones, and IMACS against the outcome."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import existing_path, new_path
from i2am.cli.parser import ListAction
from i2am.schemas import AnalysisError
from i2am.schemas.choices import PAIR_METRICS, SET_METRICS

if TYPE_CHECKING:
    import pandas as pd

    from i2am.analysis import Run

__all__ = ["add_pictures", "check_pictures", "print_pictures", "score_pictures"]

# What quality is held against, as in the paper's table.
_CORRELATED = ("imacs_g", "imacs_r")
_TITLES = {
    "quality": "Generated images against true ones",
    "correlations": "Rank correlation of IMACS with quality, over samples",
    "sets": "Generated images against true ones, as sets",
}


def add_pictures(group: Any) -> None:
    """Add the options of true pictures."""
    group.add_argument(
        "--quality",
        type=existing_path,
        metavar="PATH",
        help="true pictures, as large as the generated images: a folder with SAMPLE.png, or a manifest "
        "with a column of files; default: none",
    )
    group.add_argument(
        "--truth-column",
        default="truth",
        metavar="COLUMN",
        help="of a manifest at --quality: the column that names the true pictures",
    )
    group.add_argument(
        "--metrics",
        nargs="+",
        action=ListAction,
        choices=(*PAIR_METRICS, *SET_METRICS),
        default=("ssim", "psnr"),
        metavar="METRIC",
        help=f"of --quality, of {', '.join((*PAIR_METRICS, *SET_METRICS))}; the last three need "
        "i2am[metrics]; default: ssim psnr",
    )
    group.add_argument(
        "--quality-out",
        type=new_path,
        metavar="FILE.csv",
        help="table of --quality by sample to write, .csv or .parquet; default: only print",
    )


def check_pictures(options: argparse.Namespace) -> None:
    """Raise an AnalysisError for what is wrong with the call or its files, before anything is computed."""
    from i2am.analysis import find_true_pictures

    if options.quality:
        find_true_pictures(options.quality, options.truth_column)
    elif options.quality_out:
        msg = "Expected --quality beside --quality-out, got none. Add --quality."
        raise AnalysisError(msg)
    if options.quality_out and not set(options.metrics) & set(PAIR_METRICS):
        msg = (
            f"Expected a metric of single samples beside --quality-out, got {' and '.join(options.metrics)} "
            f"alone. Add one of {', '.join(PAIR_METRICS)}."
        )
        raise AnalysisError(msg)


def score_pictures(
    options: argparse.Namespace, run: Run, scores: pd.DataFrame, clusters: dict[str, str]
) -> dict[str, pd.DataFrame]:
    """Hold generated images against true ones, and return what is printed, by kind of table."""
    from i2am.analysis import (
        picture_distances,
        picture_quality,
        rank_correlations,
        summarise_scores,
    )

    shared = {"column": options.truth_column, "samples": options.samples}
    of_pairs = [metric for metric in options.metrics if metric in PAIR_METRICS]
    of_sets = [metric for metric in options.metrics if metric in SET_METRICS]
    found: dict[str, pd.DataFrame] = {}
    if of_pairs:
        table = picture_quality(
            run.path,
            options.quality,
            metrics=of_pairs,
            out=options.quality_out,
            overwrite=options.overwrite,
            progress=True,
            **shared,
        )
        found["quality"] = summarise_scores(table, options.confidence, clusters)
        held = scores[scores["score"].isin(_CORRELATED)]
        found["correlations"] = rank_correlations(held, table, options.confidence, clusters)
    if of_sets:
        found["sets"] = picture_distances(run.path, options.quality, metrics=of_sets, **shared)
    return found


def print_pictures(found: dict[str, pd.DataFrame]) -> None:
    """Print the tables of `score_pictures`."""
    for kind, table in found.items():
        if len(table):
            text = table.to_string(float_format="{:.4f}".format, na_rep="")
            print(f"\n{_TITLES[kind]}\n{text}")
