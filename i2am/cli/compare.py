"""The command ``i2am compare``: two runs side by side, and what of them to print."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from i2am.cli.arguments import add_command, existing_store, new_path, print_clusters
from i2am.cli.options import add_option
from i2am.schemas.text import safe_text

if TYPE_CHECKING:
    import pandas as pd

    from i2am.analysis import RunPair

__all__ = ["add"]

_SHOWN: Final = 5


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "compare",
        _compare,
        "compare two runs: attention of B minus that of A",
        examples=(
            "i2am compare with.zarr without.zarr",
            "i2am compare with.zarr without.zarr --out comparison --confidence 0.99",
        ),
    )
    command.add_argument("store", type=existing_store, metavar="RUN_A", help="first run")
    command.add_argument(
        "other",
        type=existing_store,
        metavar="RUN_B",
        help="second run, of samples of the same names",
    )
    for letter in "ab":
        command.add_argument(
            f"--maps-{letter}",
            type=existing_store,
            metavar="MAPS.zarr",
            help=f"maps of {letter.upper()}; default: beside the run, else computed",
        )
    add_option(command, "--samples", adds="default: all that both runs hold")
    command.add_argument(
        "--out",
        type=new_path,
        metavar="DIR",
        help="folder for tables, maps of differences and figures; default: only print",
    )
    add_option(command, "--overwrite")
    command.add_argument(
        "--by-step",
        action="store_true",
        help="compare every denoising step, too; reads the volumes",
    )
    for name in ("--confidence", "--cluster"):
        add_option(command, name)


def _compare(options: argparse.Namespace) -> None:
    from i2am.analysis import (
        compare_runs,
        pair_runs,
        sample_clusters,
        summarise_comparison,
        write_comparison,
    )

    pair = pair_runs(
        options.store,
        options.other,
        maps_a=options.maps_a,
        maps_b=options.maps_b,
        samples=options.samples,
    )
    clusters = sample_clusters(pair.run_a, pair.names, options.cluster)
    if options.out is None:
        table = compare_runs(pair, by_step=options.by_step, progress=True)
    else:
        table = write_comparison(
            pair,
            options.out,
            confidence=options.confidence,
            cluster=options.cluster,
            by_step=options.by_step,
            overwrite=options.overwrite,
        )
    summary = summarise_comparison(table, options.confidence, clusters)
    # Layers have the names that the stores give them.
    sys.stdout.write(
        safe_text("\n".join(_lines(pair, summary, by_step=options.by_step)), keep="\n") + "\n"
    )
    print_clusters(clusters, pair.names)
    if options.out:
        sys.stdout.write(f"Comparison: {options.out}\n")


def _lines(pair: RunPair, summary: pd.DataFrame, *, by_step: bool) -> list[str]:
    """Return what is printed: what was compared, the unified maps, and where most differs."""
    lines = [f"A: {pair.run_a.path}", f"B: {pair.run_b.path}"]
    count = len(pair.names)
    left_out = f"; left out: {pair.only_a} of A alone, {pair.only_b} of B alone"
    only = left_out if pair.only_a or pair.only_b else ""
    lines.append(f"{count} pair{'s' if count > 1 else ''} of samples{only}")
    levels = set(summary["level"])
    if "layer" not in levels:
        lines.append("No layer has the same name in both: compared at sample level alone.")
    elif "head" not in levels:
        lines.append("Not all layers are the same in both: heads are not compared.")
    if by_step and "step" not in levels:
        lines.append("The timesteps are not the same in both: steps are not compared.")
    unified = summary[summary["level"] == "ulam"]
    lines += ["", "All layers and heads together", _text(unified.drop(columns=["level", "label"]))]
    for level in ("layer", "head", "step"):
        # Differences of shares; the two maps' agreement is none.
        of_level = summary[(summary["level"] == level) & summary["mean_a"].notna()]
        by_size = of_level.sort_values("mean_difference", key=abs, ascending=False)
        shown = by_size.drop_duplicates(["direction", "label"]).head(_SHOWN)
        if len(shown):
            shown = shown.drop(columns="level").rename(columns={"label": level})
            lines += ["", f"The {level}s that differ most, each by its largest difference"]
            lines.append(_text(shown))
    return lines


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format="{:.4f}".format, na_rep="")
