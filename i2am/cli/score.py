"""The command ``i2am score``: every score of every sample, and of every head."""

from __future__ import annotations

import argparse
from typing import Any

from i2am.cli.arguments import add_command, existing_store, new_path, number, sample_name, share
from i2am.schemas.choices import POLARITIES
from i2am.schemas.text import safe_text

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(commands, "score", _score, "score the maps: IMACS, detection, spread")
    command.add_argument("store", type=existing_store, metavar="MAPS.zarr")
    command.add_argument(
        "--run", dest="source", type=existing_store, metavar="RUN.zarr", help="where the masks are"
    )
    command.add_argument(
        "--samples", nargs="+", type=sample_name, metavar="SAMPLE", help="default: all"
    )
    command.add_argument("--out", type=new_path, metavar="FILE.csv", help="or .parquet")
    command.add_argument(
        "--heads",
        type=new_path,
        metavar="FILE.csv",
        help="or .parquet: of every head at every step",
    )
    command.add_argument("--penalty", type=number, default=3.0, help="λ of IMACS; default 3")
    command.add_argument("--threshold", type=number, default=0.4, help="of IMACS; default 0.4")
    command.add_argument("--polarity", choices=POLARITIES, default="direct")
    command.add_argument(
        "--premask", action="store_true", help="IMACS_r of G2R times the mask, as the authors' code"
    )
    command.add_argument(
        "--confidence", type=share, default=0.95, help="of the intervals; default 0.95"
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is there")


def _score(options: argparse.Namespace) -> None:
    from i2am.analysis import score_maps, summarise_scores, write_head_scores
    from i2am.analysis.stores.tables import check_table_path

    shared = {"run": options.source, "samples": options.samples, "overwrite": options.overwrite}
    if options.heads:  # A wrong name is told before the scores are computed and written.
        check_table_path(options.heads, overwrite=options.overwrite)
    table = score_maps(
        options.store,
        out=options.out,
        penalty=options.penalty,
        threshold=options.threshold,
        polarity=options.polarity,
        premask=options.premask,
        **shared,
    )
    summary = summarise_scores(table, options.confidence)
    print(summary.to_string(float_format="{:.4f}".format, na_rep=""))
    if options.out:
        print(f"Scores: {options.out}")
    if options.heads:
        _print_heads(write_head_scores(options.store, options.heads, **shared))
        print(f"Heads: {options.heads}")


def _print_heads(ranking: Any, shown: int = 3) -> None:
    """Print the heads that gather their attention most and least, of each direction."""
    for direction, heads in ranking.groupby("direction", sort=False):
        for which, some in (("most", heads.head(shown)), ("least", heads.tail(shown)[::-1])):
            print(f"\n{direction}: the {which} concentrated heads, over samples and steps")
            columns = some.drop(columns="direction")
            text = columns.to_string(index=False, float_format="{:.4f}".format, na_rep="")
            print(safe_text(text, keep="\n"))  # Layers have the names that the store gives them.
