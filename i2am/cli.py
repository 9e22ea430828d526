"""The command line: parse, call one function of a stage, print.

Exit codes: 0 done, 1 the work failed or something is invalid, 2 the call is wrong. Errors are one
line on standard error; ``--debug`` shows the traceback. Stages are imported inside the commands,
so that ``i2am --help`` answers at once and a capture node needs no napari.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i2am.analyze_command import add_analyze
from i2am.arguments import (
    Parser,
    add_command,
    existing_file,
    existing_store,
    explain,
    number,
    print_error,
    share,
)
from i2am.average_command import add_average
from i2am.capture_command import add_capture
from i2am.compare_command import add_compare

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _build_parser().parse_args(arguments)
    if not options.debug:
        _quiet_libraries()
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print_error("stopped; capture and analyze go on from here when they are called again")
        return 130
    except Exception as e:  # A traceback is for those who ask for it.
        if options.debug:
            raise
        given = vars(options)
        print_error(
            explain(e, [s for k in ("store", "maps", "source", "other") if (s := given.get(k))])
        )
        return 1


def _quiet_libraries() -> None:
    """Keep third parties' notices out of the way of progress bars and errors."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(?!i2am)")


def _build_parser() -> argparse.ArgumentParser:
    from i2am import __version__

    parser = Parser(prog="i2am", description="Attention attribution for image-to-image diffusion.")
    parser.add_argument("--version", action="version", version=f"i2am {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for add in (
        _add_demo, add_capture, add_analyze, _add_score, add_average, add_compare, _add_figure,
        _add_report, _add_view, _add_info, _add_validate,
    ):  # fmt: skip
        add(commands)
    return parser


def _add_demo(commands: Any) -> None:
    command = add_command(
        commands, "demo", _demo, "run the whole road on shipped model and pictures"
    )
    command.add_argument("--out", type=Path, default=Path("i2am-demo"), metavar="DIR")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier demo")


def _demo(options: argparse.Namespace) -> int:
    from i2am.demo import run_demo

    return run_demo(options.out, overwrite=options.overwrite)


def _add_score(commands: Any) -> None:
    command = add_command(commands, "score", _score, "score the maps: IMACS, detection, spread")
    command.add_argument("store", type=existing_store, metavar="MAPS.zarr")
    command.add_argument(
        "--run", dest="source", type=existing_store, metavar="RUN.zarr", help="where the masks are"
    )
    command.add_argument("--samples", nargs="+", metavar="SAMPLE", help="default: all")
    command.add_argument("--out", type=Path, metavar="FILE.csv", help="or .parquet")
    command.add_argument(
        "--heads", type=Path, metavar="FILE.csv", help="or .parquet: of every head at every step"
    )
    command.add_argument("--penalty", type=number, default=3.0, help="λ of IMACS; default 3")
    command.add_argument("--threshold", type=number, default=0.4, help="of IMACS; default 0.4")
    command.add_argument("--polarity", choices=["direct", "inverted"], default="direct")
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
            print(columns.to_string(index=False, float_format="{:.4f}".format, na_rep=""))


def _add_pictures(command: argparse.ArgumentParser) -> None:
    command.add_argument("store", type=existing_store, metavar="RUN.zarr")
    command.add_argument(
        "--maps", type=existing_store, metavar="MAPS.zarr", help="default: beside the run"
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is there")


def _add_figure(commands: Any) -> None:
    command = add_command(commands, "figure", _figure, "draw the paper's panels as PNG files")
    _add_pictures(command)
    command.add_argument("--samples", nargs="+", metavar="SAMPLE", help="default: all")
    kinds = ["overview", "tlam", "hlam", "llam", "sram"]
    command.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    command.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")


def _figure(options: argparse.Namespace) -> None:
    from i2am.analysis.figures.files import write_figures

    run, maps = _open_pair(options)
    names = options.samples or list(run)
    written = write_figures(
        run, maps, names, options.out, options.kinds, options.overwrite, progress=True
    )
    print(f"Figures: {len(written)} in {options.out}")


def _add_report(commands: Any) -> None:
    command = add_command(commands, "report", _report, "write one self-contained page about a run")
    _add_pictures(command)
    command.add_argument("--scores", type=existing_file, metavar="FILE.csv")
    command.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE.html")


def _report(options: argparse.Namespace) -> None:
    from i2am.analysis import read_scores
    from i2am.analysis.figures.report import write_report

    run, maps = _open_pair(options)
    scores = read_scores(options.scores) if options.scores else None
    write_report(run, maps, scores, options.out, overwrite=options.overwrite)
    print(f"Report: {options.out}")


def _open_pair(options: argparse.Namespace) -> tuple[Any, Any]:
    """Open a run and its maps: those that were named, those beside it, or else lazy ones."""
    from i2am.analysis import find_maps, maps_of, open_run

    run = open_run(options.store)
    return run, maps_of(run, options.maps or find_maps(options.store))


def _add_view(commands: Any) -> None:
    command = add_command(commands, "view", _view, "open a run in napari")
    command.add_argument("store", type=existing_store, metavar="RUN.zarr")
    command.add_argument("--maps", type=existing_store, metavar="MAPS.zarr")
    command.add_argument("--sample", help="default: the first")


def _view(options: argparse.Namespace) -> None:
    from i2am.viewer import view

    view(options.store, sample=options.sample, maps=options.maps)


def _add_info(commands: Any) -> None:
    command = add_command(commands, "info", _info, "tell what is in a store")
    command.add_argument("store", type=existing_store, metavar="STORE")


def _info(options: argparse.Namespace) -> None:
    from i2am.analysis import summarise_store

    for name, fact in summarise_store(options.store).items():
        lines = [fact] if isinstance(fact, str) else fact
        print(f"{name + ':':14} " + f"\n{'':15}".join(lines))


def _add_validate(commands: Any) -> None:
    command = add_command(commands, "validate", _validate, "check that a store keeps the contract")
    command.add_argument("store", type=existing_store, metavar="STORE")


def _validate(options: argparse.Namespace) -> int:
    from i2am.analysis import describe_store
    from i2am.schemas import find_faults

    faults = [str(fault) for fault in find_faults(describe_store(options.store))]
    print(*(faults or [f"{options.store} keeps the contract"]), sep="\n")
    return 1 if faults else 0
