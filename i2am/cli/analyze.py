"""The command ``i2am analyze``: every map of a run, on threads, processes or a cluster."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from i2am.cli.arguments import (
    add_command,
    existing_store,
    grid,
    new_address,
    worker_count,
)
from i2am.cli.options import add_option
from i2am.schemas.choices import CONVENTIONS, LAYER_WEIGHTS, NORMALISATIONS

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "analyze",
        _analyze,
        "compute every map of a run, out of core",
        examples=(
            "i2am analyze run.zarr",
            "i2am analyze run.zarr --out late.zarr --steps 30:50 --layers 'up_blocks*'",
            "i2am analyze run.zarr --scheduler tcp://10.0.0.1:8786",
        ),
    )
    command.add_argument("store", type=existing_store, metavar="RUN.zarr", help="captured run")
    command.add_argument(
        "--out",
        type=new_address,
        metavar="MAPS.zarr",
        help="maps to write; default: beside the run",
    )
    add_option(command, "--overwrite", adds="else samples that have their maps are skipped")
    _add_selection(command.add_argument_group("what the maps are made from"))
    _add_making(command.add_argument_group("how the maps are made"))
    _add_running(command.add_argument_group("running"))


def _add_selection(group: Any) -> None:
    for name in ("--samples", "--layers", "--steps", "--heads"):
        add_option(group, name)
    add_option(group, "--guidance", default="conditional")
    add_option(group, "--within", default="image")


def _add_making(group: Any) -> None:
    group.add_argument(
        "--convention",
        choices=CONVENTIONS,
        default="i2am",
        help="order of resizing and mean: ours, or that of the authors' code",
    )
    group.add_argument(
        "--normalisation",
        choices=NORMALISATIONS,
        default="mass",
        help="each softmax sums to 1 (mass), or uniform attention is 1 (density)",
    )
    add_option(group, "--time-groups", default=5)
    group.add_argument(
        "--grid",
        type=grid,
        metavar="N|HxW",
        help="rows and columns of the maps; default: the largest grid of the layers, or with "
        "--convention official the picture's size / 8",
    )
    group.add_argument(
        "--weights",
        choices=LAYER_WEIGHTS,
        help="weight each layer by its measured effect; default: all layers count alike",
    )
    add_option(group, "--effects", adds="for --weights; default: beside the run")


def _add_running(group: Any) -> None:
    group.add_argument(
        "--workers",
        type=worker_count,
        metavar="N",
        help="processes of a Dask cluster on this machine; default: threads of one process",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a running Dask cluster, as tcp://HOST:8786; default: none",
    )
    add_option(group, "--no-fsync")


def _analyze(options: argparse.Namespace) -> None:
    from i2am.analysis import analyze_run, default_maps_path

    out = options.out or default_maps_path(options.store)
    analyze_run(
        options.store,
        out,
        samples=options.samples,
        scheduler=options.scheduler,
        workers=options.workers,
        convention=options.convention,
        normalisation=options.normalisation,
        layers=options.layers,
        steps=options.steps,
        heads=options.heads,
        guidance=options.guidance,
        time_groups=options.time_groups,
        grid=options.grid,
        weights=options.weights,
        effects=options.effects,
        within=options.within,
        overwrite=options.overwrite,
        durable=not options.no_fsync,
    )
    sys.stdout.write(f"Maps: {out}\n")
