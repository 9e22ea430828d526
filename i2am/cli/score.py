"""The command ``i2am score``: every score of every sample, of every head, and against measured effects."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import add_command, existing_store, new_path, number, print_clusters
from i2am.cli.json_output import add_json, print_json
from i2am.cli.options import add_earlier_spelling, add_option
from i2am.cli.score_pictures import (
    add_pictures,
    check_pictures,
    print_pictures,
    score_pictures,
)
from i2am.cli.score_truth import add_points, check_points, print_points, score_known_points
from i2am.schemas import AnalysisError
from i2am.schemas.choices import EFFECT_KINDS
from i2am.schemas.text import safe_text

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from i2am.analysis import Run

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "score",
        _score,
        "score the maps: IMACS, detection, spread",
        examples=(
            "i2am score maps.zarr --out scores.csv",
            "i2am score maps.zarr --effects --effects-out faithfulness.csv",
            "i2am score maps.zarr --points points.csv --quality rows.csv",
        ),
    )
    command.add_argument("store", type=existing_store, metavar="MAPS.zarr", help="maps of a run")
    add_option(command, "--run")
    add_option(command, "--samples")
    command.add_argument(
        "--out",
        type=new_path,
        metavar="FILE.csv",
        help="table of each sample's scores to write, .csv or .parquet; default: only print",
    )
    heads = command.add_argument(
        "--heads-out",
        type=new_path,
        metavar="FILE.csv",
        help="table of every head at every step to write, .csv or .parquet; default: none",
    )
    add_earlier_spelling(command, "--heads", heads)
    add_option(command, "--overwrite")
    add_json(command)
    for name in ("--confidence", "--cluster"):
        add_option(command, name)
    _add_imacs(command.add_argument_group("IMACS and detection"))
    _add_effects(command.add_argument_group("against measured effects"))
    add_points(command.add_argument_group("against places that are known to correspond"))
    add_pictures(command.add_argument_group("generated images against true ones"))


def _add_imacs(group: Any) -> None:
    group.add_argument(
        "--penalty",
        type=number,
        default=3.0,
        metavar="NUMBER",
        help="λ of IMACS: how much attention outside the mask counts against a map",
    )
    group.add_argument(
        "--threshold",
        type=number,
        default=0.4,
        metavar="SHARE",
        help="of IMACS: attention up to here counts as 0, in a map that runs from 0 to 1",
    )
    add_option(group, "--polarity", default="direct")
    group.add_argument(
        "--premask",
        action="store_true",
        help="multiply G2R by the mask before IMACS_r, as the authors' code does",
    )


def _add_effects(group: Any) -> None:
    add_option(
        group,
        "--effects",
        nargs="?",
        const=True,
        adds="the maps are compared with it; without an address: beside the run; default: not used",
    )
    group.add_argument(
        "--effect-kind",
        choices=EFFECT_KINDS,
        help="which effect of a region the maps are compared with; default: total",
    )
    group.add_argument(
        "--effects-out",
        type=new_path,
        metavar="FILE.csv",
        help="table of --effects to write, .csv or .parquet; default: only print",
    )
    randomized = group.add_argument(
        "--randomized",
        type=existing_store,
        metavar="RUN.zarr",
        help="of --effects: a run of the same samples by the same model with random weights; default: none",
    )
    add_earlier_spelling(group, "--randomised", randomized)


def _score(options: argparse.Namespace) -> None:
    from i2am.analysis import (
        open_maps,
        open_run,
        sample_clusters,
        score_maps,
        summarise_scores,
        write_head_scores,
    )
    from i2am.analysis.stores.related import effects_of, run_of

    _check(options)
    shared = {"run": options.source, "samples": options.samples, "overwrite": options.overwrite}
    run = run_of(open_maps(options.store), options.source)
    if options.effects is not None:  # What cannot be opened is told before anything is written.
        effects_of(run.path, None if options.effects is True else options.effects)
    if options.randomized:
        open_run(options.randomized)
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
    names = list(dict.fromkeys(table["sample"]))
    found = {
        "store": options.store,
        "confidence": options.confidence,
        "samples": names,
        "clusters": len({clusters[name] for name in names}),
        "scores": summary.to_dict("index"),
    }
    if not options.json:
        print(summary.to_string(float_format="{:.4f}".format, na_rep=""))
        print_clusters(clusters, names)
    _tell_written(options, "Scores", options.out)
    if options.heads_out:
        ranking = write_head_scores(options.store, options.heads_out, **shared)
        found["heads"] = ranking.to_dict("records")
        if not options.json:
            _print_heads(ranking)
        _tell_written(options, "Heads", options.heads_out)
    if options.effects is not None:
        effects = _score_effects(options, run, clusters)
        found["effects"] = _by_map(effects)
        if not options.json:
            _print_effects(effects, options.effect_kind or "total")
        _tell_written(options, "Effects", options.effects_out)
    if options.points:
        points = score_known_points(options, run, clusters)
        found["points"] = points.reset_index().to_dict("records")
        if not options.json:
            print_points(points)
        _tell_written(options, "Points", options.points_out)
    if options.quality:
        pictures = score_pictures(options, run, table, clusters)
        found["pictures"] = {
            kind: own.reset_index().to_dict("records") for kind, own in pictures.items()
        }
        if not options.json:
            print_pictures(pictures)
        _tell_written(options, "Quality", options.quality_out)
    if options.json:
        print_json(found)


def _check(options: argparse.Namespace) -> None:
    """Check outputs and options before scores are computed.

    Raises
    ------
    AnalysisError
        If an option has no use without another, or two tables would be one file.
    StoreError
        If a table cannot be written where it should.
    """
    from i2am.analysis.stores.tables import check_table_path

    of_effects = {
        "--effect-kind": options.effect_kind,
        "--effects-out": options.effects_out,
        "--randomized": options.randomized,
    }
    given = [name for name, value in of_effects.items() if value]
    if options.effects is None and given:
        msg = f"Expected --effects beside {' and '.join(given)}, got none. Add --effects."
        raise AnalysisError(msg)
    check_points(options)
    check_pictures(options)
    tables = (
        *(options.out, options.heads_out, options.effects_out),
        *(options.points_out, options.quality_out),
    )
    outputs = [path for path in tables if path]
    for path in outputs:
        check_table_path(path, overwrite=options.overwrite)
        if outputs.count(path) > 1:
            msg = f"Expected a file for each table, got {path} twice. Name another file."
            raise AnalysisError(msg)


def _tell_written(options: argparse.Namespace, what: str, path: Path | None) -> None:
    if path and not options.json:
        print(f"{what}: {path}")


def _score_effects(options: argparse.Namespace, run: Run, clusters: dict[str, str]) -> pd.DataFrame:
    """Hold the maps against measured effects, and return the means by map and score."""
    from i2am.analysis import score_effects, summarise_effect_scores

    table = score_effects(
        run.path,
        None if options.effects is True else options.effects,
        samples=options.samples,
        kind=options.effect_kind or "total",
        randomised=options.randomized,
        out=options.effects_out,
        overwrite=options.overwrite,
    )
    return summarise_effect_scores(table, options.confidence, clusters)


def _by_map(summary: pd.DataFrame) -> dict[str, Any]:
    """Return the means of each map, by score."""
    found: dict[str, Any] = {}
    for (name, score), own in zip(summary.index, summary.to_dict("records"), strict=True):
        found.setdefault(name, {})[score] = own
    return found


def _print_effects(summary: pd.DataFrame, kind: str) -> None:
    """Print one line for each map."""
    from i2am.analysis.stores.effects import NO_EFFECT_SHARE

    shown = summary["mean"].unstack("score")
    ends = summary.xs("rank_correlation", level="score")[["low", "high"]]
    shown = shown[[name for name in summary.index.unique("score") if name in shown]]
    shown = shown.join(ends.add_prefix("rank_correlation_")).reindex(summary.index.unique("map"))
    if "share_of_effect" in shown:
        has_none = shown["share_of_effect"] < NO_EFFECT_SHARE
        shown["note"] = has_none.map({True: "no effect", False: ""})
    text = shown.to_string(float_format="{:.3f}".format, na_rep="")
    print(f"\nMaps against {kind} effects, means over samples")
    print(safe_text(text, keep="\n"))  # Layers have the names that the store gives them.


def _print_heads(ranking: Any, shown: int = 3) -> None:
    """Print the heads that gather their attention most and least, of each direction."""
    for direction, heads in ranking.groupby("direction", sort=False):
        for which, some in (("most", heads.head(shown)), ("least", heads.tail(shown)[::-1])):
            print(f"\n{direction}: the {which} concentrated heads, over samples and steps")
            columns = some.drop(columns="direction")
            text = columns.to_string(index=False, float_format="{:.4f}".format, na_rep="")
            print(safe_text(text, keep="\n"))  # Layers have the names that the store gives them.
