"""The command ``i2am causal``: cut reference tokens out of the attention, and store what that changes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import (
    add_command,
    existing_store,
    grid,
    labels,
    new_address,
    number,
    print_summary,
)
from i2am.cli.model import add_loading, add_model, arguments_by_name, loading_options
from i2am.cli.options import add_earlier_spelling, add_option
from i2am.cli.parser import ListAction
from i2am.schemas import SchemaError, did_you_mean
from i2am.schemas.choices import EDGE_NAMES, GUIDANCE_OPTIONS

if TYPE_CHECKING:
    from i2am.capture import EffectOptions, LoadOptions
    from i2am.capture.causal.measure_run import SampleOrders

__all__ = ["add"]

_CURVES = ("map", "least", "random")


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "causal",
        _causal,
        "measure what changes in a run's images when reference tokens are cut out of the attention",
        ["capture"],
        examples=(
            "i2am causal run.zarr --model i2am-tiny --cut-layers",
            "i2am causal run.zarr --model i2am-tiny --grid 16 --adaptive --curves",
        ),
    )
    command.add_argument("store", type=existing_store, metavar="RUN.zarr", help="captured run")
    add_model(command)
    command.add_argument(
        "--out",
        type=new_address,
        metavar="EFFECTS.zarr",
        help="effects to write; default: beside the run",
    )
    add_option(
        command,
        "--manifest",
        adds="that of the run, for pictures, prompts and seeds that the run does not hold; "
        "default: none",
    )
    add_option(command, "--samples")
    add_option(command, "--overwrite", adds="else measured samples are skipped")
    _add_repainting(command)
    _add_measuring(command.add_argument_group("what is measured"))
    _add_running(command.add_argument_group("running"))


def _add_repainting(command: argparse.ArgumentParser) -> None:
    as_run = "default: as the run says"
    group = command.add_argument_group(f"loading the model ({as_run})")
    add_loading(group, default=as_run)
    group = command.add_argument_group(f"painting again ({as_run})")
    steps = add_option(group, "--inference-steps", adds=as_run)
    add_earlier_spelling(group, "--steps", steps)
    add_option(group, "--guidance-scale", adds=as_run)
    add_option(group, "--argument")
    for name in ("--profile", "--denoiser"):
        add_option(group, name)


def _add_measuring(group: Any) -> None:
    group.add_argument(
        "--grid",
        type=grid,
        default=(8, 8),
        metavar="N|HxW",
        help="rows and columns of the regions of the reference that are cut one by one; default: "
        "8, which is 8x8",
    )
    group.add_argument(
        "--adaptive",
        action="store_true",
        help="begin with 4x4 regions, and split the strongest quarter of each size, down to --grid",
    )
    group.add_argument("--no-regions", action="store_true", help="cut no regions")
    layers = group.add_argument(
        "--cut-layers", action="store_true", help="cut each layer alone, too"
    )
    add_earlier_spelling(group, "--layers", layers)
    group.add_argument(
        "--edges",
        nargs="+",
        action=ListAction,
        choices=EDGE_NAMES,
        metavar="EDGE",
        help="cut each of these ways through the attention alone, too: "
        f"{', '.join(EDGE_NAMES)}; default: none",
    )
    group.add_argument(
        "--guidance",
        choices=GUIDANCE_OPTIONS,
        default="conditional",
        help="guidance branches in which tokens are cut",
    )
    group.add_argument(
        "--direct",
        action="store_true",
        help="measure direct effects, too: of single steps, each begun from the uncut run's latents",
    )
    group.add_argument(
        "--direct-steps",
        type=labels,
        metavar="A:B[:S]|LIST",
        help="measure direct effects, too, of these steps; default: four, evenly spaced",
    )
    group.add_argument(
        "--occlusion",
        action="store_true",
        help="hide each region of the reference picture, too, by painting it over from its "
        "surroundings",
    )
    group.add_argument(
        "--curves",
        nargs="*",
        metavar="ORDER",
        help=f"deletion and insertion curves, too, in these orders: {', '.join(_CURVES)}, position, "
        f"or a layer's name, whose map gives the order; without a name: {' '.join(_CURVES)}; "
        "default: no curves",
    )


def _add_running(group: Any) -> None:
    add_option(group, "--batch-size", default=8)
    add_option(group, "--shard")
    group.add_argument(
        "--tolerance",
        type=number,
        metavar="LEVELS",
        help="largest difference of a repainted image from the stored one, in levels of 255; "
        "default: 1, and four times what rounding changes in it",
    )
    add_option(group, "--no-fsync")


def _causal(options: argparse.Namespace) -> int:
    from i2am.capture import GenerationSettings
    from i2am.capture.causal.measure_run import measure_run

    curves = _curves(options.curves)
    _check(options, curves)
    out = options.out or _default_out(options.store)
    summary = measure_run(
        options.model,
        options.store,
        out,
        options=_measuring(options),
        manifest=options.manifest,
        samples=options.samples,
        orders=_orders(options.store, curves) if curves else None,
        order_names=curves,
        loading=_given(loading_options(options, is_again=True)),
        settings=GenerationSettings(
            options.inference_steps, options.guidance_scale, arguments_by_name(options.argument)
        ),
        shard=options.shard,
        tolerance=options.tolerance,
        profile=options.profile,
        denoiser=options.denoiser,
        overwrite=options.overwrite,
        durable=not options.no_fsync,
    )
    return print_summary(out, summary)


def _check(options: argparse.Namespace, curves: Sequence[str]) -> None:
    """Check what needs no model.

    Raises
    ------
    SchemaError
        If options contradict each other, or a curve has an order that is none.
    """
    if options.no_regions and options.adaptive:
        msg = "Expected --adaptive or --no-regions, got both. Leave out one of them."
        raise SchemaError(msg)
    if options.tolerance is not None and options.tolerance < 0:
        msg = f"Expected a tolerance of 0 or more, got {options.tolerance:g}, at --tolerance. Give another."
        raise SchemaError(msg)
    if set(curves) <= {*_CURVES, "position"}:
        return
    from i2am.analysis import open_run
    from i2am.analysis.stores.layers import layer_attributes

    run = open_run(options.store)
    sample = options.samples[0] if options.samples else run.first()
    known = [*_CURVES, "position", *(() if sample is None else layer_attributes(run[sample]))]
    for order in curves:
        if order not in known:
            hint = did_you_mean(order, known)
            msg = f"Expected an order of curves or a layer, got {order!r}, at --curves. {hint}"
            raise SchemaError(msg)


def _measuring(options: argparse.Namespace) -> EffectOptions:
    from i2am.capture import EffectOptions

    asked = {
        "region": not options.no_regions,
        "layer": options.cut_layers,
        "edge": bool(options.edges),
    }
    # Regions, layers and all tokens are cut over what begins at the reference.
    edges = options.edges or []
    if not any(edge.startswith("reference->") for edge in edges):
        edges = [EDGE_NAMES[0], *edges]
    return EffectOptions(
        regions=options.grid,
        adaptive=options.adaptive,
        edges=list(dict.fromkeys(edges)),
        per=[name for name, is_asked in asked.items() if is_asked],  # type: ignore[misc]
        forced=options.direct or options.direct_steps is not None,
        occlusion=options.occlusion,
        forced_steps=options.direct_steps,
        guidance=options.guidance,
        batch=options.batch_size,
    )


def _given(loading: LoadOptions) -> dict[str, Any]:
    """Return what was given of how the model is loaded; the rest is as the run says."""
    return {
        name: value
        for name, value in vars(loading).items()
        if value is not None and value is not False
    }


def _curves(given: list[str] | None) -> list[str]:
    if given is None:
        return []
    return list(dict.fromkeys(given or _CURVES))


def _orders(run: str | Path, names: Sequence[str]) -> SampleOrders:
    """Return what orders a sample's regions: by its maps, which the analysis makes."""
    from i2am.analysis import cell_order, open_run

    samples = open_run(run)

    def orders(sample: str, boxes: Any) -> Mapping[str, Sequence[int]]:
        return {name: cell_order(samples[sample], boxes, name) for name in names}

    return orders


def _default_out(run: str) -> Path:
    from i2am.analysis import default_effects_path

    return default_effects_path(run)
