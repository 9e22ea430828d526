"""The command ``i2am analyze``: every map of a run, on threads, processes or a cluster."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from i2am.cli.arguments import (
    add_command,
    existing_store,
    grid,
    labels,
    new_address,
    positive,
    sample_name,
    worker_count,
)
from i2am.schemas.choices import CONVENTIONS, LAYER_WEIGHTS, NORMALISATIONS, WITHIN

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(commands, "analyze", _analyze, "compute every map of a run, out of core")
    command.add_argument("store", type=existing_store, metavar="RUN.zarr")
    command.add_argument(
        "--out", type=new_address, metavar="MAPS.zarr", help="default: beside the run"
    )
    command.add_argument(
        "--samples", nargs="+", type=sample_name, metavar="SAMPLE", help="default: all"
    )
    command.add_argument("--scheduler", metavar="ADDRESS", help="of a running Dask cluster")
    command.add_argument("--workers", type=worker_count, help="processes of a local cluster")
    command.add_argument("--convention", choices=CONVENTIONS, default="i2am")
    command.add_argument("--normalisation", choices=NORMALISATIONS, default="mass")
    command.add_argument("--layers", metavar="GLOB", help="default: all")
    command.add_argument("--steps", type=labels, metavar="A:B[:S]|LIST", help="default: all")
    command.add_argument("--heads", type=labels, metavar="A:B[:S]|LIST", help="default: all")
    command.add_argument(
        "--guidance", default="conditional", metavar="BRANCH", help="default: conditional"
    )
    command.add_argument(
        "--time-groups",
        type=positive,
        default=5,
        metavar="N",
        help="of TLAM; as many as there are steps, or more: a map for each step",
    )
    command.add_argument("--grid", type=grid, metavar="HxW", help="the maps' common grid")
    command.add_argument(
        "--weights",
        choices=LAYER_WEIGHTS,
        help="weigh each layer by its measured effect; default: all alike",
    )
    command.add_argument(
        "--effects",
        type=existing_store,
        metavar="EFFECTS.zarr",
        help="of --weights: what 'i2am causal' measured; default: beside the run",
    )
    command.add_argument(
        "--within",
        choices=WITHIN,
        default="image",
        help="maps of all patches, or of those inside the inpainting mask alone; default: image",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing store")
    command.add_argument(
        "--no-fsync", action="store_true", help="do not wait until a sample is on the disk"
    )


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
