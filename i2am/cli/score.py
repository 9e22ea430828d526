"""The command ``i2am score``: every score of every sample, of every head, and against measured effects."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import (
    add_command,
    add_interval,
    existing_store,
    new_path,
    number,
    print_clusters,
    sample_name,
)
from i2am.schemas import AnalysisError
from i2am.schemas.choices import EFFECT_KINDS, POLARITIES
from i2am.schemas.text import safe_text

if TYPE_CHECKING:
    from i2am.analysis import Run

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
    add_interval(command)
    command.add_argument(
        "--effects",
        nargs="?",
        const=True,
        type=existing_store,
        metavar="EFFECTS.zarr",
        help="hold the maps against what 'i2am causal' measured; without an address: beside the run",
    )
    command.add_argument(
        "--effect-kind",
        choices=EFFECT_KINDS,
        default="total",
        help="of the regions; default: total",
    )
    command.add_argument(
        "--effects-out", type=new_path, metavar="FILE.csv", help="or .parquet: of --effects"
    )
    command.add_argument(
        "--randomised",
        type=existing_store,
        metavar="RUN.zarr",
        help="of --effects: the same samples by the same model with random weights",
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is there")


def _score(options: argparse.Namespace) -> None:
    from i2am.analysis import (
        open_maps,
        sample_clusters,
        score_maps,
        summarise_scores,
        write_head_scores,
    )
    from i2am.analysis.stores.related import run_of
    from i2am.analysis.stores.tables import check_table_path

    shared = {"run": options.source, "samples": options.samples, "overwrite": options.overwrite}
    for path in (options.heads, options.effects_out):
        if path:  # A wrong name is told before the scores are computed and written.
            check_table_path(path, overwrite=options.overwrite)
    if options.effects is None and (options.effects_out or options.randomised):
        msg = "Expected --effects beside --effects-out and --randomised, got none. Add --effects."
        raise AnalysisError(msg)
    run = run_of(open_maps(options.store), options.source)
    clusters = sample_clusters(run, options.samples, options.cluster)
    table = score_maps(
        options.store,
        out=options.out,
        penalty=options.penalty,
        threshold=options.threshold,
        polarity=options.polarity,
        premask=options.premask,
        **shared,
    )
    summary = summarise_scores(table, options.confidence, clusters)
    print(summary.to_string(float_format="{:.4f}".format, na_rep=""))
    print_clusters(clusters, set(table["sample"]))
    if options.out:
        print(f"Scores: {options.out}")
    if options.heads:
        _print_heads(write_head_scores(options.store, options.heads, **shared))
        print(f"Heads: {options.heads}")
    if options.effects is not None:
        _score_effects(options, run, clusters)
        if options.effects_out:
            print(f"Effects: {options.effects_out}")


def _score_effects(options: argparse.Namespace, run: Run, clusters: dict[str, str]) -> None:
    """Hold the maps against measured effects, and print one line for each map."""
    from i2am.analysis import score_effects, summarise_effect_scores
    from i2am.analysis.stores.effects import NO_EFFECT_SHARE

    table = score_effects(
        run.path,
        None if options.effects is True else options.effects,
        samples=options.samples,
        kind=options.effect_kind,
        randomised=options.randomised,
        out=options.effects_out,
        overwrite=options.overwrite,
    )
    summary = summarise_effect_scores(table, options.confidence, clusters)
    shown = summary["mean"].unstack("score")
    ends = summary.xs("rank_correlation", level="score")[["low", "high"]]
    shown = shown[[name for name in summary.index.unique("score") if name in shown]]
    shown = shown.join(ends.add_prefix("rank_correlation_")).reindex(summary.index.unique("map"))
    if "share_of_effect" in shown:
        has_none = shown["share_of_effect"] < NO_EFFECT_SHARE
        shown["note"] = has_none.map({True: "no effect", False: ""})
    text = shown.to_string(float_format="{:.3f}".format, na_rep="")
    print(f"\nMaps against {options.effect_kind} effects, means over samples")
    print(safe_text(text, keep="\n"))  # Layers have the names that the store gives them.


def _print_heads(ranking: Any, shown: int = 3) -> None:
    """Print the heads that gather their attention most and least, of each direction."""
    for direction, heads in ranking.groupby("direction", sort=False):
        for which, some in (("most", heads.head(shown)), ("least", heads.tail(shown)[::-1])):
            print(f"\n{direction}: the {which} concentrated heads, over samples and steps")
            columns = some.drop(columns="direction")
            text = columns.to_string(index=False, float_format="{:.4f}".format, na_rep="")
            print(safe_text(text, keep="\n"))  # Layers have the names that the store gives them.
