"""The command ``i2am demo``: the whole road with the model and the pictures that ship in the package, offline."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from i2am.cli.arguments import add_command, new_path
from i2am.cli.options import add_option
from i2am.files import check_not_in_store, outputs_written_whole
from i2am.schemas import StoreError

__all__ = ["add", "run_demo"]

_OUTPUTS = ("run.zarr", "maps.zarr", "scores.csv", "figures", "report.html")
_STEPS = 25


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "demo",
        _demo,
        "capture, analyze, score, draw and report the examples that ship in the package",
        ["capture", "analysis"],
        examples=("i2am demo", "i2am demo --out /tmp/demo --overwrite"),
    )
    command.add_argument(
        "--out",
        type=new_path,
        default=Path("i2am-demo"),
        metavar="DIR",
        help="folder for all that is written",
    )
    add_option(command, "--overwrite")


def _demo(options: argparse.Namespace) -> int:
    return run_demo(options.out, overwrite=options.overwrite)


def run_demo(out: Path, *, overwrite: bool = False) -> int:
    """Capture, analyse, score, draw and report three held-out examples; return the exit code.

    Parameters
    ----------
    out : Path
        Folder for everything that is written.
    overwrite : bool
        Whether an earlier demo's outputs there may be replaced.

    Raises
    ------
    StoreError
        If `out` is a file, one of the outputs is there already and `overwrite` is false, or a
        sample cannot be captured.
    """
    _check_room(out, overwrite=overwrite)
    from i2am.analysis import analyze_run, open_maps, open_run, score_maps, summarise_scores
    from i2am.analysis.figures.files import write_figures
    from i2am.capture import DEMO_MANIFEST, SHIPPED_MODEL, capture_manifest
    from i2am.page.report import write_report

    start_s = time.monotonic()
    with outputs_written_whole(out) as folder:
        run, maps, scores, figures, report = (folder / name for name in _OUTPUTS)
        # The whole demo, also inside a job of many processes.
        summary = capture_manifest(SHIPPED_MODEL, DEMO_MANIFEST, run, steps=_STEPS, shard=(0, 1))
        if summary.failed:
            sample, reason = next(iter(summary.failed.items()))
            msg = f"Expected the demo's samples to be captured, got {reason}, at {sample!r}."
            raise StoreError(msg + " Mend that, and run it again.")
        analyze_run(run, maps)
        table = score_maps(maps, out=scores)
        samples, sample_maps = open_run(run), open_maps(maps)
        write_figures(samples, sample_maps, list(samples), figures, progress=True)
        write_report(samples, sample_maps, table, report, figures_dir=figures)
    print(f"\n{summarise_scores(table).to_string(float_format='{:.3f}'.format)}\n")
    run, maps, scores, figures, report = (out / name for name in _OUTPUTS)
    for path, what in (
        (run, "the captured attention, with images and provenance"),
        (maps, "R2G and G2R maps at every level"),
        (scores, "IMACS, detection and spread, one row for each sample and score"),
        (figures, "overview, time, head and single-patch maps"),
        (report, "all of it on one page: open it in a browser"),
    ):
        print(f"{path!s:30} {what}")
    print(f"\nDone in {time.monotonic() - start_s:.0f} s. Next: i2am view {run}")
    return 0


def _check_room(out: Path, *, overwrite: bool) -> None:
    check_not_in_store(out, is_folder=True)
    if out.exists() and not out.is_dir():
        msg = f"Expected a folder, got a file, at {out}. Name another folder with --out."
        raise StoreError(msg)
    found = [name for name in _OUTPUTS if (out / name).exists()]
    if found and not overwrite:
        msg = (
            f"Expected no earlier demo in {out}, got {', '.join(found)}. "
            "Name another folder with --out, or replace it with --overwrite."
        )
        raise StoreError(msg)
